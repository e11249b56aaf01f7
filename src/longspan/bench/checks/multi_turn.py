"""Five questions to one compressed session: policies that chose by the first question should fall from the second, others should hold.

A text holds five needles, each the magic number of another place. One needle's question is read with the text, the policy compresses, and the
conversation goes on: its answer, then the other four questions with their (true) answers. Measured at every turn: negative log-likelihood of
the number, and whether its first digit is likelier than those of the other four (all five differ). A needle's loss is its negative
log-likelihood less the full cache's in the same conversation; the fall of a policy compares the same needle of the same text asked later and
asked first, so that needles that are hard for all do not count. All policies hold the same entries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.bench.haystacks import open_haystack
from longspan.bench.testbed import COLLECT, Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.batch import Work, forward
from longspan.engine.model import Model
from longspan.engine.session import Session

PLACES = {"Lisbon": "48213", "Oslo": "91567", "Cairo": "27384", "Lima": "63951", "Kyoto": "15742"}
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
KEEP = "budget=0.25"
AWARE = {
    "snapkv": f"snapkv({KEEP}, window=8, pool=7, pooling=max)",
    "tova": f"tova({KEEP})",
    "adakv": f"adakv({KEEP}, base=snapkv(window=8, pool=7, pooling=max))",
}
AGNOSTIC = {name: f"{name}({KEEP})" for name in ("kvzip", "keydiff", "expected_attention", "knorm")}
OTHERS = {
    "h2o": f"h2o({KEEP})",
    "random": f"random({KEEP})",
    "window": f"window({KEEP})",
}  # h2o sums over all queries: the first question is a small part of what it sees
RECIPES = {"full": "full", **AWARE, **AGNOSTIC, **OTHERS}
NOISE = 0.3  # nats: smaller differences say nothing with so few texts


@dataclass(frozen=True)
class Turn:
    """One question of one conversation: which needle, at which turn (from 1), nats of its number, whether it beat the other four."""

    needle: int
    turn: int
    nll: float
    first: bool


def question(place: str) -> str:
    return f"\n\nWhat is the magic number of {place}?"


def haystack_with_needles(lm: Model, haystack: str, tokens: int) -> Tensor:
    """Token ids of about `tokens` tokens of a haystack with the five needles at `DEPTHS`."""
    units = open_haystack(haystack).units
    ids = lm.encode("".join(units[(700 + i) % len(units)] for i in range(tokens // 4)), special=True)[:tokens]
    parts, at = [], 0
    for depth, (place, number) in zip(DEPTHS, PLACES.items(), strict=True):
        cut = int(depth * tokens)
        parts += ids[at:cut] + lm.encode(f" The magic number of {place} is {number}. ")
        at = cut
    return torch.tensor(parts + ids[at:])


def compressed(dense: Session, asked: Tensor) -> dict[str, Session]:
    """Every recipe after the text and the first question."""
    stem = dense.fork().feed(asked)
    found = {name: stem.fork(recipe) for name, recipe in RECIPES.items()}
    for session in found.values():
        session.finish_read()
    return found


def converse(sessions: dict[str, Session], order: list[int]) -> dict[str, list[Turn]]:
    """Five turns, packed over all sessions, which have read the first question of `order` and grow with the conversation."""
    lm = next(iter(sessions.values())).model
    places = list(PLACES)
    answers = torch.tensor([lm.encode(f" {number}") for number in PLACES.values()])
    at = int((answers != answers[0]).any(0).nonzero()[0])  # the first token in which the numbers differ
    turns: dict[str, list[Turn]] = {name: [] for name in sessions}
    for turn, needle in enumerate(order, 1):
        text = f" The magic number of {places[needle]} is"
        posed = torch.tensor(lm.encode(text if turn == 1 else "." + question(places[needle]) + text))
        gold = answers[needle]
        before = forward(lm, [Work(session, posed) for session in sessions.values()])
        after = forward(lm, [Work(session, gold, "all") for session in sessions.values()])
        for name, last, rows in zip(sessions, before, after, strict=True):
            assert last is not None and rows is not None
            logprobs = torch.cat((last.view(1, -1), rows[:-1])).log_softmax(-1)
            likely = logprobs[at, answers[:, at]]
            nll = -float(logprobs.gather(1, gold.unsqueeze(1)).sum())
            turns[name].append(Turn(needle, turn, nll, bool(likely.argmax() == needle)))
    return turns


def losses(found: list[dict[str, list[Turn]]], name: str) -> tuple[float, float]:
    """Mean loss over the full cache (nats a number): of needles asked first, and of the same needles asked later."""
    firsts = {talk[name][0].needle for talk in found}
    early: list[float] = []
    late: list[float] = []
    for talk in found:
        for one, full in zip(talk[name], talk["full"], strict=True):
            if one.needle in firsts:
                (early if one.turn == 1 else late).append(one.nll - full.nll)
    return sum(early) / len(early), sum(late) / len(late)


def ranked(found: list[dict[str, list[Turn]]], name: str, later: bool) -> float:
    """Share of turns (first or later) whose number ranked first of the five."""
    hits = [one.first for talk in found for one in talk[name] if (one.turn > 1) == later]
    return sum(hits) / len(hits)


@check(
    "multi_turn",
    claim="a cache chosen by the first question serves the next ones worse; one chosen without a question serves all alike",
    file="src/longspan/bench/checks/multi_turn.py",
)
def multi_turn(bench: Bench) -> Outcome:
    outcome = Outcome()
    lm, rotations = bench.model(), (0, 2, 4)[: max(2, min(3, bench.samples))]
    exact = True
    for haystack in ("filler", "prose"):
        dense = lm.session(collect=COLLECT).feed(haystack_with_needles(lm, haystack, bench.tokens))
        found = []
        for start in rotations:
            order = [(start + step) % len(PLACES) for step in range(len(PLACES))]
            sessions = compressed(dense, torch.tensor(lm.encode(question(list(PLACES)[order[0]]))))
            held = {name: (session.length, session.growing_entries()) for name, session in sessions.items()}
            found.append(converse(sessions, order))
            exact &= all(_grew(sessions[name], *before) for name, before in held.items() if name != "full")
        _state(outcome, haystack, found)
    outcome.must("every policy holds 25% at the cut and each turn adds its own tokens, no more", exact)
    whole = lm.session(collect=COLLECT).feed(haystack_with_needles(lm, "prose", 240))
    pair = {"full": whole.fork(), "all": whole.fork("snapkv(budget=1.0)")}
    pair["all"].finish_read()
    talk = converse(pair, [0, 1, 2, 3, 4])
    gap = max(abs(a.nll - b.nll) for a, b in zip(talk["full"], talk["all"], strict=True))
    outcome.must("with the whole budget all five turns are the full cache's (2e-3 nats)", gap < 2e-3)
    return outcome


def _grew(session: Session, length: int, entries: int) -> bool:
    each = session.model.geometry.kv_heads * len(session.growing_layers())
    added = (session.length - length) * each
    return entries == round(0.25 * length) * each and session.growing_entries() == entries + added


def _state(outcome: Outcome, haystack: str, found: list[dict[str, list[Turn]]]) -> None:
    """Figures and expected effects of one haystack."""
    fulls = [one for talk in found for one in talk["full"]]
    outcome.figures[f"{haystack}: full"] = (
        f"NLL {sum(one.nll for one in fulls) / len(fulls):.2f}, first of five {ranked(found, 'full', False):.2f} then {ranked(found, 'full', True):.2f}"
    )
    loss = {name: losses(found, name) for name in RECIPES if name != "full"}
    for name, (early, late) in loss.items():
        outcome.figures[f"{haystack}: {RECIPES[name]}"] = (
            f"loss over full {early:+.2f} asked first, {late:+.2f} asked later; "
            f"first of five {ranked(found, name, False):.2f} then {ranked(found, name, True):.2f}"
        )
    for name in AWARE:
        early, late = loss[name]
        outcome.shows(
            f"{haystack}: {name} falls from turn 2 ({early:+.2f} to {late:+.2f} nats)", late - early > NOISE
        )
    for name in AGNOSTIC:
        early, late = loss[name]
        outcome.shows(f"{haystack}: {name} holds ({early:+.2f} to {late:+.2f} nats)", late - early < NOISE)
    aware = min(AWARE, key=lambda name: loss[name][1])
    agnostic = min(AGNOSTIC, key=lambda name: loss[name][1])
    outcome.shows(
        f"{haystack}: from turn 2 the best query-agnostic policy ({agnostic}, {loss[agnostic][1]:+.2f}) beats the best query-aware one "
        f"({aware}, {loss[aware][1]:+.2f})",
        loss[agnostic][1] < loss[aware][1],
    )
