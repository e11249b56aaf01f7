"""Attention over un-rotated keys: what is read is rotated to where the position map puts it, for the length the text has or will have.

Letters: Hq query heads, S new tokens, D head dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longspan.engine.parts import Part, by_block
from longspan.engine.segments import Block, whole_heads
from longspan.ops.attention import attend, merge
from longspan.ops.distance_attention import attend_in_passes

if TYPE_CHECKING:
    from longspan.engine.dispatch import LayerCall
    from longspan.engine.layer import LayerRun


def attend_mapped(run: LayerRun, call: LayerCall, q: Tensor, positions: Tensor) -> Part:
    """Attention of the newest tokens' un-rotated q (Hq, S, D), which are in the store already, at positions (S,)."""
    map, geometry = run.map, run.geometry
    assert map is not None
    rope, group, new = geometry.rope, geometry.group, q.shape[1]
    frequencies = map.frequencies(geometry, run.horizon)
    passes = map.passes(geometry)
    before = [0] * geometry.kv_heads
    lengths = run.store.lengths
    options = {"scale": call.scale, "softcap": call.softcap}
    blocks = [block for segment in run.store.all_segments() for block in segment.blocks()]
    if passes is not None and any(one.keep for one in passes):
        blocks = whole_heads(blocks)

    def one(block: Block, queries: Tensor, rows: slice) -> Part:
        bias, count = block.bias, block.k.shape[1]
        extra = map.bias(positions, block.positions, geometry, rows)
        if extra is not None:
            bias = extra if bias is None else extra + bias.repeat_interleave(group, 0).unsqueeze(1)
        if passes is not None:
            at = block.positions[0] if block.positions.shape[0] == 1 else block.positions
            return attend_in_passes(
                queries,
                block.k,
                block.v,
                positions,
                at,
                passes,
                frequencies,
                layout=rope.layout,
                start=rope.start,
                bias=bias,
                **options,
            )
        key_at, query_at = block.positions, positions
        if map.cache_index:
            first = block.heads.start
            key_at = torch.arange(count, device=q.device) + before[first]
            query_at = torch.arange(new, device=q.device) + lengths[first] - new
            for head in range(block.heads.start, block.heads.stop):
                before[head] += count
        keys = rope.rotate(block.k, key_at if key_at.shape[0] != 1 else key_at[0], frequencies)
        rotated = rope.rotate(queries, query_at, frequencies)
        return attend(rotated, keys, block.v, mask=_visible(block, positions), bias=bias, **options)

    return merge(by_block(q, blocks, group, one))


def _visible(block: Block, positions: Tensor) -> Tensor | None:
    """Which entries each of these rows may see, (S, T) or (Hk, S, T); None where every row sees all."""
    if positions.shape[0] == 1:
        return None
    mask = block.positions.unsqueeze(-2) <= positions.unsqueeze(-1)
    if bool(mask.all()):
        return None
    return mask[0] if mask.dim() == 3 and mask.shape[0] == 1 else mask
