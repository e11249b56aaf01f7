"""compare: every recipe on every item, each context read once.

A policy that acts after the text has been read needs only the dense cache and a few statistics. So each context is read once, with the
union of the statistics the recipes need; the session is forked for every recipe, budget and question mode; and the forks are asked,
scored and decoded packed in one batch, sharing the context's cache where they did not change it. Only recipes that change the reading
itself read again. `prefilled_tokens` in the rows is what each row's own reading cost: a shared read is charged to the first row it served.

A recipe's prompt methods shorten the context first; recipes that share them share the short text's read. context_tokens counts the text
that was given, read_tokens what was read of it.

Times. ttft_s: shortening and reading the context, the method's work, and this row's share of the packed question. time_per_token_s: decoding alone, one
session at a time, on the first context of each length (`latency_tokens` tokens; rows of the packed batch share their steps, so a packed
time would say nothing about a method).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longspan.bench.contexts import Pieces, by_context, cut, shortened
from longspan.bench.item import Item
from longspan.bench.kept import kept_map, kept_share, retention
from longspan.bench.results import Results, cell_id
from longspan.bench.scorers import score as score_reply
from longspan.bench.variants import Variant
from longspan.engine.batch import Work, forward
from longspan.engine.generate import Generation, generate
from longspan.engine.generate import score as score_tokens
from longspan.engine.model import Model
from longspan.engine.needs import Needs
from longspan.engine.session import Session
from longspan.engine.state import CHUNK
from longspan.engine.stats import Stats
from longspan.errors import BadInput

PACK = 32  # forks decoded together: bounds the memory of a batch
Progress = Callable[[int, int], None]
RECORDED = ("benchmark", "prompt", "prompt_hash", "truncation", "truncation_hash", "truncated")


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


@dataclass
class _Cell:
    """One row to be: an item under a variant in one question mode and answer mode."""

    pieces: Pieces
    variant: Variant
    aware: bool | None
    mode: str
    length: int
    id: str


@dataclass
class _Branch:
    """A forked session that answers one or more cells: same item, variant and question mode."""

    cells: list[_Cell]
    session: Session
    shared_seconds: float
    own_tokens: int
    map: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Comparison:
    """Runs a plan over items and appends rows. `total` and `done` count cells."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        results: Results,
        items: Iterable[tuple[Item, int]],
        modes: Callable[[Item], Sequence[str]],
        latency: dict[tuple[str, int], float] | None = None,
    ):
        """items: (item, target length) pairs; modes(item): the answer modes its task offers; latency: decoding times that an
        earlier comparison of the same run measured, extended here."""
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
        self._latency = {} if latency is None else latency
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

    def _cells(self, item: Item) -> list[_Cell]:
        pieces = cut(self.model, item)
        return [
            _Cell(
                pieces,
                variant,
                aware,
                mode,
                self.lengths[item.id],
                cell_id(
                    recipe=variant.spelled,
                    item=item.id,
                    text=_digest(item),
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

    def _context(self, cells: list[_Cell], progress: Progress | None) -> None:
        for shared in _by_prompt([cell for cell in cells if not cell.variant.rereads]):
            base = None
            try:
                base = self._read_shared(shared)
            except BadInput as error:
                self._failed(shared, str(error))
            branches = self._branches(shared, base) if base is not None else []
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

    def _read_shared(self, cells: list[_Cell]) -> Session:
        needs = self._course_needs(cells)
        for cell in cells:
            needs = needs | cell.variant.recipe.needs
        session = self.model.session(cells[0].variant.recipe.prompt, collect=needs, **self._reading)
        self._shorten(session, cells)
        session.feed(cells[0].pieces.read)
        return session

    def _course_needs(self, cells: list[_Cell]) -> Needs:
        """Where position methods are compared on running text, the loss of every token read is their result: it shows where each stops following."""
        wanted = self._extends and any(cell.mode == "perplexity" for cell in cells)
        return Needs(token_logprobs=wanted)

    def _shorten(self, session: Session, cells: list[_Cell]) -> None:
        """Let the prompt methods of `session` shorten the text these cells share, and cut every cell's tokens from what is left."""
        if session.recipe.of("prompt"):
            item = cells[0].pieces.item
            session.shorten(item.context, item.question if cells[0].aware else "")
            for cell in cells:
                cell.pieces = shortened(self.model, cell.pieces, session.shortened[-1])

    def _branches(self, cells: list[_Cell], base: Session) -> list[_Branch]:
        """Fork the dense session for each (item, question mode), then for each variant, and let the methods act."""
        branches: list[_Branch] = []
        charged = 0
        for pieces, aware, members in _grouped(cells):
            stem = base.fork()
            seconds = _read_seconds(base)
            if aware:
                stem.feed(pieces.question)
                seconds += stem.meter.seconds.get("prefill", 0.0)
            for variant, mine in _by_variant(members):
                session = stem.fork(variant.recipe)
                try:
                    session.finish_read()
                except BadInput as error:
                    self._failed(mine, str(error))
                    continue
                tokens = 0 if charged else base.meter.prefilled_tokens
                charged += 1
                branches.append(self._branch(mine, session, seconds, tokens))
        return branches

    def _own_reads(self, cells: list[_Cell]) -> Iterable[_Branch]:
        """Recipes that change the reading itself: one read for each."""
        for pieces, aware, members in _grouped(cells):
            for variant, mine in _by_variant(members):
                try:
                    session = self.model.session(
                        variant.recipe, collect=self._course_needs(mine), **self._reading
                    )
                    self._shorten(session, mine)
                    session.feed(mine[0].pieces.read)
                    if aware:
                        session.feed(pieces.question)
                    session.finish_read()
                except BadInput as error:
                    self._failed(mine, str(error))
                    continue
                yield self._branch(mine, session, _read_seconds(session), session.meter.prefilled_tokens)

    def _branch(self, cells: list[_Cell], session: Session, seconds: float, tokens: int) -> _Branch:
        stats = session.stats
        branch = _Branch(cells, session, seconds + stats.seconds.get("methods", 0.0), tokens)
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

    def _first_of_task(self, cell: _Cell) -> bool:
        return cell.pieces.item.metadata.get("index", 0) == 0

    # -- answering -------------------------------------------------------------------------------------------------
    def _answer(self, branches: list[_Branch], progress: Progress | None) -> None:
        started = time.perf_counter()
        self._pose(branches)
        question_seconds = (time.perf_counter() - started) / len(branches)
        for branch in branches:
            branch.shared_seconds += question_seconds
        golds = self._gold(branches)
        ranks = self._rank([b for b in branches if any(c.mode == "rank" for c in b.cells)])
        for branch in branches:
            self._measure_latency(branch)
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
                branch.facts |= _decoding(branch.session.stats, fork.stats)
        for branch in branches:
            for cell in branch.cells:
                row = self._row(
                    branch, cell, golds[id(branch)], ranks.get(id(branch)), replies.get(id(branch))
                )
                self.results.append(row)
                self.done += 1
                branch.own_tokens = 0
            if progress is not None:
                progress(self.done, self.total)

    def _cap(self, branch: _Branch) -> int:
        cap = branch.cells[0].pieces.item.max_new_tokens
        return min(cap, self.plan.max_new_tokens) if self.plan.max_new_tokens else cap

    def _pose(self, branches: list[_Branch]) -> None:
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

    def _gold(self, branches: list[_Branch]) -> dict[int, Tensor]:
        """Teacher-forced log-probabilities of the gold answer's tokens, packed."""
        requests = []
        for branch in branches:
            item = branch.cells[0].pieces.item
            requests.append((branch.session, self._ids(item, item.gold_text)))
        return {id(branch): found for branch, found in zip(branches, score_tokens(requests), strict=True)}

    def _ids(self, item: Item, answer: str) -> Tensor:
        return torch.tensor(self.model.encode(item.continuation(answer)))

    def _rank(self, branches: list[_Branch]) -> dict[int, list[float]]:
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

    def _measure_latency(self, branch: _Branch) -> None:
        cell = branch.cells[0]
        key = (cell.variant.spelled, cell.length)
        if self.plan.latency_tokens and key not in self._latency:
            session = branch.session.fork()
            reply = generate([session], max_new_tokens=self.plan.latency_tokens + 1, ignore_eos=True)[0]
            self._latency[key] = (reply.seconds - reply.first_token_seconds) / self.plan.latency_tokens

    # -- rows ------------------------------------------------------------------------------------------------------
    def _row(
        self, branch: _Branch, cell: _Cell, gold: Tensor, ranks: list[float] | None, reply: Generation | None
    ) -> dict[str, Any]:
        from longspan.bench.scorers import rank_score

        item, variant = cell.pieces.item, cell.variant
        row: dict[str, Any] = {
            **self._identity(cell),
            **branch.facts,
            "gold_logprob": float(gold.sum()),
            "gold_tokens": len(gold),
            "prefilled_tokens": branch.own_tokens,
            "ttft_s": branch.shared_seconds,
            "time_per_token_s": self._latency.get((variant.spelled, cell.length)),
            "error": None,
        }
        if cell.mode == "rank" and ranks is not None:
            row["score"], row["margin"] = rank_score(item, ranks)
        elif cell.mode == "generate" and reply is not None:
            row |= {
                "answer": reply.text,
                "new_tokens": len(reply.ids),
                "finish_reason": reply.finish_reason,
            }
            try:
                row["score"] = score_reply(item, reply.text)
            except (
                BadInput
            ) as error:  # the scorer needs a package that is not there: listed, never counted as wrong
                row |= {"score": None, "error": str(error)}
        elif cell.mode == "perplexity":
            row["nll_by_position"] = self._whole_course(branch.session, gold, len(cell.pieces.read))
        return row

    def _whole_course(self, session: Session, gold: Tensor, read: int) -> list[list[float]]:
        """The loss by position of the continuation, and of the text before it where that was collected."""
        if not self._extends:
            return _course(gold, read)
        return _course(torch.cat((session.token_logprobs()[1:read].cpu(), gold.cpu())), 1)

    def _identity(self, cell: _Cell) -> dict[str, Any]:
        item, variant = cell.pieces.item, cell.variant
        return {
            "cell": cell.id,
            "recipe": variant.spelled,
            "method": variant.method,
            "role": variant.role,
            "budget": variant.share,
            "task": item.task,
            "haystack": item.haystack,
            "length": cell.length,
            "depth": item.depth,
            "sample": item.metadata.get("index", 0),
            "seed": self.plan.seed,
            "aware": cell.aware,
            "answer_mode": cell.mode,
            "gold": list(item.answers),
            "tags": dict(item.tags),
            "template": cell.pieces.template,
            **_published(item),
        }

    def _failed(self, cells: list[_Cell], reason: str) -> None:
        """A recipe that cannot run on this item: listed with its reason, never counted as wrong."""
        for cell in cells:
            self.results.append({**self._identity(cell), "score": None, "error": reason})
            self.done += 1


def _published(item: Item) -> dict[str, Any]:
    """What a data set's item records about its prompt, its cut and the document it shares with others."""
    facts = {key: item.metadata[key] for key in RECORDED if key in item.metadata}
    if "cluster" in item.metadata:
        facts["cluster"] = f"{item.task}-{item.metadata['cluster']}"
    return facts


def _decoding(reading: Stats, decoding: Stats) -> dict[str, float]:
    """What the answer's attention read of the entries held, and the larger share of dense calls, of reading or decoding, in a sparse method's place."""
    fallback = max(reading.dense_fallback, decoding.dense_fallback)
    return {"decode_density": decoding.decode_density, "dense_fallback": fallback}


def _digest(item: Item) -> str:
    """Names the item's words: a resumed run must not take another text's results for its own."""
    words = "\x1f".join((item.context, item.question, item.gold_text))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _course(logprobs: Tensor, start: int, width: int = 16) -> list[list[float]]:
    """Mean negative log-likelihood in runs of `width` tokens: [[position of the run's first token, nats], ...]."""
    return [[start + i, -float(logprobs[i : i + width].mean())] for i in range(0, len(logprobs), width)]


def _read_seconds(session: Session) -> float:
    """Seconds until the text is read: shortening it, and the prefill."""
    return session.meter.seconds.get("shorten", 0.0) + session.meter.seconds.get("prefill", 0.0)


def _survived(kept: float | None, survival: float) -> float | None:
    """Share of the evidence that is still in the cache: of what a prompt method left, the share kept; None without evidence."""
    return 0.0 if survival == 0.0 else None if kept is None else survival * kept


def _by_prompt(cells: list[_Cell]) -> list[list[_Cell]]:
    """Cells that read the same text: the same prompt methods, and the same question where those look at it."""
    groups: dict[tuple[str, str | None], list[_Cell]] = {}
    for cell in cells:
        lead = cell.variant.recipe.prompt
        groups.setdefault((str(lead), cell.pieces.item.id if lead.aware else None), []).append(cell)
    return list(groups.values())


def _grouped(cells: list[_Cell]) -> list[tuple[Pieces, bool, list[_Cell]]]:
    """Cells by item and question mode."""
    groups: dict[tuple[str, bool], list[_Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.pieces.item.id, bool(cell.aware)), []).append(cell)
    return [(members[0].pieces, aware, members) for (_, aware), members in groups.items()]


def _by_variant(cells: list[_Cell]) -> list[tuple[Variant, list[_Cell]]]:
    groups: dict[str, list[_Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.variant.spelled, []).append(cell)
    return [(members[0].variant, members) for members in groups.values()]
