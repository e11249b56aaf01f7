"""What a layer collects for methods while it attends: window queries, query moments, attention received by every entry.

Only what some method of the recipe declared (`Needs`) is computed. Letters: Hq query heads, Hk KV heads, G = Hq / Hk, S new tokens, T entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longspan.engine.moments import QueryMoments
from longspan.engine.segments import BIAS, RaggedSegment, Segment, UniformSegment
from longspan.ops.attention_mass import column_mass

if TYPE_CHECKING:
    from longspan.engine.dispatch import LayerCall
    from longspan.engine.layer import LayerRun

MASS = "mass"  # side value: attention an entry has received from each query head of its group, (Hk, T, G)


def collect(run: LayerRun, call: LayerCall, q: Tensor, lse: Tensor, positions: Tensor, reading: bool) -> None:
    """Take from one attention call, q (Hq, S, D) and lse (Hq, S), what the layer's needs ask for."""
    needs = run.needs
    if needs.window_queries:
        run.windows.add(q, needs.window_queries)
    if needs.query_moments and reading:
        plain = q
        if not run.rotates_on_read:
            plain = run.geometry.rope.unrotate(q, positions, run.written_frequencies(run.horizon))
        fresh = QueryMoments.of(plain, positions)
        if fresh is not None:
            run.query_moments = fresh if run.query_moments is None else run.query_moments.joined(fresh)
    if run.fresh_mass is not None:
        _write_mass(run, run.fresh_mass)
        run.fresh_mass = None
    elif (needs.column_mass and reading) or needs.decode_mass:
        _write_mass(run, received(run, call, q, lse, positions))


def received(run: LayerRun, call: LayerCall, q: Tensor, lse: Tensor, positions: Tensor) -> Tensor:
    """The attention these queries gave to every entry of the store, (Hq, T)."""
    padded = run.store.padded()
    k = padded.k
    if run.rotates_on_read:
        assert run.map is not None
        frequencies = run.map.frequencies(run.geometry, run.horizon)
        q = run.geometry.rope.rotate(q, positions, frequencies)
        k = run.geometry.rope.rotate(k, padded.positions, frequencies)
    new, group = q.shape[1], run.geometry.group
    bias = padded.side.get(BIAS)
    options = {"scale": call.scale, "softcap": call.softcap}
    if padded.valid is None:
        mass = column_mass(q, k, lse, causal_offset=k.shape[1] - new, bias=bias, **options)
    else:  # ragged heads: each has its own offset
        mass = torch.zeros(q.shape[0], k.shape[1], device=q.device)
        for head, count in enumerate(run.store.lengths):
            rows = slice(head * group, (head + 1) * group)
            mass[rows, :count] = column_mass(
                q[rows],
                k[head : head + 1, :count],
                lse[rows],
                causal_offset=count - new,
                bias=None if bias is None else bias[head : head + 1, :count],
                **options,
            )
    return mass


def _write_mass(run: LayerRun, mass: Tensor) -> None:
    """Accumulate (Hq, T) into the side values, (Hk, T, G). Shared segments are replaced, never written."""
    mass = mass.view(-1, run.geometry.group, mass.shape[1]).transpose(1, 2)
    starts = [0] * mass.shape[0]
    segments: list[Segment] = []
    for segment in run.store.segments:
        pieces = [mass[h, at : at + n] for h, (at, n) in enumerate(zip(starts, segment.lengths, strict=True))]
        segments.append(_with_mass(segment, pieces))
        starts = [at + n for at, n in zip(starts, segment.lengths, strict=True)]
    run.store.segments = segments
    tail = run.store.tail
    if tail.length:
        fresh = torch.stack([mass[h, at : at + tail.length] for h, at in enumerate(starts)])
        tail.side[MASS][:, : tail.length] += fresh


def _with_mass(segment: Segment, pieces: list[Tensor]) -> Segment:
    """The same entries with their mass, if they carry any, increased by one tensor (T_head, G) a head."""
    if not isinstance(segment, UniformSegment | RaggedSegment) or MASS not in segment.side:
        return segment
    if isinstance(segment, UniformSegment):
        side = {**segment.side, MASS: segment.side[MASS] + torch.stack(pieces)}
        return UniformSegment(segment.k, segment.v, side)
    side = {**segment.side, MASS: segment.side[MASS] + torch.cat(pieces)}
    return RaggedSegment(segment.k, segment.v, segment.lengths, side)
