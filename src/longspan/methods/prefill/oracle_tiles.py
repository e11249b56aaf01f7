"""Oracle tiles: each query tile reads the key tiles that hold most of its attention. The ceiling at an equal density, not a method.

It computes every logit to choose, so it saves nothing. budget: share of each query tile's causal tiles, rounded up, with the sink and diagonal tiles
among them. heads=kv sums the mass over a query group, so that the group reads one set of tiles.
"""

from dataclasses import dataclass

from torch import Tensor

from longspan.engine.method import PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.prefill.base import keep_share
from longspan.ops.tile_scores import exact_mass, over_group
from longspan.ops.tiles import TileMask


@register("oracle_tiles")
@dataclass(frozen=True)
class OracleTiles(PrefillPattern):
    """budget: share of the tiles. tile: tokens a tile. heads: "query" or "kv"."""

    source = Source("ceiling", 2026)

    budget: float = 0.25
    tile: int = 128
    heads: str = "query"

    def __post_init__(self) -> None:
        if not 0.0 < self.budget <= 1.0 or self.tile < 1 or self.heads not in ("query", "kv"):
            raise BadInput(
                "oracle_tiles takes a budget above 0 and at most 1, tile >= 1, and heads=query or kv."
            )

    @property
    def chunk_step(self) -> int:  # type: ignore[override]
        return self.tile

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        mass = exact_mass(q, k, view.session.scale(view.layer), self.tile, self.tile)
        if self.heads == "kv":
            mass = over_group(mass, k.shape[0])
        return keep_share(mass, self.budget, q, k, self.tile, self.tile)
