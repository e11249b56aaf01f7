"""A session: one growing conversation under one recipe. It reads, answers, scores, forks and rolls back.

The model object is shared and stateless; everything that grows or is chosen by a method lives here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longspan.engine.batch import Work, forward
from longspan.engine.method import Method
from longspan.engine.needs import Needs
from longspan.engine.positions import position_map
from longspan.engine.prompt import shorten
from longspan.engine.recipe import Recipe, parse
from longspan.engine.state import SessionState
from longspan.engine.stats import Meter, Stats
from longspan.engine.terms import check_model, check_reading
from longspan.errors import BadInput

if TYPE_CHECKING:
    from longspan.engine.generate import Generation

Progress = Callable[[int, int], None]


class Session(SessionState):
    """One conversation under one recipe. Made by `Model.session(recipe)`."""

    # -- reading ---------------------------------------------------------------------------------------------------
    def read(
        self,
        text_or_ids: str | list[int] | Tensor,
        *,
        question: str = "",
        progress: Progress | None = None,
        chat: bool | None = None,
    ) -> Session:
        """Read a text (or token ids) to its end, in chunks; then methods that act after a prefill act.

        question: what will be asked, for prompt methods that keep what it needs; it is not read. chat: open the model's user turn
        before a text; by default when the model has a chat template and ids are not given. progress(done, total) is called after
        every chunk. Raises BadInput for an empty text or one that cannot fit.
        """
        if self.recipe.of("prompt"):
            text_or_ids = self.shorten(text_or_ids, question)
        ids = self._to_ids(text_or_ids, chat)
        self.feed(ids, progress=progress)
        self.finish_read()
        return self

    def shorten(self, text: Any, question: str = "") -> str:
        """What the recipe's prompt methods leave of `text`, to be read next; noted in `stats.shortened`. BadInput for token ids."""
        methods = self.recipe.of("prompt")
        if not methods:
            return text
        if not isinstance(text, str):
            raise BadInput(
                f"{methods[0].name} shortens a text, and token ids were given; read the text itself, or leave "
                f"{methods[0].name} out of the recipe."
            )
        if not text.strip():
            raise BadInput("There is nothing to read: the text is empty.")
        with self.meter.phase("shorten"):
            done = shorten(methods, self.model, text, question)
        self.shortened = (*self.shortened, done)
        return done.text

    def _to_ids(self, text_or_ids: str | list[int] | Tensor, chat: bool | None = None) -> Tensor:
        if isinstance(text_or_ids, str):
            if not text_or_ids.strip():
                raise BadInput("There is nothing to read: the text is empty.")
            return torch.tensor(self._open_turn(text_or_ids, chat))
        ids = torch.as_tensor(text_or_ids, dtype=torch.long).flatten()
        if not len(ids):
            raise BadInput("There is nothing to read: no token ids were given.")
        if int(ids.min()) < 0 or int(ids.max()) >= self.model.geometry.vocab:
            raise BadInput(f"Token ids must lie between 0 and {self.model.geometry.vocab - 1}.")
        return ids

    def _open_turn(self, text: str, chat: bool | None) -> list[int]:
        format = self.model.chat
        if chat is False or format is None:
            return self.model.encode(text, special=self.length == 0)
        if self.turn_open:
            return self.model.encode(text)
        self.turn_open = True
        opening = format.prefix if self.length == 0 else format.next_user
        return self.model.encode(opening) + self.model.encode(text)

    def feed(self, ids: Tensor, *, progress: Progress | None = None, reading: bool = True) -> Session:
        """Append tokens in chunks, last-position logits only; without what follows the end of a text."""
        if reading:
            check_reading(self, len(ids))
        self.model.admit(self, len(ids))
        with self.meter.phase("prefill"):
            self.expected = len(ids)
            self.expect(self.length + len(ids))
            for start in range(0, len(ids), self.chunk):
                part = ids[start : start + self.chunk]
                last = start + self.chunk >= len(ids)
                (logits,) = forward(self.model, [Work(self, part, "last" if last else "none", reading)])
                if last:
                    self.logits = logits
                if progress is not None:
                    progress(min(len(ids), start + self.chunk), len(ids))
        self.meter.prefilled_tokens += len(ids)
        if reading:
            for run in self.layers.values():
                run.forget_unseen()
        return self

    def expect(self, tokens: int) -> Session:
        """Announce that the session will grow to `tokens` tokens: length-dependent position methods choose for that length from now on."""
        self.horizon = max(self.horizon, tokens)
        return self

    def finish_read(self) -> None:
        """Let methods act on what was read: compress, quantise, index."""
        with self.meter.phase("methods"):
            for method in self.recipe.methods:
                method.after_read(self)
            if self.selector is not None:
                for layer in self.growing_layers():
                    self._index(layer)
        self.text_start, self.texts_read = self.length, self.texts_read + 1
        self._mark()

    def _mark(self) -> None:
        if self.logits is not None:
            self._marks = {length: kept for length, kept in self._marks.items() if length >= self._floor}
            self._marks[self.length] = self.logits

    # -- answering -------------------------------------------------------------------------------------------------
    def ask(
        self, question: str, *, keep: bool = False, answer_prefix: str = "", **options: Any
    ) -> Generation:
        """Answer a question about what was read. The session itself stays as it was unless `keep`; options as for `generate`."""
        session = self if keep else self.fork()
        session.feed(torch.tensor(session.question_ids(question, answer_prefix)), reading=False)
        generation = session.generate(**options)
        session.turn_open = False
        return generation

    def question_ids(self, question: str, answer_prefix: str = "") -> list[int]:
        """Tokens that pose `question` after what was read and open the reply, which starts with `answer_prefix`."""
        format = self.model.chat
        if format is None:
            opening = f" {answer_prefix}" if answer_prefix else ""
            return self.model.encode(f"\n\n{question}{opening}", special=self.length == 0)
        if self.turn_open:
            return self.model.encode(f"\n\n{question}") + self.model.encode(format.reply + answer_prefix)
        opening = format.prefix if self.length == 0 else format.next_user
        return (
            self.model.encode(opening)
            + self.model.encode(question)
            + self.model.encode(format.reply + answer_prefix)
        )

    def generate(self, max_new_tokens: int = 128, **options: Any) -> Generation:
        """Continue from here; options: temperature, top_p, top_k, min_p, repetition_penalty, seed, stop, schema, on_text, ignore_eos."""
        from longspan.engine.generate import generate

        return generate([self], max_new_tokens=max_new_tokens, **options)[0]

    def score(self, ids: list[int] | Tensor) -> Tensor:
        """Log-probability of each given token after what came before, (n,) fp32; the session is left as it was.

        Equal to taking one decode step at a time under the recipe: no token sees a later one, and methods act when they would.
        """
        from longspan.engine.generate import score

        return score([(self, self._to_ids(ids))])[0]

    # -- branches --------------------------------------------------------------------------------------------------
    def fork(self, recipe: Recipe | Method | str | None = None, *, collect: Needs | None = None) -> Session:
        """A session that continues from here, sharing all cached bytes until one of the two rewrites them.

        recipe: continue under another recipe; what it needs must have been collected (`collect=` of Model.session).
        collect: further statistics for the fork to gather from here on.
        """
        twin = object.__new__(Session)
        twin.__dict__.update(self.__dict__)
        twin.meter = Meter()
        twin.ids = list(self.ids)
        twin._run = {name: dict(state) for name, state in self._run.items()}
        twin._marks, twin._hidden, twin._logprobs = (
            dict(self._marks),
            dict(self._hidden),
            list(self._logprobs),
        )
        twin.recurrent = self.recurrent.snapshot() if self.recurrent is not None else None
        if recipe is not None:
            twin._adopt(parse(recipe), self)
        if collect is not None:
            twin.needs = twin.needs | collect
        side = twin._side_specs()
        twin.layers = {
            index: run.fork(twin._layer_needs(run.grows), side if run.grows else {}, twin.map)
            for index, run in self.layers.items()
        }
        if recipe is not None:
            for run in twin.layers.values():
                run.indexed = 0
        twin.meter.peak_entries = twin.entries()
        return twin

    def _adopt(self, recipe: Recipe, parent: Session) -> None:
        check_model(recipe, self.model)
        if not parent.needs.covers(recipe.needs):
            raise BadInput(
                f"The recipe {recipe} needs statistics that were not collected while reading; "
                "read with it from the start, or give collect= to session()."
            )
        if parent.length and recipe.of("prompt") != parent.recipe.of("prompt"):
            raise BadInput(
                f"The recipe {recipe} shortens texts before they are read, and one has been read; read it again under this recipe."
            )
        map = position_map(recipe, self.model.geometry.layers)
        stored = parent.map is not None and parent.map.on_read
        if (map is not None and map.on_read) != stored or (
            (map is None) != (parent.map is None) and parent.length
        ):
            raise BadInput(
                f"The recipe {recipe} stores keys differently from {parent.recipe}; read the text again under it."
            )
        self.recipe, self.map = recipe, map
        self.needs = recipe.needs
        self._run = {}

    def rollback(self, count: int) -> Session:
        """Forget the newest `count` tokens. BadInput when a method has dropped entries since; fork beforehand for that."""
        target = self.length - count
        if count < 0 or target < 0:
            raise BadInput(f"Cannot roll back {count} tokens of a session of {self.length}.")
        if target < self._floor:
            raise BadInput(
                f"Entries were dropped or merged at token {self._floor}, so at most {self.length - self._floor} tokens can be rolled back; "
                "fork() before continuing keeps every earlier state."
            )
        if count == 0:
            return self
        if self.recurrent is not None:
            raise BadInput(
                "A recurrent state cannot be rolled back; fork() before continuing keeps the earlier state."
            )
        for run in self.layers.values():
            if not run.grows and run.store.longest - count < min(run.geometry.window or 0, target):
                raise BadInput(
                    f"A sliding-window layer no longer holds what {count} tokens ago was visible; fork() keeps it."
                )
        if self.needs.window_queries and self.selector is not None:
            for run in self.layers.values():
                # one more than asked: the last token that stays is run again for its logits
                forgets = run.window_queries is not None and count + 1 >= run.window_queries.shape[1] > 1
                if forgets and run.indexed > min(run.store.lengths) - count:
                    raise BadInput(
                        f"{self.selector.name} indexed these entries with queries that {count} tokens ago were not there yet; "
                        "fork() before continuing keeps the earlier index."
                    )
        for run in self.layers.values():
            run.store.truncate(target)
            if run.window_queries is not None:
                run.window_queries = (
                    run.window_queries[:, :-count] if count < run.window_queries.shape[1] else None
                )
        self.length, self.ids = target, self.ids[:target]
        self.text_start = min(self.text_start, target)
        if self.needs.token_logprobs:
            self._logprobs = [self.token_logprobs()[:target]]
        self._hidden = {layer: states[:-count] for layer, states in self._hidden.items()}
        for layer, run in self.layers.items():
            if run.indexed > min(run.store.lengths, default=0):
                assert self.selector is not None
                run.indexed = 0
                run.state.pop(self.selector.name, None)
                self._index(layer)
        self.logits = self._marks.get(target)
        self._marks = {length: kept for length, kept in self._marks.items() if length <= target}
        return self

    def next_logits(self) -> Tensor:
        """Logits for the next token, (vocab,) fp32; after a rollback the last token is run again."""
        if self.logits is None:
            if not self.length:
                raise BadInput("The session has read nothing yet; read a text or ask a question first.")
            last = self.ids[-1]
            self.rollback(1)
            (self.logits,) = forward(self.model, [Work(self, torch.tensor([last]))])
        assert self.logits is not None
        return self.logits

    # -- accounting and files --------------------------------------------------------------------------------------
    @property
    def stats(self) -> Stats:
        """What the session holds and has cost."""
        cache = side = 0
        dense = pairs = held = read = 0.0
        sparse_calls = dense_calls = 0
        for run in self.layers.values():
            layer_cache, layer_side = run.store.bytes()
            cache, side = cache + layer_cache, side + layer_side
            for state in run.state.values():
                side += sum(_state_bytes(value) for value in state.values())
            counters = run.counters
            dense, pairs = dense + counters.dense_pairs, pairs + counters.pairs
            held, read = held + counters.held, read + counters.read
            sparse_calls, dense_calls = (
                sparse_calls + counters.sparse_calls,
                dense_calls + counters.dense_calls,
            )
        return Stats(
            tokens_read=self.length - self.meter.generated_tokens,
            prefilled_tokens=self.meter.prefilled_tokens,
            generated_tokens=self.meter.generated_tokens,
            entries=self.entries(),
            cache_bytes=cache,
            side_bytes=side,
            peak_entries=self.meter.peak_entries,
            prefill_density=pairs / dense if dense else 1.0,
            decode_density=read / held if held else 1.0,
            dense_fallback=dense_calls / sparse_calls if sparse_calls else 0.0,
            by_chunk=self.recipe.by_chunk,
            shortened=self.shortened,
            seconds=dict(self.meter.seconds),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to one safetensors file with a version and a checksum."""
        from longspan.engine.save import save_session

        save_session(self, path)


def _state_bytes(value: Any) -> int:
    """Bytes of one value of a method's state: tensors, and what says its own size."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, list | tuple):
        return sum(_state_bytes(item) for item in value)
    return value.bytes() if hasattr(value, "bytes") else 0
