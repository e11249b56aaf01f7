"""SpecPC: a draft reads the prompt; the tokens its last rows attend to, with their neighbours, are the short prompt.

Source: "Draft-based Approximate Inference for LLMs", 2025; code furiosa-ai/draft-based-approx-llm. The draft reads text and question. Weights of the
last `window` rows, from layer `first_layer` on, the largest over heads and layers; row j of the window counts linspace(0, 1, window)[j]
(weighted); the rows of tokens the draft then writes count 1. Their maximum (reduce="mean" is a sum in the code, and here) is smoothed by a
max pool of `kernel`, an even one reaching one further to the right. Tokens are ranked by it; each brings its `neighbours` nearest, nearest
first; what has been taken keeps its rank. The last `window` tokens of text and question come before all others.

The code keeps a list of token ids; here the kept tokens are a text again, which the target tokenises, so joins may cost or save a token: the
output never exceeds the budget and is filled to it. The question is read by the draft and is not part of the output. Not in the code: the
first `sink` tokens, which draw attention whatever they say, are ranked by their neighbours alone. Any target can read the output; the
draft must be a model in this process.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from longspan.engine.method import PromptMethod, Source
from longspan.engine.prompt import Compressed, Scorer
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.prompt.base import CountedScorer, Span, checked, fit, whole


class Draft(Protocol):
    """A scorer that also shows what the end of a text attends to."""

    def tail_attention(
        self, text: str, question: str, draft: str, rows: int, *, guessed: int, first_layer: int, how: str
    ) -> tuple[tuple[Span, ...], np.ndarray]:
        """Spans of the tokens of `text`, and weights (R, N) of the last `rows` tokens of text and question and of `guessed` more."""
        ...

    def count_tokens(self, text: str) -> int: ...


@register("specpc")
@dataclass(frozen=True)
class SpecPC(PromptMethod):
    """draft: who reads, "self", "self:N" (early exit), "self:Nbit" or a model's name. window: last tokens of text and question whose rows count
    and that stay. kernel: width of the smoothing. neighbours: tokens a ranked one brings, 0 for `kernel`. lookahead: draft tokens used; 1 is the
    reading's own. first_layer: earlier layers attend everywhere and do not count. weighted: later rows count more. sink: see above."""

    source = Source(
        "https://arxiv.org/abs/2506.08373", 2025, "https://github.com/furiosa-ai/draft-based-approx-llm"
    )
    system = "speckv+specpc"
    aware = True

    draft: str = "self"
    window: int = 64
    kernel: int = 32
    neighbours: int = 0
    lookahead: int = 1
    first_layer: int = 8
    weighted: bool = True
    reduce: str = "max"
    sink: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.kernel < 1 or self.lookahead < 1:
            raise BadInput("specpc needs window, kernel and lookahead of at least 1 token.")
        if self.neighbours < 0 or self.first_layer < 0 or self.sink < 0:
            raise BadInput("specpc needs neighbours, first_layer and sink of at least 0.")
        if self.reduce not in ("max", "mean"):
            raise BadInput(f"reduce={self.reduce!r} of specpc is not one of max, mean.")

    def compress(self, text: str, question: str, budget_tokens: int, scorer: Scorer | Draft) -> Compressed:
        """Without a question the end of the text alone decides. BadInput when the scorer shows no attention."""
        checked(text, budget_tokens)
        counted = CountedScorer(scorer)
        if identity := whole(text, budget_tokens, counted, self.name):
            return identity
        if not hasattr(scorer, "tail_attention"):
            raise BadInput(
                "specpc reads a draft's attention, which this scorer does not show; use a local model."
            )
        offsets, rows = scorer.tail_attention(
            text,
            question,
            self.draft,
            self.window,
            guessed=self.lookahead - 1,
            first_layer=self.first_layer,
            how="max" if self.reduce == "max" else "sum",
        )
        counted.calls += 1
        asked = counted.count_tokens(f"\n\n{question}") if question.strip() else 0
        order = self.order(self.importance(rows), max(0, self.window - asked))
        values = np.empty(len(order))
        values[order] = -np.arange(len(order))
        units = [(span,) for span in offsets]
        return fit(text, units, values.tolist(), budget_tokens, counted, self.name)

    def importance(self, rows: np.ndarray) -> np.ndarray:
        """(N,) from the weights (R, N) of the tail's rows and the guessed ones after them."""
        if self.weighted:
            read = max(1, len(rows) - (self.lookahead - 1))
            factor = np.ones(len(rows))
            factor[:read] = np.linspace(0.0, 1.0, read) if read > 1 else 1.0
            rows = rows * factor[:, None]
        found = rows.max(0) if self.reduce == "max" else rows.sum(0)
        found[: self.sink] = 0.0
        return found

    def order(self, importance: np.ndarray, tail: int) -> np.ndarray:
        """Positions 0..N-1, first kept first: the last `tail`, then neighbourhoods of what is ranked highest after smoothing."""
        count = len(importance)
        tail = min(tail, count)
        ranked = np.argsort(-smoothed(importance, self.kernel), kind="stable")
        taken = np.concatenate(
            (np.arange(count - tail, count), around(ranked, self.neighbours or self.kernel))
        )
        _, first = np.unique(taken, return_index=True)
        return taken[np.sort(first)]


def smoothed(values: np.ndarray, kernel: int) -> np.ndarray:
    """Largest of `kernel` neighbours, stride 1, padded with zeros: (kernel - 1) // 2 on the left, the rest on the right."""
    left = (kernel - 1) // 2
    padded = np.pad(values, (left, kernel - 1 - left))
    return np.lib.stride_tricks.sliding_window_view(padded, kernel).max(-1)


def around(ranked: np.ndarray, span: int) -> np.ndarray:
    """Every ranked position followed by the others of its neighbourhood of `span`, nearest first (the earlier of two), clamped to the text."""
    offsets = np.arange(span) - (span - 1) // 2
    offsets = offsets[np.lexsort((offsets, abs(offsets)))]
    return np.clip(ranked[:, None] + offsets, 0, len(ranked) - 1).ravel()
