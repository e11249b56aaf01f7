"""Frequency maps: every published rewrite of RoPE's frequencies as a pure function ``Rope -> Frequencies``.

Pair i of d/2: f_i = b^(-2i/d), wavelength w_i = 2 pi / f_i, L = trained window, s = factor = target / L.

| function | formula | source |
|---|---|---|
| linear | f / s | Position Interpolation, arXiv 2306.15595 |
| ntk | base b * s^(d/(d-2)) | NTK-aware, bloc97 2023 |
| dynamic_ntk | base b * (s t/L - (s-1))^(d/(d-2)) beyond L | emozilla 2023 |
| ntk_by_parts | blend f/s and f by full turns inside L | arXiv 2309.00071 |
| yarn | by parts, and logits scaled by (0.1 ln s + 1)^2 | arXiv 2309.00071 |
| longrope | f / lambda_i, short and long lists | arXiv 2402.13753 |
| llama3 | three bands of wavelength | Llama 3.1, arXiv 2407.21783 |
| proportional | only the first share of pairs turns | Gemma |
| adjusted_base | another base (ABF) | arXiv 2309.16039 |
| power, truncated | Giraffe's bases | arXiv 2308.10882 |
| diffusion_base | base from the critical dimension | LongLLaDA, arXiv 2506.14429 |
| axis_mixed | ranges of pairs under different maps (M-RoPE++) | arXiv 2412.12735 |

DPRoPE's choice by angle histograms lives in `angle_histograms.py`. Two YaRN ramps exist: the paper's is linear in the number of turns, the
code's (and transformers') linear in the pair index between two rounded corners; ``ramp`` chooses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from longspan.ops.rotary import inverse_frequencies


@dataclass(frozen=True)
class Rope:
    """What a model was trained with: rotated dimensions, base, window in tokens."""

    dim: int
    base: float
    window: int

    @property
    def frequencies(self) -> Tensor:
        """Plain frequencies, fp32 (dim / 2,)."""
        return inverse_frequencies(self.dim, self.base)


class Frequencies(NamedTuple):
    """`inv_freq` fp32 (dim / 2,); `attention_factor` multiplies cos and sin."""

    inv_freq: Tensor
    attention_factor: float = 1.0


def default(rope: Rope) -> Frequencies:
    """The model as trained."""
    return Frequencies(rope.frequencies)


def linear(rope: Rope, factor: float) -> Frequencies:
    """Position interpolation: every pair turns `factor` times slower."""
    return Frequencies(rope.frequencies / factor)


def ntk_base(rope: Rope, factor: float) -> float:
    """Base under which the slowest pair turns exactly `factor` times slower and the fastest is unchanged."""
    return rope.base * factor ** (rope.dim / (rope.dim - 2))


def ntk(rope: Rope, factor: float) -> Frequencies:
    """Static NTK-aware scaling."""
    return Frequencies(inverse_frequencies(rope.dim, ntk_base(rope, factor)))


def dynamic_ntk(rope: Rope, factor: float, length: int) -> Frequencies:
    """NTK-aware scaling that follows the current `length` in tokens; the model's own at or below its window."""
    stretch = factor * max(length, rope.window) / rope.window - (factor - 1)
    return ntk(rope, stretch)


def turns(rope: Rope) -> Tensor:
    """Full turns of each pair inside the trained window, fp32 (dim / 2,)."""
    return rope.window * rope.frequencies / (2 * math.pi)


