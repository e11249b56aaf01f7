"""What a store keeps and promises, apart from any database.

Two time axes, UTC, half-open: `valid_from`/`valid_to` say when something holds in the world (None = unbounded),
`recorded_at`/`retracted_at` when the store believed it. A record is never changed: putting a known id again retracts
the version before it and inserts a new one, so a query as of an earlier recording time returns what was believed then.

Provenance: `sources` are the ids whose text went into a record, `support` ids that say the same thing again (both are
empty for a root: a turn, an episode, a document). Purging roots removes, in one transaction, every version that has one
of its sources removed, or that has only support and all of it removed, and so on upwards; it restores the versions that
the removed ones had replaced, and names the surviving roots from which the loss can be made again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np

from longspan.context.packer import Trust
from longspan.errors import BadInput

Clock = Callable[[], datetime]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Conflict(RuntimeError):
    """Another writer committed to this tenant since the caller read it: read again and retry."""


@dataclass(frozen=True)
class Record:
    """One version of one thing. `session` and `subject` (speaker, user) are what a purge can select by.

    `vector` is a unit row of the store's embedder or None; like `support`, versions are not compared by it.
    """

    id: str
    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    support: tuple[str, ...] = ()
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    recorded_at: datetime | None = None
    retracted_at: datetime | None = None
    prompt: str = ""
    model: str = ""
    trust: Trust = "untrusted"
    session: str = ""
    subject: str = ""
    vector: np.ndarray | None = field(default=None, compare=False, repr=False)

    def digest(self) -> str:
        """Hash of the content of this version, without the recording axis."""
        parts = [
            self.id,
            self.kind,
            self.text,
            json.dumps(self.data, sort_keys=True, ensure_ascii=False),
            sorted(self.sources),
            micros(self.valid_from),
            micros(self.valid_to),
            self.prompt,
            self.model,
            self.trust,
            self.session,
            self.subject,
        ]
        return content_id(*map(str, parts))


@dataclass(frozen=True)
class Link:
    """An edge of the graph between two record ids. It belongs to `record` and is visible whenever that is."""

    source: str
    target: str
    kind: str
    record: str
    weight: float = 1.0


@dataclass(frozen=True)
class Unit:
    """All writes of one ingested thing: applied together or not at all.

    `id` is the id of the root record among `records` (by content hash), so that a retry of a committed unit does
    nothing; None for maintenance. `at` is the recording time of everything in it. `support` are pairs (record id, id
    that says the same again) added to the current version of that record.
    """

    id: str | None
    at: datetime
    records: tuple[Record, ...] = ()
    links: tuple[Link, ...] = ()
    retract: tuple[str, ...] = ()
    support: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AsOf:
    """`recorded` None = believed now; `valid` None = holding at any time."""

    valid: datetime | None = None
    recorded: datetime | None = None


NOW = AsOf()


@dataclass(frozen=True)
class Selector:
    """Which roots to purge: the given ids, a session, a subject; several fields must all hold. `everything` alone."""

    ids: tuple[str, ...] = ()
    session: str = ""
    subject: str = ""
    everything: bool = False

    def __post_init__(self):
        for name in ("session", "subject"):
            object.__setattr__(self, name, clean(getattr(self, name)))
        named = bool(self.ids or self.session or self.subject)
        if named and self.everything:
            raise BadInput("say what to forget: everything alone, or ids, a session, a subject (who said it)")
        if not named and not self.everything:
            raise BadInput("say what to forget: ids, a session, a subject (who said it), or everything")


@dataclass(frozen=True)
class Purged:
    """Ids whose versions were removed (roots first) and the surviving roots that lost something derived from them."""

    removed: tuple[str, ...]
    rebuild: tuple[str, ...]


class Store(Protocol):
    """All calls take the tenant first; nothing ever crosses tenants, not even through search statistics."""

    def bind_embedder(self, embedder_id: str, dimensions: int) -> None:
        """Record the embedder of an empty store, or refuse (`BadInput`) a store filled with another."""
        ...

    def bind(self, name: str, value: str, keep: bool = False) -> str:
        """Record a setting of an empty store, or refuse another value; with `keep` a recorded value wins. The value."""
        ...

    def generation(self, tenant: str) -> int:
        """Number of commits and purges of this tenant; give it to `commit` as `expect` to detect other writers."""
        ...

    def commit(self, tenant: str, unit: Unit, expect: int | None = None) -> bool:
        """Apply `unit` in one transaction. False when its root is already there. Raises `Conflict`."""
        ...

    def get(
        self,
        tenant: str,
        ids: Sequence[str] | None = None,
        *,
        kind: str | None = None,
        session: str | None = None,
        at: AsOf = NOW,
        newest: int | None = None,
    ) -> list[Record]:
        """Visible records, oldest first by (valid_from or recorded_at, insertion); `newest` keeps the last n."""
        ...

    def versions(self, tenant: str, id: str) -> list[Record]: ...

    def search_text(
        self, tenant: str, query: str, *, kinds: Sequence[str], limit: int, at: AsOf = NOW
    ) -> list[tuple[Record, float]]: ...

    def search_vector(
        self,
        tenant: str,
        vector: np.ndarray,
        *,
        kinds: Sequence[str],
        limit: int,
        at: AsOf = NOW,
        above: float = -1.0,
    ) -> list[tuple[Record, float]]:
        """Exact cosine search; only scores >= `above`."""
        ...

    def links(
        self,
        tenant: str,
        *,
        kinds: Sequence[str] | None = None,
        source: str | None = None,
        target: str | None = None,
        at: AsOf = NOW,
    ) -> list[Link]: ...

    def neighbours(
        self,
        tenant: str,
        ids: Sequence[str],
        *,
        depth: int,
        kinds: Sequence[str] | None = None,
        at: AsOf = NOW,
    ) -> dict[str, int]:
        """Ids within `depth` links (either direction) of `ids`, with their distance; the given ids have 0."""
        ...

    def purge(self, tenant: str, selector: Selector) -> Purged: ...

    def close(self) -> None: ...


def utc(time: datetime) -> datetime:
    """The same instant in UTC; a time without a zone is refused rather than guessed."""
    if time.tzinfo is None:
        raise BadInput(f"the time {time.isoformat()} has no zone; give one, such as {time.isoformat()}+00:00")
    return time.astimezone(UTC)


def micros(time: datetime | None) -> int | None:
    """Microseconds since 1970 UTC, which order like the instants."""
    return None if time is None else (utc(time) - _EPOCH) // timedelta(microseconds=1)


def instant(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def now() -> datetime:
    """The default clock. Everything takes a clock; nothing else reads the time."""
    return datetime.now(UTC)


def content_id(*parts: str) -> str:
    """A 128-bit id from content: the same parts always give the same id."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def clean(text: str) -> str:
    """Text that every database can hold: lone surrogates and NUL become the replacement character."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
