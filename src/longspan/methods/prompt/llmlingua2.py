"""LLMLingua-2: keep the words to which a bidirectional token classifier gives the highest keep-probability.

Source: "LLMLingua-2: Data Distillation for Efficient and Faithful Task-Agnostic Prompt Compression" (2024); code
microsoft/LLMLingua. Chunks of at most `chunk` tokens, cut back to a full stop or a newline; a word's probability is the
mean over its tokens, 1 for forced words; threshold of a chunk = percentile int(100 (1 - rate) + 1) of its word
probabilities, each word counted once a token; words strictly above it stay. As in `llmlingua.py`, words are ordered by
their margin over the chunk's threshold and the output is cut or filled to the exact budget.
The published classifiers (XLM-R and mBERT, MeetingBank) are not shipped; any object with `keep_probabilities` serves. With a
plain causal scorer the stand-in probability of a token is 1 - p(token | what came before): label such results "causal".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Protocol, runtime_checkable

import numpy as np

from longspan.engine.method import PromptMethod, Source
from longspan.engine.prompt import Compressed, Scorer
from longspan.engine.registry import register
from longspan.methods.prompt.base import CountedScorer, Span, checked, fit, whole

_WORD = re.compile(r"\s*\S+")


@runtime_checkable
class Classifier(Protocol):
    """A token classifier: offsets of the tokens of `text` (at most one chunk) and the probability that each is kept."""

    def keep_probabilities(self, text: str) -> tuple[Sequence[Span], Sequence[float]]: ...

    def count_tokens(self, text: str) -> int: ...


@register("llmlingua2")
@dataclass(frozen=True)
class LLMLingua2(PromptMethod):
    """Knobs: `chunk` tokens a pass, `force` words, `keep_digits` forces words that hold a digit."""

    source = Source("https://arxiv.org/abs/2403.12968", 2024, "https://github.com/microsoft/LLMLingua")

    chunk: int = 510
    force: tuple[str, ...] = ()
    keep_digits: bool = False

    def compress(
        self, text: str, question: str, budget_tokens: int, scorer: Scorer | Classifier
    ) -> Compressed:
        """`question` is ignored: the method is task-agnostic by design."""
        checked(text, budget_tokens)
        counted = CountedScorer(scorer)
        if identity := whole(text, budget_tokens, counted, self.name):
            return identity
        rate = budget_tokens / counted.count_tokens(text)
        units, margins = [], []
        for start, end in self.chunks(text, counted):
            words, values, weights = self.words(text, start, end, counted, scorer)
            repeated = np.repeat(values, weights)
            threshold = np.percentile(repeated, min(100, int(100 * (1 - rate) + 1)))
            units += [(word,) for word in words]
            margins += [float(v - threshold) for v in values]
        return fit(text, units, margins, budget_tokens, counted, self.name)

    def chunks(self, text: str, scorer: CountedScorer) -> list[Span]:
        """Spans of at most `chunk` tokens that end at a full stop or newline where one is near."""
        words = [match.span() for match in _WORD.finditer(text)]
        costs = [scorer.count_tokens(text[a:b]) for a, b in words]
        spans, first, used, stop = [], 0, 0, 0
        for i, cost in enumerate(costs):
            if used + cost > self.chunk and i > first:
                end = stop if stop > first else i
                spans.append((words[first][0], words[end - 1][1]))
                first, used = end, sum(costs[end:i])
            used += cost
            following = text[words[i][1] : words[i][1] + 1]
            if text[words[i][1] - 1] == "." or following == "\n":
                stop = i + 1
        spans.append((words[first][0], words[-1][1]))
        return spans

    def words(self, text, start, end, counted, scorer):
        """Word spans of the chunk, their probabilities and token counts."""
        if isinstance(scorer, Classifier):
            offsets, probabilities = scorer.keep_probabilities(text[start:end])
        else:
            _, offsets, values = counted.token_logprobs("", text[start:end])
            probabilities = [1 - exp(v) for v in values]
        centres = np.array([(a + b) / 2 for a, b in offsets])
        probabilities = np.array(probabilities)
        spans = [match.span() for match in _WORD.finditer(text[start:end])]
        owner = np.searchsorted([b for _, b in spans], centres)
        out, means, weights = [], [], []
        for i, (a, b) in enumerate(spans):
            mine = probabilities[owner == i]
            word = text[start + a : start + b]
            forced = word.strip() in self.force or (self.keep_digits and any(c.isdigit() for c in word))
            out.append((start + a, start + b))
            means.append(1.0 if forced else float(mine.mean()) if len(mine) else 0.0)
            weights.append(max(1, len(mine)))
        return out, np.array(means), np.array(weights)
