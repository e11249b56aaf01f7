"""Shared by the checks of benchmarks, with a model: how a real model answers items, by likelihood and without generation.

`readings` reads each context once, forks it for every recipe, and scores the gold reply and, where there are candidates, all of them. Free
generation of a small model is at the floor on most tasks, while the likelihood of the right reply still tells how much of the text is used.
`shows_help` compares the gold reply under its context with no context and with another item's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from longspan.bench.checks._items import mean
from longspan.bench.contexts import Pieces, by_context, cut
from longspan.bench.item import Item
from longspan.bench.kept import kept_share, retention
from longspan.bench.scorers import rank_score
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome
from longspan.engine.batch import Work, forward
from longspan.engine.generate import score as score_tokens
from longspan.engine.needs import Needs
from longspan.engine.recipe import parse
from longspan.engine.session import Session

PACK = 32  # replies scored together


@dataclass(frozen=True)
class Reading:
    """gold: log-probability of the gold reply (nats) over `tokens` tokens. right, margin, best: of ranking the candidates, where there are
    any. kept: share of the evidence's entries that the recipe kept."""

    gold: float
    tokens: int
    right: float | None = None
    margin: float | None = None
    best: str | None = None
    kept: float | None = None


def readings(
    bench: Bench,
    items: Sequence[Item],
    recipes: Sequence[str] = ("full",),
    *,
    aware: bool = False,
    rank: bool = True,
) -> dict[str, list[Reading]]:
    """How the model answers `items` under every recipe, in their order. aware: the question is read before a method compresses."""
    model = bench.model()
    parsed = {recipe: parse(recipe) for recipe in recipes}
    needs = Needs()
    for recipe in parsed.values():
        needs = needs | recipe.needs
    found: dict[str, dict[int, Reading]] = {recipe: {} for recipe in recipes}
    place = {id(item): number for number, item in enumerate(items)}
    for group in by_context(model, list(items)):
        pieces = [cut(model, item) for item in group]
        base = model.session(None, collect=needs).feed(pieces[0].read)
        for name, recipe in parsed.items():
            held = model.session(recipe).feed(pieces[0].read) if recipe.changes_prefill else base
            if not aware:
                held = held.fork(recipe)
                held.finish_read()
            for piece in pieces:
                branch = held.fork()
                if aware:
                    branch = branch.feed(piece.question).fork(recipe)
                    branch.finish_read()
                found[name][place[id(piece.item)]] = _answer(branch, piece, aware, rank)
    return {name: [rows[i] for i in range(len(items))] for name, rows in found.items()}


def _answer(branch: Session, piece: Pieces, aware: bool, rank: bool) -> Reading:
    item, model = piece.item, branch.model
    compressed = branch.recipe.methods if branch.recipe else ()
    kept = (
        retention(kept_share(branch, branch.length), piece.evidence)
        if compressed and piece.evidence
        else None
    )
    tail = piece.reply if aware else torch.cat((piece.question, piece.reply))
    if len(tail):
        (branch.logits,) = forward(model, [Work(branch, tail)])
    replies = [item.gold_text, *(item.candidates or () if rank else ())]
    ids = [torch.tensor(model.encode(item.continuation(reply))) for reply in replies]
    sums: list[float] = []
    for start in range(0, len(ids), PACK):
        sums += [float(p.sum()) for p in score_tokens([(branch, one) for one in ids[start : start + PACK]])]
    if len(sums) == 1:
        return Reading(sums[0], len(ids[0]), kept=kept)
    right, margin = rank_score(item, sums[1:])
    best = max(zip(sums[1:], item.candidates or (), strict=True))[1]
    return Reading(sums[0], len(ids[0]), right, margin, best, kept)


def nats(rows: Sequence[Reading]) -> float:
    """Mean negative log-likelihood of the gold replies, nats a token."""
    return -sum(row.gold for row in rows) / sum(row.tokens for row in rows)


def accuracy(rows: Sequence[Reading]) -> float:
    return mean([row.right or 0.0 for row in rows])


def margin(rows: Sequence[Reading]) -> float:
    """Mean of best right minus best wrong candidate, nats."""
    return mean([row.margin or 0.0 for row in rows])


def kept(rows: Sequence[Reading]) -> float:
    """Mean share of the evidence that was kept."""
    return mean([row.kept or 0.0 for row in rows])


def blank(item: Item) -> Item:
    """The item without its context: what a model knows or guesses."""
    return replace(item, context="", evidence=(), depth=None)


def swapped(items: Sequence[Item]) -> list[Item]:
    """Each item with the context of the one before it."""
    return [
        replace(item, context=other.context, evidence=(), depth=None)
        for item, other in zip(items, [items[-1], *items[:-1]], strict=True)
    ]


def shows_help(
    outcome: Outcome, bench: Bench, items: Sequence[Item], what: str = "gold reply"
) -> list[Reading]:
    """State that the gold reply is likelier under its context than under none and than under another item's; the first is returned."""
    own, none, other = (
        readings(bench, part, rank=False)["full"]
        for part in (items, [blank(i) for i in items], swapped(items))
    )
    outcome.figures |= {
        f"{what}, nats a token: with its context": round(nats(own), 3),
        f"{what}, nats a token: without": round(nats(none), 3),
        f"{what}, nats a token: with another item's": round(nats(other), 3),
    }
    outcome.shows(
        f"{what}: its context makes it likelier than no context ({nats(own):.2f} against {nats(none):.2f})",
        nats(own) < nats(none),
    )
    outcome.shows(
        f"{what}: its context makes it likelier than another item's ({nats(own):.2f} against {nats(other):.2f})",
        nats(own) < nats(other),
    )
    return own


def ranked(outcome: Outcome, what: str, rows: Sequence[Reading], items: Sequence[Item]) -> float:
    """Put accuracy, chance and margin of a ranking into the figures; returns the accuracy."""
    chance = mean([item.chance or 0.0 for item in items])
    outcome.figures[f"{what}: ranking accuracy (chance), margin in nats"] = (
        f"{accuracy(rows):.2f} ({chance:.2f}), {margin(rows):+.2f}"
    )
    return accuracy(rows)
