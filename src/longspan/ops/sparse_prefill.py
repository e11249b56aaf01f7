"""Prefill attention over chosen key tiles: `prefill(q, k, v, tiles) -> out, lse`, on one of four backends.

| backend   | reads                | log-sum-exp  | runs on                                                       |
|-----------|----------------------|--------------|---------------------------------------------------------------|
| reference | chosen tiles, 1 by 1 | yes          | anywhere; the oracle, differentiable, the only one on CPU with `softcap` |
| gather    | chosen tiles         | yes          | CPU (torch's flash operator on gathered tiles); elsewhere it is the reference |
| flex      | chosen tiles         | not on CPU   | CPU, CUDA; one compilation for all lengths (on CPU with columns: one a shape) |
| triton    | chosen tiles         | yes          | CUDA (and Triton's interpreter)                               |

A backend never falls back on another in silence: `backend=None` picks by device, a named backend that cannot serve the call raises.
Whether sparse beats dense at a given length and density is the caller's decision.

Dimension letters: Hq query heads, Hk KV heads, G = Hq / Hk, H heads of the mask, S queries, T keys, D head dim.
"""

import functools
import math

import torch
from torch import Tensor

from longspan.errors import BadInput, nearest
from longspan.ops.attention import CPU_FLASH, NEG_INF, attend_plain, merge
from longspan.ops.row_units import UnitMask, attend_units
from longspan.ops.tile_gather import prefill_gather
from longspan.ops.tiles import TileMask

