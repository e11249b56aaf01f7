"""ReRoPE and Leaky ReRoPE: distances stop growing, or grow slower, beyond a window.

Source: Su Jianlin, 2023 (kexue.fm/archives/9708), code bojone/rerope. D' = D below w; w beyond (leak 0), or w + (D - w) / k with leak = 1 / k. The window is about half the trained
one. Two attention passes; no training.
"""

from dataclasses import dataclass
from typing import Any

from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.positions.base import DistanceMethod, check_exact, check_sizes
from longspan.ops.distance_maps import Passes, leaky_rerope, rerope


@register("rerope")
@dataclass(frozen=True)
class ReRoPE(DistanceMethod):
    """neighbours: w in tokens. leak: growth of the distance beyond w, 0 (ReRoPE) to 1 (plain)."""

    source = Source("https://kexue.fm/archives/9708", 2023, "https://github.com/bojone/rerope")

    neighbours: int = 1024
    leak: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self.name, neighbours=self.neighbours)
        if not 0 <= self.leak <= 1:
            raise BadInput(f"leak={self.leak} of rerope must lie between 0 and 1.")

    def check_trained(self, trained_window: int) -> None:
        check_exact(self.name, "neighbours", self.neighbours, trained_window)

    def passes(self, rope: Any) -> Passes:
        return leaky_rerope(self.neighbours, 1 / self.leak) if self.leak else rerope(self.neighbours)

    def reach(self, trained_window: int) -> float:
        return self.neighbours + (trained_window - self.neighbours) / self.leak if self.leak else float("inf")
