"""SCM: a memory stream of turns, a controller that decides which turns are worth their room, and a summary tree for long documents.

Source: "Unleashing Infinite-Length Input Capacity for Large-scale Language Models with Self-Controlled Memory System"
(Liang et al. 2023), code wbbeyourself/SCM4LLMs (MIT); constants from the code, prompts our own and in English.

Recall: rank the turns by cosine (plus recency when `recency` > 0, the paper's form), take `top`, always add the last turn
("flash memory"). When that exceeds the budget, each selected turn except the best is judged (`scm_control.py`): can its text answer the
query? If not, drop it; if its summary can too, use the summary. Then the least similar texts become summaries, and at
last (a step the released loop lacks, which can run for ever) the least similar are dropped until the rest fits.
"""

import math
from dataclasses import dataclass, replace

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory, dated, segment
from longspan.context.memory.scm_control import CONTROLLERS, THRESHOLDS, Controller, can_answer, yes
from longspan.context.packer import Segment
from longspan.context.port import ChatModel
from longspan.context.prompts import scm as prompts
from longspan.context.stores.base import AsOf, Record, Unit, content_id
from longspan.errors import BadInput, nearest


@dataclass(frozen=True)
class ScmKnobs:
    """`flash` and `summarise_above` are tokens; `recency` weighs exp(-age / `half_life` turns) against the cosine.

    `controller`: "likelihood" keeps a turn that makes the question likelier by more than `threshold` nats a token of the question, "ask"
    one for which the model's yes is likelier than its no by that many nats. None is the controller's own threshold (1.25 and 0);
    `scm_control.threshold_for` finds one for another model. A model without log-probabilities is asked in any case, and answers in words.
    """

    top: int = 6
    flash: int = 500
    summarise_above: int = 300
    gate: bool = False
    recency: float = 0.0
    half_life: float = 20.0
    controller: Controller = "likelihood"
    threshold: float | None = None

    def __post_init__(self):
        if self.controller not in CONTROLLERS:
            raise BadInput(
                f"SCM has no controller {self.controller!r}; {nearest(self.controller, CONTROLLERS)}"
            )


@dataclass
class Choice:
    """A selected turn: how it is shown (`text` or the summary) and its rank by similarity (0 = best)."""

    record: Record
    summary: str
    rank: int
    shown: str


