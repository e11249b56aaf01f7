"""What checks measure on: real models loaded once, needle prompts on both haystacks read once, every recipe forked from them.

The needle protocol: a plain prompt of about `tokens` tokens (no chat template) with "The special magic number is NNNNN. Remember it. NNNNN is
the special magic number." at depths from 10% to 80%, question "What is the special magic number? The special magic number is". Measured:
teacher-forced negative log-likelihood of the number, per prompt, and exact match (every token of it the most likely). "inside" means the
question was read with the context before compression, "after" that it came later; the two never share a column.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longspan.bench.haystacks import open_haystack
from longspan.engine.batch import Work, forward
from longspan.engine.model import Model, load
from longspan.engine.needs import Needs
from longspan.engine.recipe import parse
from longspan.engine.session import Session
from longspan.engine.stats import Stats

QUESTION = "\n\nWhat is the special magic number?"
LEAD = " The special magic number is"
COLLECT = Needs(window_queries=64, column_mass=True, decode_mass=True, query_moments=True)


@dataclass(frozen=True)
class Prompt:
    """One needle prompt: what is read, the question, the opening of the answer, the number, and its token span."""

    read: Tensor
    question: Tensor
    lead: Tensor
    gold: Tensor
    needle: tuple[int, int]


class Continued(NamedTuple):
    """A recipe on real prose: nll (nats a token of what follows) and divergence of its predictions from the full cache's (KL, nats a token)."""

    nll: float
    divergence: float


@dataclass(frozen=True)
class Measured:
    """One recipe over all prompts of a cell: nll (nats of the whole number, per prompt), em (share), means of entries and bytes."""

    recipe: str
    nll: tuple[float, ...]
    em: float
    entries: float
    cache_bytes: float
    side_bytes: float

    @property
    def mean_nll(self) -> float:
        return sum(self.nll) / len(self.nll)