BACKENDS = ("reference", "gather", "flex", "triton")


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: TileMask | UnitMask,
    *,
    scale: float | None = None,
    backend: str | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Exact softmax attention of q (Hq, S, D) over the entries of k, v (Hk, T, D) that `tiles` keeps.

    tiles.heads is Hk (shared by the query group; K/V are then read once per group) or Hq. scale defaults to 1 / sqrt(D). Of a UnitMask, `backend`
    serves the base and dense attention over gathered rows and keys the units.
    Returns out (Hq, S, D) in q's dtype and lse (Hq, S) in fp32 (None from flex on CPU); rows with nothing kept give 0 and -inf.
    Raises BadInput for shapes that do not match the mask and for a backend that cannot serve the call.
    """
    check_shapes(q, k, v, tiles)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if isinstance(tiles, UnitMask):
        if softcap is not None or backend == "flex":
            raise BadInput("permuted rows know no softcap and need a backend that returns the log-sum-exp.")
        out, lse = prefill(q, k, v, tiles.base, scale=scale, backend=backend)
        assert lse is not None
        return attend_units(q, k, v, tiles, (out, lse), scale=scale)
    name = default_backend(q, softcap) if backend is None else backend
    if name == "reference":
        return prefill_reference(q, k, v, tiles, scale=scale, softcap=softcap)
    if name == "triton":
        from longspan.ops.flash.triton_block_sparse import block_sparse_forward

        return block_sparse_forward(q, k, v, tiles, scale=scale, softcap=softcap)
    if name not in BACKENDS:
        raise BadInput(f"there is no prefill backend {name!r}; {nearest(name, BACKENDS)}")
    if softcap is not None:
        raise BadInput(f"the {name} backend knows no softcap; use 'reference' or 'triton'.")
    if name == "flex":
        return prefill_flex(q, k, v, tiles, scale=scale)
    if not CPU_FLASH or q.device.type != "cpu":
        raise BadInput(
            "the gather backend needs torch's CPU flash operator; use 'reference', 'flex' or 'triton'."
        )
    return prefill_gather(q, k, v, tiles, scale=scale)


def default_backend(q: Tensor, softcap: float | None = None) -> str:
    """triton on CUDA, gather on a CPU whose torch has the flash operator, else reference."""
    if q.device.type == "cuda":
        return "triton"
    fast = CPU_FLASH and softcap is None and not (torch.is_grad_enabled() and q.requires_grad)
    return "gather" if fast else "reference"


def check_shapes(q: Tensor, k: Tensor, v: Tensor, tiles: TileMask | UnitMask) -> None:
    (query_heads, queries, _), (kv_heads, keys, _) = q.shape, k.shape
    if query_heads % kv_heads:
        raise BadInput(f"{query_heads} query heads do not divide into groups over {kv_heads} KV heads.")
    if (queries, keys) != (tiles.queries, tiles.keys):
        raise BadInput(
            f"the tile mask is for {tiles.queries} queries and {tiles.keys} keys, not {queries} and {keys}."
        )
    if tiles.heads not in (kv_heads, query_heads):
        raise BadInput(
            f"the tile mask has {tiles.heads} heads; this layer needs {kv_heads} (per KV head) or {query_heads}."
        )
    if v.shape[:2] != k.shape[:2]:
        raise BadInput(f"keys {tuple(k.shape)} and values {tuple(v.shape)} hold different entries.")


def prefill_reference(
    q: Tensor, k: Tensor, v: Tensor, mask: TileMask, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """One tile at a time with a log-sum-exp merge: the specification. Entries outside the chosen tiles are never touched."""
    query_heads, queries, _ = q.shape
    group, per_kv = query_heads // mask.heads, mask.heads // k.shape[0]
    kept = (mask.tiles & mask.causal_tiles()).tolist()
    position = torch.arange(queries, device=q.device) + mask.offset
    outs, lses = [], []
    for head in range(mask.heads):
        queries_of_head = q[head * group : (head + 1) * group]
        keys_of_head, values_of_head = k[head // per_kv].unsqueeze(0), v[head // per_kv].unsqueeze(0)
        for index in range(mask.query_tiles):
            rows = slice(index * mask.query_tile, min(queries, (index + 1) * mask.query_tile))
            pieces = [
                torch.arange(j * mask.key_tile, min(mask.keys, (j + 1) * mask.key_tile), device=q.device)
                for j, chosen in enumerate(kept[head][index])
                if chosen
            ]
            if mask.columns is not None:
                column = mask.columns[head].nonzero().squeeze(-1)
                pieces.append(column[~mask.tiles[head, index][column // mask.key_tile]])
            unit = queries_of_head[:, rows]
            parts = [
                (
                    torch.zeros_like(unit[..., :1]) * values_of_head[:, :1],
                    unit.new_full(unit.shape[:2], NEG_INF).float(),
                )
            ]
            for entries in pieces:
                visible = entries <= position[rows].unsqueeze(1)
                entries, visible = entries[visible.any(0)], visible[:, visible.any(0)]
                if entries.numel():
                    key, value = keys_of_head[:, entries], values_of_head[:, entries]
                    parts.append(attend_plain(unit, key, value, scale=scale, mask=visible, softcap=softcap))
            out, lse = merge(parts)
            outs.append(out)
            lses.append(lse)

    def assemble(units: list[Tensor]) -> Tensor:
        per_head = [units[i : i + mask.query_tiles] for i in range(0, len(units), mask.query_tiles)]
        return torch.cat([torch.cat(row, 1) for row in per_head], 0)

    return assemble(outs).to(q.dtype), assemble(lses)


def prefill_flex(
    q: Tensor, k: Tensor, v: Tensor, mask: TileMask, *, scale: float
) -> tuple[Tensor, Tensor | None]:
    """torch's FlexAttention with a BlockMask built from the tiles, compiled once with dynamic shapes. No log-sum-exp on CPU, where the
    compiled template refuses it: the second result is None there."""
    block_mask = mask.block_mask(q.shape[0])
    # torch 2.13's C++ template does not compile a mask function with tables under dynamic shapes: one compilation a shape then
    flex = _compiled_flex(dynamic=mask.columns is None or q.device.type != "cpu")
    options = {"block_mask": block_mask, "scale": scale, "enable_gqa": q.shape[0] != k.shape[0]}
    batch = (q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0))
    if q.device.type == "cpu":
        return flex(*batch, **options)[0], None
    from torch.nn.attention.flex_attention import AuxRequest

    out, aux = flex(*batch, return_aux=AuxRequest(lse=True), **options)
    assert aux.lse is not None
    return out[0], aux.lse[0]


@functools.cache
def _compiled_flex(dynamic: bool):
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=dynamic)
