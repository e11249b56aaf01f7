"""SpargeAttention: mean-pooled tile scores, but a tile whose tokens do not resemble each other is never trusted to its mean and always read.

Source: SpargeAttention, Zhang et al., ICML 2025, arXiv 2502.18137; code thu-ml/SpargeAttn. Self-similarity of a tile is the mean cosine over pairs of its
tokens. Rows of dissimilar query tiles and columns of dissimilar key tiles are read whole; the others by softmax(mean q . mean k), dissimilar key tiles
left out, until `mass` of the row, or the best `budget` share. The first tile is always read here (an option there).

Not here: the kernel's second filter (skipping P V of negligible tiles, an online decision) and INT8 products; both change speed and rounding, not what
this mask says. Query tiles are 128 and key tiles 64, as in the code.
"""

from dataclasses import dataclass
from math import lcm

from torch import Tensor
from torch.nn.functional import normalize

from longspan.engine.method import PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.prefill.base import keep_mass, keep_share
from longspan.ops.attention import NEG_INF
from longspan.ops.tile_patterns import from_full
from longspan.ops.tile_scores import pooled, tile_means
from longspan.ops.tiles import TileMask


@register("spargeattention")
@dataclass(frozen=True)
class SpargeAttention(PrefillPattern):
    """mass: share of the estimated mass of a row that is kept (1 reads all). budget: instead, a fixed share of each row's tiles, the untrusted ones
    on top. similarity: mean cosine from which a tile may be judged by its mean (-1: always). query_tile, key_tile: tokens."""

    source = Source("https://arxiv.org/abs/2502.18137", 2025, "https://github.com/thu-ml/SpargeAttn")

    mass: float = 0.9
    budget: float | None = None
    similarity: float = 0.1
    query_tile: int = 128
    key_tile: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.mass <= 1 or (self.budget is not None and not 0 < self.budget <= 1):
            raise BadInput("spargeattention takes mass from 0 to 1 and a budget above 0 and at most 1.")
        if self.query_tile < 1 or self.key_tile < 1:
            raise BadInput("spargeattention takes tiles of at least one token.")

    @property
    def chunk_step(self) -> int:  # type: ignore[override]
        return lcm(self.query_tile, self.key_tile)

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        grid = {"query_tile": self.query_tile, "key_tile": self.key_tile}
        whole = from_full(q.shape[0], q.shape[1], k.shape[1], **grid, device=q.device)
        rough_rows = self_similarity(q, self.query_tile) < self.similarity
        rough_columns = (self_similarity(k, self.key_tile) < self.similarity).repeat_interleave(
            q.shape[0] // k.shape[0], 0
        )
        scores = pooled(q, k, view.session.scale(view.layer), self.query_tile, self.key_tile)
        scores = scores.masked_fill(~whole.tiles | rough_columns.unsqueeze(1), NEG_INF)
        judged = scores.softmax(-1).nan_to_num(0.0)  # a row without any trusted tile
        if self.budget is None:
            chosen = keep_mass(judged, float(self.mass), q, k, self.query_tile, self.key_tile)
        else:
            chosen = keep_share(judged, self.budget, q, k, self.query_tile, self.key_tile)
        tiles = (chosen.tiles | rough_rows.unsqueeze(2) | rough_columns.unsqueeze(1)) & whole.tiles
        return TileMask(tiles, whole.queries, whole.keys, self.query_tile, self.key_tile, whole.offset)


def self_similarity(x: Tensor, tile: int) -> Tensor:
    """Mean cosine over all ordered pairs of tokens of every tile, a token with itself included: x (H, N, D) -> (H, tiles).

    It is the squared length of the tile's mean direction.
    """
    return tile_means(normalize(x.float(), dim=-1), tile).square().sum(-1)