class Bench:
    """Shared by all checks of a run. `model(name)` loads once; `needle(...)` reads each prompt once for every recipe."""

    def __init__(self, samples: int = 6, tokens: int = 1000, **models: Model):
        self.samples, self.tokens = samples, tokens
        self._models: dict[str, Model] = dict(models)
        self._reads: dict[tuple[Any, ...], Session] = {}
        self._prose: dict[tuple[Any, ...], Continued] = {}
        self._cells: dict[
            tuple[Any, ...], Measured
        ] = {}  # measured in this run; checks share their baselines

    def model(self, name: str = "smollm2-135m") -> Model:
        if name not in self._models:
            self._models[name] = load(name)
            self._models[
                name
            ].crossovers = None  # a check measures the method, not what this machine is fast at
        return self._models[name]

    @cached_property
    def _haystacks(self) -> dict[str, Any]:
        return {kind: open_haystack(kind) for kind in ("filler", "prose")}

    def prompt(
        self, haystack: str, index: int, model: str = "smollm2-135m", tokens: int | None = None
    ) -> Prompt:
        """Needle prompt number `index` on "filler" or "prose"; the same in every process."""
        lm, tokens = self.model(model), tokens or self.tokens
        rng = random.Random(f"{haystack}-{index}")
        units = self._haystacks[haystack].units
        number = "".join(rng.choice("123456789") for _ in range(5))
        start = rng.randrange(len(units))
        text, ids = "", []
        i = 0
        while len(ids) < tokens:
            text += "".join(units[(start + i + j) % len(units)] for j in range(8))
            i += 8
            ids = lm.encode(text)
        cut = int((0.1 + 0.7 * index / max(1, self.samples - 1)) * tokens)
        sentence = (
            f" The special magic number is {number}. Remember it. {number} is the special magic number. "
        )
        before, needle, after = (
            lm.encode(lm.decode(ids[:cut]), special=True),
            lm.encode(sentence),
            ids[cut:tokens],
        )
        return Prompt(
            torch.tensor(before + needle + after),
            torch.tensor(lm.encode(QUESTION)),
            torch.tensor(lm.encode(LEAD)),
            torch.tensor(lm.encode(f" {number}")),
            (len(before), len(before) + len(needle)),
        )

    def dense(
        self, haystack: str, index: int, inside: bool, model: str = "smollm2-135m", tokens: int | None = None
    ) -> Session:
        """The densely read session of a prompt, with common statistics collected; with the question read when `inside`."""
        key = (haystack, index, inside, model, tokens)
        if key not in self._reads:
            prompt = self.prompt(haystack, index, model, tokens)
            if inside:
                session = self.dense(haystack, index, False, model, tokens).fork()
                session.feed(prompt.question)
            else:
                session = self.model(model).session(None, collect=COLLECT)
                session.feed(prompt.read)
            self._reads[key] = session
        return self._reads[key]

    def needle(
        self,
        recipes: Sequence[str],
        haystack: str,
        *,
        inside: bool,
        model: str = "smollm2-135m",
        samples: int | None = None,
        tokens: int | None = None,
        reread: bool = False,
    ) -> dict[str, Measured]:
        """Measure every recipe on the needle prompts of a haystack; results by the recipe as given.

        reread: read each prompt under each recipe (for recipes that change the reading or need other statistics).
        """
        place = (haystack, inside, model, samples or self.samples, tokens or self.tokens, reread)
        missing = [recipe for recipe in dict.fromkeys(recipes) if (recipe, *place) not in self._cells]
        rows: dict[str, list[tuple[float, bool, Stats]]] = {recipe: [] for recipe in missing}
        for index in range(samples or self.samples) if missing else ():
            prompt = self.prompt(haystack, index, model, tokens)
            branches = [
                self._branch(recipe, prompt, haystack, index, inside, model, tokens, reread)
                for recipe in missing
            ]
            stats = [branch.stats for branch in branches]
            tail = prompt.lead if inside else torch.cat((prompt.question, prompt.lead))
            for recipe, held, (nats, exact) in zip(
                missing, stats, _answers(branches, tail, prompt.gold), strict=True
            ):
                rows[recipe].append((nats, exact, held))
        self._cells.update({(recipe, *place): _measured(recipe, found) for recipe, found in rows.items()})
        return {recipe: self._cells[recipe, *place] for recipe in recipes}

    def _branch(
        self,
        recipe: str,
        prompt: Prompt,
        haystack: str,
        index: int,
        inside: bool,
        model: str,
        tokens: int | None,
        reread: bool,
    ) -> Session:
        parsed = parse(recipe)
        if not reread and not parsed.changes_prefill and COLLECT.covers(parsed.needs):
            branch = self.dense(haystack, index, inside, model, tokens).fork(parsed)
        else:
            branch = self.model(model).session(parsed)
            branch.feed(prompt.read)
            if inside:
                branch.feed(prompt.question)
        branch.finish_read()
        return branch

    def passage(self, tokens: int, window: int = 0, model: str = "smollm2-135m") -> Tensor:
        """Token ids of real prose, `tokens` of them, from place number `window` of the text."""
        lm, units = self.model(model), self._haystacks["prose"].units
        start = (window * 997) % max(1, len(units) - 1)
        ids: list[int] = []
        count = 0
        while len(ids) < tokens:
            count += 1 + tokens // 32
            ids = lm.encode("".join(units[(start + j) % len(units)] for j in range(count)), special=True)
        return torch.tensor(ids[:tokens])

    def prose(
        self,
        recipes: Sequence[str],
        *,
        read: int = 900,
        score_tokens: int = 64,
        windows: int = 3,
        model: str = "smollm2-135m",
    ) -> dict[str, Continued]:
        """What each recipe costs on the `score_tokens` tokens that really follow `read` tokens of prose, over `windows` places."""
        lm, place = self.model(model), (read, score_tokens, windows, model)
        missing = [
            "full",
            *(r for r in dict.fromkeys(recipes) if r != "full" and (r, *place) not in self._prose),
        ]
        found: dict[str, list[Continued]] = {recipe: [] for recipe in missing}
        for window in range(windows) if len(missing) > 1 or ("full", *place) not in self._prose else ():
            ids = self.passage(read + score_tokens, window, model)
            key = ("prose", window, model, read)
            if key not in self._reads:
                self._reads[key] = lm.session(None, collect=COLLECT).feed(ids[:read])
            branches = []
            for recipe in missing:
                parsed = parse(recipe)
                if parsed.changes_prefill or not COLLECT.covers(parsed.needs):
                    branch = lm.session(parsed).feed(ids[:read])
                else:
                    branch = self._reads[key].fork(parsed)
                branch.finish_read()
                branches.append(branch)
            for recipe, one in zip(missing, _continued(branches, ids[read:]), strict=True):
                found[recipe].append(one)
        for recipe, rows in found.items():
            if rows:
                self._prose[recipe, *place] = Continued(
                    *(sum(column) / len(rows) for column in zip(*rows, strict=True))
                )
        return {recipe: self._prose[recipe, *place] for recipe in recipes}

    def prose_nll(self, recipes: Sequence[str], **options: Any) -> dict[str, float]:
        """Mean negative log-likelihood (nats a token) of what really follows a piece of prose, per recipe; options as for `prose`."""
        return {recipe: one.nll for recipe, one in self.prose(recipes, **options).items()}


