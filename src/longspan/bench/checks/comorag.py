"""ComoRAG's check: questions over two passages, with and without the probing loop. Rule responder: an upper bound."""

from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.bench.worlds.clock import Clock
from longspan.bench.worlds.wiki import BOOKS, TOWNS, model, wiki
from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger
from longspan.context.memory.comorag import ComoKnobs, ComoRag, one_shot
from longspan.context.prompts import graph
from longspan.context.retrieval.embedders import Hashing
from longspan.context.stores.base import Selector
from longspan.context.stores.sqlite import SqliteStore


@check(
    "comorag",
    system="comorag",
    claim="probing, cues and a memory pool answer two-hop questions that one retrieval of the same budget cannot (rule responder)",
    file="src/longspan/context/memory/comorag.py",
)
def comorag(bench: Bench) -> Outcome:
    outcome = Outcome()
    # The triple filter keeps nothing, as a weak one would: each retrieval is dense, and only the loop can join two hops.
    rules = RuleModel({**model().rules, graph.RELEVANT: lambda fields: {"numbers": []}})
    knobs = ComoKnobs(budgets=(10, 6, 6), top=3)
    memory = ComoRag(SqliteStore(":memory:"), rules, Hashing(1024), clock=Clock(), knobs=knobs)
    ingest = Ledger()
    memory.remember("t", wiki(), ingest)
    shares, tries, query = {}, {}, Ledger()
    for name, asked in (("loop", memory), ("one shot", one_shot(memory))):
        ledger = query if name == "loop" else None
        answers = [
            asked.answer("t", f"In which town was the writer of {book} born?", ledger=ledger)
            for book in BOOKS
        ]
        shares[name] = sum(a.text == town for a, town in zip(answers, TOWNS, strict=True)) / len(BOOKS)
        tries[name] = max(a.tries for a in answers)
        if name == "loop":
            pools = [[id for node in a.pool for id in node.ids] for a in answers]
    outcome.figures |= {"responder": "rule (upper bound)", "questions": len(BOOKS)}
    outcome.figures |= {f"two-hop accuracy, {name}": share for name, share in shares.items()}
    outcome.figures |= {"most tries": tries["loop"], "calls a question": query.total().calls / len(BOOKS)}
    outcome.figures["index calls a passage"] = ingest.total().calls / len(wiki())
    outcome.shows(
        "the loop beats one shot and solves at least 90%", shares["loop"] >= 0.9 > shares["one shot"]
    )
    outcome.must("at most six tries", tries["loop"] <= 6)
    outcome.must("no text enters a pool twice", all(len(pool) == len(set(pool)) for pool in pools))
    windows = sorted(memory.store.get("t", kind="episodic"), key=lambda w: w.valid_from)
    covered = [id for window in windows for id in window.data["members"]]
    outcome.must("the timeline's windows partition the passages in order", covered == [e.id for e in wiki()])
    memory.forget("t", Selector(ids=(wiki()[0].id,)))
    outcome.must(
        "forgetting a passage leaves no word of it",
        not any("bookk" in r.text.lower() for r in memory.store.get("t")),
    )
    return outcome
