"""What compare measures: the plan, and the cells it makes of an item.

A cell is one row to be: an item under a variant, in one question mode (where the item has a question and the recipe's choice depends on it) and
one answer mode (of those its task offers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from longspan.bench import rows
from longspan.bench.contexts import cut
from longspan.bench.item import Item
from longspan.bench.results import cell_id
from longspan.bench.rows import Cell
from longspan.bench.variants import Variant
from longspan.engine.model import Model
from longspan.engine.state import CHUNK


@dataclass(frozen=True)
class Plan:
    """What to run. aware: question modes of recipes for which it matters (True: the question is seen before compression).

    modes: answer modes, of those each task has. latency_tokens: 0 measures no decoding time. maps: keep kept-token maps for the first
    sample of each task. seed: of the items. beyond_window: read texts longer than a recipe reaches, instead of listing those rows as failed.
    """

    variants: Sequence[Variant]
    aware: Sequence[bool] = (False, True)
    modes: Sequence[str] = ("generate", "rank", "perplexity")
    max_new_tokens: int | None = None
    latency_tokens: int = 4
    chunk: int = CHUNK
    seed: int = 0
    maps: bool = True
    beyond_window: bool = False

    def identities(self, item: Item, offered: Sequence[str]) -> Iterable[tuple[Variant, bool | None, str]]:
        """(variant, question mode, answer mode) of every cell of `item`; offered: the answer modes of its task."""
        for variant in self.variants:
            for mode in offered:
                if mode not in self.modes or (mode == "rank" and not item.candidates):
                    continue
                for aware in variant.question_modes(self.aware) if item.question else (None,):
                    yield variant, aware, mode

    def cells(self, model: Model, item: Item, length: int, offered: Sequence[str]) -> list[Cell]:
        """Every cell of `item`, drawn for `length`, with its tokens cut."""
        pieces = cut(model, item)
        return [
            Cell(
                pieces,
                variant,
                aware,
                mode,
                length,
                cell_id(
                    recipe=variant.spelled,
                    item=item.id,
                    text=rows.digest(item),
                    length=length,
                    haystack=item.haystack,
                    depth=item.depth,
                    aware=aware,
                    mode=mode,
                    cap=self.max_new_tokens,
                ),
            )
            for variant, aware, mode in self.identities(item, offered)
        ]
