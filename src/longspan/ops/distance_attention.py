"""Attention under a distance map: the passes of `distance_maps`, each turned to its own positions, merged by log-sum-exp; and the definition it is tested against.

Letters: Hq query heads, Hk KV heads, S query rows, T keys, D head dim, P rotated pairs.
"""

import torch
from torch import Tensor

from longspan.ops.attention import attend, merge
from longspan.ops.distance_maps import Pass, Passes
from longspan.ops.frequency_maps import Frequencies
from longspan.ops.rotary import angles, rotate
from longspan.ops.strongest_keys import attend_strongest


def turn(
    p: Pass,
    x: Tensor,
    positions: Tensor,
    where: Tensor,
    frequencies: Frequencies,
    layout: str,
    start: int = 0,
    fade: Tensor | None = None,
) -> Tensor:
    """Rotate x (H, T, D) from dimension `start` on to ``where = p.query(positions)`` or ``p.key(positions)``, each pair times `fade` (..., T, P).

    With `turned` pairs the result is (H, T, 2D): the part at the pass's positions and the part at the true ones, to be masked on the query side.
    """
    inv_freq, factor = frequencies
    inv_freq = inv_freq.to(where.device)
    if p.per_pair:
        angle = where.float() * inv_freq
        cos, sin = angle.cos() * factor, angle.sin() * factor
    else:
        cos, sin = angles(where, inv_freq, factor)
    if fade is not None:
        cos, sin = cos * fade, sin * fade
    still, x = x[..., :start], x[..., start:]
    moved = rotate(x, cos, sin, layout)
    if p.turned is None:
        return torch.cat((still, moved), -1) if start else moved
    true = rotate(x, *angles(positions, inv_freq, factor), layout)
    return torch.cat((still, moved, still, true), -1)


def _split_by_head(q: Tensor, turned: Tensor, layout: str, start: int) -> Tensor:
    """Zero the true part of turned pairs and the moved part of the others in q (Hq, S, 2D)."""
    both = torch.cat((turned, turned), -1) if layout == "half" else turned.repeat_interleave(2, -1)
    rest = q.shape[-1] // 2 - both.shape[-1] - start
    still = both.new_ones(both.shape[0], start)  # dimensions without rotation count once
    both = torch.cat((still, both, both.new_ones(both.shape[0], rest)), -1)
    return q * torch.cat((both, ~both), -1).unsqueeze(1).to(q)


def attend_in_passes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    m: Tensor,
    n: Tensor,
    passes: Passes,
    frequencies: Frequencies,
    *,
    scale: float,
    layout: str = "half",
    start: int = 0,
    softcap: float | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of un-rotated q (Hq, S, D) over un-rotated k (Hk, T, D) and v (Hk, T, E) under a distance map.

    m: int (S,) ascending positions of the queries. n: int (T,) ascending, or (Hk, T) when heads keep different entries; a key after its
    query is unseen. start: first rotated dimension. bias: float (Hq, S, T) or (Hk, T) added to the logits. Returns out (Hq, S, E) and lse (Hq, S) fp32.
    """
    parts = []
    first, last = int(m[0]), int(m[-1])
    for p in passes:
        begin, stop = 0, k.shape[1]
        if n.dim() == 1:
            bounds = torch.tensor(p.reach(first, last), device=n.device)
            begin, stop = torch.searchsorted(n, bounds.to(n.dtype)).tolist()
        if begin >= stop:
            continue
        n_part = n[..., begin:stop]
        rows, columns = m.unsqueeze(-1), n_part.unsqueeze(-2)
        mask = p.region(rows, columns) & (columns <= rows)
        if not mask.any():
            continue
        at, to = p.query(m), p.key(n_part)
        fades = _fades(p.decay, at, to)
        q_turned = turn(p, q, m, at, frequencies, layout, start, fades[0])
        k_turned = turn(p, k[:, begin:stop], n_part, to, frequencies, layout, start, fades[1])
        if p.turned is not None:
            q_turned = _split_by_head(q_turned, p.turned.to(q.device), layout, start)
        options = {
            "scale": scale,
            "softcap": softcap,
            "bias": None if bias is None else bias[..., begin:stop],
        }
        values = v[:, begin:stop]
        if p.keep:
            parts.append(attend_strongest(q_turned, k_turned, values, p.keep, mask=mask, **options))
        else:
            parts.append(attend(q_turned, k_turned, values, mask=None if mask.all() else mask, **options))
    return merge(parts)


def _fades(decay: Tensor | None, at: Tensor, to: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What multiplies queries at `at` and keys at `to` so that their product fades by exp(decay (at - to)).

    Counted from the first query, so that neither grows: a far key shrinks, and one after that query grows by no more than a chunk's length.
    """
    if decay is None:
        return None, None
    decay, origin = decay.to(at.device), at[0]
    return ((at - origin).unsqueeze(-1) * decay).exp(), ((origin - to).unsqueeze(-1) * decay).exp()


def distance_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    distance: Tensor,
    visible: Tensor,
    frequencies: Frequencies,
    *,
    scale: float,
) -> Tensor:
    """The definition: build every logit from D' with complex numbers, then one softmax. Slow; for tests.

    distance: float (S, T), (S, T, P) or (Hq, S, T, P). visible: bool (S, T). Layout "half", all dimensions rotated. Returns (Hq, S, E).
    """
    pairs = q.shape[-1] // 2
    group = q.shape[0] // k.shape[0]
    as_complex = [torch.complex(x[..., :pairs].double(), x[..., pairs:].double()) for x in (q, k)]
    a, b = as_complex[0], as_complex[1].repeat_interleave(group, 0)
    if distance.dim() == 2:
        distance = distance.unsqueeze(-1)
    phase = distance.double() * frequencies.inv_freq.double()
    product = a.unsqueeze(2) * b.conj().unsqueeze(1)
    scores = (product * torch.polar(torch.ones_like(phase), phase)).real.sum(-1)
    scores = (scores * scale * frequencies.attention_factor**2).masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1) @ v.double().repeat_interleave(group, 0)).to(q.dtype)
