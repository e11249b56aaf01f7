"""Tile-sparse prefill on a CPU: gather the chosen keys of each (head, query tile) and hand them to torch's flash operator.

A unit is one (mask head, query tile): its queries are the G query heads of the group folded into G x query_tile rows, its keys the chosen
entries in ascending order, so those that need no mask come first and the ones crossing the diagonal last. Units with the same number of
keys and the same pattern at the diagonal go to one batched call; the pattern is one small float mask, added by the kernel, which costs
about 5% and saves a second call with its log-sum-exp merge. Gathered bytes per call are bounded.

Dimension letters: H mask heads, I query tiles, N units of a call, n keys of a unit, R = G x query rows, D head dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.ops.attention import NEG_INF
from longspan.ops.rows import gather_entries
from longspan.ops.tiles import TileMask

GATHER_BYTES = 8 << 20  # K and V gathered per call: about the share of the last-level cache of one core


@dataclass(frozen=True)
class Units:
    """Units that run in one batch. heads, query_tiles: (N,). entries: (N, n). ahead: (p,) positions of the last p entries relative to the
    unit's first query, the same for all units; earlier entries are visible to every row. rows: queries per unit."""

    heads: Tensor
    query_tiles: Tensor
    entries: Tensor
    ahead: Tensor
    rows: int


def prefill_gather(q: Tensor, k: Tensor, v: Tensor, mask: TileMask, *, scale: float) -> tuple[Tensor, Tensor]:
    """As `sparse_prefill.prefill`; q, k, v on the CPU, fp32, bf16 or fp16."""
    query_heads, queries, dim = q.shape
    group, per_kv = query_heads // mask.heads, mask.heads // k.shape[0]
    grouped = q.reshape(mask.heads, group, queries, dim)
    out = torch.zeros(mask.heads, group, queries, v.shape[-1], dtype=q.dtype)
    lse = torch.full((mask.heads, group, queries), NEG_INF)
    complete = queries // mask.query_tile
    tiled_shape = (complete, mask.query_tile)

    def tiled(x: Tensor) -> Tensor:
        return x[:, :, : complete * mask.query_tile].unflatten(2, tiled_shape)

    tiled_q, tiled_out, tiled_lse = tiled(grouped), tiled(out), tiled(lse)
    for units in plan(mask):
        length = units.entries.shape[1]
        bias = _diagonal_bias(units, group, q.dtype)
        blind = bias is not None and length == units.ahead.numel() and units.ahead.min() > 0
        per_call = max(1, GATHER_BYTES // (length * (dim + v.shape[-1]) * q.element_size()))
        for start in range(0, len(units.heads), per_call):
            part = slice(start, start + per_call)
            heads, tile = units.heads[part], units.query_tiles[part]
            kv_heads, entries = heads // per_kv, units.entries[part]
            if units.rows == mask.query_tile:
                queries_of_units = tiled_q[heads, :, tile]
            else:  # the partial last query tile
                queries_of_units = grouped[heads, :, queries - units.rows :]
            unit_out, unit_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                queries_of_units.reshape(len(heads), 1, group * units.rows, dim),
                gather_entries(k, kv_heads, entries).unsqueeze(1),
                gather_entries(v, kv_heads, entries).unsqueeze(1),
                0.0,
                False,
                attn_mask=None if bias is None else bias.expand(len(heads), 1, *bias.shape),
                scale=scale,
            )
            unit_out = unit_out.reshape(len(heads), group, units.rows, -1)
            unit_lse = unit_lse.reshape(len(heads), group, units.rows)
            if blind:  # rows before the first kept entry: the operator leaves them undefined
                first = int(units.ahead.min())
                unit_out[:, :, :first] = 0.0
                unit_lse[:, :, :first] = NEG_INF
            if units.rows == mask.query_tile:
                tiled_out[heads, :, tile] = unit_out
                tiled_lse[heads, :, tile] = unit_lse
            else:
                out[heads, :, queries - units.rows :] = unit_out
                lse[heads, :, queries - units.rows :] = unit_lse
    return out.view(query_heads, queries, -1), lse.view(query_heads, queries)


def _diagonal_bias(units: Units, group: int, dtype: torch.dtype) -> Tensor | None:
    """Float mask (R, n): 0 except -inf where an entry at the diagonal lies after the row."""
    if not units.ahead.numel():
        return None
    bias = torch.zeros(group, units.rows, units.entries.shape[1], dtype=dtype)
    hidden = units.ahead > torch.arange(units.rows).unsqueeze(1)
    bias[..., -units.ahead.numel() :].masked_fill_(hidden, NEG_INF)
    return bias.flatten(0, 1)


def plan(mask: TileMask) -> Iterator[Units]:
    """Batches of alike units; units without a key are left out."""
    if mask.columns is None and mask.query_tile <= 48 * mask.key_tile:
        yield from _plan_tiles(mask)
    else:
        yield from _plan_one_by_one(mask)


def _plan_tiles(mask: TileMask) -> Iterator[Units]:
    causal, whole = mask.causal_tiles(), mask.whole_tiles()
    kept = mask.tiles & causal
    query_start, query_stop = mask.query_edges()
    key_start, key_stop = mask.key_edges()
    first_partial = whole.sum(1)  # whole tiles form a prefix of each row
    slot = torch.arange(mask.key_tiles) - first_partial.unsqueeze(1)
    at_diagonal = kept & (slot >= 0)
    pattern = (at_diagonal * (1 << slot.clamp(min=0, max=50))).sum(-1)
    entries = (kept * (key_stop - key_start)).sum(-1)
    shift = (first_partial * mask.key_tile - query_start).expand(mask.heads, -1)
    rows = (query_stop - query_start).expand(mask.heads, -1)
    ends_short = kept[..., -1] & (mask.keys % mask.key_tile > 0)  # holds a partial key tile
    described = torch.stack([entries, pattern, shift, rows, ends_short.long()], -1).flatten(0, 1)
    kinds, kind_of_unit = described.unique(dim=0, return_inverse=True)
    order = kind_of_unit.argsort(stable=True)
    flat = kept.flatten(0, 1)
    within = torch.arange(mask.key_tile)
    start = 0
    for kind, size in zip(kinds.tolist(), kind_of_unit.bincount().tolist(), strict=True):
        chosen = order[start : start + size]
        start += size
        length, _, _, row_count, _ = kind
        if not length:
            continue
        tiles = flat[chosen].nonzero()[:, 1].view(size, -1)
        numbers = (tiles.unsqueeze(-1) * mask.key_tile + within).flatten(1)[:, :length]
        query_tiles = chosen % mask.query_tiles
        ahead = (
            numbers[0][numbers[0] >= first_partial[query_tiles[0]] * mask.key_tile]
            - query_start[query_tiles[0]]
        )
        yield Units(chosen // mask.query_tiles, query_tiles, numbers, ahead, row_count)


def _plan_one_by_one(mask: TileMask) -> Iterator[Units]:
    assert mask.tiles.device.type == "cpu"
    starts, stops = (edge.tolist() for edge in mask.query_edges())
    for head in range(mask.heads):
        for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            seen = max(0, min(stop, mask.keys))  # queries before the first key see nothing
            kept = mask.tiles[head, index].repeat_interleave(mask.key_tile)[:seen]
            if mask.columns is not None:
                kept = kept | mask.columns[head, :seen]
            entries = kept.nonzero().squeeze(-1)
            if entries.numel():
                ahead = entries[entries > start] - start
                yield Units(
                    torch.tensor([head]), torch.tensor([index]), entries.unsqueeze(0), ahead, stop - start
                )
