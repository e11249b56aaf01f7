"""Zep / Graphiti: a temporal knowledge graph of episodes, entities, facts with validity, and communities.

Source: "Zep: A Temporal Knowledge Graph Architecture for Agent Memory" (Rasmussen et al. 2025); the open graph engine is
getzep/graphiti (Apache-2.0). Constants are those of its code. Per episode: extract entities (A), resolve them against
known ones by name, trigrams and at last the model (B), extract facts (C), judge each against similar facts (D), date it
where needed (E), close the validity of what it contradicts; fill the custom attributes of typed entities. New facts never delete old ones.

Where this differs, on purpose: an entity lives as long as one episode mentions it (Graphiti leaves orphans); entity
summaries are computed from the current facts when they are read, so that forgetting cannot leave a fact in them, and a
model writes one only above the length limit (`summarise`); a fact that became true again after it had ended is a new
fact and not a duplicate; deletion derives again what it had to drop.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory
from longspan.context.memory.names import normalised
from longspan.context.memory.zep_attributes import ZepAttributes
from longspan.context.memory.zep_entities import ZepEntities
from longspan.context.memory.zep_schema import Dates, Draft, Facts, StatedFact, Verdict, ZepKnobs
from longspan.context.memory.zep_search import ZepSearch
from longspan.context.memory.zep_time import invalidate, overlaps
from longspan.context.prompts import zep as prompts
from longspan.context.retrieval.hybrid import fuse
from longspan.context.stores.base import Link, Record, Unit, content_id, utc


class Zep(ZepEntities, ZepAttributes, ZepSearch, StoreMemory):
    """`remember` runs the steps, `recall` the hybrid search of `ZepSearch`."""

    name = "zep"

    def __init__(self, *args, knobs: ZepKnobs | None = None, **options):
        super().__init__(*args, **options)
        self.knobs = knobs or ZepKnobs()

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        draft = Draft(episode)
        earlier = self._earlier(tenant, episode)
        named = self._extract_entities(episode, earlier, model)
        ids = self._resolve(tenant, draft, named, earlier, model, ledger)
        stated = self._extract_facts(episode, list(ids), earlier, model) if len(ids) > 1 else []
        vectors = self._embed([fact.fact for fact in stated], ledger, "ingest") if stated else []
        for fact, vector in zip(stated, vectors):
            self._add_fact(tenant, draft, fact, vector, ids, model)
        self._attributes(tenant, draft, ids, model)
        return Unit(
            None, self.clock(), tuple(draft.records.values()), tuple(draft.links), (), tuple(draft.support)
        )

    def _earlier(self, tenant: str, episode: Episode) -> str:
        """The episodes just before this one, of the same session."""
        known = self.store.get(tenant, kind="episode", session=episode.session or None)
        before = [
            r for r in known if r.valid_from and r.valid_from <= utc(episode.time) and r.id != episode.id
        ]
        return "\n".join(record.text for record in before[-self.knobs.previous :])

    # -- facts (C, D, E)

    def _extract_facts(
        self, episode: Episode, names: Sequence[str], earlier: str, model: Metered
    ) -> list[StatedFact]:
        """Facts with two different, listed ends and some text; the same fact once."""
        messages = prompts.FACTS.render(
            entities=json.dumps(list(names), ensure_ascii=False),
            reference_time=utc(episode.time).isoformat(),
            earlier=earlier,
            episode=episode.said,
        )
        answer = model.at("facts").complete(messages, schema=Facts, max_tokens=16384).parsed
        listed = {normalised(name): name for name in names}
        kept: dict[tuple[str, str, str], StatedFact] = {}
        for fact in answer.facts:
            source, target = listed.get(normalised(fact.source)), listed.get(normalised(fact.target))
            if source is None or target is None or source == target or not fact.fact.strip():
                continue
            key = (source, target, normalised(fact.fact))
            kept.setdefault(key, fact.model_copy(update={"source": source, "target": target}))
        return list(kept.values())

    def _add_fact(
        self, tenant: str, draft: Draft, stated: StatedFact, vector, ids: dict[str, str], model: Metered
    ) -> None:
        source, target = ids[stated.source], ids[stated.target]
        if source == target:
            return
        begins, ends = when(stated.valid_at), when(stated.invalid_at)
        with model.ledger.timed("ingest", "search"):
            same, others = self._pools(tenant, draft, stated.fact, vector, source, target, begins)
        for known in same:
            if normalised(known.text) == normalised(stated.fact) and _holds(known, begins):
                draft.support.append((known.id, draft.episode.id))
                return
        duplicate, contradicted = self._judge(draft.episode, stated.fact, same, others, model)
        if begins is None and ends is None and duplicate is None:
            begins, ends = self._date(draft.episode, stated.fact, model)
        new = duplicate or self._fact(draft.episode, stated, source, target, begins, ends, vector)
        if duplicate is not None:
            draft.support.append((new.id, draft.episode.id))
        elif new.valid_from and new.valid_to and new.valid_to <= new.valid_from:
            new = replace(new, valid_to=None)
        again = self._continued(tenant, draft, new, contradicted)
        changed, closed = invalidate(new, [*contradicted, *again], draft.episode.id)
        if duplicate is None:
            draft.links.append(Link(source, target, "FACT", new.id))
        if duplicate is None or changed != new:
            draft.records[changed.id] = replace(
                changed, vector=vector if duplicate is None else self._vector(changed)
            )
        for record in [*closed, *again]:
            draft.records[record.id] = replace(record, vector=self._vector(record))
        draft.links += [Link(r.data["source"], r.data["target"], "FACT", r.id) for r in again]

    def _vector(self, record: Record):
        return self._embed([record.text], Ledger(), "ingest")[0]

    def _continued(
        self, tenant: str, draft: Draft, new: Record, contradicted: Sequence[Record]
    ) -> list[Record]:
        """Of the facts that the new one will end, those that later episodes had repeated: they hold again from there."""
        again = []
        for old in contradicted:
            if (
                None in (new.valid_from, old.valid_from)
                or old.valid_from >= new.valid_from
                or not overlaps(old, new)
            ):  # type: ignore[operator]
                continue
            told = self.store.get(tenant, old.support)
            later = [r for r in told if r.valid_from > new.valid_from and _holds(old, r.valid_from)]  # type: ignore[operator]
            if later:
                begins, data = later[0].valid_from, old.data
                again.append(
                    replace(
                        old,
                        id=fact_id(data["source"], data["target"], old.text, begins),
                        sources=(later[0].id, draft.episode.id),
                        support=tuple(record.id for record in later[1:]),
                        valid_from=begins,
                    )
                )
        return again

    def _pools(
        self, tenant: str, draft: Draft, fact: str, vector, source: str, target: str, begins: datetime | None
    ) -> tuple[list[Record], list[Record]]:
        """Known facts between the same two entities, and similar facts about anything, closed ones too.

        Facts that had ended before the new one began cannot be affected and are left out; of the others, the similar
        ones come first, and those near in time that share an entity, since an interval depends on its next neighbours.
        """
        pool = self.knobs.pool
        pair = {
            link.record for link in self.store.links(tenant, kinds=("FACT",), source=source, target=target)
        }
        near = self.store.search_vector(tenant, vector, kinds=("fact",), limit=4 * pool)
        worded = self.store.search_text(tenant, fact, kinds=("fact",), limit=4 * pool)
        found = {record.id: record for record, _ in [*near, *worded]}
        found.update({record.id: record for record in self.store.get(tenant, sorted(pair - set(found)))})
        found.update({id: draft.records[id] for id in draft.records if id in found})
        alike = fuse([[r.id for r, _ in near], [r.id for r, _ in worded], sorted(pair)], 0.0)
        order = [id for id, _ in alike if id in found and _may_matter(found[id], begins)]
        if begins is not None:
            ends = {source, target}
            close = [id for id in order if ends & {found[id].data["source"], found[id].data["target"]}]
            order = [
                id for id, _ in fuse([order, sorted(close, key=lambda id: _away(found[id], begins))], 0.0)
            ]
        same = [found[id] for id in order if id in pair][:pool]
        return same, [found[id] for id in order if id not in pair][:pool]

    def _judge(
        self, episode: Episode, fact: str, same: list[Record], others: list[Record], model: Metered
    ) -> tuple[Record | None, list[Record]]:
        """The known fact that this repeats, and those it contradicts; numbers out of range are ignored."""
        if not same and not others:
            return None, []
        messages = prompts.JUDGE.render(
            same_entities=_numbered(same, 0), others=_numbered(others, len(same)), new_fact=fact
        )
        verdict = model.at("judge").complete(messages, schema=Verdict, max_tokens=512).parsed
        both = [*same, *others]
        repeated = [same[i] for i in verdict.duplicates if 0 <= i < len(same)]
        against = [both[i] for i in dict.fromkeys(verdict.contradicted) if 0 <= i < len(both)]
        duplicate = repeated[0] if repeated else None
        return duplicate, [record for record in against if duplicate is None or record.id != duplicate.id]

    def _date(self, episode: Episode, fact: str, model: Metered) -> tuple[datetime | None, datetime | None]:
        messages = prompts.DATES.render(
            reference_time=utc(episode.time).isoformat(), episode=episode.said, fact=fact
        )
        dates = model.at("dates").complete(messages, schema=Dates, max_tokens=256).parsed
        return when(dates.valid_at), when(dates.invalid_at)

    def _fact(
        self, episode: Episode, stated: StatedFact, source: str, target: str, begins, ends, vector
    ) -> Record:
        relation = re.sub(r"\W+", "_", stated.relation.strip()).strip("_").upper() or "RELATES_TO"
        return Record(
            fact_id(source, target, stated.fact, begins),
            "fact",
            stated.fact.strip(),
            {
                "source": source,
                "target": target,
                "relation": relation,
                "names": [stated.source, stated.target],
            },
            (episode.id,),
            valid_from=begins,
            valid_to=ends,
            prompt=prompts.FACTS.id,
            model=self.model.model_id,
            trust="derived",
            session=episode.session,
            vector=vector,
        )


def fact_id(source: str, target: str, text: str, begins: datetime | None) -> str:
    return content_id("fact", source, target, normalised(text), begins.isoformat() if begins else "")


def _holds(known: Record, at: datetime | None) -> bool:
    """Whether a statement of the same text dated `at` only repeats the known fact."""
    if at is None:
        return known.valid_to is None
    begun = known.valid_from is None or known.valid_from <= at
    return begun and (known.valid_to is None or at < known.valid_to)


def _may_matter(known: Record, begins: datetime | None) -> bool:
    return known.valid_to is None or begins is None or known.valid_to > begins


def _away(known: Record, begins: datetime) -> float:
    return abs((known.valid_from - begins).total_seconds()) if known.valid_from else float("inf")


def _numbered(records: Sequence[Record], start: int) -> str:
    return "\n".join(f"{number}: {record.text}" for number, record in enumerate(records, start))


def when(text: str | None) -> datetime | None:
    """An ISO 8601 time in UTC. A date alone is its midnight, a year (and month) its first day; anything else is None."""
    if not text:
        return None
    text = text.strip()
    if re.fullmatch(r"\d{4}(-\d{2})?", text):
        text = f"{text}-01" if len(text) == 7 else f"{text}-01-01"
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
