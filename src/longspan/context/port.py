"""The chat-model port: the one door through which everything in `context/` talks to a model.

Nouns: `Message` in, `Completion` out, typed `PortError`s instead of empty results. A model is anything with the methods of
`ChatModel`; one that can also score text has the capability ``"logprobs"`` and the two methods of `ScoringModel`. What calls cost
is counted by `ledger.py`. No tensor type appears here: log-probabilities are plain floats in nats.

Structured output: `schema` is a pydantic model class or a JSON schema (a mapping). The completion's `parsed` is then an
instance of the class, or the decoded and validated JSON value. A backend makes at most one repair round before it
raises `InvalidJson`; the repair is counted in `Completion.repairs`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from longspan.errors import BadInput

Schema = type[BaseModel] | Mapping[str, Any]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Message:
    """One turn of the prompt. `role` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


@dataclass(frozen=True)
class Usage:
    """Tokens of one or several calls; `cached_tokens` is the part of `prompt_tokens` that the server had in its cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True)
class Completion:
    """What a model answered. `usage`, `seconds`, `attempts` and `repairs` cover every raw call behind it."""

    text: str
    usage: Usage = Usage()
    finish_reason: FinishReason = "stop"
    parsed: Any = None
    seconds: float = 0.0
    attempts: int = 1
    repairs: int = 0


@dataclass(frozen=True)
class LogProbs:
    """Teacher-forced scores of a continuation, one entry a token.

    `offsets[i]` is the half-open character span of token i in the continuation text; spans are in order, do not overlap
    and together cover the text. `values[i]` is the log-probability in nats given the prefix and all tokens before i.
    """

    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    values: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.values)


class PortError(BadInput):
    """A model call that gave no usable answer. Carries what the failed attempts cost."""

    def __init__(self, message: str, usage: Usage | None = None, attempts: int = 1, seconds: float = 0.0):
        super().__init__(message)
        self.usage = usage or Usage()
        self.attempts = attempts
        self.seconds = seconds


class Unavailable(PortError):
    """The endpoint is down, unreachable or too slow, or a recording holds no such call."""


class Unreachable(Unavailable):
    """Every further call would fail alike: no server answers, it refuses the key, or it does not know the model."""


class RateLimited(PortError):
    """The endpoint answered 429 until the retries were used up."""


class Truncated(PortError):
    """The answer was cut by the token limit before its JSON was complete."""


class InvalidJson(PortError):
    """The answer was not JSON of the asked schema, also after one repair round (a schema echo counts as this)."""


class Refused(PortError):
    """The model or its filter declined to answer."""


class OverLong(PortError):
    """The prompt does not fit the model's window, or the answer ran past `max_tokens`."""


class LimitReached(PortError):
    """An operation's own limit (calls, tokens, seconds, depth) is spent; the caller returns its partial result."""


@runtime_checkable
class ChatModel(Protocol):
    """Any chat model. `model_id` goes into provenance and recordings; `capabilities` may hold ``"logprobs"``."""

    @property
    def model_id(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[str]: ...

    def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        stop: Sequence[str] = (),
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Completion: ...

    def count_tokens(self, text: str) -> int: ...


@runtime_checkable
class ScoringModel(ChatModel, Protocol):
    """A chat model that also scores given text."""

    def logprobs(self, prefix_text: str, continuation_text: str) -> LogProbs:
        """Score `continuation_text` token by token after the raw `prefix_text` (no chat template is added)."""
        ...

    def choose(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[float, ...]:
        """Log-probability (nats, summed over its tokens) of each option as the whole start of the assistant's turn."""
        ...


def scoring(model: ChatModel, wanted_by: str) -> ScoringModel:
    """Return `model` as a scoring model, or refuse with the reason that `wanted_by` needs log-probabilities."""
    if "logprobs" not in model.capabilities:
        raise BadInput(
            f"{wanted_by} needs token log-probabilities, which {model.model_id} does not offer; use a local model"
        )
    return model  # type: ignore[return-value]


def score_pairs(model: ChatModel, pairs: Sequence[tuple[str, str]], wanted_by: str) -> list[LogProbs]:
    """`logprobs` of many (prefix, continuation) pairs; packed into few forwards when the backend has `logprobs_many`."""
    scorer = scoring(model, wanted_by)
    many = getattr(scorer, "logprobs_many", None)
    return many(pairs) if many is not None else [scorer.logprobs(*pair) for pair in pairs]


_WORD = re.compile(r"\w+|[^\w\s]")


def count_words(text: str) -> int:
    """Words and punctuation marks: the deterministic token count of backends that have no tokenizer."""
    return len(_WORD.findall(text))
