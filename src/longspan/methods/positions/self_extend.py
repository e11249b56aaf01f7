"""Self-Extend: far positions count groups of tokens, near ones single tokens; no training.

Source: Jin et al., LLM Maybe LongLM, 2024, arXiv 2401.01325; code datamllab/LongLM. D' = D below w; m//G - n//G + w - w//G beyond. Sufficient when window > (T - w)/G + w. Paper:
w 1024, G 4 to 32 for models of 4K to 8K.
"""

from dataclasses import dataclass
from typing import Any

from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.methods.positions.base import DistanceMethod, check_exact, check_sizes
from longspan.ops.distance_maps import Passes, self_extend


@register("self_extend")
@dataclass(frozen=True)
class SelfExtend(DistanceMethod):
    """neighbours: w in tokens. group: G in tokens."""

    source = Source("https://arxiv.org/abs/2401.01325", 2024, "https://github.com/datamllab/LongLM")

    neighbours: int = 1024
    group: int = 8

    def __post_init__(self) -> None:
        check_sizes(self.name, neighbours=self.neighbours, group=self.group)

    def check_trained(self, trained_window: int) -> None:
        check_exact(self.name, "neighbours", self.neighbours, trained_window)

    def passes(self, rope: Any) -> Passes:
        return self_extend(self.neighbours, self.group)

    def reach(self, trained_window: int) -> float:
        return (trained_window - self.neighbours) * self.group + self.neighbours
