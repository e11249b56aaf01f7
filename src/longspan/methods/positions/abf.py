"""Adjusted base frequency: a larger RoPE base, nothing else (Llama 2 Long).

Source: Xiong et al., Effective Long-Context Scaling of Foundation Models, 2023, arXiv 2309.16039 (no public code). Base 10,000 -> 500,000, then continued pre-training; the paper's best
choice against position interpolation, on loss and on retrieving the first sentence. Without training it harms short text a little and does
not reach far retrieval. The same change is NTK scaling with factor multiplier^((d-2)/d).
"""

from dataclasses import dataclass
from typing import Any

from longspan.engine.method import PositionMethod, Source
from longspan.engine.registry import register
from longspan.methods.positions.base import apply_map, check_factor
from longspan.ops.frequency_maps import Frequencies, Rope, adjusted_base


@register("abf")
@dataclass(frozen=True)
class AdjustedBase(PositionMethod):
    """multiplier: new base over the model's own, at least 1 (the paper's 500,000 / 10,000 = 50)."""

    source = Source("https://arxiv.org/abs/2309.16039", 2023)
    system = "long-scaling-abf"

    multiplier: float = 50.0

    def __post_init__(self) -> None:
        check_factor(self.name, self.multiplier, "multiplier")

    def map(self, rope: Rope, factor: float) -> Frequencies:
        """`factor` multiplies the base."""
        return adjusted_base(rope, rope.base * factor)

    def frequencies(self, rope: Any, length: int) -> Frequencies:
        if self.multiplier == 1:
            return rope.frequencies
        return apply_map(rope.frequencies, rope.trained, self.map(rope.trained, self.multiplier))

    def rope_parameters(self, rope: Rope, factor: float) -> dict[str, Any]:
        """The map in transformers' vocabulary."""
        return {"rope_type": "default", "rope_theta": rope.base * factor}