class Scm(StoreMemory):
    name = "scm"

    def __init__(self, *args, knobs: ScmKnobs | None = None, **options):
        super().__init__(*args, **options)
        self.knobs = knobs or ScmKnobs()

    def _ingest(self, tenant: str, episode: Episode, model: Metered, ledger: Ledger) -> Unit:
        if self.count(episode.said) <= self.knobs.summarise_above:
            return Unit(None, self.clock())
        text = (
            model.at("summary")
            .complete(prompts.SUMMARISE_TURN.render(turn=episode.said), max_tokens=256)
            .text
        )
        record = Record(
            content_id("turn_summary", episode.id),
            "turn_summary",
            text.strip(),
            {"turn": episode.id},
            (episode.id,),
            valid_from=episode.time,
            prompt=prompts.SUMMARISE_TURN.id,
            model=self.model.model_id,
            trust="derived",
            session=episode.session,
            subject=episode.speaker,
        )
        return Unit(None, self.clock(), (record,))

    def _segments(
        self, tenant: str, query: str, budget: int, at: AsOf, model: Metered, ledger: Ledger
    ) -> list[Segment]:
        turns = self.store.get(tenant, kind="episode", at=at)
        if not turns:
            return []
        summaries = {r.data["turn"]: r.text for r in self.store.get(tenant, kind="turn_summary", at=at)}
        last = turns[-1]
        flash = last.text if self.count(last.text) < self.knobs.flash else summaries.get(last.id, last.text)
        chosen = []
        if len(turns) > 1 and (not self.knobs.gate or self._needs_memory(flash, query, model)):
            chosen = [
                Choice(record, summaries.get(record.id, record.text), rank, record.text)
                for rank, record in enumerate(self._similar(tenant, query, turns, at, ledger))
            ]
        room = budget - self._cost([dated(last, flash)])
        chosen = self._fit(chosen, query, room, model)
        shown = [segment(c.record, c.rank + 1, dated(c.record, c.shown)) for c in chosen]
        return [*shown, replace(segment(last, 0, dated(last, flash)), cut=True)]

    def _needs_memory(self, last_turn: str, query: str, model: Metered) -> bool:
        return yes(model.at("gate"), prompts.NEEDS_MEMORY, last_turn=last_turn, message=query)

    def _similar(
        self, tenant: str, query: str, turns: list[Record], at: AsOf, ledger: Ledger
    ) -> list[Record]:
        """The `top` turns but the last, best first."""
        vector = self._embed([query], ledger, "query")[0]
        with ledger.timed("query", "search"):
            found = self.store.search_vector(tenant, vector, kinds=("episode",), limit=len(turns), at=at)
        age = {record.id: len(turns) - 1 - place for place, record in enumerate(turns)}
        weight = self.knobs.recency
        scored = [
            (cosine + weight * math.exp(-age[record.id] / self.knobs.half_life), record)
            for record, cosine in found
            if record.id != turns[-1].id
        ]
        scored.sort(key=lambda item: (-item[0], age[item[1].id]))
        return [record for _, record in scored[: self.knobs.top]]

    def _fit(self, chosen: list[Choice], query: str, room: int, model: Metered) -> list[Choice]:
        if self._size(chosen) <= room:
            return chosen
        kept = [*chosen[:1], *self._judged(chosen[1:], query, model.at("control"))]
        for place in reversed(range(len(kept))):
            if self._size(kept) <= room:
                return kept
            kept[place] = replace(kept[place], shown=kept[place].summary)
        while kept and self._size(kept) > room:
            kept.pop()
        return kept

    def _judged(self, choices: list[Choice], query: str, model: Metered) -> list[Choice]:
        """The choices whose text can answer the query, shown by their summary where that can too."""
        able = self._able(choices, [c.record.text for c in choices], query, model)
        shorter = [c for c in able if c.summary != c.record.text]
        short = {c.rank for c in self._able(shorter, [c.summary for c in shorter], query, model)}
        return [replace(c, shown=c.summary) if c.rank in short else c for c in able]

    def _able(self, choices: list[Choice], texts: list[str], query: str, model: Metered) -> list[Choice]:
        controller, threshold = self.knobs.controller, self.knobs.threshold
        if threshold is None:
            threshold = THRESHOLDS[controller]
        answers = can_answer(model, texts, query, controller, threshold)
        return [choice for choice, able in zip(choices, answers, strict=True) if able]

    def _size(self, chosen: list[Choice]) -> int:
        return self._cost([dated(choice.record, choice.shown) for choice in chosen])

    def _cost(self, texts: list[str]) -> int:
        return sum(self.count(text) + 1 for text in texts)


def summary_tree(model: ChatModel, blocks: list[str], group_tokens: int = 2300, flash: int = 500) -> str:
    """Summary of a long text: every block with the one before as background, then groups of summaries until one is left.

    A single block is returned as its own summary only when it is the sole one; the loop ends because every pass joins at
    least two items into one (an item above `group_tokens` is joined with its neighbour when nothing else can be).
    """
    if len(blocks) == 1:
        return blocks[0]
    summaries, before = [], ""
    for block in blocks:
        messages = prompts.SUMMARISE_BLOCK.render(before=before, current=block)
        summaries.append(model.complete(messages, max_tokens=700).text)
        before = block if model.count_tokens(block) < flash else summaries[-1]
    while len(summaries) > 1:
        groups = _groups(summaries, model, group_tokens)
        limit = 1500 if len(groups) == 1 else 1000
        summaries = [
            group[0]
            if len(group) == 1
            else model.complete(
                prompts.SUMMARISE_GROUP.render(summaries="\n\n".join(group)), max_tokens=limit
            ).text
            for group in groups
        ]
    return summaries[0]


def _groups(items: list[str], model: ChatModel, budget: int) -> list[list[str]]:
    """Consecutive items of at most `budget` tokens together; at least one group has two."""
    groups: list[list[str]] = []
    size = 0
    for item in items:
        tokens = model.count_tokens(item)
        if groups and size + tokens <= budget:
            groups[-1].append(item)
            size += tokens
        else:
            groups.append([item])
            size = tokens
    if len(groups) == len(items):
        groups = [items[i : i + 2] for i in range(0, len(items), 2)]
    return groups
