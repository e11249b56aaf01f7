"""compare's answering: a pack of branches is asked, scored and decoded together, sharing the cache of the context where they did not change it."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from longspan.bench import rows
from longspan.bench.costs import Latencies
from longspan.bench.item import Item
from longspan.bench.reading import PACK
from longspan.bench.rows import Answered, Branch
from longspan.engine.batch import Work, forward
from longspan.engine.generate import Generation, generate
from longspan.engine.generate import score as score_tokens
from longspan.engine.model import Model


class Answering:
    """most: the longest reply in tokens, where that is less than the item's own cap. latency_tokens: decoded to time a step; 0 times none."""

    def __init__(self, model: Model, most: int | None, latency_tokens: int):
        self.model, self.most = model, most
        self._latencies = Latencies(latency_tokens)

    def answer(self, branches: list[Branch]) -> list[Answered]:
        """Pose every branch its question, then score the gold reply, rank candidates and write, as its cells ask. One result a branch, in order."""
        started = time.perf_counter()
        self._pose(branches)
        question_seconds = (time.perf_counter() - started) / len(branches)
        for branch in branches:
            branch.shared_seconds += question_seconds
        golds = self._gold(branches)
        ranks = self._rank([b for b in branches if any(c.mode == "rank" for c in b.cells)])
        latencies = [self._latency_of(branch) for branch in branches]
        replies = self._write([b for b in branches if any(c.mode == "generate" for c in b.cells)])
        return [
            Answered(gold, ranks.get(id(branch)), replies.get(id(branch)), latency)
            for branch, gold, latency in zip(branches, golds, latencies, strict=True)
        ]

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

    def _gold(self, branches: list[Branch]) -> list[Tensor]:
        """Teacher-forced log-probabilities of the gold answer's tokens, packed."""
        items = [branch.cells[0].pieces.item for branch in branches]
        return score_tokens(
            [(b.session, self._ids(item, item.gold_text)) for b, item in zip(branches, items, strict=True)]
        )

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

    def _write(self, branches: list[Branch]) -> dict[int, Generation]:
        """Greedy replies, packed where the cap is the same."""
        replies: dict[int, Generation] = {}
        for cap in sorted({self._cap(b) for b in branches}):
            pack = [b for b in branches if self._cap(b) == cap]
            stop = pack[0].cells[0].pieces.item.stop
            forks = [b.session.fork() for b in pack]
            written = generate(forks, max_new_tokens=cap, stop=stop)
            for branch, fork, reply in zip(pack, forks, written, strict=True):
                replies[id(branch)] = reply
                branch.facts |= rows.decoding(branch.session.stats, fork.stats)
        return replies

    def _cap(self, branch: Branch) -> int:
        cap = branch.cells[0].pieces.item.max_new_tokens
        return min(cap, self.most) if self.most else cap

    def _latency_of(self, branch: Branch) -> float | None:
        cell = branch.cells[0]
        item = cell.pieces.item
        return self._latencies.measure(branch.session, cell.variant.spelled, item.task, cell.length, item.id)
