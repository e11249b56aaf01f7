"""Any OpenAI-compatible chat endpoint: vLLM, llama.cpp, Ollama, SGLang, most vendors, Longspan's own server.

Retries with exponential backoff on 429, 5xx and connection errors (the server's Retry-After wins when it is longer),
one timeout a request, every failure typed. `json_mode` "schema" sends the schema to the server's constrained decoder
(what makes small models usable); "prompt" writes it into the prompt, for servers without one.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from longspan.context.backends.base import Backend
from longspan.context.port import (
    Completion,
    Message,
    OverLong,
    RateLimited,
    Refused,
    Unavailable,
    Unreachable,
    Usage,
    count_words,
)
from longspan.context.structured import Params, json_schema
from longspan.errors import BadInput


@dataclass
class Endpoint(Backend):
    """`timeout`, `backoff` and `longest_wait` are seconds; `retries` is the number of calls after the first.

    The key is read from `api_key`, else from LONGSPAN_API_KEY or OPENAI_API_KEY; a server at an own `base_url` may need
    none. `tokens` counts text where the model's tokenizer is known (default: words and marks).
    """

    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0
    longest_wait: float = 120.0
    json_mode: Literal["schema", "prompt"] = "schema"
    tokens: Callable[[str], int] = count_words
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self):
        from openai import OpenAI

        key = self.api_key or os.environ.get("LONGSPAN_API_KEY") or os.environ.get("OPENAI_API_KEY")
        if key is None and self.base_url is None:
            raise BadInput(
                "no API key: set LONGSPAN_API_KEY or OPENAI_API_KEY, or give the base_url of an own server"
            )
        self.model_id = self.model
        self._client = OpenAI(
            api_key=key or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=0,
            default_headers=self.headers or None,
        )

    def count_tokens(self, text: str) -> int:
        return self.tokens(text)

    def raw(self, messages: Sequence[Message], params: Params) -> Completion:
        body = self._body(messages, params)
        started = time.monotonic()
        for attempt in range(1, self.retries + 2):
            try:
                answer = self._client.chat.completions.create(**body)
                return self._completion(answer, attempt, time.monotonic() - started)
            except Exception as error:
                wait = self._wait(error, attempt, time.monotonic() - started)
            self.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _body(self, messages: Sequence[Message], params: Params) -> dict[str, Any]:
        rows = [{"role": m.role, "content": m.content} for m in messages]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": rows,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
        }
        if params.stop:
            body["stop"] = list(params.stop)
        if params.seed is not None:
            body["seed"] = params.seed
        if params.schema is not None:
            schema = json_schema(params.schema)
            if self.json_mode == "schema":
                named = {"name": "answer", "schema": schema}
                body["response_format"] = {"type": "json_schema", "json_schema": named}
            else:
                asked = f"\n\nAnswer with one JSON value that fits this schema:\n{json.dumps(schema)}"
                rows[-1] = {**rows[-1], "content": rows[-1]["content"] + asked}
        return body

    def _completion(self, answer: Any, attempts: int, seconds: float) -> Completion:
        choices = getattr(answer, "choices", None)  # the client does not check what the server sent
        if not isinstance(choices, list) or not all(map(_is_choice, choices)):
            raise ValueError("not a chat completion")
        usage = getattr(answer, "usage", None)
        cached = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens")
        cost = Usage(_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"), cached)
        if not choices:
            raise Unavailable(f"{self.model} answered without a choice", cost, attempts, seconds)
        choice = choices[0]
        if choice.finish_reason == "content_filter" or getattr(choice.message, "refusal", None):
            raise Refused(f"{self.model} declined to answer", cost, attempts, seconds)
        finish = "length" if choice.finish_reason == "length" else "stop"
        return Completion(choice.message.content or "", cost, finish, None, seconds, attempts)

    def _wait(self, error: Exception, attempt: int, seconds: float) -> float:
        """Seconds to wait before the next attempt; raises the typed error when there is none to make."""
        import openai

        last = attempt > self.retries
        cost = (Usage(), attempt, seconds)
        where = self.base_url or "the endpoint"
        if isinstance(error, openai.APITimeoutError):
            problem = Unavailable(f"{where} did not answer within {self.timeout:g} s", *cost)
        elif isinstance(error, openai.APIConnectionError):
            problem = Unreachable(f"{where} cannot be reached (is the server running?)", *cost)
        elif isinstance(error, openai.RateLimitError):
            problem = RateLimited(f"{where} is rate-limited, also after {attempt} attempts", *cost)
        elif isinstance(error, openai.APIStatusError):
            if error.status_code < 500:
                raise self._rejected(error, where, cost) from error
            problem = Unavailable(f"{where} failed with status {error.status_code}", *cost)
        elif isinstance(error, (openai.APIError, ValueError)) and not isinstance(error, BadInput):
            problem = Unavailable(f"{where} sent an answer that is not a chat completion", *cost)
        else:
            raise error
        if last:
            raise problem from error
        return min(max(self.backoff * 2 ** (attempt - 1), _retry_after(error)), self.longest_wait)

    def _rejected(self, error: Any, where: str, cost: tuple[Usage, int, float]) -> Exception:
        text = str(error).lower()
        if error.status_code in (401, 403):
            return Unreachable(f"{where} refused the API key (status {error.status_code})", *cost)
        if error.status_code == 404:
            return Unreachable(f"{where} does not know the model {self.model!r}", *cost)
        if "context" in text and ("length" in text or "window" in text or "maximum" in text):
            return OverLong(f"the prompt does not fit the window of {self.model}", *cost)
        return Unavailable(f"{where} rejected the request (status {error.status_code})", *cost)


def _is_choice(choice: Any) -> bool:
    message = getattr(choice, "message", None)
    return isinstance(getattr(message, "content", 0), str | None) and hasattr(choice, "finish_reason")


def _count(holder: Any, name: str) -> int:
    """Tokens a server reports under `name`; 0 where it reports none."""
    value = getattr(holder, name, None)
    return value if isinstance(value, int) else 0


def _retry_after(error: Any) -> float:
    value = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    return float(value) if value.replace(".", "", 1).isdigit() else 0.0
