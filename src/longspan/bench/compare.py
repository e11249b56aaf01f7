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

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longspan.bench import rows
from longspan.bench.contexts import by_context, cut, shortened
from longspan.bench.costs import Latencies, PeakMemory
from longspan.bench.item import Item
from longspan.bench.kept import kept_map, kept_share, retention
from longspan.bench.results import Results, cell_id
from longspan.bench.rows import Branch, Cell
from longspan.bench.variants import Variant
from longspan.engine.batch import Work, forward
from longspan.engine.generate import Generation, generate
from longspan.engine.generate import score as score_tokens
from longspan.engine.model import Model
from longspan.engine.needs import Needs
from longspan.engine.session import Session
from longspan.engine.state import CHUNK
from longspan.errors import BadInput

PACK = 32  # forks decoded together: bounds the memory of a batch
Progress = Callable[[int, int], None]


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
        self.total = sum(len(list(self._identities(item))) for item in self.items)
        self.done = 0
        self._latency = Latencies(plan.latency_tokens)
        self._peak = PeakMemory(model.device)
        self._extends = any(variant.recipe.one("positions") for variant in plan.variants)

    # -- the loop --------------------------------------------------------------------------------------------------
    def run(self, progress: Progress | None = None) -> None:
        """Measure every cell that the results do not hold yet."""
        for group in self.groups:
            cells = [cell for item in group for cell in self._cells(item)]
            missing = [cell for cell in cells if cell.id not in self.results.finished]
            self.done += len(cells) - len(missing)
            if progress is not None:
                progress(self.done, self.total)
            if missing:
                self._context(missing, progress)

    def _identities(self, item: Item) -> Iterable[tuple[Variant, bool | None, str]]:
        for variant in self.plan.variants:
            for mode in self.modes(item):
                if mode not in self.plan.modes or (mode == "rank" and not item.candidates):
                    continue
                for aware in variant.question_modes(self.plan.aware) if item.question else (None,):
                    yield variant, aware, mode

    def _cells(self, item: Item) -> list[Cell]:
        pieces = cut(self.model, item)
        return [
            Cell(
                pieces,
                variant,
                aware,
                mode,
                self.lengths[item.id],
                cell_id(
                    recipe=variant.spelled,
                    item=item.id,
                    text=rows.digest(item),
                    length=self.lengths[item.id],
                    haystack=item.haystack,
                    depth=item.depth,
                    aware=aware,
                    mode=mode,
                    cap=self.plan.max_new_tokens,
                ),
            )
            for variant, aware, mode in self._identities(item)
        ]

    def _context(self, cells: list[Cell], progress: Progress | None) -> None:
        for shared in rows.by_prompt([cell for cell in cells if not cell.variant.rereads]):
            base = None
            try:
                base = self._read_shared(shared)
            except BadInput as error:
                self._failed(shared, str(error))
            branches = self._branches(shared, base, self._peak.bytes()) if base is not None else []
            for start in range(0, len(branches), PACK):
                self._answer(branches[start : start + PACK], progress)
            del branches, base
        own = [cell for cell in cells if cell.variant.rereads]
        for branch in self._own_reads(own):
            self._answer([branch], progress)

    # -- reading ---------------------------------------------------------------------------------------------------
    @property
    def _reading(self) -> dict[str, Any]:
        return {"chunk": self.plan.chunk, "beyond_window": self.plan.beyond_window}

    def _read_shared(self, cells: list[Cell]) -> Session:
        needs = self._course_needs(cells)
        for cell in cells:
            needs = needs | cell.variant.recipe.needs
        session = self.model.session(cells[0].variant.recipe.prompt, collect=needs, **self._reading)
        self._peak.start()
        self._shorten(session, cells)
        session.feed(cells[0].pieces.read)
        return session

    def _course_needs(self, cells: list[Cell]) -> Needs:
        """Where position methods are compared on running text, the loss of every token read is their result: it shows where each stops following."""
        wanted = self._extends and any(cell.mode == "perplexity" for cell in cells)
        return Needs(token_logprobs=wanted)

    def _shorten(self, session: Session, cells: list[Cell]) -> None:
        """Let the prompt methods of `session` shorten the text these cells share, and cut every cell's tokens from what is left."""
        if session.recipe.of("prompt"):
            item = cells[0].pieces.item
            session.shorten(item.context, item.question if cells[0].aware else "")
            for cell in cells:
                cell.pieces = shortened(self.model, cell.pieces, session.shortened[-1])

    def _branches(self, cells: list[Cell], base: Session, peak: int | None) -> list[Branch]:
        """Fork the dense session for each (item, question mode), then for each variant, and let the methods act."""
        branches: list[Branch] = []
        charged = 0
        for pieces, aware, members in rows.grouped(cells):
            stem = base.fork()
            seconds = _read_seconds(base)
            if aware:
                stem.feed(pieces.question)
                seconds += stem.meter.seconds.get("prefill", 0.0)
            for variant, mine in rows.by_variant(members):
                session = stem.fork(variant.recipe)
                try:
                    session.finish_read()
                except BadInput as error:
                    self._failed(mine, str(error))
                    continue
                tokens = 0 if charged else base.meter.prefilled_tokens
                charged += 1
                branches.append(self._branch(mine, session, seconds, tokens, peak))
        return branches

    def _own_reads(self, cells: list[Cell]) -> Iterable[Branch]:
        """Recipes that change the reading itself: one read for each."""
        for pieces, aware, members in rows.grouped(cells):
            for variant, mine in rows.by_variant(members):
                try:
                    session = self.model.session(
                        variant.recipe, collect=self._course_needs(mine), **self._reading
                    )
                    self._peak.start()
                    self._shorten(session, mine)
                    session.feed(mine[0].pieces.read)
                    if aware:
                        session.feed(pieces.question)
                    session.finish_read()
                except BadInput as error:
                    self._failed(mine, str(error))
                    continue
                tokens = session.meter.prefilled_tokens
                yield self._branch(mine, session, _read_seconds(session), tokens, self._peak.bytes())

    def _branch(
        self, cells: list[Cell], session: Session, seconds: float, tokens: int, peak: int | None
    ) -> Branch:
        stats = session.stats
        branch = Branch(cells, session, seconds + stats.seconds.get("methods", 0.0), tokens)
        pieces = cells[0].pieces
        read = len(pieces.read)
        branch.facts = {
            "entries": stats.entries,
            "cache_bytes": stats.cache_bytes,
            "side_bytes": stats.side_bytes,
            "dense_bytes": self._dense_bytes(session.length + pieces.source_tokens - read),
            "peak_entries": stats.peak_entries,
            "context_tokens": pieces.source_tokens,
            "read_tokens": read,
            "prefill_density": stats.prefill_density,
            "dense_fallback": stats.dense_fallback,
            "peak_memory_bytes": peak,
            "method_s": stats.seconds.get("methods", 0.0),
        }
        evidence = pieces.evidence
        variant = cells[0].variant
        drops = variant.compresses or variant.recipe.prompt.methods
        if drops and (evidence or pieces.survival == 0.0 or self.plan.maps):
            share = kept_share(session, session.length)
            branch.facts["needle_retention"] = _survived(retention(share, evidence), pieces.survival)
            if self.plan.maps and self._first_of_task(cells[0]):
                branch.facts["kept"] = kept_map(share[:, :read], evidence)
        return branch

    def _dense_bytes(self, tokens: int) -> int:
        """Bytes of K and V that a cache of every one of `tokens` tokens would hold in this model."""
        return self.model.geometry.dense_elements(tokens) * self.model.dtype.itemsize

    def _first_of_task(self, cell: Cell) -> bool:
        return cell.pieces.item.metadata.get("index", 0) == 0

    # -- answering -------------------------------------------------------------------------------------------------
    def _answer(self, branches: list[Branch], progress: Progress | None) -> None:
        started = time.perf_counter()
        self._pose(branches)
        question_seconds = (time.perf_counter() - started) / len(branches)
        for branch in branches:
            branch.shared_seconds += question_seconds
        golds = self._gold(branches)
        ranks = self._rank([b for b in branches if any(c.mode == "rank" for c in b.cells)])
        latencies = {id(branch): self._latency_of(branch) for branch in branches}
        writers = [b for b in branches if any(c.mode == "generate" for c in b.cells)]
        replies: dict[int, Generation] = {}
        for cap in sorted({self._cap(b) for b in writers}):
            pack = [b for b in writers if self._cap(b) == cap]
            stop = pack[0].cells[0].pieces.item.stop
            forks = [b.session.fork() for b in pack]
            for branch, fork, reply in zip(
                pack, forks, generate(forks, max_new_tokens=cap, stop=stop), strict=True
            ):
                replies[id(branch)] = reply
                branch.facts |= rows.decoding(branch.session.stats, fork.stats)
        for branch in branches:
            for cell in branch.cells:
                gold, reply = golds[id(branch)], replies.get(id(branch))
                row = rows.measured(
                    branch,
                    cell,
                    self.plan.seed,
                    gold,
                    ranks.get(id(branch)),
                    reply,
                    latencies[id(branch)],
                    self._extends,
                )
                self.results.append(row)
                self.done += 1
                branch.own_tokens = 0
            if progress is not None:
                progress(self.done, self.total)

    def _cap(self, branch: Branch) -> int:
        cap = branch.cells[0].pieces.item.max_new_tokens
        return min(cap, self.plan.max_new_tokens) if self.plan.max_new_tokens else cap

    def _pose(self, branches: list[Branch]) -> None:
        """Append each branch's question (unless it was read) and the opening of its reply, packed."""
        works = []
        for branch in branches:
            cell = branch.cells[0]
            ids = cell.pieces.reply if cell.aware else torch.cat((cell.pieces.question, cell.pieces.reply))
            branch.own_tokens += len(ids)
            if len(ids):
                works.append(Work(branch.session, ids))
        if works:
            for work, logits in zip(works, forward(self.model, works), strict=True):
                work.session.logits = logits

    def _gold(self, branches: list[Branch]) -> dict[int, Tensor]:
        """Teacher-forced log-probabilities of the gold answer's tokens, packed."""
        requests = []
        for branch in branches:
            item = branch.cells[0].pieces.item
            requests.append((branch.session, self._ids(item, item.gold_text)))
        return {id(branch): found for branch, found in zip(branches, score_tokens(requests), strict=True)}

    def _ids(self, item: Item, answer: str) -> Tensor:
        return torch.tensor(self.model.encode(item.continuation(answer)))

    def _rank(self, branches: list[Branch]) -> dict[int, list[float]]:
        """Summed log-probability of every candidate, packed over branches and candidates."""
        requests, owners = [], []
        found: dict[int, list[float]] = {id(branch): [] for branch in branches}
        for branch in branches:
            item = branch.cells[0].pieces.item
            for candidate in item.candidates or ():
                requests.append((branch.session, self._ids(item, candidate)))
                owners.append(id(branch))
        for start in range(0, len(requests), 2 * PACK):
            part = slice(start, start + 2 * PACK)
            for owner, logprobs in zip(owners[part], score_tokens(requests[part]), strict=True):
                found[owner].append(float(logprobs.sum()))
        return found

    def _latency_of(self, branch: Branch) -> float | None:
        cell = branch.cells[0]
        item = cell.pieces.item
        return self._latency.measure(branch.session, cell.variant.spelled, item.task, cell.length, item.id)

    def _failed(self, cells: list[Cell], reason: str) -> None:
        """A recipe that cannot run on this item: listed with its reason, never counted as wrong."""
        for cell in cells:
            self.results.append(rows.failed(cell, self.plan.seed, reason))
            self.done += 1


def _read_seconds(session: Session) -> float:
    """Seconds until the text is read: shortening it, and the prefill."""
    return session.meter.seconds.get("shorten", 0.0) + session.meter.seconds.get("prefill", 0.0)


def _survived(kept: float | None, survival: float) -> float | None:
    """Share of the evidence that is still in the cache: of what a prompt method left, the share kept; None without evidence."""
    return 0.0 if survival == 0.0 else None if kept is None else survival * kept
