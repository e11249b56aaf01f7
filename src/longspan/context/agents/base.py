"""What the agents share: one way to ask, the room a prompt leaves in the window, and the result."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longspan.context.ledger import Metered
from longspan.context.port import ChatModel, Completion, PortError, Refused, Schema
from longspan.context.prompts import Prompt
from longspan.context.structured import REFUSALS
from longspan.errors import BadInput

SLACK = 16  # tokens kept free for what a chat template puts around two messages


class EmptyAnswer(PortError):
    """The model answered with nothing."""


@dataclass(frozen=True)
class Answer:
    """`text`; what was read on the way (`notes`); `partial` when a bound ended the work early; method-specific `detail`."""

    text: str
    notes: tuple[str, ...] = ()
    partial: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)


def ask(
    model: ChatModel,
    prompt: Prompt,
    *,
    stage: str,
    max_tokens: int,
    schema: Schema | None = None,
    temperature: float = 0.0,
    seed: int | None = None,
    **fields: str,
) -> Completion:
    """One call, charged to `stage` when the model is metered. An empty or refusing answer is a typed error, so that no agent
    builds on one."""
    if isinstance(model, Metered):
        model = model.at(stage)
    done = model.complete(
        prompt.render(**fields), schema=schema, max_tokens=max_tokens, temperature=temperature, seed=seed
    )
    text = done.text.strip()
    cost = (done.usage, done.attempts, done.seconds)
    if not text:
        raise EmptyAnswer(f"the model gave an empty answer at step {prompt.name}", *cost)
    if schema is None and text.lower().startswith(REFUSALS):
        raise Refused(f"the model declined at step {prompt.name}", *cost)
    return done


def size(model: ChatModel, prompt: Prompt, **fields: str) -> int:
    """Tokens of the rendered prompt."""
    return sum(model.count_tokens(message.content) for message in prompt.render(**fields)) + SLACK


def room(model: ChatModel, prompt: Prompt, window: int, output: int, **fields: str) -> int:
    """Tokens that one more field may fill when `output` tokens are kept for the answer; `fields` names it as ""."""
    left = window - output - size(model, prompt, **fields)
    if left < 1:
        raise BadInput(
            f"a window of {window} tokens leaves no room for text after the instructions, the question and {output} tokens of "
            "answer; raise the window or lower the answer limit"
        )
    return left


def clip(model: ChatModel, text: str, limit: int) -> str:
    """The longest prefix of at most `limit` tokens, cut between words (inside a word only when the first one is too long)."""
    if model.count_tokens(text) <= limit:
        return text
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    return text[: _fitting(model, text, ends, limit) or _fitting(model, text, range(1, len(text)), limit)]


def _fitting(model: ChatModel, text: str, ends: Sequence[int], limit: int) -> int:
    """The last of the rising `ends` whose prefix fits, or 0."""
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if model.count_tokens(text[: ends[middle - 1]]) <= limit:
            low = middle
        else:
            high = middle - 1
    return ends[low - 1] if low else 0


def given(text: str, what: str = "text") -> None:
    """The one check of what enters an agent."""
    if not text.strip():
        raise BadInput(f"the {what} is empty; give some words to work on")
