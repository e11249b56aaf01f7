"""SALE: every logit is estimated in 4 bits, and a tile is read when any element of it is large against what the row has surely got.

Source: SALE, Ji et al., 2025, arXiv 2505.24179; code BirdChristopher/SALE. Keys and queries are smoothed (their mean over tokens taken off; the mean
query's part of the logit is added back exactly) and rounded to -7 .. 7 with one scale a token. The first key tile and a local window are always read and
give the row's maximum m and sum l; element (i, j) counts exp(s - m) / l, and a tile stays when one element exceeds `theta`.

This is the code's two-pass form: the row's threshold is fixed after sink and local. Products of rounded values are taken in floating point, so what is
shown is the choice, not its speed; the estimate is quadratic like dense attention, at an eighth of the bits. Read in chunks, means are of what has come
so far. Per-head thresholds of the original (halved from 0.008 until the output's error is small) are a knob here, one for all heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.engine.method import PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.prefill.base import keep_share
from longspan.ops.attention import NEG_INF, grouped_scores
from longspan.ops.tile_patterns import from_window_sink
from longspan.ops.tiles import TileMask

ROWS = 256  # query rows estimated at once


@register("sale")
@dataclass(frozen=True)
class Sale(PrefillPattern):
    """theta: relative score from which an element keeps its tile (0: all are read). budget: instead, a fixed share of each row's tiles, by their
    largest element. local: newest tokens always read. query_tile, key_tile: tokens; the first key tile is always read. bits: of the estimate (0:
    exact). dense_below: keys up to which everything is read."""

    source = Source("https://arxiv.org/abs/2505.24179", 2025, "https://github.com/BirdChristopher/SALE")
    system = "sale"
    reads = "by_chunk"  # queries are centred by the mean of their chunk, keys by that of all before its end

    theta: float = 0.004
    budget: float | None = None
    local: int = 128
    query_tile: int = 64
    key_tile: int = 32
    bits: int = 4
    dense_below: int = 1024

    def __post_init__(self) -> None:
        if self.theta < 0 or self.local < 1 or self.bits not in (0, 2, 3, 4, 8):
            raise BadInput("sale takes theta >= 0, local >= 1 and bits=0 (exact), 2, 3, 4 or 8.")
        if min(self.query_tile, self.key_tile) < 1 or (self.budget is not None and not 0 < self.budget <= 1):
            raise BadInput("sale takes tiles of at least one token and a budget above 0 and at most 1.")

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        if k.shape[1] <= self.dense_below or (self.theta == 0 and self.budget is None):
            return None
        scores = self.largest(q, k, view.session.scale(view.layer))
        if self.budget is not None:
            return keep_share(scores, self.budget, q, k, self.query_tile, self.key_tile)
        always = self.always(q, k)
        kept = (scores > torch.tensor(self.theta).log()) & always.causal_tiles()
        return TileMask(
            always.tiles | kept, always.queries, always.keys, self.query_tile, self.key_tile, always.offset
        )

    def always(self, q: Tensor, k: Tensor) -> TileMask:
        """The first key tile and the local window, as tiles."""
        grid = {"query_tile": self.query_tile, "key_tile": self.key_tile}
        sink = min(self.key_tile, k.shape[1])
        return from_window_sink(
            q.shape[0], q.shape[1], k.shape[1], sink=sink, window=self.local, **grid, device=q.device
        ).columns_as_tiles()

    def largest(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Log of the largest relative attention score in every tile, (Hq, I, J); -inf in the future."""
        smooth = k.float() - k.float().mean(1, keepdim=True)
        centre = q.float().mean(1, keepdim=True)
        rounded_q, rounded_k = rounded(q.float() - centre, self.bits), rounded(smooth, self.bits)
        shift = grouped_scores(centre, smooth, scale)  # the mean query's exact part, (Hq, 1, T)
        always, found, offset = self.always(q, k), [], k.shape[1] - q.shape[1]
        column = torch.arange(k.shape[1], device=q.device)
        step = max(1, ROWS // self.query_tile) * self.query_tile
        for start in range(0, q.shape[1], step):
            stop = min(q.shape[1], start + step)
            row = torch.arange(start, stop, device=q.device)
            future = column > row.unsqueeze(1) + offset
            sure = always.tiles[0][row // self.query_tile][:, column // self.key_tile] & ~future
            exact = grouped_scores(q[:, start:stop], smooth, scale)
            floor = exact.masked_fill(~sure, NEG_INF).logsumexp(-1, keepdim=True)  # m + log l
            guess = (grouped_scores(rounded_q[:, start:stop], rounded_k, scale) + shift - floor).masked_fill_(
                future, NEG_INF
            )
            found.append(_tile_maxima(guess, self.query_tile, self.key_tile))
        return torch.cat(found, 1)


def rounded(x: Tensor, bits: int) -> Tensor:
    """x (H, N, D) after symmetric rounding to 2^(bits - 1) - 1 steps either side, one scale a token; bits 0: unchanged."""
    if bits == 0:
        return x
    steps = 2 ** (bits - 1) - 1
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / steps
    return (x / scale).round() * scale


def _tile_maxima(values: Tensor, rows: int, columns: int) -> Tensor:
    padding = (0, -values.shape[2] % columns, 0, -values.shape[1] % rows)
    return (
        torch.nn.functional.pad(values, padding, value=NEG_INF)
        .unflatten(2, (-1, columns))
        .amax(3)
        .unflatten(1, (-1, rows))
        .amax(2)
    )
