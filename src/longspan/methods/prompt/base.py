"""Steps that all prompt methods share: exact token budgets and a manifest from the output back to the source.

A method chooses spans of the source; `assemble` writes them in source order, joined by the method's own glue (nothing, a
separator, an omission comment), and the manifest maps every kept character to where it came from. The budget is counted
on the finished output by the scorer's tokenizer and never exceeded: when glue or token merges push the output over it,
`fit` drops the least valuable spans until it holds.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from math import exp

from longspan.engine.prompt import Compressed, Kept, Scorer
from longspan.engine.textscore import Span
from longspan.errors import BadInput

Unit = tuple[Span, ...]  # spans that are kept or dropped together


class CountedScorer:
    """A scorer with a memory and a meter; every method wraps what it is given once."""

    def __init__(self, scorer: Scorer):
        self._scorer, self._seen, self.calls = scorer, {}, 0
        self._counts: dict[str, int] = {}

    def token_logprobs(self, prefix: str, text: str) -> tuple[Sequence[str], Sequence[Span], Sequence[float]]:
        if (prefix, text) not in self._seen:
            self.calls += 1
            self._seen[prefix, text] = self._scorer.token_logprobs(prefix, text)
        return self._seen[prefix, text]

    def prefetch(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Score (prefix, text) pairs that will be asked for, together when the scorer has `token_logprobs_many`."""
        many = getattr(self._scorer, "token_logprobs_many", None)
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self._seen))
        if many is not None and new:
            self.calls += len(new)
            self._seen.update(zip(new, many(new), strict=True))

    def offsets(self, text: str) -> Sequence[Span]:
        """Spans of the tokens of `text`, without a forward where the scorer can tell them so."""
        if ("", text) not in self._seen and hasattr(self._scorer, "offsets"):
            return self._scorer.offsets(text)
        return self.token_logprobs("", text)[1]

    def count_tokens(self, text: str) -> int:
        if text not in self._counts:
            self._counts[text] = self._scorer.count_tokens(text)
        return self._counts[text]

    def nll(self, prefix: str, text: str) -> float:
        """Mean negative log-likelihood of `text` after `prefix` in nats a token; 0 for an empty text."""
        values = self.token_logprobs(prefix, text)[2]
        return -sum(values) / len(values) if values else 0.0

    def perplexity(self, prefix: str, text: str) -> float:
        return exp(min(self.nll(prefix, text), 50.0))


def checked(text: str, budget_tokens: int) -> None:
    """The one check of what enters a prompt method."""
    if not text.strip():
        raise BadInput("there is nothing to compress: the text is empty")
    if budget_tokens < 1:
        raise BadInput(f"the token budget is {budget_tokens}; give at least 1")


Glue = Callable[[int, int], str]  # (end of the last kept span, start of the next) -> text put between them


def assemble(
    text: str, spans: Sequence[Span], glue: Glue, place: Callable[[Span], tuple] = tuple
) -> tuple[str, tuple[Kept, ...]]:
    """Write `spans` (any order, not overlapping) sorted by `place` (source order unless told), with glue wherever the output
    jumps in the source, also before the first span and after the last; touching spans are merged."""
    merged: list[list[int]] = []
    for start, end in sorted(spans, key=place):
        if merged and merged[-1][1] == start:
            merged[-1][1] = end
        elif end > start:
            merged.append([start, end])
    output, manifest, last, length = [], [], 0, 0
    for start, end in merged:
        between = glue(last, start) if start != last else ""
        output += [between, text[start:end]]
        length += len(between)
        manifest.append(Kept(start, end, length, length + end - start))
        length, last = length + end - start, end
    if last != len(text):
        output.append(glue(last, len(text)))
    return "".join(output), tuple(manifest)


def nothing(last: int, start: int) -> str:
    """Glue of methods that drop single tokens: the pieces close up."""
    return ""


def fit(
    text: str,
    units: Sequence[Unit],
    values: Sequence[float],
    budget: int,
    scorer: CountedScorer,
    method: str,
    glue: Glue = nothing,
    fill: Sequence[Unit] = (),
    place: Callable[[Span], tuple] = tuple,
) -> Compressed:
    """The result within the exact budget: the longest run of `units` by value (highest first) that fits, after which units
    of `fill` (best first, then whatever was dropped) are added while they fit.

    A unit is kept or dropped as one. Equal values keep the earlier unit. The cut is found by bisection, since adding units
    almost always adds tokens; the last check makes the bound exact where it does not.
    """
    order = sorted(range(len(units)), key=lambda i: (-values[i], units[i]))

    def built(kept: Sequence[Unit]) -> tuple[str, tuple[Kept, ...]]:
        return assemble(text, list({span for unit in kept for span in unit}), glue, place)

    def cost(count: int) -> int:
        return scorer.count_tokens(built([units[i] for i in order[:count]])[0])

    count = len(order)
    if cost(count) > budget:
        count = max(0, bisect_left(range(len(order) + 1), True, key=lambda c: cost(c) > budget) - 1)
        while count and cost(count) > budget:
            count -= 1
    kept = [units[i] for i in order[:count]]
    taken = {span for unit in kept for span in unit}
    spent = cost(count)
    for unit in [*fill, *(units[i] for i in order[count:])][:_FILL_TRIES]:
        if spent == budget:
            break
        extra = tuple(span for span in unit if span not in taken)
        if extra and (more := scorer.count_tokens(built([*kept, extra])[0])) <= budget:
            kept.append(extra)
            taken.update(extra)
            spent = more
    output, manifest = built(kept)
    tokens = scorer.count_tokens(output)
    if tokens > budget:  # not even the glue of an empty result fits
        output, manifest, tokens = "", (), scorer.count_tokens("")
    return Compressed(output, manifest, tokens, budget, scorer.count_tokens(text), scorer.calls, method)


_FILL_TRIES = 64  # units that are tried again after the cut; each costs one tokenisation


def whole(text: str, budget: int, scorer: CountedScorer, method: str) -> Compressed | None:
    """The identity when everything fits already, else None."""
    tokens = scorer.count_tokens(text)
    if tokens > budget:
        return None
    return Compressed(text, (Kept(0, len(text), 0, len(text)),), tokens, budget, tokens, scorer.calls, method)
