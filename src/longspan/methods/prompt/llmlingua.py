"""LLMLingua and LongLLMLingua: drop documents, then sentences (option), then tokens that a small language model predicts.

Sources: "LLMLingua" (EMNLP 2023) and "LongLLMLingua" (ACL 2024); code microsoft/LLMLingua.
1. Documents (paragraphs). LLMLingua ranks by mean NLL of the document, highest first; LongLLMLingua by mean NLL of the
   question (with a reminder sentence) given the document, lowest first. Documents enter in rank order until
   budget + `document_slack` is spent; the overflowing one stays.
2. Keep ratio of a document: tau = budget / (sum(len + 2) + 1), plus a linear offset from +delta (best rank) to -delta.
3. Option: a sentence filter with the same scores and 1.4 times the budget.
4. Tokens in segments of 200, each scored after the already compressed prefix; threshold = the value at rank
   int(n * ratio) of all scores seen so far. LongLLMLingua scores by contrast: NLL without the question minus NLL with it.
5. Difference to the code: it counts its budget with another tokenizer and drifts; here tokens are ordered by their margin
   over the threshold of their segment, and the output is cut or filled to the exact budget.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longspan.engine.method import PromptMethod, Source
from longspan.engine.prompt import Compressed, Scorer
from longspan.engine.registry import register
from longspan.methods.prompt.base import CountedScorer, Span, Unit, checked, fit, whole
from longspan.methods.prompt.spans import paragraphs, sentences

REMINDER = " The documents above hold the answer to this question."


@register("llmlingua")
@dataclass(frozen=True)
class LLMLingua(PromptMethod):
    """Knobs: tokens of slack for documents; `dynamic_ratio` delta; `segment` tokens; optional sentence filter with its own
    slack and `keep_first`/`keep_last` sentences; `force` strings whose tokens always stay; `window` tokens of compressed
    prefix that condition a segment (the oldest go, except the first 10)."""

    source = Source("https://arxiv.org/abs/2310.05736", 2023, "https://github.com/microsoft/LLMLingua")

    document_slack: int = 100
    dynamic_ratio: float = 0.0
    segment: int = 200
    filter_sentences: bool = False
    sentence_slack: float = 1.4
    keep_first: int = 0
    keep_last: int = 0
    force: tuple[str, ...] = ()
    window: int = 2048

    def compress(self, text: str, question: str, budget_tokens: int, scorer: Scorer) -> Compressed:
        checked(text, budget_tokens)
        counted = CountedScorer(scorer)
        if identity := whole(text, budget_tokens, counted, self.name):
            return identity
        documents = self.rank(text, paragraphs(text), question, counted)
        kept = take(documents, text, budget_tokens + self.document_slack, counted)
        ratios = keep_ratios(
            [counted.count_tokens(text[a:b]) for a, b in kept], budget_tokens, self.dynamic_ratio
        )
        rank = {span: i for i, span in enumerate(documents)}
        ratio_of = dict(zip(kept, ratios, strict=True))
        units: list[Unit] = []
        margins: list[float] = []
        prefix = Prefix(self.window)
        for document in sorted(kept):
            for span, margin in self.tokens(
                text, document, question, ratio_of[document], budget_tokens, prefix, counted
            ):
                units.append((span,))
                margins.append(margin)
        return fit(text, units, margins, budget_tokens, counted, self.name, place=self.place(kept, rank))

    def rank(self, text: str, spans: Sequence[Span], question: str, scorer: CountedScorer) -> list[Span]:
        """Spans from most to least worth keeping."""
        scorer.prefetch(self.pair(text[a:b], question) for a, b in spans)
        scores = {(a, b): self.usefulness(text[a:b], question, scorer) for a, b in spans}
        return sorted(spans, key=lambda span: (-scores[span], span))

    def usefulness(self, passage: str, question: str, scorer: CountedScorer) -> float:
        return scorer.nll(*self.pair(passage, question))

    def pair(self, passage: str, question: str) -> tuple[str, str]:
        """What is scored to rank a passage: (prefix, text)."""
        return "", passage

    def place(self, kept: Sequence[Span], rank: dict[Span, int]):
        return tuple

    def tokens(self, text, document, question, ratio, budget, prefix, scorer) -> list[tuple[Span, float]]:
        """Every token span of the document with its margin over the segment's threshold (>= 0: the threshold keeps it)."""
        pieces = [document]
        if self.filter_sentences:
            pieces = self.kept_sentences(text, document, question, ratio, scorer)
        found = []
        for start, end in pieces:
            offsets = scorer.offsets(text[start:end])
            for first in range(0, len(offsets), self.segment):
                chunk = offsets[first : first + self.segment]
                a, b = start + chunk[0][0], start + chunk[-1][1]
                found += self.segment_margins(text, (a, b), question, ratio, prefix, scorer)
        return found

    def kept_sentences(self, text, document, question, ratio, scorer) -> list[Span]:
        spans = sentences(text, *document)
        if len(spans) < 2:
            return [document]
        bonus = set(spans[: self.keep_first]) | set(
            spans[len(spans) - self.keep_last :] if self.keep_last else ()
        )
        ranked = self.rank(text, spans, question, scorer)
        ranked = sorted(ranked, key=lambda span: span not in bonus)
        limit = ratio * self.sentence_slack * scorer.count_tokens(text[slice(*document)])
        return sorted(take(ranked, text, limit, scorer))

    def segment_margins(self, text, span, question, ratio, prefix, scorer) -> list[tuple[Span, float]]:
        start, end = span
        _, offsets, scores = self.scored(prefix.text(), text[start:end], question, scorer)
        prefix.seen.extend(scores)
        keep, seen = int(len(prefix.seen) * ratio), np.array(prefix.seen)
        threshold = np.partition(seen, len(seen) - keep)[len(seen) - keep] if keep else np.inf
        margins = []
        for (a, b), score in zip(offsets, scores, strict=True):
            piece = text[start + a : start + b]
            forced = any(word in piece for word in self.force)
            margin = 1e9 if forced else max(score - threshold, -1e9)
            margins.append(((start + a, start + b), margin))
            if margin >= 0:
                prefix.kept.append(piece)
        return margins

    def scored(self, prefix: str, segment: str, question: str, scorer: CountedScorer):
        """(tokens, offsets, keep score of every token): the surprise of the token after the compressed prefix."""
        tokens, offsets, values = scorer.token_logprobs(prefix, segment)
        return tokens, offsets, [-v for v in values]


