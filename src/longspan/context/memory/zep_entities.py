"""Zep's steps A and B: which entities an episode mentions, and which of them are known already."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from longspan.context.chunking import chunks
from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode
from longspan.context.memory.names import normalised, same_name
from longspan.context.memory.zep_schema import GENERIC, Draft, Entities, Resolutions
from longspan.context.prompts import zep as prompts
from longspan.context.stores.base import Link, Record, content_id


class ZepEntities:
    """The entity side of `Zep`; expects its store, embedder, model and knobs."""

    def _extract_entities(self, episode: Episode, earlier: str, model: Metered) -> dict[str, str]:
        """Name -> label, the speaker first; equal names once, with the more specific label."""
        types = [{"id": i, "name": name, "about": about} for i, (name, about) in enumerate(self.knobs.types)]
        found: dict[str, tuple[str, str]] = {}
        if episode.speaker:
            found[normalised(episode.speaker)] = (episode.speaker, GENERIC)
        for piece in self._pieces(episode.said):
            messages = prompts.ENTITIES.render(types=json.dumps(types), earlier=earlier, episode=piece)
            answer = model.at("entities").complete(messages, schema=Entities, max_tokens=2048).parsed
            for entity in answer.entities:
                key = normalised(entity.name)
                known = 0 <= entity.entity_type_id < len(self.knobs.types)
                label = self.knobs.types[entity.entity_type_id][0] if known else GENERIC
                if key and (key not in found or found[key][1] == GENERIC):
                    found[key] = (found.get(key, (entity.name.strip(),))[0], label)
        return dict(found.values())

    def _pieces(self, text: str) -> list[str]:
        """The text, or pieces of it when it is both long and dense in names."""
        tokens = self.count(text)
        if tokens < self.knobs.split_above:
            return [text]
        capitals = len(re.findall(r"(?<![.!?]\s)(?<!^)\b[A-ZÀ-Þ]\w+", text))
        if (
            capitals / max(1, len(text.split())) < self.knobs.split_density
            and tokens <= self.knobs.split_budget
        ):
            return [text]
        return [chunk.text for chunk in chunks(text, self.knobs.split_budget, overlap=5, count=self.count)]

    def _resolve(
        self, tenant: str, draft: Draft, named: dict[str, str], earlier: str, model: Metered, ledger: Ledger
    ) -> dict[str, str]:
        """Name -> entity id, and the entity records of this episode in the draft."""
        names = list(named)
        vectors = self._embed(names, ledger, "ingest") if names else []
        ids, open_names, candidates = {}, [], {}
        for name, vector in zip(names, vectors):
            with ledger.timed("ingest", "search"):
                candidates[name] = self._candidates(tenant, name, vector)
            same, ask = same_name(
                name, {r.id: r.data["name"] for r in candidates[name].values()}, self.knobs.jaccard
            )
            if same is not None:
                ids[name] = same
            elif ask:
                open_names.append(name)
        if open_names:
            ids.update(self._ask_same(draft.episode, open_names, candidates, earlier, model))
        for name, vector in zip(names, vectors):
            if name in ids:
                self._mention(draft, candidates[name][ids[name]], named[name])
            else:
                ids[name] = self._new_entity(draft, name, named[name], vector)
            draft.links.append(Link(draft.episode.id, ids[name], "MENTIONS", draft.episode.id))
        return {name: ids[name] for name in names}

    def _candidates(self, tenant: str, name: str, vector) -> dict[str, Record]:
        knobs = self.knobs
        near = self.store.search_vector(
            tenant, vector, kinds=("entity",), limit=knobs.candidates, above=knobs.min_cosine
        )
        # An equal name is a candidate whatever the embedder thinks of it.
        equal = self.store.search_text(tenant, name, kinds=("entity",), limit=knobs.candidates)
        named = [r for r, _ in equal if normalised(r.data["name"]) == normalised(name)]
        return {record.id: record for record in [*named, *(r for r, _ in near)]}

    def _ask_same(
        self,
        episode: Episode,
        names: Sequence[str],
        candidates: dict[str, dict[str, Record]],
        earlier: str,
        model: Metered,
    ) -> dict[str, str]:
        """One call for all open names; ids that do not exist, repeats and silence mean: a new entity."""
        numbered: list[tuple[str, Record]] = []
        listed = []
        for number, name in enumerate(names):
            shown = []
            for record in candidates[name].values():
                shown.append({"candidate_id": len(numbered), "name": record.data["name"]})
                numbered.append((name, record))
            listed.append({"id": number, "name": name, "candidates": shown})
        messages = prompts.RESOLVE.render(
            earlier=earlier, episode=episode.said, entities=json.dumps(listed, ensure_ascii=False)
        )
        answer = model.at("resolve").complete(messages, schema=Resolutions, max_tokens=2048).parsed
        chosen: dict[str, str] = {}
        for row in answer.resolutions:
            if not (0 <= row.id < len(names) and 0 <= row.candidate_id < len(numbered)):
                continue
            name, record = numbered[row.candidate_id]
            if name == names[row.id] and name not in chosen:
                chosen[name] = record.id
        return chosen

    def _mention(self, draft: Draft, known: Record, label: str) -> None:
        draft.support.append((known.id, draft.episode.id))
        if known.data["label"] == GENERIC and label != GENERIC:
            support = tuple(dict.fromkeys((*known.support, draft.episode.id)))
            better = replace(known, data={**known.data, "label": label}, support=support)
            draft.records[known.id] = replace(better, vector=self._vector(known))

    def _new_entity(self, draft: Draft, name: str, label: str, vector) -> str:
        id = content_id("entity", normalised(name), draft.episode.id)
        draft.records[id] = Record(
            id,
            "entity",
            name,
            {"name": name, "label": label},
            support=(draft.episode.id,),
            prompt=prompts.ENTITIES.id,
            model=self.model.model_id,
            trust="derived",
            vector=vector,
        )
        return id
