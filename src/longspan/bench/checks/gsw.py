"""GSW's check: all dates of a person at a place over sixty chapters. Rule responder: an upper bound."""

import random
import re

from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.bench.worlds.chapters import PEOPLE, PLACES, model, world
from longspan.bench.worlds.clock import Clock
from longspan.context.ledger import Ledger
from longspan.context.memory.gsw import Gsw, set_scores
from longspan.context.memory.gsw_schema import GswKnobs
from longspan.context.memory.plain import Passages
from longspan.context.retrieval.embedders import Hashing
from longspan.context.stores.sqlite import SqliteStore


@check(
    "gsw",
    system="gsw",
    claim="actors' summaries over all chapters answer questions with many dates completely, where passages of the same tokens do not (rule responder)",
    file="src/longspan/context/memory/gsw.py",
)
def gsw(bench: Bench) -> Outcome:
    outcome, told, ledger = Outcome(), world(60, filler=3), Ledger()
    knobs = GswKnobs(scope="all", summaries=2, part=20)
    memory = Gsw(SqliteStore(":memory:"), model(), Hashing(64), clock=Clock(), knobs=knobs)
    plain = Passages(SqliteStore(":memory:"), model(), Hashing(64), clock=Clock(), ranker="bm25")
    episodes = [episode for *_, episode in told]
    memory.remember("t", episodes, ledger)
    memory.summarise("t", ledger)
    plain.remember("t", episodes)
    scores, budgets = {"gsw": [], "bm25, equal tokens": []}, []
    for who in PEOPLE:
        for place in PLACES:
            gold = [f"Day{n}" for w, p, n, _ in told if (w, p) == (who, place)]
            if len(gold) < 2:
                continue
            question = f"When was {who} in {place}?"
            tokens = memory.recall("t", question, 3000).tokens
            budgets.append(tokens)
            scores["gsw"].append(_f1(memory.answer("t", question, 3000).split(","), gold))
            text = plain.recall("t", question, tokens).text
            found = re.findall(rf"{who} \w+ in {place} on (Day\d+)", text)
            scores["bm25, equal tokens"].append(_f1(found, gold))
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    outcome.figures |= {
        "responder": "rule (upper bound)",
        "questions": len(budgets),
        "mean tokens": sum(budgets) / len(budgets),
    }
    outcome.figures |= {f"set F1, {name}": value for name, value in means.items()}
    outcome.figures["calls a chapter"] = ledger.total().calls / len(told)
    outcome.must("GSW answers completely", means["gsw"] == 1)
    outcome.shows("passages at equal tokens miss dates", means["bm25, equal tokens"] < 1)
    views = []
    for order in (episodes[:12], episodes[:12][::-1], random.Random(3).sample(episodes[:12], 12)):
        each = Gsw(SqliteStore(":memory:"), model(), Hashing(64), clock=Clock(), knobs=GswKnobs(scope="all"))
        each.remember("t", order)
        space = each.workspace("t")
        views.append({actor.name: space.notes(id) for id, actor in space.actors.items()})
    outcome.must("the order of chapters does not change the workspace", views[0] == views[1] == views[2])
    outcome.must(
        "a perfect answer scores 1 and an empty one 0",
        set_scores([1, 1], 2, 2)[2] == 1 and set_scores([0], 0, 1)[2] == 0,
    )
    return outcome


def _f1(listed: list[str], gold: list[str]) -> float:
    said = {item.strip() for item in listed if item.strip()}
    return set_scores([float(item in said) for item in gold], len(said), len(gold))[2]
