"""LaCache: different layers keep different old tokens, in a ladder, so that together they cover a longer span than any one of them holds.

Source: LaCache, ICML 2025; code GATECH-EIC/LaCache. L layers, budget Z, span S, overlap O, sink s0. A ladder takes `slots` =
1 + ceil((L - S) / (S - O)) entries and keeps `kept` = min(ceil(S / (S - O)), slots) consecutive ones of them, starting at
(layer mod (slots - kept + 1)). A cursor walks from the oldest entry to the newest L; a compaction needs as many ladders as there are entries
to remove. Where the walk ends before enough are gone, one more, wider selection starts again behind the sink (`ladder_plan`). No attention
score is read, so it works with any kernel; every layer keeps equally many entries.

The code drops whole ladders and enlarges Z by half a ladder to make up for it on average; here the last ladder drops only what is needed, so
the budget is exact (whole=true is the code's rule, without the enlargement). The code's wider ladders can pick an entry of the next ladder
twice; here the start is bounded so that they cannot. The paper draws a token in S neighbouring layers, the code interleaves by layer mod;
contiguous=true is the drawing. The reference numbers positions inside the cache: positions="cache". when="chunk" is its endless stream.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from longspan.engine.method import CachePolicy, Source
from longspan.engine.registry import register
from longspan.errors import BadInput


@register("lacache")
@dataclass(frozen=True)
class LaCache(CachePolicy):
    """span: layers that share a token, 0 for half of them. overlap: tokens that neighbouring steps share. recent: newest entries that no layer
    drops, at least one a layer. positions: "original" or "cache". contiguous, whole: see above."""

    source = Source(
        "https://openreview.net/forum?id=SDjZtxDo35", 2025, "https://github.com/GATECH-EIC/LaCache"
    )

    sink: int = 4
    span: int = 0
    overlap: int = 0
    positions: str = "original"
    contiguous: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in ("original", "cache"):
            raise BadInput(f"positions={self.positions!r} of lacache is not one of original, cache.")
        if self.span < 0 or not 0 <= self.overlap < max(1, self.span):
            raise BadInput("lacache needs span >= 0 and an overlap from 0 up to, not including, the span.")
        if self.allocator != "uniform":
            raise BadInput("lacache gives every layer and head equally many entries; use allocator=uniform.")

    @property
    def position_mode(self) -> str:
        return self.positions

    def check(self, model: Any) -> None:
        layers = len(model.geometry.growing)
        if self.span >= layers and layers > 1:
            raise BadInput(f"span={self.span} of lacache must be below the model's {layers} growing layers.")

    def ladder(self, layers: int) -> tuple[int, int]:
        """(slots, kept) of one ladder on a model of `layers` growing layers."""
        span = self.span or max(1, layers // 2)
        slots = 1 + max(1, ceil((layers - span) / (span - self.overlap)))
        return slots, min(ceil(span / (span - self.overlap)), slots - 1)

    def fewest(self, session: Any) -> int:
        layers = len(session.growing_layers())
        return self.sink + max(self.recent, layers) + self.ladder(layers)[1]

    def compress_all(self, session: Any) -> None:
        layers = session.growing_layers()
        budget, held = self.per_head(session), session.longest()
        if held <= budget:
            return
        newest = max(self.recent, len(layers))
        slots, kept = self.ladder(len(layers))
        state = session.run_state(self)
        if budget < self.fewest(session):
            raise BadInput(
                f"The budget of lacache is {budget} entries a head; it needs at least {self.fewest(session)}: sink, one newest entry "
                "a layer, and one step of the ladder."
            )
        passes, state["cursor"] = ladder_plan(
            held, budget, slots, kept, state.get("cursor", self.sink), self.sink, newest, self.whole
        )
        for order, layer in enumerate(layers):
            view = session.view(layer, self)
            mask = self._mask(passes, held, order, len(layers)).expand(view.positions.shape)
            view.keep(mask if view.valid is None else mask & view.valid)
        session.note_eviction()

    def _mask(self, passes: list["Ladders"], held: int, order: int, layers: int) -> Tensor:
        """Which of `held` entries layer number `order` keeps, (held,) bool."""
        index = torch.arange(held)
        for ladders in passes:
            start = order * ladders.starts // layers if self.contiguous else order % ladders.starts
            index = index[ladders.mask(len(index), start)]
        mask = torch.zeros(held, dtype=torch.bool)
        mask[index] = True
        return mask


@dataclass(frozen=True)
class Ladders:
    """`count` ladders from entry `first` on: of every `slots` entries, `kept` stay, `stride` apart."""

    first: int
    count: int
    slots: int
    kept: int
    stride: int = 1

    @property
    def starts(self) -> int:
        """How many different slots a ladder's first kept entry can have."""
        return self.slots - self.stride * (self.kept - 1)

    def mask(self, entries: int, start: int) -> Tensor:
        """(entries,) bool, for a layer whose ladders start at slot `start`."""
        one = torch.zeros(self.slots, dtype=torch.bool)
        one[start : start + self.stride * self.kept : self.stride] = True
        mask = torch.ones(entries, dtype=torch.bool)
        mask[self.first : self.first + self.count * self.slots] = one.repeat(self.count)
        return mask


def ladder_plan(
    held: int, budget: int, slots: int, kept: int, cursor: int, sink: int, newest: int, whole: bool = False
) -> tuple[list[Ladders], int]:
    """How `held` entries become `budget`: the selections to apply one after the other, and where the cursor stands then.

    budget must exceed sink + newest by at least `kept`. whole: the last ladder drops all it can where it has room, which may leave up to
    slots - kept - 1 too few; otherwise it is made shorter by what need not go.
    """
    removed = slots - kept
    need = held - budget
    steps = max(0, budget - cursor - newest) // kept
    if need <= steps * removed:
        return _climb(cursor, need, held - newest, slots, kept, 1, whole)
    passes = [Ladders(cursor, steps, slots, kept)] if steps else []
    need -= steps * removed
    times = ceil(need / (((budget - sink - newest) // kept) * removed))
    wide = slots + (times - 1) * (slots - 1)
    again, cursor = _climb(sink, need, budget + need - newest, wide, kept, times, whole)
    return passes + again, cursor


def _climb(
    first: int, need: int, end: int, slots: int, kept: int, stride: int, whole: bool
) -> tuple[list[Ladders], int]:
    """Ladders from `first` that drop `need` entries before entry `end`, and the entry after them once they are dropped."""
    count = ceil(need / (slots - kept))
    after = first + count * kept
    short = count * (slots - kept) - need
    if not short or (whole and first + count * slots <= end):
        return [Ladders(first, count, slots, kept, _stride(slots, kept, stride))], after
    last = Ladders(after - kept, 1, slots - short, kept, _stride(slots - short, kept, stride))
    return ([Ladders(first, count - 1, slots, kept, _stride(slots, kept, stride))] if count > 1 else []) + [
        last
    ], after


def _stride(slots: int, kept: int, wanted: int) -> int:
    """`wanted` slots between the kept ones, or fewer where the ladder is too short for it."""
    return 1 if kept == 1 else max(1, min(wanted, (slots - 1) // (kept - 1)))
