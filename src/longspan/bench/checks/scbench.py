"""SCBench's check: turns on one cache equal the whole prompt, queries do not depend on their order, and SnapKV fitted on the first query."""

import json
import random

import torch

from longspan.bench.checks._items import SEED, mean, must_load, rows
from longspan.bench.contexts import cut
from longspan.bench.tasks.scbench import by_turn, conversations
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.bench.words import distinct, letters
from longspan.engine.generate import score as score_tokens
from longspan.engine.recipe import parse
from longspan.engine.session import Session

SESSIONS, PAIRS, TURNS = 3, 22, 5
SNAP, SPARSE = "snapkv(budget=0.1)", "xattention"


def table(seed: int) -> dict:
    """One session: a JSON object of short keys and values, and five keys asked one after the other, spread over it."""
    rng = random.Random(seed)
    flat = distinct(lambda: letters(rng, 5), 2 * PAIRS)
    pairs = dict(zip(flat[::2], flat[1::2], strict=True))
    asked = [list(pairs)[i * PAIRS // TURNS + rng.randrange(PAIRS // TURNS)] for i in range(TURNS)]
    rng.shuffle(asked)
    turns = [{"input": f'The value of the key "{key}" is', "answer": pairs[key]} for key in asked]
    return {"id": seed, "context": json.dumps(pairs), "multi_turns": turns}


@check(
    "scbench",
    system="scbench",
    claim="a cache compressed for the first query of a shared context fails the later ones, while sparse reading that keeps the cache does not",
    file="src/longspan/bench/tasks/scbench.py",
)
def scbench(bench: Bench) -> Outcome:
    outcome, model = Outcome(), bench.model()
    with rows({"scbench_kv.jsonl": [table(SEED + i) for i in range(SESSIONS)]}) as folder:
        made = must_load(outcome, ["scbench_kv", "scbench_kv_scdq"], folder, what=" of the published schema")
    turns, alone = (list(conversations(made[name])) for name in ("scbench_kv", "scbench_kv_scdq"))
    outcome.must(
        "every turn of a session shares its context",
        all(len({i.context for i in s}) == 1 for s in turns + alone),
    )
    outcome.must(
        "a turn holds the golden answers of the ones before it",
        all(s[k - 1].answers[0] in s[k].question for s in turns for k in range(1, TURNS)),
    )
    whole = by_turn([i for s in turns for i in s], [1.0] * SESSIONS * TURNS)
    outcome.must(
        "means are given by turn and over turns",
        list(whole) == [*(f"turn {k + 1}" for k in range(TURNS)), "all"],
    )

    first = turns[0]
    gap, session, asked = 0.0, model.session(None).feed(cut(model, first[0]).read), []
    for item in first:
        pieces = cut(model, item)
        question = pieces.question.tolist()
        shared = _common(asked, question)
        session.rollback(len(asked) - shared)
        session.feed(pieces.question[shared:], reading=False)
        asked = question
        plain = model.session(None).feed(torch.cat((pieces.read, pieces.question)))
        gap = max(gap, float((session.next_logits() - plain.next_logits()).abs().max()))
    outcome.figures["turns on one cache against one prompt, largest difference of logits"] = f"{gap:.1e}"
    outcome.must("turns with golden answers on one cache equal the concatenated prompt", gap < 1e-4)

    reads = [model.session(None, collect=parse(SNAP).needs).feed(cut(model, s[0]).read) for s in alone]
    forward_order = [_gold(reads[0].fork(), i) for i in alone[0]]
    backward_order = [_gold(reads[0].fork(), i) for i in reversed(alone[0])][::-1]
    outcome.must("independent queries do not depend on their order", forward_order == backward_order)
    found: dict[str, list[list[float]]] = {"full": [], SNAP: [], SPARSE: []}
    for read, items in zip(reads, alone, strict=True):
        found["full"].append([_gold(read.fork(), i) for i in items])
        fitted = read.fork().feed(cut(model, items[0]).question).fork(SNAP)
        fitted.finish_read()
        rest = [_gold(fitted.fork(), i) for i in items[1:]]
        found[SNAP].append([_gold(fitted.fork(), items[0], asked=True), *rest])
        sparse = model.session(SPARSE).feed(cut(model, items[0]).read)
        sparse.finish_read()
        found[SPARSE].append([_gold(sparse.fork(), i) for i in items])
    lost = {}
    for recipe, sums in found.items():
        by = [-mean([row[k] for row in sums]) for k in range(TURNS)]
        outcome.figures[f"{recipe}: gold by turn, nats"] = ", ".join(f"{x:.2f}" for x in by)
        dense = [-mean([row[k] for row in found["full"]]) for k in range(TURNS)]
        lost[recipe] = by[0] - dense[0], mean([a - b for a, b in zip(by[1:], dense[1:], strict=True)])
    near, later = lost[SNAP]
    outcome.shows(
        f"SnapKV fitted on the first query loses more on the later ones ({near:+.2f} then {later:+.2f} nats)",
        later > near,
    )
    outcome.shows(
        f"sparse reading with the whole cache loses less on later queries ({lost[SPARSE][1]:+.2f} nats)",
        lost[SPARSE][1] < later,
    )
    return outcome


def _common(a: list[int], b: list[int]) -> int:
    """Length of the shared beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _gold(session: Session, item, asked: bool = False) -> float:
    """Log-probability of the gold value after the query (already read when `asked`) and the opening of the reply."""
    pieces = cut(session.model, item)
    tail = pieces.reply if asked else torch.cat((pieces.question, pieces.reply))
    session.feed(tail, reading=False)
    ids = torch.tensor(session.model.encode(item.continuation(item.gold_text)))
    return float(score_tokens([(session, ids)])[0].sum())
