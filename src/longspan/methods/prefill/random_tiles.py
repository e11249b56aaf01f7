"""Random tiles: each query tile reads key tiles drawn at random, besides the sink and diagonal ones. The floor at an equal density."""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.engine.method import PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.prefill.base import keep_share
from longspan.ops.tiles import TileMask, tile_count


@register("random_tiles")
@dataclass(frozen=True)
class RandomTiles(PrefillPattern):
    """budget: share of each query tile's causal tiles, rounded up. tile: tokens a tile. seed: of the draw, with the layer and the place."""

    source = Source("floor", 2026)
    reads = "by_chunk"  # every chunk draws for itself

    budget: float = 0.25
    tile: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.budget <= 1.0 or self.tile < 1:
            raise BadInput("random_tiles takes a budget above 0 and at most 1, and tile >= 1.")

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        shape = (k.shape[0], tile_count(q.shape[1], self.tile), tile_count(k.shape[1], self.tile))
        place = torch.Generator().manual_seed((self.seed * 4096 + view.layer) * (1 << 20) + k.shape[1])
        return keep_share(
            torch.rand(shape, generator=place).to(q.device), self.budget, q, k, self.tile, self.tile
        )
