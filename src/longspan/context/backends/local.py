"""The local engine as a chat model: schema-constrained decoding and log-probabilities in the same process.

The session of the last prompt is kept, so that a prompt with the same beginning re-reads only what differs (counted as
cached tokens). That is exact under the recipe `full`; under a recipe that drops entries every prompt is read anew.
"""

import time
from collections.abc import Sequence
from typing import Any

from longspan.context.backends.base import Backend
from longspan.context.port import Completion, LogProbs, Message, OverLong, Usage
from longspan.context.security import sanitise
from longspan.context.structured import Params, json_schema
from longspan.errors import BadInput


class Local(Backend):
    """`model` is a loaded `longspan.Model` or its name; `recipe` how its sessions read. Loads on first use of a name."""

    capabilities = frozenset({"logprobs"})

    def __init__(self, model: Any = "smollm2-135m", recipe: str = "full"):
        self._model, self.recipe = model, recipe
        self._last: Any = None

    @property
    def lm(self) -> Any:
        if isinstance(self._model, str):
            from longspan.engine.model import load

            self._model = load(self._model)
        return self._model

    @property
    def model_id(self) -> str:  # type: ignore[override]
        name = self._model if isinstance(self._model, str) else self._model.name
        return name if self.recipe == "full" else f"{name}/{self.recipe}"

    def count_tokens(self, text: str) -> int:
        return len(self.lm.encode(text))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the chat up to the start of the assistant's turn. A template without a system role gets the
        instructions at the head of the first user turn."""
        tokenizer = self.lm.tokenizer
        control = getattr(tokenizer, "all_special_tokens", ())  # as text in a message they must stay text
        rows = [{"role": m.role, "content": sanitise(m.content, control)} for m in messages]
        if not getattr(tokenizer, "chat_template", None):
            return self.lm.encode("\n\n".join(row["content"] for row in rows) + "\n\n", special=True)
        try:
            text = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template is a program of the model's author and may refuse any role
            text = tokenizer.apply_chat_template(_merged(rows), tokenize=False, add_generation_prompt=True)
        return self.lm.encode(text)

    def raw(self, messages: Sequence[Message], params: Params) -> Completion:
        started = time.perf_counter()
        ids = self.prompt_ids(messages)
        session, cached = self._read(ids)
        schema = None if params.schema is None else json_schema(params.schema)
        made = session.fork().generate(
            params.max_tokens,
            temperature=params.temperature,
            seed=params.seed,
            stop=params.stop,
            schema=schema,
        )
        usage = Usage(len(ids), len(made.ids), cached)
        finish = "length" if made.finish_reason == "length" else "stop"
        return Completion(made.text, usage, finish, seconds=time.perf_counter() - started)

    def logprobs(self, prefix_text: str, continuation_text: str) -> LogProbs:
        from longspan.engine.textscore import coded

        pair = coded(self.lm, prefix_text, continuation_text)
        if not pair.ids:
            return LogProbs((), (), ())
        session, _ = self._read(pair.prefix)
        return _log_probs(pair, continuation_text, session.score(pair.ids).tolist())

    def logprobs_many(self, pairs: Sequence[tuple[str, str]], packed: int = 2048) -> list[LogProbs]:
        """`logprobs` of many short (prefix, continuation) pairs, up to `packed` tokens in a common forward. Same numbers up to
        rounding; the caller of many masks or candidates saves the cost of a forward each."""
        from longspan.engine.textscore import coded, packs, score_packed

        if self.recipe != "full" or self.lm.geometry.recurrent:
            return [self.logprobs(*pair) for pair in pairs]
        read = [coded(self.lm, prefix, text) for prefix, text in pairs]
        scored = [values for pack in packs(read, packed) for values in score_packed(self.lm, pack)]
        return [
            _log_probs(pair, text, values)
            for pair, (_, text), values in zip(read, pairs, scored, strict=True)
        ]

    def choose(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[float, ...]:
        session, _ = self._read(self.prompt_ids(messages))
        coded = [self.lm.encode(option) for option in options]
        if not all(coded):
            raise BadInput("every option to choose from needs some text")
        return tuple(float(session.score(ids).sum()) for ids in coded)

    def _read(self, ids: list[int]) -> tuple[Any, int]:
        """A session that has read `ids`, and how many of them it took over from the prompt before."""
        shared = _common(self._last.ids, ids) if self._last is not None and self.recipe == "full" else 0
        try:
            if shared == len(ids) == len(self._last.ids if self._last is not None else ()):
                return self._last, shared
            session = self._branch(shared) if shared else None
            if session is None:
                session, shared = self.lm.session(self.recipe), 0
            session.read(ids[shared:])
        except BadInput as error:
            raise OverLong(f"the prompt of {len(ids)} tokens cannot be read: {error}") from error
        self._last = session
        return session, shared

    def _branch(self, shared: int) -> Any:
        session = self._last.fork()
        try:
            return session.rollback(session.length - shared)
        except BadInput:
            return None


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix, short of the whole of `b`, so that at least one token is read."""
    limit = min(len(a), len(b) - 1)
    return next((i for i in range(limit) if a[i] != b[i]), limit) if list(a) != list(b) else len(b)


def _merged(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    head = "\n\n".join(row["content"] for row in rows if row["role"] == "system")
    rest = [dict(row) for row in rows if row["role"] != "system"]
    if head and rest:
        rest[0]["content"] = f"{head}\n\n{rest[0]['content']}"
    return rest or [{"role": "user", "content": head}]


def _log_probs(pair: Any, text: str, values: Sequence[float]) -> LogProbs:
    return LogProbs(tuple(text[a:b] for a, b in pair.offsets), pair.offsets, tuple(values))