@register("longllmlingua")
@dataclass(frozen=True)
class LongLLMLingua(LLMLingua):
    """Question-aware at every step. `reorder` puts the kept documents in rank order ("sort"), two_stage (even ranks, then odd
    reversed) or leaves them ("original"); `contrast` scores tokens by what the question changes."""

    source = Source("https://arxiv.org/abs/2310.06839", 2024, "https://github.com/microsoft/LLMLingua")
    aware = True

    dynamic_ratio: float = 0.3
    reorder: str = "sort"
    contrast: bool = True

    def usefulness(self, passage: str, question: str, scorer: CountedScorer) -> float:
        return -scorer.nll(*self.pair(passage, question))

    def pair(self, passage: str, question: str) -> tuple[str, str]:
        return passage.rstrip() + "\n\n", question + REMINDER

    def scored(self, prefix: str, segment: str, question: str, scorer: CountedScorer):
        tokens, offsets, without = scorer.token_logprobs(prefix, segment)
        if not self.contrast:
            return tokens, offsets, [-v for v in without]
        aware = scorer.token_logprobs(question + "\n\n" + prefix, segment)[2]
        return tokens, offsets, [b - a for a, b in zip(without, aware, strict=True)]

    def place(self, kept: Sequence[Span], rank: dict[Span, int]):
        if self.reorder == "original":
            return tuple
        ranked = sorted(kept, key=rank.__getitem__)
        if self.reorder == "two_stage":
            ranked = ranked[::2] + ranked[1::2][::-1]
        order = {start: i for i, (start, _) in enumerate(ranked)}
        starts = sorted(order)
        return lambda span: (order[starts[bisect_right(starts, span[0]) - 1]], span[0])


class Prefix:
    """What the iterative token filter remembers: the compressed text so far and all scores seen."""

    def __init__(self, window: int, head: int = 10):
        self.window, self.head = window, head
        self.kept: list[str] = []
        self.seen: list[float] = []

    def text(self) -> str:
        if len(self.kept) > self.window:
            self.kept = self.kept[: self.head] + self.kept[len(self.kept) - self.window + self.head :]
        return "".join(self.kept)


def take(ranked: Sequence[Span], text: str, budget: float, scorer: CountedScorer) -> list[Span]:
    """Best spans first until the budget goes below zero; the one that overflows is kept."""
    kept = []
    for start, end in ranked:
        kept.append((start, end))
        budget -= scorer.count_tokens(text[start:end])
        if budget < 0:
            break
    return kept


def keep_ratios(lengths: Sequence[int], budget: int, delta: float) -> list[float]:
    """Share of tokens kept per document, best rank first: tau plus an offset falling linearly from +delta to -delta."""
    tau, n = budget / (sum(length + 2 for length in lengths) + 1), len(lengths)
    return [min(1.0, max(0.0, tau + (delta * (1 - 2 * i / (n - 1)) if n > 1 else 0.0))) for i in range(n)]
