"""CLEX: log-frequencies as a state that a small network moves along the scaling factor t.

Source: CLEX: Continuous Length Extrapolation, ICLR 2024, arXiv 2310.16450; code DAMO-NLP-SG/CLEX. z(1) = ln f and
dz/dt = W_down act(W_up (z + ln phi_t)) + delta_t / phi_t, where phi_t is the NTK curve with base b alpha^(d/(d-2)), alpha = 2t - 1, and delta its derivative:
delta/phi = -(2i / (d-2)) 2 / (2t - 1) for pair i. With W_down = 0 the solution is closed: f(t) = f (2t - 1)^(-2i/(d-2)), exactly NTK scaling by 2t - 1.
The network's input is a sum of two logs, as in the code; dividing instead would not fit released weights. Solved by fixed-step Runge-Kutta 4, rates in fp32 and the state in fp64, which keeps a thousand steps' rounding out of it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from longspan.ops.frequency_maps import Frequencies, Rope

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "silu": torch.nn.functional.silu}


def ntk_rate(rope: Rope, t: float) -> Tensor:
    """d ln phi / dt, fp32 (dim / 2,); 0 below t = 1, where nothing is stretched."""
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32)
    return -(2 * pairs / (rope.dim - 2)) * (2 / (2 * t - 1))


def ntk_curve(rope: Rope, t: float) -> Tensor:
    """ln phi_t, fp32 (dim / 2,)."""
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32)
    return -(2 * pairs / rope.dim) * math.log(rope.base) - (2 * pairs / (rope.dim - 2)) * math.log(2 * t - 1)


def solve(
    rope: Rope,
    t: float,
    up: Tensor | None = None,
    down: Tensor | None = None,
    *,
    activation: str = "tanh",
    step: float = 0.01,
) -> Tensor:
    """Frequencies f(t) for t >= 1, fp32 (dim / 2,); differentiable in `up` (h, dim / 2) and `down` (dim / 2, h)."""
    act = ACTIVATIONS[activation]

    def rate(at: float, z: Tensor) -> Tensor:
        guide = ntk_rate(rope, at)
        if up is None or down is None:
            return guide
        return guide + down @ act(up @ (z.float() + ntk_curve(rope, at)))

    z = rope.frequencies.double().log()
    steps = max(1, math.ceil((t - 1) / step)) if t > 1 else 0
    h = (t - 1) / steps if steps else 0.0
    for number in range(steps):
        at = 1 + number * h
        k1 = rate(at, z)
        k2 = rate(at + h / 2, z + h / 2 * k1)
        k3 = rate(at + h / 2, z + h / 2 * k2)
        k4 = rate(at + h, z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z.exp().float() if steps else rope.frequencies


def clex(rope: Rope, t: float, up: Tensor | None = None, down: Tensor | None = None, **knobs) -> Frequencies:
    """The frequencies of `solve` as a map."""
    return Frequencies(solve(rope, t, up, down, **knobs))
