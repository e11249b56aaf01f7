"""MemGPT-style paging: a fact survives 200 filler turns; the window, the blocks and the summary keep their limits."""

import json

from scripted import Clock, embedder, episode

from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger
from longspan.context.memory.memgpt import MemGpt, PagingKnobs
from longspan.context.prompts import memgpt as prompts
from longspan.context.stores.base import Selector
from longspan.context.stores.sqlite import SqliteStore


def manage(fields):
    """Archives secrets, keeps names in the core, does nothing else."""
    if fields["log"]:
        return {"tool": "done"}
    if "secret" in fields["message"]:
        return {"tool": "archive", "text": fields["message"]}
    if "my name is" in fields["message"]:
        return {"tool": "core_append", "text": fields["message"].split("my name is ")[1]}
    return {"tool": "done"}


def search(fields):
    done = fields["log"].count("search_")
    tools = [("search_archive", "secret"), ("search_messages", fields["question"])]
    return {"tool": tools[done][0], "text": tools[done][1]} if done < 2 else {"tool": "done"}


def model(**changed):
    rules = {
        prompts.MANAGE: changed.get("manage", manage),
        prompts.SEARCH: changed.get("search", search),
        prompts.SUMMARISE: changed.get("summarise", lambda f: f"sum of {len(f['messages'].split())} words"),
    }
    return RuleModel(rules)


def made(responder=None, **knobs):
    knobs = PagingKnobs(**{"window": 120, **knobs})
    return MemGpt(SqliteStore(":memory:"), responder or model(), embedder(), clock=Clock(), knobs=knobs)


def filler(count, start=10):
    return [
        episode(f"filler talk number {n} about the weather", n, session="s")
        for n in range(start, start + count)
    ]


def test_a_fact_survives_two_hundred_turns_and_the_window_never_overflows():
    memory = made()
    memory.remember("t", [episode("the secret is 4711", 0), episode("my name is Ada", 1), *filler(200)])
    state = memory._state("t")
    assert memory._queue_tokens(state) <= 120 and len(state.queue) < 30
    assert all("4711" not in record.text for record in state.queue)
    text = memory.recall("t", "what is the secret?", 200).text
    assert "4711" in text and "Ada" in text and "sum of" in text
    assert "number 15 " in memory.recall("t", "filler talk number 15", 300).text


def test_the_summary_replaces_and_replay_is_deterministic():
    first, second = made(), made()
    for memory in (first, second):
        memory.remember("t", filler(60))
    assert len(first.store.get("t", kind="running_summary")) == 1
    views = [
        json.dumps([(r.id, r.text, sorted(r.sources)) for r in m.store.get("t")]) for m in (first, second)
    ]
    assert views[0] == views[1]


def test_block_limits_and_unknown_tools_come_back_as_errors():
    answers = iter(
        [
            {"tool": "core_append", "text": "x" * 50},
            {"tool": "core_append", "block": "nobody", "text": "x"},
            {"tool": "core_replace", "old": "missing", "text": "x"},
            {"tool": "search_archive", "text": "x"},
            {"tool": "core_append", "text": "short"},
            {"tool": "core_replace", "old": "short", "text": "brief"},
        ]
    )
    logs = []
    responder = model(manage=lambda f: (logs.append(f["log"]), next(answers))[1])
    memory = made(responder, block=20)
    memory.remember("t", [episode("hello")])
    assert [r.text for r in memory.store.get("t", kind="core")] == ["brief"]
    last = logs[-1]
    assert "would have 50 characters" in last and "no block nobody" in last and "not in the block" in last
    assert "not for writing" in last and len(logs) == 6


def test_a_summariser_that_ignores_its_limit_cannot_fill_the_window():
    memory = made(model(summarise=lambda f: "long " * 250))
    memory.remember("t", filler(80))
    assert memory._queue_tokens(memory._state("t")) <= 120
    ledger = Ledger()
    memory.remember("t", [episode("word " * 900, 500)], ledger)
    assert len(memory.store.get("t", kind="episode")) == 81


def test_a_searcher_that_never_stops_is_bounded_and_forgetting_reaches_core_and_summary():
    memory = made(model(search=lambda f: {"tool": "search_archive", "text": "x"}))
    memory.remember("t", [episode("my name is Zqcanary", 1, session="x"), *filler(40)])
    ledger = Ledger()
    memory.recall("t", "who?", 100, ledger=ledger)
    assert ledger.total("query").calls == 6
    memory.forget("t", Selector(session="x"))
    assert not any("Zqcanary" in r.text for r in memory.store.get("t"))
    assert memory.store.get("t", kind="core") == []
