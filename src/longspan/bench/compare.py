"""compare: every recipe on every item, each context read once.

A policy that acts after the text has been read needs only the dense cache and a few statistics. So each context is read once, with the
union of the statistics the recipes need; the session is forked for every recipe, budget and question mode; and the forks are asked,
scored and decoded packed in one batch, sharing the context's cache where they did not change it. Only recipes that change the reading
itself read again. `prefilled_tokens` in the rows is what each row's own reading cost: a shared read is charged to the first row it served.

A recipe's prompt methods shorten the context first; recipes that share them share the short text's read. context_tokens counts the text
that was given, read_tokens what was read of it.

Times. ttft_s: shortening and reading the context, the method's work, and this row's share of the packed question. time_per_token_s: decoding alone, one
session at a time, on the first contexts of each task and length (`latency_tokens` tokens, see `costs`). peak_memory_bytes: the most memory
held while the row's text was read, weights and statistics for other rows included; one shared read gives all its rows the same figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from longspan.bench import rows
from longspan.bench.answering import Answering
from longspan.bench.contexts import by_context
from longspan.bench.grid import Plan
from longspan.bench.item import Item
from longspan.bench.reading import Reading
from longspan.bench.results import Results
from longspan.bench.rows import Branch, Cell
from longspan.engine.model import Model

Progress = Callable[[int, int], None]


class Comparison:
    """Runs a plan over items and appends rows. `total` and `done` count cells."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        results: Results,
        items: Iterable[tuple[Item, int]],
        modes: Callable[[Item], Sequence[str]],
    ):
        """items: (item, target length) pairs; modes(item): the answer modes its task offers."""
        self.model, self.plan, self.results = model, plan, results
        self.lengths: dict[str, int] = {}
        self.items: list[Item] = []
        for item, length in items:
            self.items.append(item)
            self.lengths[item.id] = length
        self.modes = modes
        self.groups = by_context(model, self.items)
        self.total = sum(len(list(plan.identities(item, modes(item)))) for item in self.items)
        self.done = 0
        self._reading = Reading(model, plan, self._failed)
        self._answering = Answering(model, plan.max_new_tokens, plan.latency_tokens)

    def run(self, progress: Progress | None = None) -> None:
        """Measure every cell that the results do not hold yet."""
        for group in self.groups:
            cells = [cell for item in group for cell in self._cells(item)]
            missing = [cell for cell in cells if cell.id not in self.results.finished]
            self.done += len(cells) - len(missing)
            if progress is not None:
                progress(self.done, self.total)
            for pack in self._reading.packs(missing):
                self._answer(pack, progress)
                del pack  # the next text is read when this one's cache is gone

    def _cells(self, item: Item) -> list[Cell]:
        return self.plan.cells(self.model, item, self.lengths[item.id], self.modes(item))

    def _answer(self, branches: list[Branch], progress: Progress | None) -> None:
        for branch, answered in zip(branches, self._answering.answer(branches), strict=True):
            for cell in branch.cells:
                self.results.append(
                    rows.measured(branch, cell, self.plan.seed, answered, self._reading.extends)
                )
                self.done += 1
                branch.own_tokens = 0
            if progress is not None:
                progress(self.done, self.total)

    def _failed(self, cells: list[Cell], reason: str) -> None:
        """A recipe that cannot run on this item: listed with its reason, never counted as wrong."""
        for cell in cells:
            self.results.append(rows.failed(cell, self.plan.seed, reason))
            self.done += 1
