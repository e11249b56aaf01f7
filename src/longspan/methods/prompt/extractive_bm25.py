"""Extractive BM25: the sentences that share the question's words, in document order. The baseline every method must beat.

Source: common practice; BM25 after Robertson and Zaragoza (2009) with Lucene's idf. Needs no language model, only a
tokenizer for the budget.
"""

from dataclasses import dataclass

from longspan.engine.method import PromptMethod, Source
from longspan.engine.prompt import Compressed, Scorer
from longspan.engine.registry import register
from longspan.methods.prompt.base import CountedScorer, checked, fit, whole
from longspan.methods.prompt.spans import bm25, paragraphs, sentences


@register("bm25")
@dataclass(frozen=True)
class ExtractiveBM25(PromptMethod):
    """Knobs: BM25 `k1` and `b`; `unit` that is kept or dropped, sentence or paragraph; `separator` put over a gap."""

    source = Source("Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond", 2009)
    aware = True

    k1: float = 1.5
    b: float = 0.75
    unit: str = "sentence"
    separator: str = ""

    def compress(self, text: str, question: str, budget_tokens: int, scorer: Scorer) -> Compressed:
        checked(text, budget_tokens)
        counted = CountedScorer(scorer)
        if identity := whole(text, budget_tokens, counted, self.name):
            return identity
        units = sentences(text) if self.unit == "sentence" else paragraphs(text)
        values = bm25(question, [text[a:b] for a, b in units], self.k1, self.b)
        return fit(
            text,
            [(unit,) for unit in units],
            values,
            budget_tokens,
            counted,
            self.name,
            lambda last, start: self.separator,
        )
