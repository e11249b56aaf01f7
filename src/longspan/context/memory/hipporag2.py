"""HippoRAG 2: passages ranked by personalised PageRank over the triple graph (`triples.py`)."""

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import dated, segment
from longspan.context.memory.triples import TripleGraph
from longspan.context.packer import Segment
from longspan.context.stores.base import AsOf


class HippoRag2(TripleGraph):
    name = "hipporag2"

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        ranked = self.graph_rank(tenant, query, at, model, ledger)
        return [segment(record, rank, dated(record)) for rank, (record, _) in enumerate(ranked)]
