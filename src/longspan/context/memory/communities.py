"""Communities of the graph: label propagation, and summaries by pairwise reduction.

Weight of two entities = number of facts between them. Every node in turn takes the label with the largest summed weight
among its neighbours, ties to the larger label; when the best weight is at most 1 it takes the larger of that and its own.
Updates are asynchronous and rounds are capped: the synchronous form in the Graphiti code can swing for ever.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from longspan.context.ledger import Ledger, Metered
from longspan.context.prompts import zep as prompts
from longspan.context.stores.base import Link, Record, Unit, content_id

if TYPE_CHECKING:
    from longspan.context.memory.zep import Zep


def label_propagation(weights: Mapping[str, Mapping[str, float]], rounds: int = 50) -> list[list[str]]:
    """Groups of node ids, each sorted, larger groups first. `weights` is symmetric; every node has an entry."""
    nodes = sorted(weights)
    label = {node: number for number, node in enumerate(nodes)}
    for _ in range(rounds):
        changed = False
        for node in nodes:
            sums: Counter[int] = Counter()
            for other, weight in weights[node].items():
                sums[label[other]] += weight
            if not sums:
                continue
            weight, candidate = max((weight, number) for number, weight in sums.items())
            best = candidate if weight > 1 else max(candidate, label[node])
            changed |= best != label[node]
            label[node] = best
        if not changed:
            break
    groups = defaultdict(list)
    for node in nodes:
        groups[label[node]].append(node)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def build_communities(memory: "Zep", tenant: str, ledger: Ledger) -> int:
    """Replace all communities by new ones of at least two entities; each depends on every fact it was made from."""
    store, model = memory.store, Metered(memory.model, ledger, "ingest")
    facts = {record.id: record for record in store.get(tenant, kind="fact")}
    weights: dict[str, Counter[str]] = {e.id: Counter() for e in store.get(tenant, kind="entity")}
    inside: dict[str, set[str]] = defaultdict(set)
    for fact in facts.values():
        source, target = fact.data["source"], fact.data["target"]
        if source in weights and target in weights:
            weights[source][target] += 1
            weights[target][source] += 1
            inside[source].add(fact.id)
            inside[target].add(fact.id)
    groups = [group for group in label_propagation(weights) if len(group) > 1]
    records, links = [], []
    for group in groups:
        texts = [
            "\n".join(facts[id].text for id in sorted(inside[member])) for member in group if inside[member]
        ]
        summary = _reduced(texts, model.at("communities"))
        title = (
            model.at("communities").complete(prompts.NAME.render(summary=summary), max_tokens=64).text.strip()
        )
        id = content_id("community", *group)
        sources = tuple(sorted({*group, *(fact for member in group for fact in inside[member])}))
        made = {"name": title, "members": group}
        vector = memory._embed([title], ledger, "ingest")[0]
        records.append(
            Record(
                id,
                "community",
                f"{title}: {summary}",
                made,
                sources,
                prompt=prompts.MERGE.id,
                model=memory.model.model_id,
                trust="derived",
                vector=vector,
            )
        )
        links += [Link(id, member, "MEMBER", id) for member in group]
    old = [r.id for r in store.get(tenant, kind="community") if r.id not in {new.id for new in records}]
    store.commit(tenant, Unit(None, memory.clock(), tuple(records), tuple(links), tuple(old)))
    return len(groups)


def _reduced(texts: list[str], model: Metered) -> str:
    """Merge texts pair by pair, one call a pair, until one is left; a single text stays as it is."""
    while len(texts) > 1:
        pairs = [texts[i : i + 2] for i in range(0, len(texts), 2)]
        texts = [_merge(*pair, model=model) if len(pair) == 2 else pair[0] for pair in pairs]
    return texts[0] if texts else ""


def _merge(first: str, second: str, model: Metered) -> str:
    return model.complete(prompts.MERGE.render(first=first, second=second), max_tokens=512).text
