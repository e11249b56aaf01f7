"""The floors of prompt compression: random units, and cutting at one end. Any method has to beat both at equal tokens."""

import random
from dataclasses import dataclass

from longspan.engine.method import PromptMethod, Source
from longspan.engine.prompt import Compressed, Scorer
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.prompt.base import CountedScorer, checked, fit, whole
from longspan.methods.prompt.spans import paragraphs, sentences


@register("random_units")
@dataclass(frozen=True)
class RandomUnits(PromptMethod):
    """Sentences or paragraphs in random order until the budget is full, written in document order."""

    source = Source("baseline", 2026)

    unit: str = "sentence"
    seed: int = 0

    def compress(self, text: str, question: str, budget_tokens: int, scorer: Scorer) -> Compressed:
        checked(text, budget_tokens)
        counted = CountedScorer(scorer)
        if identity := whole(text, budget_tokens, counted, self.name):
            return identity
        units = sentences(text) if self.unit == "sentence" else paragraphs(text)
        rng = random.Random(self.seed)
        return fit(
            text, [(u,) for u in units], [rng.random() for _ in units], budget_tokens, counted, self.name
        )


@register("truncate")
@dataclass(frozen=True)
class Truncate(PromptMethod):
    """Whole units from one end: `keep` head or tail."""

    source = Source("baseline", 2026)

    keep: str = "head"
    unit: str = "sentence"

    def compress(self, text: str, question: str, budget_tokens: int, scorer: Scorer) -> Compressed:
        checked(text, budget_tokens)
        if self.keep not in ("head", "tail"):
            raise BadInput(f"truncate keeps the head or the tail, not {self.keep!r}")
        counted = CountedScorer(scorer)
        if identity := whole(text, budget_tokens, counted, self.name):
            return identity
        units = sentences(text) if self.unit == "sentence" else paragraphs(text)
        sign = -1 if self.keep == "head" else 1
        values = [float(sign * i) for i in range(len(units))]
        return fit(text, [(u,) for u in units], values, budget_tokens, counted, self.name)
