"""What every memory system promises, and the ingest loop they share.

Ingest: one transaction an episode. A memory reads the store, asks its model, and hands over one `Unit`; when another
writer committed meanwhile, it is asked again. A failed episode leaves nothing; an episode that is already there (same
content, same time) is skipped, so a cut-off ingest is simply run again. Forgetting purges the roots and makes again, from
the surviving roots, what had to be dropped because of them.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np

from longspan.context.chunking import chunks
from longspan.context.ledger import Ledger, Metered, Operation
from longspan.context.packer import Order, Packed, Segment, Trust, pack
from longspan.context.port import ChatModel, PortError, RateLimited, Unreachable
from longspan.context.retrieval.embedders import Embedder
from longspan.context.stores.base import (
    NOW,
    AsOf,
    Clock,
    Conflict,
    Purged,
    Record,
    Selector,
    Store,
    Unit,
    clean,
    content_id,
    now,
    utc,
)
from longspan.errors import BadInput

RETRIES = 20
CACHED_VECTORS = 4096
BLOCK = 64


@dataclass(frozen=True)
class Episode:
    """One thing to remember: a turn of a conversation (`speaker` set) or a piece of a document.

    `time` is when it was said or written (with a zone). `extract` False keeps the text but derives nothing from it: for
    answers built from recalled memory, which must not be extracted again (that loop fills a memory with copies).
    """

    text: str
    time: datetime
    speaker: str = ""
    session: str = ""
    trust: Trust = "user"
    extract: bool = True
    name: str = ""

    def __post_init__(self):
        # As a database can hold it, so that an episode read back is the one that was stored.
        for name in ("text", "speaker", "session", "name"):
            object.__setattr__(self, name, clean(getattr(self, name)))

    @property
    def id(self) -> str:
        # A named piece of a document is the same whenever it is read; a turn is what was said at that time.
        when = "" if self.name else utc(self.time).isoformat()
        # Of the text as a database can hold it, so that a record read back has the id it was stored under.
        return content_id(
            "episode", *map(clean, (self.session, self.speaker, self.name)), when, clean(self.text)
        )

    @property
    def said(self) -> str:
        return f"{self.speaker}: {self.text}" if self.speaker else self.text

    def record(self, vector=None) -> Record:
        return Record(
            self.id,
            "episode",
            self.said,
            {"extract": self.extract, "name": self.name, "text": self.text},
            valid_from=utc(self.time),
            trust=self.trust,
            session=self.session,
            subject=self.speaker,
            vector=vector,
        )

    @classmethod
    def of(cls, record: Record) -> "Episode":
        assert record.valid_from is not None
        data = record.data
        trust, speaker = record.trust, record.subject
        return cls(
            data["text"], record.valid_from, speaker, record.session, trust, data["extract"], data["name"]
        )


@dataclass(frozen=True)
class Remembered:
    """Ids of episodes that were stored now, that were there already, and that failed with the reason. `stopped` is why the
    rest was not tried: a model that cannot be reached at all."""

    stored: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    stopped: str = ""


class Memory(Protocol):
    """`ledger` collects what a call costs and limits it; None means unlimited and uncounted."""

    name: str

    def remember(
        self, tenant: str, episodes: Sequence[Episode], ledger: Ledger | None = None
    ) -> Remembered: ...

    def recall(
        self, tenant: str, query: str, budget: int, *, at: AsOf = NOW, ledger: Ledger | None = None
    ) -> Packed: ...

    def forget(self, tenant: str, selector: Selector, ledger: Ledger | None = None) -> Purged: ...


class StoreMemory:
    """Subclasses implement `_ingest(tenant, episode, model, ledger) -> Unit` and `_segments(...)`.

    `kinds` are all record kinds a system writes; `name` is what reports call it.
    """

    name = "store"
    order: Order = "document"

    def __init__(
        self,
        store: Store,
        model: ChatModel,
        embedder: Embedder,
        *,
        clock: Clock = now,
    ):
        self.store, self.model, self.embedder, self.clock = store, model, embedder, clock
        self._vectors: dict[str, np.ndarray] = {}
        self._turn: dict[str, threading.Lock] = defaultdict(threading.Lock)
        store.bind_embedder(embedder.id, embedder.dimensions)

    # -- the three verbs

    def remember(self, tenant: str, episodes: Sequence[Episode], ledger: Ledger | None = None) -> Remembered:
        """Store episodes one by one. A model failure fails its episode only; `Unreachable` and `RateLimited` end the work there, with
        those after it neither stored nor failed; `LimitReached` fails the rest."""
        ledger = ledger or Ledger()
        stored, known, failed = [], [], []
        for number, episode in enumerate(episodes):
            if number % BLOCK == 0:
                self._embed_ahead(tenant, episodes[number : number + BLOCK], ledger)
            if not episode.text.strip():
                failed.append((episode.id, "there is no text in it"))
                continue
            try:
                done = self._remember(tenant, episode, ledger)
            except PortError as error:
                failed.append((episode.id, str(error)))
                if isinstance(error, (Unreachable, RateLimited)):
                    return Remembered(tuple(stored), tuple(known), tuple(failed), str(error))
                continue
            (stored if done else known).append(episode.id)
        return Remembered(tuple(stored), tuple(known), tuple(failed))

    def _embed_ahead(self, tenant: str, episodes: Sequence[Episode], ledger: Ledger) -> None:
        """Embed a block of new episodes in one call, which costs a fraction of one call each."""
        known = {record.id for record in self.store.get(tenant, [episode.id for episode in episodes])}
        self._embed([e.said for e in episodes if e.id not in known and e.text.strip()], ledger, "ingest")

    def _remember(self, tenant: str, episode: Episode, ledger: Ledger) -> bool:
        # Threads of one tenant take turns: an episode is understood with the help of those before it, and working on
        # several at once would only end in conflicts. Other processes are met through `Conflict`.
        with self._turn[tenant]:
            return self._remember_next(tenant, episode, ledger)

    def _remember_next(self, tenant: str, episode: Episode, ledger: Ledger) -> bool:
        for _ in range(RETRIES):
            generation = self.store.generation(tenant)
            if self.store.get(tenant, [episode.id]):
                return False
            unit = self._unit(tenant, episode, ledger)
            with ledger.timed("ingest", "store"):
                try:
                    return self.store.commit(tenant, unit, expect=generation)
                except Conflict:
                    continue
        raise BadInput(f"other writers changed this memory {RETRIES} times in a row; try again")

    def _unit(self, tenant: str, episode: Episode, ledger: Ledger) -> Unit:
        root = episode.record(self._embed([episode.said], ledger, "ingest")[0])
        if not episode.extract:
            return Unit(root.id, self.clock(), (root,))
        unit = self._ingest(tenant, episode, self._metered(ledger, "ingest"), ledger)
        return replace(unit, id=root.id, records=(root, *unit.records))

    def recall(
        self, tenant: str, query: str, budget: int, *, at: AsOf = NOW, ledger: Ledger | None = None
    ) -> Packed:
        ledger, query = ledger or Ledger(), clean(query)
        segments = self._segments(tenant, query, budget, at, self._metered(ledger, "query"), ledger)
        packed = pack(segments, budget, count=self.count, separator="\n", order=self.order)
        if packed.manifest or not packed.dropped:
            return packed
        # Not one whole passage fits: the beginning of the best one is more than nothing.
        best, *rest = packed.dropped
        return pack(
            [replace(best, cut=True), *rest], budget, count=self.count, separator="\n", order=self.order
        )

    def forget(self, tenant: str, selector: Selector, ledger: Ledger | None = None) -> Purged:
        """Purge, then derive again from the surviving episodes what was dropped. When the model fails at that, those
        episodes stay stored without the lost records and `PortError` says so; the forgetting itself is complete."""
        purged = self.store.purge(tenant, selector)
        self._vectors = {}
        self._rebuild(tenant, purged.rebuild, ledger or Ledger())
        return purged

    def _rebuild(self, tenant: str, ids: Sequence[str], ledger: Ledger) -> None:
        failed: list[PortError] = []
        for record in self.store.get(tenant, ids):
            episode = Episode.of(record)
            for _ in range(RETRIES):
                generation = self.store.generation(tenant)
                try:
                    unit = replace(self._unit(tenant, episode, ledger), id=None)
                    self.store.commit(tenant, unit, expect=generation)
                    break
                except Conflict:
                    continue
                except PortError as error:
                    failed.append(error)
                    break
        if failed:
            raise PortError(
                f"all of it is forgotten, but {len(failed)} other memories could not be derived again: {failed[0]}"
            )

    # -- for subclasses

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        raise NotImplementedError

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        raise NotImplementedError

    def count(self, text: str) -> int:
        return self.model.count_tokens(text)

    def _metered(self, ledger: Ledger, operation: Operation) -> Metered:
        return Metered(self.model, ledger, operation)

    def _embed(self, texts: Sequence[str], ledger: Ledger, operation: Operation) -> np.ndarray:
        """(n, d) unit rows. Texts seen lately are not computed again: names and queries come back all the time."""
        with ledger.timed(operation, "embed"):
            # One dictionary for the whole call: another thread may put a new one in its place meanwhile.
            known = self._vectors
            missing = list(dict.fromkeys(text for text in texts if text not in known))
            if len(known) + len(missing) > CACHED_VECTORS:
                known = self._vectors = {text: known[text] for text in texts if text in known}
            known.update(zip(missing, self.embedder.embed(missing) if missing else ()))
            rows = [known[text] for text in texts]
            return np.stack(rows) if rows else np.zeros((0, self.embedder.dimensions), np.float32)


def segment(record: Record, rank: int, text: str | None = None, kind: str = "mem") -> Segment:
    """A record as prompt text: rank 0 is kept first, reading order is time; sources are the roots where known."""
    when = record.valid_from or record.recorded_at
    sources = record.sources + record.support or (record.id,)
    return Segment(
        kind,  # type: ignore[arg-type]
        record.text if text is None else text,
        priority=-rank,
        position=when.timestamp() if when else 0.0,
        sources=sources,
        trust="derived" if record.sources or record.support else record.trust,
    )


def dated(record: Record, text: str | None = None) -> str:
    """The text of a record with its day, as prompts show it."""
    day = record.valid_from.date().isoformat() if record.valid_from else "undated"
    return f"[{day}] {record.text if text is None else text}"


def passages(text: str, name: str, time: datetime, budget: int = 200, session: str = "") -> list[Episode]:
    """A document as episodes of at most `budget` words and marks, in reading order; untrusted, as all read text is.

    Times rise by a microsecond a passage, so that the order of the document is the order of time.
    """
    made = chunks(text, budget)
    return [
        Episode(
            c.text.strip(),
            time + timedelta(microseconds=c.index),
            "",
            session or name,
            "untrusted",
            True,
            f"{name}#{c.index}",
        )
        for c in made
        if c.text.strip()
    ]
