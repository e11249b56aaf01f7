"""FlexPrefill: each head and text gets its own pattern and its own budget, from the share of attention mass that must be kept.

Source: FlexPrefill, Lai et al., ICLR 2025, arXiv 2502.20766; code ByteDance-Seed/FlexPrefill. Exact rows of the last queries give the true mass of every
key tile; softmax(mean query . mean key) estimates it. Where the two agree (root of the Jensen-Shannon divergence below `tau`) the head is
"query aware": mean-pooled tiles, largest first over the whole map, until `gamma` of the mass. Otherwise vertical-slash: as many tile columns and tile
diagonals as cover `gamma` of the probe's mass by key and by distance. First column and main diagonal are always read, and at least `least` tokens of each.

The original pools logs of zero into NaN in the divergence (such heads silently become vertical-slash); here zero terms count as zero. Its global top-p can
leave late rows with few tiles; kept, as published. Budgets count tiles of the real tile size, not of a literal 128.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.engine.method import PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.ops.attention import NEG_INF, grouped_scores
from longspan.ops.tile_patterns import from_full
from longspan.ops.tile_scores import pooled, probe_rows, slash_sums, sum_tiles, tile_means
from longspan.ops.tiles import TileMask


@register("flexprefill")
@dataclass(frozen=True)
class FlexPrefill(PrefillPattern):
    """gamma: share of the mass to keep (1 reads all). tau: divergence below which a head is query aware (0: none). least: tokens of columns and of
    diagonals that are always read. probe: queries (tokens) computed exactly. tile: tokens."""

    source = Source("https://arxiv.org/abs/2502.20766", 2025, "https://github.com/ByteDance-Seed/FlexPrefill")
    reads = "by_chunk"  # every chunk is probed for itself

    gamma: float = 0.9
    tau: float = 0.1
    least: int = 512
    probe: int = 128
    tile: int = 128

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0 or self.tau < 0 or self.least < 0 or self.probe < 1 or self.tile < 1:
            raise BadInput(
                "flexprefill takes gamma from 0 to 1, tau >= 0, least >= 0, probe >= 1 and tile >= 1."
            )

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        scale = view.session.scale(view.layer)
        whole = from_full(
            q.shape[0], q.shape[1], k.shape[1], query_tile=self.tile, key_tile=self.tile, device=q.device
        )
        if self.gamma == 1.0:
            return whole
        rows = probe_rows(q, k, scale, self.probe)
        aware = self.divergence(rows, q, k, scale) < self.tau
        tiles = self.lines(rows, aware, whole)
        if bool(aware.any()):
            tiles = tiles | (self.pooled_tiles(q, k, scale, whole) & aware.view(-1, 1, 1))
        return TileMask(
            tiles & whole.tiles, whole.queries, whole.keys, self.tile, self.tile, whole.offset
        ).with_diagonal()

    def divergence(self, rows: Tensor, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Root of the Jensen-Shannon divergence between true and estimated mass of the key tiles, (Hq,)."""
        true = sum_tiles(rows.mean(1), self.tile)
        probe = q[:, -self.probe :].mean(1, keepdim=True)
        estimate = grouped_scores(probe, tile_means(k, self.tile), scale).softmax(-1).squeeze(1)
        mean = (true + estimate) / 2

        def relative(p: Tensor) -> Tensor:
            return torch.where(
                p > 0, p * (p / mean.clamp(min=1e-30)).clamp(min=1e-30).log(), torch.zeros_like(p)
            ).sum(-1)

        return ((relative(true) + relative(estimate)) / 2).clamp(min=0).sqrt()

    def lines(self, rows: Tensor, aware: Tensor, whole: TileMask) -> Tensor:
        """Tile columns and tile diagonals of the vertical-slash heads; query-aware heads get the least of both. (Hq, I, J) bool."""
        least = -(-self.least // self.tile)
        counts = []
        sums = []
        for tokens in (rows.mean(1), slash_sums(rows) / rows.shape[1]):
            ordered = tokens.sort(-1, descending=True).values.cumsum(-1)
            needed = (ordered < self.gamma * ordered[:, -1:]).sum(-1) + 1
            wanted = (needed // self.tile + 1).clamp(min=least)
            counts.append(torch.where(aware, torch.full_like(wanted, least), wanted))
            sums.append(sum_tiles(tokens, self.tile))
        sums[0][:, 0], sums[1][:, 0] = torch.inf, torch.inf
        chosen = [_top(values, count) for values, count in zip(sums, counts, strict=True)]
        first_key = whole.query_edges()[0] // self.tile
        distance = first_key.unsqueeze(1) - torch.arange(whole.key_tiles, device=rows.device)
        on_diagonal = chosen[1][:, distance.clamp(min=0, max=chosen[1].shape[1] - 1)] & (distance >= 0)
        return on_diagonal | chosen[0].unsqueeze(1)

    def pooled_tiles(self, q: Tensor, k: Tensor, scale: float, whole: TileMask) -> Tensor:
        """Mean-pooled tiles, largest first over the whole map, until gamma of the mass: (Hq, I, J) bool."""
        mass = (
            pooled(q, k, scale, self.tile, self.tile)
            .masked_fill(~whole.tiles, NEG_INF)
            .softmax(-1)
            .flatten(1)
        )
        ordered, index = mass.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.zeros_like(mass, dtype=torch.bool).scatter_(
            1, index, before < self.gamma * whole.query_tiles
        )
        return kept.view(whole.tiles.shape)


def _top(values: Tensor, counts: Tensor) -> Tensor:
    """True at the counts[h] largest values of row h."""
    order = values.argsort(dim=-1, descending=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(values.shape[1], device=values.device).expand_as(order)
    )
    return rank < counts.unsqueeze(1)
