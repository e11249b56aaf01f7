"""A tree of summaries over all passages, built in one go and rebuilt as little as possible; shared by RAPTOR and ComoRAG.

Every summary depends on its members, so purging a passage drops all summaries above it. Ids come from the members, so a
rebuild calls the model only for groups that changed.
"""

from collections.abc import Sequence

import numpy as np

from longspan.context.chunking import chunks
from longspan.context.ledger import Ledger
from longspan.context.memory.base import StoreMemory
from longspan.context.memory.clusters import soft_clusters
from longspan.context.prompts import Prompt
from longspan.context.stores.base import Record, Unit, content_id


def build_tree(
    memory: StoreMemory,
    tenant: str,
    leaves: Sequence[Record],
    *,
    kind: str,
    prompt: Prompt,
    ledger: Ledger,
    layers: int = 5,
    most_tokens: int = 3500,
    summary_tokens: int = 200,
) -> list[Record]:
    """Write the summaries of all layers as records of `kind`; records of that kind which are no longer used are retracted."""
    vectors = memory._embed([leaf.text for leaf in leaves], ledger, "ingest") if leaves else np.zeros((0, 1))
    made: dict[str, Record] = {}
    level = list(leaves)
    for layer in range(1, layers + 1):
        if len(level) < 2:
            break
        groups = [
            part for group in soft_clusters(vectors) for part in _split(memory, level, group, most_tokens)
        ]
        fresh = [
            summarise(memory, tenant, [level[i] for i in group], kind, prompt, ledger, summary_tokens, layer)
            for group in groups
            if len(group) > 1
        ]
        fresh = [record for record in fresh if record.id not in made]
        if not fresh:
            break
        made.update({record.id: record for record in fresh})
        level = fresh
        vectors = np.stack([record.vector for record in fresh])  # type: ignore[arg-type]
        if len(groups) == 1:
            break
    replace_kind(memory, tenant, kind, list(made.values()))
    return list(made.values())


def summarise(
    memory: StoreMemory,
    tenant: str,
    members: Sequence[Record],
    kind: str,
    prompt: Prompt,
    ledger: Ledger,
    tokens: int,
    layer: int = 0,
) -> Record:
    """The summary record of `members`, in their order; taken from the store when the same members were summarised before."""
    id = content_id(kind, *(member.id for member in members))
    known = memory.store.get(tenant, [id])
    texts = "\n".join(member.text for member in members)
    if known:
        text = known[0].text
    else:
        model = memory._metered(ledger, "ingest").at(kind)
        text = model.complete(prompt.render(texts=texts), max_tokens=tokens).text.strip()
    return Record(
        id,
        kind,
        text,
        {"layer": layer, "members": [member.id for member in members]},
        tuple(member.id for member in members),
        valid_from=members[0].valid_from,
        prompt=prompt.id,
        model=memory.model.model_id,
        trust="derived",
        vector=memory._embed([text], ledger, "ingest")[0],
    )


def replace_kind(memory: StoreMemory, tenant: str, kind: str, records: Sequence[Record]) -> None:
    """Make `records` the only current ones of their kind, in one transaction."""
    wanted = {record.id for record in records}
    current = {record.id for record in memory.store.get(tenant, kind=kind)}
    unit = Unit(
        None,
        memory.clock(),
        tuple(record for record in records if record.id not in current),
        retract=tuple(sorted(current - wanted)),
    )
    if unit.records or unit.retract:
        memory.store.commit(tenant, unit)


def _split(
    memory: StoreMemory, level: Sequence[Record], group: list[int], most_tokens: int
) -> list[list[int]]:
    """`group`, or consecutive parts of it that each fit `most_tokens`."""
    parts: list[list[int]] = [[]]
    size = 0
    for member in group:
        tokens = memory.count(level[member].text)
        if parts[-1] and size + tokens > most_tokens:
            parts.append([])
            size = 0
        parts[-1].append(member)
        size += tokens
    return parts


def cut_to(memory: StoreMemory, texts: Sequence[str], budget: int) -> list[str]:
    """The first texts that fit `budget` tokens together; the first one is shortened when it alone does not."""
    kept, size = [], 0
    for text in texts:
        size += memory.count(text) + 1
        if size > budget:
            break
        kept.append(text)
    if not kept and texts and budget > 0:
        kept = [chunks(texts[0], budget, count=memory.count)[0].text]
    return kept
