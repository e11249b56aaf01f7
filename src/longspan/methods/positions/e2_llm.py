"""E2-LLM: plain position interpolation at test time by g = ceil(length / window), for a model tuned once with random scales and offsets.

Source: E2-LLM: Efficient and Extreme Length Extension of Large Language Models, Findings of ACL 2024, arXiv 2401.06951; no public code. Training draws g ~ U{1..G} and an offset t for every sample
and rotates at (n + t) / g, the first four tokens unmoved (`ops.sampled_positions.scale_and_offset_positions`; `longspan tiny train --positions scaled`). G = 20 and the four
tokens are from memory of the paper, hence knobs of the training. On a model that was not tuned so, this is `pi` with whole factors.

On a tiny model 300 steps brought recall at 2, 4 and 8 times the window from 0.50/0.20/0.05 (`pi`) to 1.00/0.90/0.65; prose loss stayed above that of a model read without scaling (evidence/e2-llm.json).
"""

import math
from dataclasses import dataclass

from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.methods.positions.base import AUTO
from longspan.methods.positions.pi import PositionInterpolation


@register("e2_llm")
@dataclass(frozen=True)
class E2LLM(PositionInterpolation):
    """factor: g, or auto for the smallest whole number that covers the request."""

    source = Source("https://arxiv.org/abs/2401.06951", 2024)
    system = "e2-llm"

    def factor_for(self, tokens: int, window: int) -> float:
        if self.factor != AUTO:
            return float(self.factor)
        return 1.0 if tokens <= window else float(math.ceil((tokens + self.output) / window))
