"""GSW: actors with roles and states, events with open questions, and shared places and times, read back as summaries.

Source: "Beyond Fact Retrieval: Episodic Memory for RAG with Generative Semantic Workspaces" (2025, AAAI-26); its code has
no licence and was not copied. Per part of an episode the operator extracts; the reconciler decides which actors are known
ones, and lets the new part answer old questions. Everything is stored as it was said, one record an observation, and the
workspace (who is where, what is answered) is computed from them in the order of time: so wrong merges can be undone,
forgetting is exact, and the order of ingest does not matter. `scope` "session" keeps a workspace for each session (the
paper's local strategy), "all" has one.

Matching differs in one point: single shared stop words do not match (the code drags in hundreds of entities by "the").
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from longspan.context.chunking import sentences
from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory
from longspan.context.memory.gsw_schema import (
    Actor,
    Answered,
    Event,
    Groups,
    GswKnobs,
    Names,
    Resolutions,
    Same,
    Scene,
)
from longspan.context.memory.names import normalised
from longspan.context.memory.workspace import OPEN, Workspace, build_workspace
from longspan.context.packer import Segment
from longspan.context.prompts import gsw as prompts
from longspan.context.retrieval.bm25 import STOP_WORDS, TOKEN
from longspan.context.stores.base import NOW, AsOf, Record, Unit, content_id, utc

KINDS = ("gsw_actor", "gsw_trait", "gsw_event", "gsw_group", "gsw_answer")


class Gsw(StoreMemory):
    name = "gsw"

    def __init__(self, *args, knobs: GswKnobs | None = None, **options):
        super().__init__(*args, **options)
        self.knobs = knobs or GswKnobs()

    # -- operator and reconciler

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        text = episode.said
        if self.knobs.coreference:
            text = (
                model.at("coreference").complete(prompts.COREFERENCE.render(text=text), max_tokens=4096).text
            )
        parts = _parts(text, self.knobs.part, self.knobs.overlap)
        before = self.workspace(tenant, self._scope(episode))
        records: dict[str, Record] = {}
        for place, part in enumerate(parts):
            self._part(tenant, episode, text, part, place, len(parts), before, records, model)
        names = [r for r in records.values() if r.kind == "gsw_actor"]
        vectors = self._embed([record.text for record in names], ledger, "ingest")
        for record, vector in zip(names, vectors):
            records[record.id] = replace(record, vector=vector)
        return Unit(None, self.clock(), tuple(records.values()))

    def _part(
        self, tenant, episode, text, part, place, count, before: Workspace, records, model: Metered
    ) -> None:
        context = ""
        if self.knobs.situate and count > 1:
            messages = prompts.SITUATE.render(document=text, part=part)
            context = model.at("situate").complete(messages, max_tokens=128).text
        scene = (
            model.at("operator")
            .complete(prompts.OPERATOR.render(context=context, part=part), schema=Scene, max_tokens=4096)
            .parsed
        )
        actors = {normalised(actor.name): actor for actor in scene.actors if actor.name.strip()}
        known = self._same(actors, before, records, model)
        ids = {name: known.get(name) or self._actor_id(episode, name, before) for name in actors}
        for name, actor in actors.items():
            self._put_actor(episode, ids[name], actor, place, records)
        for number, event in enumerate(scene.events):
            self._put_event(episode, event, f"{place}.{number}", ids, records)
        if self.knobs.spacetime and len(actors) > 0:
            self._put_groups(episode, part, place, actors, ids, records, model)
        self._resolve(episode, part, place, actors, set(known.values()), before, ids, records, model)

    def _scope(self, episode: Episode) -> str:
        return episode.session if self.knobs.scope == "session" else ""

    def _actor_id(self, episode: Episode, name: str, before: Workspace) -> str:
        """The id of a new actor: by its name, or by name and episode when another actor has that name already."""
        id = content_id("gsw_actor", self._scope(episode), name)
        return content_id(id, episode.id) if id in before.actors else id

    def _same(self, actors, before: Workspace, records, model: Metered) -> dict[str, str]:
        """Names of this part -> ids of known actors; equal names are asked about too, since two can share one."""
        pairs = [
            (name, id)
            for name in actors
            for id, known in before.actors.items()
            if _letters(name) == _letters(known.name) or normalised(known.name) == name
        ]
        if not pairs:
            return {}
        shown = [
            f"{number}: {_described(actors[name])} | {before.actors[id].described()}"
            for number, (name, id) in enumerate(pairs)
        ]
        answer = (
            model.at("same")
            .complete(prompts.SAME.render(pairs="\n".join(shown)), schema=Same, max_tokens=256)
            .parsed
        )
        return {pairs[number][0]: pairs[number][1] for number in answer.same if 0 <= number < len(pairs)}

    def _record(
        self, episode: Episode, kind: str, text: str, data: dict, place: int | str, sources=()
    ) -> Record:
        data = {**data, "scope": self._scope(episode), "place": str(place)}
        id = content_id(kind, episode.id, str(place), json.dumps(data, sort_keys=True))
        own = tuple(dict.fromkeys((episode.id, *sources)))
        return Record(
            id,
            kind,
            text,
            data,
            own,
            valid_from=utc(episode.time),
            prompt=prompts.OPERATOR.id,
            model=self.model.model_id,
            trust="derived",
            session=episode.session,
        )

    def _put_actor(self, episode: Episode, id: str, actor: Actor, place: int, records) -> None:
        records[id] = Record(
            id,
            "gsw_actor",
            actor.name.strip(),
            {"name": actor.name.strip(), "scope": self._scope(episode)},
            support=(episode.id,),
            prompt=prompts.OPERATOR.id,
            model=self.model.model_id,
            trust="derived",
        )
        trait = {"actor": id, "roles": actor.roles, "states": actor.states}
        made = self._record(episode, "gsw_trait", _described(actor), trait, place)
        records[made.id] = made

    def _put_event(self, episode: Episode, event: Event, place: str, ids: dict[str, str], records) -> None:
        questions = [
            {"text": q.text, "answers": [_answer(a, ids) for a in q.answers if a.strip()] or [OPEN]}
            for q in event.questions
        ]
        made = self._record(
            episode, "gsw_event", event.phrase, {"phrase": event.phrase, "questions": questions}, place
        )
        records[made.id] = made

    def _put_groups(self, episode, part, place, actors, ids, records, model: Metered) -> None:
        listed = json.dumps([actor.name for actor in actors.values()], ensure_ascii=False)
        groups = (
            model.at("spacetime")
            .complete(prompts.SPACETIME.render(actors=listed, part=part), schema=Groups, max_tokens=1024)
            .parsed.groups
        )
        for number, group in enumerate(groups):
            members = [ids[normalised(name)] for name in group.actors if normalised(name) in ids]
            if members:
                data = {"kind": group.kind, "name": group.name.strip(), "actors": members}
                made = self._record(episode, "gsw_group", group.name.strip(), data, f"{place}.{number}")
                records[made.id] = made

    def _resolve(
        self, episode, part, place, actors, matched, before: Workspace, ids, records, model: Metered
    ) -> None:
        """Let this part answer what was left open about the actors it mentions again."""
        open_questions = [q for q in before.open_questions() if q.actors & matched]
        if not open_questions:
            return
        shown = "\n".join(f"{number}: ({q.phrase}) {q.text}" for number, q in enumerate(open_questions))
        listed = json.dumps([actor.name for actor in actors.values()], ensure_ascii=False)
        answers = (
            model.at("resolve")
            .complete(
                prompts.RESOLVE.render(actors=listed, questions=shown, part=part),
                schema=Resolutions,
                max_tokens=1024,
            )
            .parsed.answers
        )
        for row in answers:
            if 0 <= row.question < len(open_questions) and row.answer.strip() and row.answer.strip() != OPEN:
                question = open_questions[row.question]
                answer = _answer(row.answer, ids)
                data = {"event": question.event, "question": question.number, "answer": answer}
                made = self._record(episode, "gsw_answer", answer, data, place, (question.event,))
                records[made.id] = made

    # -- reading back

    def workspace(self, tenant: str, scope: str | None = None, at: AsOf = NOW) -> Workspace:
        """The actors, events, places and times of one scope (None: of all scopes, kept apart by their ids)."""
        found = {kind: self.store.get(tenant, kind=kind, at=AsOf(recorded=at.recorded)) for kind in KINDS}
        if scope is not None:
            found = {kind: [r for r in rows if r.data.get("scope") == scope] for kind, rows in found.items()}
        return build_workspace(found, until=at.valid)

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        workspace = self.workspace(tenant, at=at)
        names = (
            model.at("names")
            .complete(prompts.NAMES.render(question=query), schema=Names, max_tokens=256)
            .parsed.names
        )
        matched = [
            id for id, actor in workspace.actors.items() if any(matches(name, actor.name) for name in names)
        ]
        summaries = (
            {r.data["actor"]: r for r in self.store.get(tenant, kind="gsw_summary")} if at == NOW else {}
        )
        texts, sources = [], []
        for id in matched:
            notes = workspace.notes(id)
            summary = summaries.get(id)
            fresh = summary is not None and summary.data["notes"] == content_id(notes)
            texts.append(summary.text if fresh else f"{workspace.actors[id].name}: {notes}")  # type: ignore[union-attr]
            sources.append(workspace.sources(id))
        vectors = self._embed([query, *texts], ledger, "query")
        scores = vectors[1:] @ vectors[0]
        order = sorted(range(len(texts)), key=lambda i: (-scores[i], i))[: self.knobs.summaries]
        return [
            Segment("mem", texts[i], -rank, rank, sources[i], "derived", cut=True)
            for rank, i in enumerate(order)
        ]

    def summarise(self, tenant: str, ledger: Ledger | None = None) -> int:
        """Write a summary of every actor whose notes changed (one call each); how many were written."""
        model, workspace = self._metered(ledger or Ledger(), "ingest"), self.workspace(tenant)
        known = {r.data["actor"]: r for r in self.store.get(tenant, kind="gsw_summary")}
        written = 0
        for id, actor in workspace.actors.items():
            notes = workspace.notes(id)
            if id in known and known[id].data["notes"] == content_id(notes):
                continue
            messages = prompts.SUMMARY.render(actor=actor.name, notes=notes)
            text = model.at("summary").complete(messages, max_tokens=512).text.strip()
            record = Record(
                content_id("gsw_summary", id),
                "gsw_summary",
                text,
                {"actor": id, "notes": content_id(notes)},
                workspace.sources(id),
                prompt=prompts.SUMMARY.id,
                model=self.model.model_id,
                trust="derived",
            )
            self.store.commit(tenant, Unit(None, self.clock(), (record,)))
            written += 1
        return written

    def answer(self, tenant: str, question: str, budget: int = 4000, ledger: Ledger | None = None) -> str:
        """Items of the answer separated by commas, read from the summaries alone."""
        ledger = ledger or Ledger()
        packed = self.recall(tenant, question, budget, ledger=ledger)
        model = self._metered(ledger, "query").at("answer")
        messages = prompts.ANSWER.render(summaries=packed.text, question=question)
        return model.complete(messages, schema=Answered, max_tokens=1024).parsed.answer


def matches(name: str, other: str) -> bool:
    """Either contains the other, or they share a word that is not a stop word."""
    a, b = normalised(name), normalised(other)
    if not a or not b:
        return False
    words = {word for word in TOKEN.findall(a) if word not in STOP_WORDS}
    return a in b or b in a or bool(words & set(TOKEN.findall(b)))


def set_scores(credits: Sequence[float], listed: int, gold: int) -> tuple[float | None, float, float]:
    """(precision, recall, F1) as in EpBench: `credits` are 0, 0.5 or 1 for each gold item. Precision is None when nothing
    was listed although something should have been."""
    if gold == 0:
        return (1.0, 1.0, 1.0) if listed == 0 else (0.0, 0.0, 0.0)
    if listed == 0:
        return None, 0.0, 0.0
    precision, recall = min(1.0, sum(credits) / listed), sum(credits) / gold
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def _parts(text: str, size: int, overlap: int) -> list[str]:
    spans = sentences(text)
    if len(spans) <= size:
        return [text]
    starts = range(0, len(spans) - overlap, size - overlap)
    return [text[spans[i][0] : spans[min(i + size, len(spans)) - 1][1]].strip() for i in starts]


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _described(actor: Actor) -> str:
    return f"{actor.name}: {', '.join([*actor.roles, *actor.states])}"


def _answer(text: str, ids: dict[str, str]) -> str:
    """An actor's id, "TEXT:..." or "None"; every id exists, because only listed names become ids."""
    text = text.strip()
    if text.upper() == "NONE":
        return OPEN
    if normalised(text) in ids:
        return ids[normalised(text)]
    return text if text.startswith("TEXT:") else f"TEXT:{text}"
