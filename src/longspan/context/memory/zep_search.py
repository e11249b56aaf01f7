"""Searching the temporal graph: BM25, cosine and graph walk, fused and reranked; the context is facts with their dates.

Methods return 2 x limit candidates each. Rerankers: "rrf", "mmr" (compares with what was chosen, unlike Graphiti's),
"mentions" (facts that more episodes repeat come first), "distance" (to a centre entity). Closed facts are shown with
their interval; ask with `AsOf(valid=...)` for what held at a time.
"""

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import dated, segment
from longspan.context.memory.communities import build_communities
from longspan.context.memory.zep_attributes import attributes_id
from longspan.context.packer import Segment
from longspan.context.prompts import zep as prompts
from longspan.context.retrieval.hybrid import fuse
from longspan.context.retrieval.mmr import mmr
from longspan.context.stores.base import NOW, AsOf, Record, Unit, content_id

_QUERY_TERMS = 128


class ZepSearch:
    """The query side of `Zep`; expects its store, embedder, model, clock and knobs."""

    def search(
        self,
        tenant: str,
        query: str,
        kind: str,
        *,
        limit: int,
        at: AsOf,
        ledger: Ledger,
        centre: str | None = None,
    ) -> list[Record]:
        """Facts, entities, episodes or communities for a query, best first."""
        query = " ".join(query.split()[:_QUERY_TERMS])
        knobs, wide = self.knobs, 2 * limit
        vector = self._embed([query], ledger, "query")[0]
        with ledger.timed("query", "search"):
            rankings = [
                [r for r, _ in self.store.search_text(tenant, query, kinds=(kind,), limit=wide, at=at)]
            ]
            if kind != "episode":
                near = self.store.search_vector(
                    tenant, vector, kinds=(kind,), limit=wide, at=at, above=knobs.min_cosine
                )
                rankings.append([r for r, _ in near])
            if kind == "fact":
                rankings.append(self._walk(tenant, rankings, wide, at))
        found = {record.id: record for ranking in rankings for record in ranking}
        order = [id for id, _ in fuse([[r.id for r in ranking] for ranking in rankings], knobs.constant)]
        return [found[id] for id in self._rerank(tenant, order, found, vector, centre, at)][:limit]

    def _walk(self, tenant: str, rankings: list[list[Record]], limit: int, at: AsOf) -> list[Record]:
        """Facts reached from the source entities of the other methods' hits, nearest first."""
        starts = list(dict.fromkeys(r.data["source"] for ranking in rankings for r in ranking))
        if not starts:
            return []
        distance = self.store.neighbours(tenant, starts, depth=self.knobs.depth, kinds=("FACT",), at=at)
        links = [link for link in self.store.links(tenant, kinds=("FACT",), at=at) if link.source in distance]
        place = {id: number for number, id in enumerate(starts)}
        links.sort(key=lambda link: (distance[link.source], place.get(link.source, len(place)), link.record))
        ids = list(dict.fromkeys(link.record for link in links))[:limit]
        records = {record.id: record for record in self.store.get(tenant, ids, at=at)}
        return [records[id] for id in ids if id in records]

    def _rerank(self, tenant, order, found, vector, centre, at) -> list[str]:
        match self.knobs.reranker:
            case "mmr":
                vectors = self.embedder.embed([found[id].text for id in order])
                return [order[i] for i in mmr(vector, vectors, len(order), self.knobs.mmr_balance)]
            case "mentions":
                return sorted(order, key=lambda id: -len(found[id].sources + found[id].support))
            case "distance" if centre is not None:
                away = self.store.neighbours(tenant, [centre], depth=self.knobs.depth, kinds=("FACT",), at=at)
                ends = lambda id: (found[id].data.get("source", id), found[id].data.get("target", id))  # noqa: E731
                return sorted(order, key=lambda id: min(away.get(end, len(away) + 99) for end in ends(id)))
        return order

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        """Facts first, then the entities they join (with computed summaries), then communities and raw episodes."""
        # A fact line takes some twenty tokens, so the budget bounds how many can be used.
        limit = max(self.knobs.limit, budget // 20)
        facts = self.search(tenant, query, "fact", limit=limit, at=at, ledger=ledger)
        entities = self.search(tenant, query, "entity", limit=self.knobs.limit, at=at, ledger=ledger)
        groups = self.search(tenant, query, "community", limit=3, at=at, ledger=ledger)
        episodes = self.search(tenant, query, "episode", limit=limit, at=at, ledger=ledger)
        lines = [(fact, f"Fact: {fact.text} ({interval(fact)})") for fact in facts]
        summaries = {r.data["entity"]: r for r in self.store.get(tenant, kind="summary", at=at)}
        lines += [
            (summaries[e.id], f"About {e.text}: {summaries[e.id].text}")
            for e in entities
            if e.id in summaries
        ]
        ids = [attributes_id(entity.id) for entity in entities]
        typed = {record.id: record for record in self.store.get(tenant, ids, at=at)} if ids else {}
        lines += [(typed[id], f"About {typed[id].text}") for id in ids if id in typed]
        lines += [(group, f"Topic: {group.text}") for group in groups]
        lines += [(episode, dated(episode)) for episode in episodes]
        return [segment(record, rank, text) for rank, (record, text) in enumerate(lines)]

    # -- summaries and communities, on request

    def entity_summary(self, tenant: str, entity: str, at: AsOf = NOW) -> str:
        """The facts about an entity, oldest first, one a line: always what the store believes at `at`."""
        links = self.store.links(tenant, kinds=("FACT",), source=entity, at=at)
        links += self.store.links(tenant, kinds=("FACT",), target=entity, at=at)
        facts = self.store.get(tenant, list(dict.fromkeys(link.record for link in links)), at=at)
        return "\n".join(f"{fact.text} ({interval(fact)})" for fact in facts)

    def summarise(self, tenant: str, ledger: Ledger | None = None) -> int:
        """Let the model write a summary of every entity whose facts exceed twice `summary_chars`; how many it wrote."""
        ledger = ledger or Ledger()
        model, written = Metered(self.model, ledger, "ingest", "summary"), 0
        for entity in self.store.get(tenant, kind="entity"):
            facts = self.entity_summary(tenant, entity.id)
            if len(facts) <= 2 * self.knobs.summary_chars:
                continue
            messages = prompts.SUMMARY.render(entity=entity.text, facts=facts)
            text = _at_sentence(model.complete(messages, max_tokens=512).text, self.knobs.summary_chars)
            links = self.store.links(tenant, kinds=("FACT",), source=entity.id)
            links += self.store.links(tenant, kinds=("FACT",), target=entity.id)
            record = Record(
                content_id("summary", entity.id),
                "summary",
                text,
                {"entity": entity.id},
                tuple(dict.fromkeys((entity.id, *(link.record for link in links)))),
                prompt=prompts.SUMMARY.id,
                model=self.model.model_id,
                trust="derived",
            )
            self.store.commit(tenant, Unit(None, self.clock(), (record,)))
            written += 1
        return written

    def communities(self, tenant: str, ledger: Ledger | None = None) -> int:
        """Find communities anew and summarise them; how many there are."""
        return build_communities(self, tenant, ledger or Ledger())


def interval(fact: Record) -> str:
    begins = fact.valid_from.date().isoformat() if fact.valid_from else "unknown"
    return f"{begins} to {fact.valid_to.date().isoformat() if fact.valid_to else 'present'}"


def _at_sentence(text: str, chars: int) -> str:
    """At most `chars` characters, cut after a sentence where there is one."""
    if len(text) <= chars:
        return text
    cut = max(text.rfind(mark, 0, chars) for mark in (". ", "! ", "? "))
    return text[: cut + 1] if cut > 0 else text[:chars]
