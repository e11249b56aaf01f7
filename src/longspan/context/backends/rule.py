"""Rule responders: deterministic functions in place of a model, chosen by the prompt that was rendered.

They prove plumbing, budgets, stores, invalidation, termination and cost accounting. Results obtained with one are
labelled "rule-based upper bound" and are never a claim about quality.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from longspan.context.backends.base import Backend, cut_at_stop
from longspan.context.port import Completion, InvalidJson, Message, Usage, count_words
from longspan.context.prompts import Prompt
from longspan.context.structured import Params

Answer = str | Mapping[str, Any] | list | BaseModel | Completion
Rule = Callable[[dict[str, str]], Answer]
Fallback = Callable[[Sequence[Message], Params], Answer]


class RuleModel(Backend):
    """`rules` maps a `Prompt` to a function of its fields; `fallback` answers everything else (else `InvalidJson`).

    An answer that is not text is written as JSON, so that it runs through the same parsing as a model's. `calls` lists
    the names of the prompts answered, in order.
    """

    def __init__(
        self,
        rules: Mapping[Prompt, Rule] | None = None,
        fallback: Fallback | None = None,
        model_id: str = "rule",
    ):
        self.rules = dict(rules or {})
        self.fallback = fallback
        self.model_id = model_id
        self.calls: list[str] = []

    def raw(self, messages: Sequence[Message], params: Params) -> Completion:
        started = time.perf_counter()
        answer = self._answer(messages, params)
        if isinstance(answer, Completion):
            return answer
        text = answer if isinstance(answer, str) else _dump(answer)
        text = cut_at_stop(text, params.stop)
        finish = "stop"
        if count_words(text) > params.max_tokens:
            text, finish = _first_words(text, params.max_tokens), "length"
        prompt = sum(count_words(message.content) for message in messages)
        spent = time.perf_counter() - started
        return Completion(text, Usage(prompt, count_words(text)), finish, seconds=spent)

    def _answer(self, messages: Sequence[Message], params: Params) -> Answer:
        for prompt, rule in self.rules.items():
            fields = prompt.fields(messages)
            if fields is not None:
                self.calls.append(prompt.name)
                return rule(fields)
        if self.fallback is None:
            raise InvalidJson("the rule responder has no rule for this prompt")
        self.calls.append("fallback")
        return self.fallback(messages, params)


def _dump(value: Any) -> str:
    return value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value, ensure_ascii=False)


def _first_words(text: str, count: int) -> str:
    """The longest prefix of `text` with at most `count` words and marks (`count_words`)."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count_words(text[:middle]) <= count:
            low = middle
        else:
            high = middle - 1
    return text[:low]
