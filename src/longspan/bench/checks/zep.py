"""Zep's check: who works where at which date, told in any order. Rule responder and spelled-out embeddings: an upper bound."""

import random

from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.bench.worlds.clock import Clock, day
from longspan.bench.worlds.jobs import PEOPLE, history, truth, works_at, zep_model
from longspan.context.ledger import Ledger
from longspan.context.memory.plain import Passages
from longspan.context.memory.zep import Zep
from longspan.context.retrieval.embedders import Hashing
from longspan.context.stores.base import AsOf, Selector
from longspan.context.stores.sqlite import SqliteStore

DATES = range(0, 100, 4)
BUDGET = 24


@check(
    "zep",
    system="zep",
    claim="facts keep their validity in time: current and as-of answers are exact in any order of telling, where BM25 and the latest episodes fail (rule responder)",
    file="src/longspan/context/memory/zep.py",
)
def zep(bench: Bench) -> Outcome:
    outcome = Outcome()
    jobs = history(30, seed=3)
    told = [episode for *_, episode in jobs]
    orders = {"as told": told, "backward": told[::-1], "shuffled": random.Random(7).sample(told, len(told))}
    exact, intervals = {}, []
    for name, order in orders.items():
        memory, ledger = _made(Zep), Ledger()
        memory.remember("t", order, ledger)
        right = [
            works_at(memory, "t", p, AsOf(valid=day(d))) == truth(jobs, p, d) for p in PEOPLE for d in DATES
        ]
        exact[name] = sum(right) / len(right)
        intervals.append([[works_at(memory, "t", p, AsOf(valid=day(d))) for d in range(100)] for p in PEOPLE])
    spent = ledger.total("ingest")
    outcome.figures |= {"responder": "rule (upper bound)", "as-of questions": len(right)}
    outcome.figures |= {f"as-of accuracy, {name}": share for name, share in exact.items()}
    outcome.figures |= {
        "calls an episode": spent.calls / 30,
        "tokens an episode": (spent.prompt_tokens + spent.completion_tokens) / 30,
    }
    plain = _made(Passages, ranker="bm25", order="best_first")
    plain.remember("t", told)
    shares = {"zep": 0.0, "bm25": 0.0, "latest episode": 0.0}
    asked = [(p, d, truth(jobs, p, d)[0]) for p in PEOPLE for d in range(5, 90, 9) if truth(jobs, p, d)]
    for person, date, firm in asked:
        fact, query = f"{person} works at {firm}", f"Where works {person}?"
        shares["zep"] += fact in memory.recall("t", query, BUDGET, at=AsOf(valid=day(date))).text
        shares["bm25"] += fact in plain.recall("t", query, BUDGET).text
        shares["latest episode"] += fact in told[-1].text
    for name, count in shares.items():
        outcome.figures[f"dated answer in {BUDGET} tokens, {name}"] = count / len(asked)
    outcome.must("as-of answers exact in every order of telling", set(exact.values()) == {1.0})
    outcome.must(
        "the order of telling does not change the intervals", intervals[0] == intervals[1] == intervals[2]
    )
    outcome.shows(
        "dated answers beat BM25 and the latest episode",
        shares["zep"] > max(shares["bm25"], shares["latest episode"]),
    )
    before = memory.store.generation("t")
    memory.remember("t", told)
    outcome.must("telling it again adds nothing", memory.store.generation("t") == before)
    outcome.must("another tenant sees nothing", memory.recall("u", "Where works Ada?", 500).text == "")
    victim = jobs[4]
    memory.forget("t", Selector(ids=(victim[3].id,)))
    rest = [job for job in jobs if job[3].id != victim[3].id]
    outcome.must(
        "forgetting an episode gives the world without it",
        all(works_at(memory, "t", p, AsOf(valid=day(d))) == truth(rest, p, d) for p in PEOPLE for d in DATES),
    )
    return outcome


def _made(kind, **options):
    return kind(SqliteStore(":memory:"), zep_model(), Hashing(64), clock=Clock(), **options)
