"""RAPTOR: a tree of cluster summaries over the passages, searched flat ("collapsed tree").

Source: Sarthi et al. 2024, code parthsarthi03/raptor (MIT). The tree is built after each batch (`index`); its rival at
equal tokens is document-order RAG (`base.Passages`).
"""

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory, segment
from longspan.context.memory.plain import hybrid_records
from longspan.context.memory.tree import build_tree
from longspan.context.packer import Segment
from longspan.context.prompts import raptor as prompts
from longspan.context.stores.base import AsOf, Unit


class Raptor(StoreMemory):
    name = "raptor"

    def __init__(self, *args, layers: int = 5, most_tokens: int = 3500, summary_tokens: int = 200, **options):
        super().__init__(*args, **options)
        self.layers, self.most_tokens, self.summary_tokens = layers, most_tokens, summary_tokens

    def remember(self, tenant, episodes, ledger: Ledger | None = None):
        ledger = ledger or Ledger()
        done = super().remember(tenant, episodes, ledger)
        if done.stored:
            self.index(tenant, ledger)
        return done

    def forget(self, tenant, selector, ledger: Ledger | None = None):
        purged = self.store.purge(tenant, selector)
        if purged.removed:
            self.index(tenant, ledger or Ledger())
        return purged

    def index(self, tenant: str, ledger: Ledger) -> None:
        build_tree(
            self,
            tenant,
            self.store.get(tenant, kind="episode"),
            kind="node",
            prompt=prompts.SUMMARY,
            ledger=ledger,
            layers=self.layers,
            most_tokens=self.most_tokens,
            summary_tokens=self.summary_tokens,
        )

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        return Unit(None, self.clock())

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        found = hybrid_records(
            self.store, tenant, query, self.embedder, ("episode", "node"), 1000, at, ledger, "dense"
        )
        return [segment(record, rank) for rank, record in enumerate(found)]
