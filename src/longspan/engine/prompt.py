"""Shortened texts: what a prompt method returns, how two of them add up, and how a recipe's are applied to one text.

A manifest says which characters of the source stand where in the output, so that an answer quoted from the short text leads back to the
words of the document. Methods of the stage `prompt` follow one another in the order of the recipe, each with its own budget of what it is
given; their manifests are composed, so that the last one still points into the text that was handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from longspan.engine.budget import Budget
from longspan.engine.textscore import Span, TextScorer
from longspan.errors import BadInput

if TYPE_CHECKING:
    from longspan.engine.method import PromptMethod
    from longspan.engine.model import Model


class Scorer(Protocol):
    """A causal language model seen from outside. Offsets are half-open character ranges in `text`, in order, covering it."""

    def token_logprobs(self, prefix: str, text: str) -> tuple[Sequence[str], Sequence[Span], Sequence[float]]:
        """Tokens of `text`, their offsets and log-probabilities (nats), each given `prefix` and the tokens before it."""
        ...

    def count_tokens(self, text: str) -> int: ...


@dataclass(frozen=True)
class Kept:
    """`output[out_start:out_end]` is `source[start:end]`."""

    start: int
    end: int
    out_start: int
    out_end: int


@dataclass(frozen=True)
class Compressed:
    """`tokens <= budget` always; `source_tokens` is what the whole text would have cost; `calls` forwards of the scorer."""

    text: str
    manifest: tuple[Kept, ...]
    tokens: int
    budget: int
    source_tokens: int
    calls: int
    method: str

    def holds(self, start: int, end: int) -> float:
        """Share of the source characters [start, end) that survived."""
        return sum(b - a for a, b in self.surviving(start, end)) / (end - start)

    def surviving(self, start: int, end: int) -> list[Span]:
        """Where in the output the kept characters of source[start:end] stand, as ranges in output order."""
        found = []
        for kept in self.manifest:
            first, last = max(kept.start, start), min(kept.end, end)
            if first < last:
                found.append((kept.out_start + first - kept.start, kept.out_start + last - kept.start))
        return found

    def source_of(self, out_start: int, out_end: int) -> Span | None:
        """The source range behind output[out_start:out_end], from its first to its last kept character: the way back from an
        answer quoted in compressed words to the words of the document. None when the range is glue only."""
        touched = [k for k in self.manifest if k.out_start < out_end and k.out_end > out_start]
        if not touched:
            return None
        starts = [k.start + max(0, out_start - k.out_start) for k in touched]
        ends = [k.end - max(0, k.out_end - out_end) for k in touched]
        return min(starts), max(ends)

    def then(self, later: Compressed) -> Compressed:
        """Both steps as one, where `later` shortened this one's text: its manifest points into this one's source."""
        manifest = []
        for outer in later.manifest:
            for inner in self.manifest:
                first, last = max(inner.out_start, outer.start), min(inner.out_end, outer.end)
                if first < last:
                    at, to = inner.start - inner.out_start, outer.out_start - outer.start
                    manifest.append(Kept(first + at, last + at, first + to, last + to))
        return Compressed(
            later.text,
            tuple(manifest),
            later.tokens,
            later.budget,
            self.source_tokens,
            self.calls + later.calls,
            f"{self.method} + {later.method}",
        )


def shorten(methods: Sequence[PromptMethod], model: Model, text: str, question: str) -> Compressed:
    """`text` after every prompt method in turn (at least one). BadInput when one needs a question that is not given, or keeps nothing."""
    scorer = TextScorer(model)
    done: Compressed | None = None
    for method in methods:
        if method.aware and not question.strip():
            raise BadInput(
                f"{method.name} keeps what a question needs, and none was given with the text; give the question, "
                "or use a prompt method that needs none."
            )
        tokens = scorer.count_tokens(text)
        budget = Budget.parse(method.budget).entries(tokens, model.geometry, model.dtype.itemsize)
        step = method.compress(text, question, budget, scorer)
        if not step.manifest:
            raise BadInput(
                f"{method.spell()} may keep {budget:,} of {tokens:,} tokens, and no piece of this text fits into that; raise its budget."
            )
        done = step if done is None else done.then(step)
        text = step.text
    assert done is not None
    return done
