"""Mem0 in both forms: short facts in a vector store, retrieved by similarity.

Source: "Mem0: Building Production-Ready AI Agents with Scalable Long-Term Memory" (2025); code mem0ai/mem0 (Apache-2.0).
`form="paper"`: facts from the message, then for each the ten nearest memories and one call that adds, updates, deletes or
does nothing. `form="add"` (today's code): one call, exact duplicates dropped, never an update or deletion.
Old versions stay on the recording axis here, so the paper's form keeps its history too. A parse failure fails the message
(the released code returns an empty list), and recalled text is never extracted (`Episode.extract`).

Search: score = (cosine + sigmoid of BM25) / 2 for cosines of at least `threshold`; the sigmoid's midpoint and steepness
depend on the number of query terms. The entity boost of the code needs a named-entity tagger and is left out.
"""

import math
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory, dated, segment
from longspan.context.packer import Segment
from longspan.context.prompts import mem0 as prompts
from longspan.context.retrieval.bm25 import STOP_WORDS, TOKEN
from longspan.context.stores.base import AsOf, Record, Unit, content_id, utc
from longspan.errors import BadInput

# (most query terms, midpoint, steepness) of the BM25 sigmoid
_SIGMOID = ((3, 5.0, 0.7), (6, 7.0, 0.6), (9, 9.0, 0.5), (15, 10.0, 0.5), (10**9, 12.0, 0.5))


class Extracted(BaseModel):
    facts: list[str]


class Decision(BaseModel):
    action: Literal["ADD", "UPDATE", "DELETE", "NOOP"]
    number: int | None = None
    text: str = ""


class Mem0(StoreMemory):
    name = "mem0"

    def __init__(
        self, *args, form: str = "add", recent: int = 10, similar: int = 10, threshold: float = 0.1, **options
    ):
        super().__init__(*args, **options)
        if form not in ("paper", "add"):
            raise BadInput(f"the form of Mem0 is paper or add, not {form!r}")
        self.form, self.recent, self.similar, self.threshold = form, recent, similar, threshold
        self.name = f"mem0-{form}"

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        vector = self._embed([episode.said], ledger, "ingest")[0]
        near = self.store.search_vector(tenant, vector, kinds=("memory",), limit=self.similar)
        before = [
            r
            for r in self.store.get(tenant, kind="episode", session=episode.session or None)
            if r.valid_from and r.valid_from <= utc(episode.time) and r.id != episode.id
        ]
        messages = prompts.EXTRACT.render(
            known="\n".join(f"{number}: {record.text}" for number, (record, _) in enumerate(near)),
            recent="\n".join(record.text[:300] for record in before[-self.recent :]),
            message=f"({utc(episode.time).date()}) {episode.said}",
        )
        said = model.at("extract").complete(messages, schema=Extracted, max_tokens=1024).parsed.facts
        facts = list(dict.fromkeys(fact.strip() for fact in said if fact.strip()))
        if self.form == "add":
            known = {record.text for record, _ in near}
            records = [self._memory(episode, fact) for fact in facts if fact not in known]
            return Unit(None, self.clock(), tuple(self._embedded(records, ledger)))
        changed: dict[str, Record] = {}
        dropped: list[str] = []
        for fact in facts:
            self._decide(tenant, episode, fact, changed, dropped, model, ledger)
        records = [record for record in changed.values() if record.id not in dropped]
        return Unit(None, self.clock(), tuple(self._embedded(records, ledger)), retract=tuple(dropped))

    def _decide(
        self,
        tenant: str,
        episode: Episode,
        fact: str,
        changed: dict[str, Record],
        dropped: list[str],
        model: Metered,
        ledger: Ledger,
    ) -> None:
        vector = self._embed([fact], ledger, "ingest")[0]
        near = self.store.search_vector(tenant, vector, kinds=("memory",), limit=self.similar)
        shown = [changed.get(r.id, r) for r, _ in near if r.id not in dropped]
        if not shown:
            made = self._memory(episode, fact)
            changed[made.id] = made
            return
        listed = "\n".join(f"{number}: {record.text}" for number, record in enumerate(shown))
        messages = prompts.DECIDE.render(memories=listed, fact=fact)
        choice = model.at("decide").complete(messages, schema=Decision, max_tokens=256).parsed
        number = choice.number
        target = shown[number] if number is not None and 0 <= number < len(shown) else None
        if choice.action == "UPDATE" and target is not None:
            # The new text may hold what either message said, so it depends on both.
            sources = tuple(dict.fromkeys((*target.sources, episode.id)))
            text = choice.text.strip() or fact
            changed[target.id] = replace(target, text=text, sources=sources, valid_from=utc(episode.time))
        elif choice.action == "DELETE" and target is not None:
            dropped.append(target.id)
            made = self._memory(episode, fact)
            changed[made.id] = made
        elif choice.action in ("ADD", "UPDATE", "DELETE"):
            made = self._memory(episode, fact)
            changed[made.id] = made

    def _memory(self, episode: Episode, fact: str) -> Record:
        return Record(
            content_id("memory", episode.id, fact),
            "memory",
            fact,
            {},
            (episode.id,),
            valid_from=utc(episode.time),
            prompt=prompts.EXTRACT.id,
            model=self.model.model_id,
            trust="derived",
            session=episode.session,
            subject=episode.speaker,
        )

    def _embedded(self, records: list[Record], ledger: Ledger) -> list[Record]:
        vectors = self._embed([record.text for record in records], ledger, "ingest") if records else []
        return [replace(record, vector=vector) for record, vector in zip(records, vectors)]

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        vector = self._embed([query], ledger, "query")[0]
        with ledger.timed("query", "search"):
            near = self.store.search_vector(
                tenant, vector, kinds=("memory",), limit=1000, at=at, above=self.threshold
            )
            worded = {
                r.id: s
                for r, s in self.store.search_text(tenant, query, kinds=("memory",), limit=1000, at=at)
            }
        terms = len([word for word in TOKEN.findall(query.lower()) if word not in STOP_WORDS])
        _, middle, steep = next(row for row in _SIGMOID if terms <= row[0])

        def score(record: Record, cosine: float) -> float:
            bm25 = worded.get(record.id)
            return (cosine + (1 / (1 + math.exp(-steep * (bm25 - middle))) if bm25 is not None else 0.0)) / 2

        ranked = sorted(near, key=lambda item: -score(*item))
        return [segment(record, rank, dated(record)) for rank, (record, _) in enumerate(ranked)]
