"""Zep's custom attributes: typed facts about one entity, read from each episode that mentions it.

Source: step 8 of Graphiti's ingest. For every mentioned entity whose type has a schema, one call asks for the values the episode states;
they are laid over the known ones. Differences: a value remembers the time of its episode and gives way only to a later one, so that the
order of ingest does not matter; the values are a record of their own with the entity and all contributing episodes as sources, so that
forgetting one of them drops or restores what it said; and entities without a schema cost no call (users count these calls as most of
the ingest bill).
"""

import json
from collections.abc import Mapping
from typing import Any

from longspan.context.ledger import Metered
from longspan.context.memory.base import Episode
from longspan.context.memory.zep_schema import Draft
from longspan.context.port import Schema
from longspan.context.prompts import zep as prompts
from longspan.context.stores.base import Record, content_id, utc
from longspan.context.structured import json_schema


class ZepAttributes:
    """The attribute side of `Zep`; expects its store, model and knobs."""

    def _attributes(self, tenant: str, draft: Draft, ids: Mapping[str, str], model: Metered) -> None:
        """Put into the draft what this episode says about each typed entity it mentions."""
        schemas: Mapping[str, Schema] = self.knobs.attributes
        if not schemas:
            return
        known = {record.id: record for record in self.store.get(tenant, sorted(set(ids.values())))}
        for id in dict.fromkeys(ids.values()):
            entity = draft.records.get(id) or known[id]
            schema = schemas.get(entity.data["label"])
            if schema is not None:
                self._overlay(tenant, draft, entity, stated(schema), model)

    def _overlay(
        self, tenant: str, draft: Draft, entity: Record, schema: dict[str, Any], model: Metered
    ) -> None:
        episode: Episode = draft.episode
        id = attributes_id(entity.id)
        (before,) = self.store.get(tenant, [id]) or (None,)
        messages = prompts.ATTRIBUTES.render(
            entity=entity.text,
            known=json.dumps(values_of(before), ensure_ascii=False, sort_keys=True),
            fields=json.dumps(schema["properties"], ensure_ascii=False, sort_keys=True),
            reference_time=utc(episode.time).isoformat(),
            episode=episode.said,
        )
        answer = model.at("attributes").complete(messages, schema=schema, max_tokens=1024).parsed
        told = utc(episode.time).isoformat()
        dated = dict(before.data["values"]) if before else {}
        fresh = {
            name: [value, told]
            for name, value in answer.items()
            if value is not None and (name not in dated or dated[name][1] <= told)
        }
        if not fresh:
            return
        values = dict(sorted((dated | fresh).items()))
        draft.records[id] = Record(
            id,
            "attributes",
            spelled(entity.text, values),
            {"entity": entity.id, "values": values},
            tuple(dict.fromkeys((*(before.sources if before else (entity.id,)), episode.id))),
            prompt=prompts.ATTRIBUTES.id,
            model=self.model.model_id,
            trust="derived",
        )

    def attributes(self, tenant: str, entity: str) -> dict[str, Any]:
        """The values known about an entity (its id); empty when there are none."""
        (record,) = self.store.get(tenant, [attributes_id(entity)]) or (None,)
        return values_of(record)


def attributes_id(entity: str) -> str:
    return content_id("attributes", entity)


def values_of(record: Record | None) -> dict[str, Any]:
    return {name: value for name, (value, _) in record.data["values"].items()} if record else {}


def spelled(name: str, values: Mapping[str, list]) -> str:
    shown = "; ".join(
        f"{field}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for field, (value, _) in values.items()
    )
    return f"{name}: {shown}"


def stated(schema: Schema) -> dict[str, Any]:
    """The schema of an episode's share: any of the fields, each of its type or null, and no others."""
    whole = json_schema(schema)
    fields = {
        name: {"anyOf": [field, {"type": "null"}]} for name, field in whole.get("properties", {}).items()
    }
    kept = {"$defs": whole["$defs"]} if "$defs" in whole else {}
    return {"type": "object", "properties": fields, "additionalProperties": False, **kept}