def extrapolation_ramp(
    rope: Rope, beta_fast: float = 32.0, beta_slow: float = 1.0, ramp: str = "hf", truncate: bool = True
) -> Tensor:
    """Share of each pair left alone: 1 for pairs with more than `beta_fast` turns in the window, 0 below `beta_slow`.

    ramp "paper": linear in the number of turns. ramp "hf": linear in the pair index between the two corners, which are rounded outwards when
    `truncate`. fp32 (dim / 2,).
    """
    if ramp == "paper":
        return ((turns(rope) - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)

    def corner(rotations: float) -> float:
        return rope.dim * math.log(rope.window / (rotations * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = corner(beta_fast), corner(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32)
    return 1 - ((pairs - low) / (high - low)).clamp(0, 1)


def ntk_by_parts(
    rope: Rope,
    factor: float,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    ramp: str = "paper",
    truncate: bool = True,
) -> Frequencies:
    """Interpolate slow pairs, leave fast pairs, blend between."""
    keep = extrapolation_ramp(rope, beta_fast, beta_slow, ramp, truncate)
    f = rope.frequencies
    return Frequencies(f / factor * (1 - keep) + f * keep)


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """0.1 * scale * ln(factor) + 1, and 1 without extension."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def yarn(
    rope: Rope,
    factor: float,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    ramp: str = "hf",
    truncate: bool = True,
    attention_factor: float | None = None,
) -> Frequencies:
    """NTK-by-parts with the temperature of YaRN."""
    if attention_factor is None:
        attention_factor = yarn_attention_factor(factor)
    inv_freq = ntk_by_parts(rope, factor, beta_fast, beta_slow, ramp, truncate).inv_freq
    return Frequencies(inv_freq, attention_factor)


def longrope_attention_factor(factor: float, window: int) -> float:
    """sqrt(1 + ln(factor) / ln(window)), and 1 without extension."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(window))


def longrope(rope: Rope, factors: Sequence[float] | Tensor, attention_factor: float = 1.0) -> Frequencies:
    """Divide each pair by its own searched factor (dim / 2 of them)."""
    factors = torch.as_tensor(factors, dtype=torch.float32)
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    return Frequencies(1.0 / (factors * rope.base**exponents), attention_factor)


def llama3(
    rope: Rope, factor: float, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0
) -> Frequencies:
    """Leave wavelengths below L / high, divide those above L / low by `factor`, blend between in L / wavelength."""
    f = rope.frequencies
    wavelength = 2 * math.pi / f
    low, high = rope.window / low_freq_factor, rope.window / high_freq_factor
    smooth = (rope.window / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blended = (1 - smooth) * f / factor + smooth * f
    scaled = torch.where(wavelength > low, f / factor, f)
    return Frequencies(torch.where((wavelength >= high) & (wavelength <= low), blended, scaled))


def proportional(rope: Rope, share: float, factor: float = 1.0) -> Frequencies:
    """Only the first ``int(share * dim / 2)`` pairs turn; the others carry no position."""
    turning = int(share * rope.dim // 2)
    inv_freq = torch.zeros(rope.dim // 2)
    inv_freq[:turning] = rope.frequencies[:turning]
    return Frequencies(inv_freq / factor)


def adjusted_base(rope: Rope, base: float) -> Frequencies:
    """Plain RoPE under another base (ABF of Effective Long-Context Scaling: 10,000 -> 500,000)."""
    return Frequencies(inverse_frequencies(rope.dim, base))


def power(rope: Rope, exponent: float) -> Frequencies:
    """Giraffe's power basis: ``f_i * (1 - 2i/d) ** exponent``; 0 is the identity, 0.5 was tested."""
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32)
    return Frequencies(rope.frequencies * (1 - pairs / (rope.dim // 2)) ** exponent)


def truncated(rope: Rope, tokens: int, scaled: Tensor | None = None) -> Frequencies:
    """Giraffe's truncated basis: keep f >= 2 pi / N, set the next factor of 8 to 2 pi / (16 N), stop the rest. scaled: frequencies to cut in place of plain ones."""
    f = rope.frequencies if scaled is None else scaled
    cut = 2 * math.pi / tokens
    slowed = torch.where(f >= cut / 8, torch.full_like(f, cut / 16), torch.zeros_like(f))
    return Frequencies(torch.where(f >= cut, f, slowed))


def critical_dimension(rope: Rope) -> int:
    """Dimensions whose pairs complete a full turn inside the window: 2 ceil(d/2 * log_b(L / 2 pi))."""
    return 2 * math.ceil(rope.dim / 2 * math.log(rope.window / (2 * math.pi), rope.base))


def diffusion_base_factor(rope: Rope, target: int) -> float:
    """LongLLaDA's multiplier of the base for `target` tokens; its code rounds it up to an integer."""
    return (target / (2 * math.pi)) ** (rope.dim / critical_dimension(rope)) / rope.base


def axis_mixed(rope: Rope, ranges: Sequence[tuple[int, int, Callable[[Rope], Frequencies]]]) -> Frequencies:
    """Take pairs [start, stop) from different maps: M-RoPE++ gives time, height and width a map each."""
    inv_freq = rope.frequencies
    for start, stop, frequency_map in ranges:
        inv_freq[start:stop] = frequency_map(rope).inv_freq[start:stop]
    return Frequencies(inv_freq)
