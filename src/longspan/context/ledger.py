"""What an operation costs and what it may: calls, tokens and seconds per stage, ingest and query apart, with limits.

A `Metered` model is a chat model whose every call is checked against a `Ledger` before it is made and entered into it afterwards; work
that calls no model (embedding, search, storage) is timed into the same table.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from longspan.context.port import (
    ChatModel,
    Completion,
    LimitReached,
    LogProbs,
    Message,
    PortError,
    Usage,
    score_pairs,
    scoring,
)

Operation = Literal["ingest", "query"]


@dataclass(frozen=True)
class Limits:
    """What one operation may spend; None means unlimited. `seconds` is wall time since the ledger was made."""

    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    depth: int | None = None


@dataclass
class Tally:
    """Sums of one stage (or of several). `seconds` includes model time and other timed work."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    repairs: int = 0
    failures: int = 0

    def add(self, other: "Tally") -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Ledger:
    """Counts what an operation costs and stops it at its limits.

    Rows are keyed by (operation, stage), where operation is ``"ingest"`` or ``"query"``. A call is refused with
    `LimitReached` before it is made, so a limit of n calls means at most n calls. Tokens are known only after a call:
    the token limit refuses the first call after it was reached. Thread-safe.
    """

    limits: Limits = Limits()
    clock: Callable[[], float] = time.monotonic
    rows: dict[tuple[str, str], Tally] = field(default_factory=dict)

    def __post_init__(self):
        self._lock = threading.Lock()
        self._started = self.clock()
        self._depth = 0
        self._calls = 0
        self._tokens = 0

    def check(self) -> None:
        """Raise `LimitReached` when no further call is allowed; otherwise reserve one."""
        with self._lock:
            limits, spent = self.limits, self.clock() - self._started
            if limits.calls is not None and self._calls >= limits.calls:
                raise LimitReached(f"the limit of {limits.calls} model calls is reached", attempts=0)
            if limits.tokens is not None and self._tokens >= limits.tokens:
                raise LimitReached(f"the limit of {limits.tokens} tokens is reached", attempts=0)
            if limits.seconds is not None and spent >= limits.seconds:
                raise LimitReached(f"the limit of {limits.seconds:g} seconds is reached", attempts=0)
            self._calls += 1

    def record(self, operation: str, stage: str, tally: Tally) -> None:
        with self._lock:
            self.rows.setdefault((operation, stage), Tally()).add(tally)
            # check() already reserved one call of this tally; retries and repairs come on top.
            self._calls += max(0, tally.calls - 1)
            self._tokens += tally.prompt_tokens + tally.completion_tokens

    @contextmanager
    def timed(self, operation: Operation, stage: str) -> Iterator[None]:
        """Charge the seconds of work that calls no model (embedding, search, storage) to a stage."""
        started = self.clock()
        try:
            yield
        finally:
            self.record(operation, stage, Tally(seconds=self.clock() - started))

    @contextmanager
    def deeper(self) -> Iterator[int]:
        """Enter one level of recursion; raise `LimitReached` when that is deeper than `limits.depth`."""
        with self._lock:
            if self.limits.depth is not None and self._depth >= self.limits.depth:
                raise LimitReached(f"the recursion limit of {self.limits.depth} is reached", attempts=0)
            self._depth += 1
            depth = self._depth
        try:
            yield depth
        finally:
            with self._lock:
                self._depth -= 1

    def total(self, operation: Operation | None = None) -> Tally:
        with self._lock:
            result = Tally()
            for (row_operation, _), tally in self.rows.items():
                if operation in (None, row_operation):
                    result.add(tally)
            return result

    def table(self) -> list[dict[str, Any]]:
        """One plain dictionary a (operation, stage), in order of first use: what reports and result rows store."""
        with self._lock:
            return [{"operation": o, "stage": s, **asdict(tally)} for (o, s), tally in self.rows.items()]


@dataclass(frozen=True)
class Metered:
    """A chat model whose every call is checked against and recorded in `ledger` under (operation, stage).

    >>> reader = Metered(model, ledger, "query").at("reader")  # itself a ChatModel
    """

    model: ChatModel
    ledger: Ledger
    operation: Operation
    stage: str = "model"

    def at(self, stage: str) -> "Metered":
        return replace(self, stage=stage)

    @property
    def model_id(self) -> str:
        return self.model.model_id

    @property
    def capabilities(self) -> frozenset[str]:
        return self.model.capabilities

    def count_tokens(self, text: str) -> int:
        return self.model.count_tokens(text)

    def complete(self, messages: Sequence[Message], **params: Any) -> Completion:
        self.ledger.check()
        try:
            done = self.model.complete(messages, **params)
        except PortError as error:
            self._record(error.usage, error.seconds, error.attempts, failures=1)
            raise
        self._record(done.usage, done.seconds, done.attempts, repairs=done.repairs)
        return done

    def logprobs(self, prefix_text: str, continuation_text: str) -> LogProbs:
        self.ledger.check()
        started = self.ledger.clock()
        scored = scoring(self.model, self.stage).logprobs(prefix_text, continuation_text)
        prompt = self.model.count_tokens(prefix_text) + len(scored.tokens)
        self._record(Usage(prompt_tokens=prompt), self.ledger.clock() - started)
        return scored

    def logprobs_many(self, pairs: Sequence[tuple[str, str]]) -> list[LogProbs]:
        """Scores of many (prefix, continuation) pairs, packed where the model can; every pair counts as a call."""
        for _ in pairs:
            self.ledger.check()
        started = self.ledger.clock()
        scores = score_pairs(self.model, pairs, self.stage)
        spent = (self.ledger.clock() - started) / max(1, len(pairs))
        for (prefix, _), scored in zip(pairs, scores, strict=True):
            self._record(Usage(prompt_tokens=self.model.count_tokens(prefix) + len(scored.tokens)), spent)
        return scores

    def choose(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[float, ...]:
        self.ledger.check()
        started = self.ledger.clock()
        scores = scoring(self.model, self.stage).choose(messages, options)
        prompt = sum(self.model.count_tokens(m.content) for m in messages)
        prompt += sum(self.model.count_tokens(option) for option in options)
        self._record(Usage(prompt_tokens=prompt), self.ledger.clock() - started)
        return scores

    def _record(
        self, usage: Usage, seconds: float, attempts: int = 1, repairs: int = 0, failures: int = 0
    ) -> None:
        tally = Tally(
            calls=attempts,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            seconds=seconds,
            repairs=repairs,
            failures=failures,
        )
        self.ledger.record(self.operation, self.stage, tally)
