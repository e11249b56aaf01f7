"""Dual chunk attention: exact positions inside a chunk and across the nearest border, a constant far distance.

Source: An et al., Training-Free Long-Context Scaling of Large Language Models, 2024, arXiv 2402.17463; code HKUNLP/ChunkLlama. Three passes merged by log-sum-exp (`ops.distance_maps.dual_chunk`).
The code takes chunk = 3/4 window and local = window / 16 and Qwen2.5-1M adds YaRN's logit factor, here `sharpen` (the length over the window; 1 is off).
"""

from dataclasses import dataclass
from typing import Any

from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.positions.base import DistanceMethod, check_exact, check_factor
from longspan.ops.distance_maps import Passes, dual_chunk
from longspan.ops.frequency_maps import Frequencies, yarn_attention_factor


@register("dca")
@dataclass(frozen=True)
class DualChunkAttention(DistanceMethod):
    """chunk: largest distance in tokens, 0 for 3/4 of the trained window. local: distance that stays exact across a border, 0 for a
    sixteenth. sharpen: YaRN's factor for the logits, 1 for off."""

    source = Source("https://arxiv.org/abs/2402.17463", 2024, "https://github.com/HKUNLP/ChunkLlama")

    chunk: int = 0
    local: int = 0
    sharpen: float = 1.0

    def __post_init__(self) -> None:
        check_factor(self.name, self.sharpen, "sharpen")
        if self.chunk < 0 or self.local < 0 or (self.chunk and self.local >= self.chunk):
            raise BadInput(
                f"dca needs 0 <= local < chunk (0: from the window), not {self.local} and {self.chunk}."
            )

    def check_trained(self, trained_window: int) -> None:
        check_exact(self.name, "chunk", self.chunk, trained_window)

    def frequencies(self, rope: Any, length: int) -> Frequencies:
        inv_freq, factor = rope.frequencies
        return Frequencies(inv_freq, factor * yarn_attention_factor(self.sharpen))

    def passes(self, rope: Any) -> Passes:
        window = rope.trained.window
        chunk = self.chunk or 3 * window // 4
        return dual_chunk(chunk, min(self.local or max(1, window // 16), chunk - 1))