def _measured(recipe: str, found: list[tuple[float, bool, Stats]]) -> Measured:
    stats = [held for _, _, held in found]
    count = len(found)
    return Measured(
        recipe,
        tuple(nll for nll, _, _ in found),
        sum(hit for _, hit, _ in found) / count,
        sum(s.entries for s in stats) / count,
        sum(s.cache_bytes for s in stats) / count,
        sum(s.side_bytes for s in stats) / count,
    )


def _answers(branches: list[Session], tail: Tensor, gold: Tensor) -> list[tuple[float, bool]]:
    """After `tail`: (negative log-likelihood of `gold`, whether greedy decoding would write it) for every session, one packed step a token."""
    forks = [branch.fork() for branch in branches]
    nats, exact = [0.0] * len(forks), [True] * len(forks)
    step = tail
    for token in gold:
        for number, logits in enumerate(forward(forks[0].model, [Work(fork, step) for fork in forks])):
            assert logits is not None
            nats[number] -= float(logits.log_softmax(-1)[token])
            exact[number] &= int(logits.argmax()) == int(token)
        step = token.view(1)
    return list(zip(nats, exact, strict=True))


def _continued(branches: list[Session], ids: Tensor) -> list[Continued]:
    """NLL of `ids` and divergence from the first session, whose recipe is `full`; packed, in the largest blocks that change nothing."""
    forks = [branch.fork() for branch in branches]
    logits = torch.stack([fork.next_logits() for fork in forks]).unsqueeze(1)
    nll, divergence, done = torch.zeros(len(forks)), torch.zeros(len(forks)), 0
    while True:
        logprobs = logits.log_softmax(-1)
        gold = ids[done : done + logprobs.shape[1]]
        nll -= logprobs.gather(2, gold.view(1, -1, 1).expand(len(forks), -1, -1)).sum((1, 2)).cpu()
        divergence += (logprobs[:1].exp() * (logprobs[:1] - logprobs)).sum((1, 2)).cpu()
        done += len(gold)
        if done >= len(ids):
            return [Continued(float(a) / done, float(b) / done) for a, b in zip(nll, divergence, strict=True)]
        free = min([32, *(max(1, limit) for fork in forks if (limit := fork.free_tokens()) is not None)])
        block = ids[done - 1 : min(len(ids) - 1, done - 1 + free)]
        logits = torch.stack(forward(forks[0].model, [Work(fork, block, "all") for fork in forks]))  # type: ignore[arg-type]
