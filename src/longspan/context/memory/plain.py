"""The baselines every memory is compared with at equal tokens: episodes ranked and packed, nothing extracted."""

from collections.abc import Sequence

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory, dated, segment
from longspan.context.packer import Segment
from longspan.context.retrieval.embedders import Embedder
from longspan.context.retrieval.hybrid import fuse
from longspan.context.stores.base import AsOf, Record, Store, Unit
from longspan.errors import BadInput


class Passages(StoreMemory):
    """The plain baselines over the same store: episodes ranked by BM25, dense or hybrid search, packed by rank or in
    document order. No model is called."""

    def __init__(self, *args, ranker: str = "hybrid", order: str = "document", limit: int = 200, **options):
        super().__init__(*args, **options)
        if ranker not in ("bm25", "dense", "hybrid"):
            raise BadInput(f"the ranker is bm25, dense or hybrid, not {ranker!r}")
        self.ranker, self.order, self.limit = ranker, order, limit
        self.name = f"{ranker}-{order}"

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        return Unit(None, self.clock())

    def _segments(self, tenant, query, budget, at, model, ledger) -> list[Segment]:
        found = hybrid_records(
            self.store, tenant, query, self.embedder, ("episode",), self.limit, at, ledger, self.ranker
        )
        return [segment(record, rank, dated(record)) for rank, record in enumerate(found)]


def hybrid_records(
    store: Store,
    tenant: str,
    query: str,
    embedder: Embedder,
    kinds: Sequence[str],
    limit: int,
    at: AsOf,
    ledger: Ledger,
    ranker: str = "hybrid",
    constant: float = 60.0,
    above: float = -1.0,
) -> list[Record]:
    """Records ranked by the store's text search, its vectors, or both fused; best first."""
    rankings: list[list[Record]] = []
    if ranker in ("bm25", "hybrid"):
        with ledger.timed("query", "search"):
            rankings.append([r for r, _ in store.search_text(tenant, query, kinds=kinds, limit=limit, at=at)])
    if ranker in ("dense", "hybrid"):
        with ledger.timed("query", "embed"):
            vector = embedder.embed([query])[0]
        with ledger.timed("query", "search"):
            found = store.search_vector(tenant, vector, kinds=kinds, limit=limit, at=at, above=above)
        rankings.append([r for r, _ in found])
    records = {record.id: record for ranking in rankings for record in ranking}
    fused = fuse([[record.id for record in ranking] for ranking in rankings], constant)
    return [records[id] for id, _ in fused[:limit]]
