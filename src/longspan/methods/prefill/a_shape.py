"""A-shape (and tri-shape): while reading, each token sees the first tokens and a local window, at original positions.

Source: the static pattern of StreamingLLM (Xiao et al., ICLR 2024) as a prefill mask, named by MInference (Jiang et al., 2024), whose code
uses 100-128 first tokens and 800-4096 local ones; tri-shape (SCBench, Li et al., 2024) adds the last `last` queries of the text densely.
Key j is seen by query i when j < sink or i - j < window. What leaves the window is unseen by later tokens but stays in the cache, so decoding
reads all of it. Chunked reading knows the end of the text only in the last chunk, where tri-shape's dense rows lie.
"""

from dataclasses import dataclass

from torch import Tensor

from longspan.engine.method import PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.ops.tile_patterns import from_window_sink
from longspan.ops.tiles import TileMask


@register("a_shape")
@dataclass(frozen=True)
class AShape(PrefillPattern):
    """sink, window: tokens. last: newest queries of the text that see everything (0: A-shape; 100: tri-shape). tile: tokens a tile."""

    source = Source("https://arxiv.org/abs/2407.02490", 2024, "https://github.com/microsoft/MInference")

    sink: int = 128
    window: int = 1024
    last: int = 0
    tile: int = 128

    def __post_init__(self) -> None:
        if self.sink < 0 or self.window < 1 or self.last < 0 or self.tile < 1:
            raise BadInput("a_shape counts tokens: sink >= 0, window >= 1, last >= 0, tile >= 1.")

    @property
    def chunk_step(self) -> int:  # type: ignore[override]
        return self.tile

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        queries, keys = q.shape[1], k.shape[1]
        if keys <= self.window:
            return None
        tiles = from_window_sink(
            k.shape[0],
            queries,
            keys,
            sink=self.sink,
            window=self.window,
            query_tile=self.tile,
            key_tile=self.tile,
            device=q.device,
        )
        rows = self.last - max(
            0, view.session.expected - queries
        )  # how many of the text's last queries lie in this chunk
        return tiles.with_last_queries(min(rows, queries)).causal() if rows > 0 else tiles
