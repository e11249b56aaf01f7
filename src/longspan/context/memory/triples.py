"""The passage graph that HippoRAG 2 and ComoRAG share: open information extraction, graph building, PageRank retrieval.

Source: "From RAG to Memory" (HippoRAG 2, Gutiérrez et al. 2025), code OSU-NLP-Group/HippoRAG (MIT); constants from its
code. Per passage two calls: names, then triples. Nodes are phrases (lower-cased) and passages. Edges: the two ends of a
triple (weight = count), passage with its phrases (1), synonyms (cosine >= 0.8). A query scores all triples, the model
keeps the relevant ones, and PageRank with damping 0.5 starts from their phrases and, weakly, from the dense ranking.
No triple kept means plain dense ranking. Triples are stored as JSON, never as text to be evaluated.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory
from longspan.context.port import PortError
from longspan.context.prompts import graph as prompts
from longspan.context.retrieval.pagerank import graph, personalised_pagerank
from longspan.context.stores.base import AsOf, Link, Record, Unit, content_id


@dataclass(frozen=True)
class TripleKnobs:
    linking: int = 5
    synonymy: float = 0.8
    synonyms: int = 100
    damping: float = 0.5
    passage_weight: float = 0.05
    retrieve: int = 200


class Names(BaseModel):
    names: list[str]


class Triples(BaseModel):
    triples: list[list[str]]


class Relevant(BaseModel):
    numbers: list[int]


def phrase_key(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[^\w ]+", " ", text.lower())).strip()


class TripleGraph(StoreMemory):
    """Ingest and the graph retrieval; subclasses decide what a recalled context looks like."""

    def __init__(self, *args, triple_knobs: TripleKnobs | None = None, **options):
        super().__init__(*args, **options)
        self.triple_knobs = triple_knobs or TripleKnobs()

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        passage = episode.said
        names = (
            model.at("names")
            .complete(prompts.NAMES.render(passage=passage), schema=Names, max_tokens=512)
            .parsed.names
        )
        messages = prompts.TRIPLES.render(names=", ".join(names), passage=passage)
        found = model.at("triples").complete(messages, schema=Triples, max_tokens=2048).parsed.triples
        triples = {
            tuple(part.strip() for part in row)
            for row in found
            if len(row) == 3 and all(map(phrase_key, row))
        }
        phrases = {phrase_key(name) for name in names if phrase_key(name)}
        phrases |= {phrase_key(end) for s, _, o in triples for end in (s, o)}
        rows, ordered = sorted(triples), sorted(phrases)
        vectors = (
            self._embed([*ordered, *(" ".join(row) for row in rows)], ledger, "ingest") if ordered else []
        )
        records, links = [], []
        for phrase, vector in zip(ordered, vectors):
            id = content_id("phrase", phrase)
            records.append(
                Record(id, "phrase", phrase, {}, (), (episode.id,), trust="derived", vector=vector)
            )
            links.append(Link(episode.id, id, "HAS", episode.id))
        for (subject, relation, thing), vector in zip(rows, vectors[len(ordered) :]):
            ends = content_id("phrase", phrase_key(subject)), content_id("phrase", phrase_key(thing))
            id = content_id("triple", *ends, phrase_key(relation))
            data = {
                "triple": [phrase_key(subject), phrase_key(relation), phrase_key(thing)],
                "ends": list(ends),
            }
            records.append(
                Record(
                    id,
                    "triple",
                    " ".join(data["triple"]),
                    data,
                    (),
                    (episode.id,),
                    trust="derived",
                    vector=vector,
                )
            )
            links.append(Link(*ends, "TRIPLE", id))
        return Unit(None, self.clock(), tuple(records), tuple(links))

    def _rebuild(self, tenant: str, ids, ledger: Ledger) -> None:
        """Nothing to derive again: a phrase or triple is the same from every passage and lives while one supports it."""

    def graph_rank(
        self, tenant: str, query: str, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[tuple[Record, float]]:
        """Passages by PageRank mass from the relevant triples, or by cosine when there are none; best first."""
        knobs = self.triple_knobs
        vector = self._embed([query], ledger, "query")[0]
        with ledger.timed("query", "search"):
            passages = self.store.search_vector(tenant, vector, kinds=("episode",), limit=10**9, at=at)
            triples = self.store.search_vector(tenant, vector, kinds=("triple",), limit=knobs.linking, at=at)
        triples = self._relevant(query, triples, model)
        if not triples or not passages:
            return passages[: knobs.retrieve]
        with ledger.timed("query", "pagerank"):
            return self._pagerank(tenant, passages, triples, at)[: knobs.retrieve]

    def _relevant(
        self, query: str, triples: list[tuple[Record, float]], model: Metered
    ) -> list[tuple[Record, float]]:
        """The triples the model keeps; all of them when it gives no usable answer."""
        if not triples:
            return []
        facts = "\n".join(f"{number}: {record.text}" for number, (record, _) in enumerate(triples))
        try:
            messages = prompts.RELEVANT.render(question=query, facts=facts)
            numbers = model.at("filter").complete(messages, schema=Relevant, max_tokens=128).parsed.numbers
        except PortError:
            return triples
        return [triples[number] for number in dict.fromkeys(numbers) if 0 <= number < len(triples)]

    def _pagerank(
        self, tenant: str, passages: list[tuple[Record, float]], triples: list[tuple[Record, float]], at: AsOf
    ) -> list[tuple[Record, float]]:
        knobs = self.triple_knobs
        has = self.store.links(tenant, kinds=("HAS",), at=at)
        count = Counter(link.target for link in has)
        nodes = [record.id for record, _ in passages] + sorted(count)
        number = {id: i for i, id in enumerate(nodes)}
        edges = [(number[link.source], number[link.target], 1.0) for link in has if link.source in number]
        support = {r.id: len(r.support) for r in self.store.get(tenant, kind="triple", at=at)}
        for link in self.store.links(tenant, kinds=("TRIPLE",), at=at):
            if link.source in number and link.target in number:
                edges.append((number[link.source], number[link.target], float(support.get(link.record, 1))))
        edges += [
            (number[a], number[b], w) for a, b, w in self._synonyms(tenant, at) if a in number and b in number
        ]
        scores: dict[str, list[float]] = defaultdict(list)
        for record, score in triples:
            for end in record.data["ends"]:
                if end in count:
                    scores[end].append(max(score, 0.0) / count[end])
        seeds = sorted(((float(np.mean(s)), id) for id, s in scores.items()), reverse=True)[: knobs.linking]
        reset = np.zeros(len(nodes))
        for score, id in seeds:
            reset[number[id]] = score
        dense = np.array([score for _, score in passages])
        spread = dense.max() - dense.min()
        reset[: len(passages)] = (
            (dense - dense.min()) / spread * knobs.passage_weight if spread > 0 else knobs.passage_weight
        )
        mass = personalised_pagerank(graph(len(nodes), edges), reset, knobs.damping)
        order = sorted(range(len(passages)), key=lambda i: (-mass[i], i))
        return [(passages[i][0], float(mass[i])) for i in order]

    def _synonyms(self, tenant: str, at: AsOf) -> list[tuple[str, str, float]]:
        """Pairs of phrases of more than two letters with a cosine of at least `synonymy`, at most `synonyms` each.

        Cached until the tenant changes: it compares all phrases with all, in blocks.
        """
        generation = self.store.generation(tenant)
        cached = getattr(self, "_synonym_cache", {}).get(tenant)
        if cached and cached[:2] == (generation, at):
            return cached[2]
        phrases = [
            r for r in self.store.get(tenant, kind="phrase", at=at) if len(r.text.replace(" ", "")) > 2
        ]
        vectors = self.embedder.embed([r.text for r in phrases]) if phrases else np.zeros((0, 1), np.float32)
        pairs = []
        for start in range(0, len(phrases), 512):
            block = vectors[start : start + 512] @ vectors.T
            for row, scores in enumerate(block, start):
                near = np.flatnonzero(scores[row + 1 :] >= self.triple_knobs.synonymy) + row + 1
                near = near[np.argsort(-scores[near], kind="stable")][: self.triple_knobs.synonyms]
                pairs += [(phrases[row].id, phrases[other].id, float(scores[other])) for other in near]
        self._synonym_cache = {**getattr(self, "_synonym_cache", {}), tenant: (generation, at, pairs)}
        return pairs
