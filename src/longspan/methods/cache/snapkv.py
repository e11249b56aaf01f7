"""SnapKV: the attention of the prompt's last tokens predicts what the answer will read.

Source: SnapKV, Li et al., NeurIPS 2024; code FasterDecoding/SnapKV. Scores of an entry: softmax rows of the last `window` queries, summed
over the rows (the mean ranks alike), smoothed over positions by pooling, reduced over the query group. The window itself always stays.

The reference stores K and V repeated to query heads and selects per query head, so its cache is G times larger; here, as in kvpress,
selection is per KV head. The paper's runs use window 16-64 with kernel 5-7; kvpress defaults to window 64, average pooling of 5.
A window longer than the question looks at the wrong queries: with the question in the text, keep it at most the question's length.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput

WINDOW_SCORE = 1e6  # above any attention weight; newer window entries first, should the budget be smaller than the window


@register("snapkv")
@dataclass(frozen=True)
class SnapKV(CachePolicy):
    """window: observed queries (tokens). pool: width of the smoothing (odd). pooling: "avg" or "max". group: "mean", "max" or "sum" over
    the query heads of a KV head."""

    source = Source("https://arxiv.org/abs/2404.14469", 2024, "https://github.com/FasterDecoding/SnapKV")
    aware = True

    window: int = 32
    pool: int = 5
    pooling: str = "avg"
    group: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.pool < 1 or self.pool % 2 == 0:
            raise BadInput(
                f"snapkv needs window >= 1 and an odd pool >= 1, not window={self.window}, pool={self.pool}."
            )
        if self.pooling not in ("avg", "max") or self.group not in ("mean", "max", "sum"):
            raise BadInput("snapkv takes pooling=avg or max, and group=mean, max or sum.")

    @property
    def needs(self) -> Needs:
        return Needs(window_queries=self.window)

    def score(self, view: LayerView) -> Tensor:
        heads = view.keys.shape[0]
        queries = view.window_queries(self.window)
        before = view.positions < view.seen - queries.shape[1]
        summed = view.once(f"window sums {self.window}", lambda: view.attention_rows(queries).sum(1))
        rows = summed.view(heads, -1, view.keys.shape[1])
        rows = rows.masked_fill(~before.unsqueeze(1), 0.0)  # the window does not vote for itself
        scores = smooth(reduce_group(rows, self.group), self.pool, self.pooling)
        return torch.where(before, scores, WINDOW_SCORE + view.positions.float())


def reduce_group(rows: Tensor, how: str) -> Tensor:
    """(Hk, G, T) -> (Hk, T)."""
    if how == "max":
        return rows.amax(1)
    return rows.mean(1) if how == "mean" else rows.sum(1)


def smooth(scores: Tensor, width: int, how: str) -> Tensor:
    """Pool (Hk, T) over neighbouring entries, stride 1, same length."""
    if width == 1:
        return scores
    pad = width // 2
    if how == "max":
        return F.max_pool1d(scores.unsqueeze(0), width, 1, pad)[0]
    return F.avg_pool1d(scores.unsqueeze(0), width, 1, pad)[0]
