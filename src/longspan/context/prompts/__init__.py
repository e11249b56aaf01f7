"""Prompts: our own wording, one file a system, each prompt with a name and a version that goes into provenance.

A `Prompt` keeps instructions and data apart: `system` is constant; every field of `user` is data, written between
``<field>`` and ``</field>`` lines, and marks inside the data that look like a fence are escaped, so that text read from
a document cannot close its own fence; invisible characters and special tokens of chat templates in it are broken
(`security.sanitise`), so that data never becomes a control token. `fields` inverts `render`, which is how rule responders read a prompt.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from longspan.context.port import Message
from longspan.context.security import sanitise


@dataclass(frozen=True)
class Prompt:
    """`name` is ``system.step`` (e.g. ``zep.entities``); raise `version` with every change of wording.

    `examples` are worked turns shown before the question: (the values of `user` in order, the answer) each.
    """

    name: str
    version: int
    system: str
    user: tuple[str, ...]
    examples: tuple[tuple[tuple[str, ...], str], ...] = ()

    @property
    def id(self) -> str:
        """Name, version and a hash of the wording: what results and derived records store."""
        shown = (part for values, answer in self.examples for part in (*values, answer))
        text = "\x00".join((self.system, *self.user, *shown))
        return f"{self.name}@{self.version}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def render(self, **fields: str) -> list[Message]:
        """The instructions, the examples as turns, and the data; every name in `user` must be given, and no other."""
        if set(fields) != set(self.user):
            raise TypeError(f"{self.name} takes the fields {', '.join(self.user)}, got {', '.join(fields)}")
        turns = [
            turn
            for values, answer in self.examples
            for turn in (self._fenced(values), Message("assistant", answer))
        ]
        return [
            Message("system", self.system),
            *turns,
            self._fenced(sanitise(fields[name]) for name in self.user),
        ]

    def _fenced(self, values: Iterable[str]) -> Message:
        rows = zip(self.user, values, strict=True)
        parts = [f"<{name}>\n{escape(text, self.user)}\n</{name}>" for name, text in rows]
        return Message("user", "\n".join(parts))

    def fields(self, messages: Sequence[Message]) -> dict[str, str] | None:
        """The field values of messages that this prompt rendered (also with a repair round after them), else None."""
        place = 1 + 2 * len(self.examples)
        if len(messages) <= place or messages[0] != Message("system", self.system):
            return None
        values, text = {}, messages[place].content
        for name in self.user:
            start = text.find(f"<{name}>\n")
            end = text.find(f"\n</{name}>", start)
            if start < 0 or end < 0:
                return None
            values[name] = unescape(text[start + len(name) + 3 : end], self.user)
        return values


def escape(text: str, names: Sequence[str]) -> str:
    """Put a backslash into every ``<name>`` and ``</name>`` in data, for the given fence names; all else stays as it is."""
    return _fence(names).sub(r"<\\\1>", text)


def unescape(text: str, names: Sequence[str]) -> str:
    return _fence(names).sub(lambda match: f"<{match[1].removeprefix(chr(92))}>", text)


def _fence(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"<(\\*/?(?:{'|'.join(map(re.escape, names))}))>")
