"""From a model's text to a validated value: JSON schemas, parsing, one repair round, typed failures.

Every backend answers raw text; `completed` is the one place that turns it into `Completion.parsed` or a `PortError`,
so a rule responder, a recording, a fault injector and a live endpoint all fail in the same ways.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from longspan.context.port import (
    Completion,
    InvalidJson,
    Message,
    OverLong,
    PortError,
    Refused,
    Schema,
    Truncated,
)

REPAIR = (
    "That answer could not be used: {reason}. Answer again with one JSON value that fits the schema below, with the real "
    "content filled in, and nothing before or after it.\n{schema}"
)
REFUSALS = ("i'm sorry", "i’m sorry", "i am sorry", "sorry,", "i can't", "i cannot", "i won't", "as an ai")


@dataclass(frozen=True)
class Params:
    """The parameters of one `complete` call, in one value that backends pass around and recordings hash."""

    schema: Schema | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": None if self.schema is None else json_schema(self.schema),
            "stop": list(self.stop),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }


def json_schema(schema: Schema) -> dict[str, Any]:
    """The JSON schema of a pydantic model class, or the mapping itself."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return dict(_schema_of(schema))
    return dict(schema)  # type: ignore[arg-type]


@cache
def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Milliseconds to make, asked for at every call."""
    return model.model_json_schema()


def cut_json(text: str) -> str:
    """The JSON part of `text`: from its first bracket to the last matching kind, without a Markdown fence around it."""
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    if not starts:
        return text.strip()
    start = min(starts)
    end = text.rfind("}" if text[start] == "{" else "]")
    return text[start : end + 1] if end > start else text[start:]


def parse(text: str, schema: Schema) -> Any:
    """Decode and validate `text`; `ValueError` with one short reason when it does not fit."""
    try:
        value = json.loads(cut_json(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    wanted = json_schema(schema)
    if _echoes(value, wanted):
        raise ValueError("it repeats the schema instead of filling it in")
    if isinstance(schema, Mapping):
        problem = next(iter(Draft202012Validator(wanted).iter_errors(value)), None)
        if problem is not None:
            where = "/".join(str(part) for part in problem.absolute_path) or "the value"
            raise ValueError(f"{where} breaks the rule {problem.validator!r}")
        return value
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"]) or "the value"
        raise ValueError(f"{where}: {first['msg']}") from error


def _echoes(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether the model sent the schema back. A model class whose fields all have defaults would accept that."""
    if not isinstance(value, dict) or "properties" in schema.get("properties", {}):
        return False
    return "properties" in value and ("type" in value or "$defs" in value or "title" in value)


def completed(
    raw: Callable[[Sequence[Message], Params], Completion], messages: Sequence[Message], params: Params
) -> Completion:
    """Call `raw`, parse its text when a schema was asked, repair once; costs of all attempts are summed.

    Raises `Truncated`, `Refused`, `OverLong` or `InvalidJson`, or passes on the `PortError` of the backend.
    """
    messages = list(messages)
    first = _within_limit(raw(messages, params), params)
    if params.schema is None:
        return first
    try:
        return replace(first, parsed=parse(first.text, params.schema))
    except ValueError as error:
        _raise_hopeless(first, error)
        reason = str(error)
    asked = REPAIR.format(reason=reason, schema=json.dumps(json_schema(params.schema), ensure_ascii=False))
    messages += [Message("assistant", first.text), Message("user", asked)]
    try:
        second = _within_limit(raw(messages, params), params)
    except PortError as error:
        raise type(error)(
            str(error),
            first.usage + error.usage,
            first.attempts + error.attempts,
            first.seconds + error.seconds,
        ) from error
    both = replace(
        second,
        usage=first.usage + second.usage,
        attempts=first.attempts + second.attempts,
        seconds=first.seconds + second.seconds,
        repairs=1,
    )
    try:
        return replace(both, parsed=parse(second.text, params.schema))
    except ValueError as error:
        _raise_hopeless(both, error)
        raise InvalidJson(
            f"the model's answer is unusable, also after one repair round: {error}",
            both.usage,
            both.attempts,
            both.seconds,
        ) from error


def _within_limit(done: Completion, params: Params) -> Completion:
    if done.usage.completion_tokens > params.max_tokens:
        raise OverLong(
            f"the answer has {done.usage.completion_tokens} tokens where {params.max_tokens} were allowed",
            done.usage,
            done.attempts,
            done.seconds,
        )
    return done


def _raise_hopeless(done: Completion, error: ValueError) -> None:
    """Failures that asking again cannot mend: a cut answer and a refusal."""
    cost = (done.usage, done.attempts, done.seconds)
    if done.finish_reason == "length":
        raise Truncated("the answer was cut before its JSON ended; allow more max_tokens", *cost) from error
    if done.text.strip().lower().startswith(REFUSALS):
        raise Refused("the model declined to answer", *cost) from error
