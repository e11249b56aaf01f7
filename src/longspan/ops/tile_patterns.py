"""Constructors of TileMask: the mask shapes that sparse prefill methods share.

Shapes given in tokens (windows, slashes) are rounded outwards to tiles, so every mask here is a superset of the token-exact one; sinks
that do not fill a tile and vertical lines stay token-exact as columns. With tiles of one token the masks are exact.

Sources: A-shape / window + sink, StreamingLLM (Xiao et al. 2023); tri-shape, SCBench; vertical-slash and block top-k, MInference (Jiang et
al. 2024); minimum set of a given mass, FlexPrefill and XAttention (2025).

Dimension letters: H heads, S queries, T keys, I query tiles, J key tiles.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from longspan.ops.tiles import TileMask, tile_count

PerHead = Tensor | Sequence[Tensor]


def _blank(
    heads: int,
    queries: int,
    keys: int,
    query_tile: int,
    key_tile: int,
    offset: int | None,
    device: torch.device | str = "cpu",
) -> TileMask:
    grid = (heads, tile_count(queries, query_tile), tile_count(keys, key_tile))
    offset = keys - queries if offset is None else offset
    return TileMask(
        torch.zeros(grid, dtype=torch.bool, device=device), queries, keys, query_tile, key_tile, offset
    )


def from_full(heads, queries, keys, *, query_tile=128, key_tile=128, offset=None, device="cpu") -> TileMask:
    """Dense causal attention as tiles. `offset` defaults to keys - queries (the last query sees the last key)."""
    blank = _blank(heads, queries, keys, query_tile, key_tile, offset, device)
    return _with_tiles(blank, blank.causal_tiles().expand(heads, -1, -1).clone())


def from_window_sink(
    heads: int,
    queries: int,
    keys: int,
    *,
    sink: int,
    window: int | Tensor,
    query_tile: int = 128,
    key_tile: int = 128,
    offset: int | None = None,
    device: torch.device | str = "cpu",
) -> TileMask:
    """A-shape: key j is kept iff j < sink or i - j < window (original positions). window: tokens, one number or (H,), one a head."""
    blank = _blank(heads, queries, keys, query_tile, key_tile, offset, device)
    query_start, key_stop = blank.query_edges()[0], blank.key_edges()[1]
    window = window.view(-1, 1, 1) if isinstance(window, Tensor) else window
    near = (
        key_stop - 1 > query_start.unsqueeze(1) - window
    )  # the newest key of the tile lies in the window of the oldest query
    sink = min(sink, keys)
    tiles = (near | (key_stop <= sink)) & blank.causal_tiles()
    columns = None
    if sink % key_tile and sink != keys:
        columns = torch.zeros(heads, keys, dtype=torch.bool, device=device)
        columns[:, sink - sink % key_tile : sink] = True
    elif sink == keys:
        tiles = blank.causal_tiles()
    return _with_tiles(blank, tiles.expand(heads, -1, -1).clone(), columns)


def from_tri_shape(
    heads: int, queries: int, keys: int, *, sink: int, window: int, last: int = 100, **grid
) -> TileMask:
    """A-shape plus the last `last` queries dense (rounded up to query tiles). `grid`: as for `from_window_sink`."""
    return (
        from_window_sink(heads, queries, keys, sink=sink, window=window, **grid)
        .with_last_queries(last)
        .causal()
    )


def from_vertical_slash(
    vertical: PerHead,
    slash: PerHead,
    queries: int,
    keys: int,
    *,
    query_tile: int = 128,
    key_tile: int = 128,
    offset: int | None = None,
) -> TileMask:
    """Vertical lines (token numbers) and slashes (distances i - j = o, 0 = the main diagonal) per head.

    vertical, slash: (H, n) integer tensors or one 1-D tensor per head. Slashes become the tiles they cross (MInference's kernel uses
    64-wide blocks not aligned to the grid instead: a smaller superset); verticals become exact columns.
    """
    device = vertical[0].device
    blank = _blank(len(vertical), queries, keys, query_tile, key_tile, offset, device)
    columns = torch.zeros(len(vertical), keys, dtype=torch.bool, device=device)
    start, stop = blank.query_edges()
    edges = torch.zeros(len(slash), blank.query_tiles, blank.key_tiles + 1, dtype=torch.int32, device=device)
    for head, (tokens, distances) in enumerate(zip(vertical, slash, strict=True)):
        columns[head, tokens.long()] = True
        oldest = (start.unsqueeze(1) - distances.long()).clamp(min=0) // key_tile
        newest = torch.div(stop.unsqueeze(1) - 1 - distances.long(), key_tile, rounding_mode="floor")
        hit = (newest >= 0).int()
        edges[head].scatter_add_(1, oldest.clamp(max=blank.key_tiles), hit)
        edges[head].scatter_add_(1, (newest + 1).clamp(0, blank.key_tiles), -hit)
    tiles = edges.cumsum(-1)[..., :-1] > 0
    return _with_tiles(blank, tiles & blank.causal_tiles(), columns if columns.any() else None)


def from_blocks(
    scores: Tensor,
    count: int | Tensor,
    queries: int,
    keys: int,
    *,
    query_tile: int = 128,
    key_tile: int = 128,
    offset: int | None = None,
    sink_tiles: int = 0,
    diagonal: bool = True,
) -> TileMask:
    """Top `count` key tiles of each query tile by `scores` (H, I, J); tiles in the future are never chosen.

    count: int, or an integer tensor that broadcasts to (H, I). Forced tiles (the first `sink_tiles`, those on the diagonal) count
    towards the budget; where they alone exceed it they all stay.
    """
    blank = _blank(scores.shape[0], queries, keys, query_tile, key_tile, offset, scores.device)
    ranked = _rank_ready(blank, scores, sink_tiles, diagonal)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    budget = count.unsqueeze(-1) if isinstance(count, Tensor) else count
    return _with_tiles(blank, ((rank < budget) | (ranked == torch.inf)) & (ranked > -torch.inf))


def from_mass(
    mass: Tensor,
    share: float | Tensor,
    queries: int,
    keys: int,
    *,
    query_tile: int = 128,
    key_tile: int = 128,
    offset: int | None = None,
    sink_tiles: int = 0,
    diagonal: bool = True,
) -> TileMask:
    """Smallest set of key tiles whose estimated attention `mass` (H, I, J), non-negative, reaches `share` of the row's causal total.

    share: float or a tensor that broadcasts to (H, I). Forced tiles are taken first and their mass counts.
    """
    blank = _blank(mass.shape[0], queries, keys, query_tile, key_tile, offset, mass.device)
    ranked = _rank_ready(blank, mass, sink_tiles, diagonal)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    visible = mass.masked_fill(~blank.causal_tiles(), 0.0)
    sorted_mass = visible.gather(-1, order)
    before = sorted_mass.cumsum(-1) - sorted_mass
    wanted = (share.unsqueeze(-1) if isinstance(share, Tensor) else share) * visible.sum(-1, keepdim=True)
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, before < wanted)
    return _with_tiles(blank, (chosen | (ranked == torch.inf)) & (ranked > -torch.inf))


def _rank_ready(blank: TileMask, scores: Tensor, sink_tiles: int, diagonal: bool) -> Tensor:
    """Scores with forced tiles at +inf and future tiles at -inf."""
    causal = blank.causal_tiles()
    forced = torch.zeros_like(causal)
    forced[:, :sink_tiles] = True
    if diagonal:
        forced |= blank.diagonal_tiles()
    ranked = scores.float().masked_fill(forced, torch.inf)
    return ranked.masked_fill(~causal, -torch.inf)


def _with_tiles(blank: TileMask, tiles: Tensor, columns: Tensor | None = None) -> TileMask:
    return TileMask(tiles, blank.queries, blank.keys, blank.query_tile, blank.key_tile, blank.offset, columns)
