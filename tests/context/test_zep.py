"""Zep on a scripted world: who works where at which date, in any order; tenants, deletion, faults, costs."""

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import PATTERN, Clock, day, embedder, episode, history, truth, works_at, zep_model, zep_rules

from longspan.bench.worlds.jobs import PEOPLE
from longspan.context.backends.faults import FAULTS, Faulty
from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger, Limits
from longspan.context.memory.base import Episode
from longspan.context.memory.communities import label_propagation
from longspan.context.memory.names import entropy, same_name
from longspan.context.memory.plain import Passages
from longspan.context.memory.zep import Zep, when
from longspan.context.memory.zep_schema import ZepKnobs
from longspan.context.port import PortError
from longspan.context.prompts import zep as prompts
from longspan.context.stores.base import AsOf, Selector
from longspan.context.stores.sqlite import SqliteStore


def memory(model=None, path=":memory:", **options):
    return Zep(SqliteStore(path), model or zep_model(), embedder(), clock=Clock(), **options)


@pytest.mark.parametrize("order", ["forward", "shuffled", "backward"])
def test_current_and_as_of_facts_are_exact_in_any_ingest_order(order):
    jobs = history()
    told = [e for *_, e in jobs]
    told = (
        told[::-1]
        if order == "backward"
        else random.Random(7).sample(told, len(told))
        if order == "shuffled"
        else told
    )
    made = memory()
    assert len(made.remember("t", told).stored) == 30
    for person in PEOPLE:
        for date in range(0, 100, 4):
            assert works_at(made, "t", person, AsOf(valid=day(date))) == truth(jobs, person, date), (
                person,
                date,
            )


def test_a_postgres_server_holds_the_same_world(server):
    from longspan.context.stores.postgres import PostgresStore

    jobs = history(15, seed=3)
    made = Zep(PostgresStore(server.get_uri(), "zepworld"), zep_model(), embedder(), clock=Clock())
    assert len(made.remember("t", [e for *_, e in jobs][::-1]).stored) == 15
    made.forget("t", Selector(ids=(jobs[2][3].id,)))
    rest = [job for job in jobs if job is not jobs[2]]
    for person in PEOPLE:
        for date in range(0, 50, 4):
            assert works_at(made, "t", person, AsOf(valid=day(date))) == truth(rest, person, date)
    assert (
        "works at" in made.recall("t", "Where works Ada?", 60).text and made.recall("u", "Ada", 60).text == ""
    )
    made.store.close()


def test_recall_beats_latest_episodes_and_bm25_on_dated_questions():
    jobs = history(30, seed=3)
    zep = memory()
    zep.remember("t", [e for *_, e in jobs])
    plain = Passages(
        SqliteStore(":memory:"), zep_model(), embedder(), ranker="bm25", order="best_first", clock=Clock()
    )
    plain.remember("t", [e for *_, e in jobs])
    scores = {"zep": 0, "bm25": 0, "latest": 0}
    asked = 0
    for person in PEOPLE:
        for date in range(5, 90, 9):
            want = truth(jobs, person, date)
            if not want:
                continue
            asked += 1
            query, at = f"Where works {person}?", AsOf(valid=day(date))
            budget = 24
            told = {"zep": zep.recall("t", query, budget, at=at), "bm25": plain.recall("t", query, budget)}
            for name, packed in told.items():
                assert packed.tokens <= budget
                scores[name] += f"{person} works at {want[0]}" in packed.text
            scores["latest"] += f"{person} works at {want[0]}" in jobs[-1][3].text
    assert scores["zep"] == asked > scores["bm25"] and asked > scores["latest"]


def test_believed_then_and_known_now():
    made = memory()
    made.remember("t", [episode("Ada works at FirmA since 2025-01-01.", 0)])
    then = made.clock()
    made.remember("t", [episode("Ada works at FirmB since 2025-03-01.", 60)])
    assert works_at(made, "t", "Ada", AsOf(valid=day(100), recorded=then)) == ["FirmA"]
    assert works_at(made, "t", "Ada", AsOf(valid=day(100))) == ["FirmB"]
    assert "FirmA (2025-01-01 to 2025-03-01)" in made.recall("t", "Ada works", 200).text


def test_reingest_adds_nothing_and_repeats_add_support():
    made = memory()
    told = [
        episode("Ada works at FirmA since 2025-01-01.", 0),
        episode("As said, Ada works at FirmA since 2025-01-01!", 5),
    ]
    made.remember("t", told)
    generation = made.store.generation("t")
    again = made.remember("t", told)
    assert again.known == tuple(e.id for e in told) and made.store.generation("t") == generation
    (fact,) = made.store.get("t", kind="fact")
    assert set(fact.sources + fact.support) == {e.id for e in told}
    assert len(made.store.get("t", kind="entity")) == 2


def test_a_fact_that_is_true_again_is_not_swallowed():
    made = memory()
    for firm, date in [("FirmA", 0), ("FirmB", 10), ("FirmA", 20)]:
        made.remember("t", [episode(f"Ada works at {firm} since {day(date).date()}.", date)])
    got = [works_at(made, "t", "Ada", AsOf(valid=day(date))) for date in (5, 15, 25)]
    assert got == [["FirmA"], ["FirmB"], ["FirmA"]]


def test_tenants_are_apart_everywhere():
    made = memory()
    made.remember("t", [episode("Ada works at FirmA since 2025-01-01.")])
    made.remember("u", [episode("Ada works at FirmZ since 2025-01-01.")])
    assert "FirmZ" not in made.recall("t", "Where works Ada? FirmZ", 500).text
    assert works_at(made, "u", "Ada", AsOf(valid=day(9))) == ["FirmZ"]
    made.forget("u", Selector(everything=True))
    assert made.recall("u", "Ada", 500).text == "" and works_at(made, "t", "Ada", AsOf(valid=day(9))) == [
        "FirmA"
    ]


def test_forgetting_an_episode_restores_the_world_without_it(tmp_path):
    jobs = history(12, seed=1)
    told = [e for *_, e in jobs]
    path = tmp_path / "m.db"
    made = memory(path=path)
    made.remember("t", [*told, episode("Ada likes Zqcanary.", 99, session="secret")])
    made.communities("t")
    assert b"zqcanary" in path.read_bytes().lower() + path.with_name("m.db-wal").read_bytes().lower()
    gone = made.forget("t", Selector(session="secret"))
    raw = b"".join(f.read_bytes() for f in tmp_path.iterdir()).lower()
    assert b"zqcanary" not in raw and len(gone.removed) >= 3
    victim = told[4]
    made.forget("t", Selector(ids=(victim.id,)))
    rest = [job for job in jobs if job[3].id != victim.id]
    for person in PEOPLE:
        for date in range(0, 40, 2):
            assert works_at(made, "t", person, AsOf(valid=day(date))) == truth(rest, person, date)
    mentioned = {name for *_, e in rest for s, _, o, _ in PATTERN.findall(e.text) for name in (s, o)}
    assert {e.text for e in made.store.get("t", kind="entity")} == mentioned


def test_forgetting_is_complete_also_when_the_model_fails_afterwards(tmp_path):
    made = memory(path=tmp_path / "m.db")
    told = [
        episode(f"Ada works at {firm} since {day(n).date()}.", n)
        for n, firm in enumerate(["FirmA", "Zqcanary"])
    ]
    made.remember("t", told)
    made.model = Faulty(zep_model(), "timeout")
    with pytest.raises(PortError, match="all of it is forgotten, but 1 other"):
        made.forget("t", Selector(ids=(told[1].id,)))
    assert b"zqcanary" not in b"".join(f.read_bytes() for f in tmp_path.iterdir()).lower()
    assert [r.text for r in made.store.get("t", kind="episode")] == [told[0].said]


def test_an_episode_read_back_keeps_its_id():
    odd = episode("te\ud800xt\x00", 1, session="s\ud800", speaker="A\x00da")
    made = memory()
    made.remember("t", [odd])
    (record,) = made.store.get("t", kind="episode")
    assert Episode.of(record).id == odd.id == record.id and made.remember("t", [odd]).stored == ()


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faults_fail_the_episode_whole_or_fall_back(fault):
    made = memory(Faulty(zep_model(), fault))
    done = made.remember("t", [episode("Ada works at FirmA since 2025-01-01."), episode("Bob likes Tea.", 1)])
    if done.failed:
        assert len(done.failed) == (1 if done.stopped else 2) and made.store.get("t") == []
        assert all("\n" not in reason for _, reason in done.failed)
    else:
        assert fault in ("wrong_ids", "duplicate") and len(made.store.get("t", kind="entity")) == 4
        assert len(made.store.get("t", kind="fact")) == 2


def test_a_failed_episode_can_be_retried_and_limits_stop_the_rest():
    flaky = Faulty(zep_model(), "timeout", when=lambda call: call == 3)
    made = memory(flaky)
    told = [episode(f"{p} likes Tea.", n) for n, p in enumerate(PEOPLE)]
    done = made.remember("t", told)
    assert len(done.failed) == 1
    assert len(made.remember("t", told).stored) == 1 and len(made.store.get("t", kind="episode")) == 3
    limited = memory().remember("t", told, Ledger(Limits(calls=3)))
    assert len(limited.stored) == 1 and "limit of 3 model calls" in limited.failed[-1][1]


def test_fifty_threads_remember_into_one_memory(tmp_path):
    """Half share a memory, half open the file themselves: nothing is lost, and Ada stays one entity."""
    shared = memory(path=tmp_path / "m.db")
    done = []

    def work(number):
        own = shared if number % 2 else memory(path=tmp_path / "m.db")
        done.append(own.remember("t", [episode(f"Ada likes Thing{number}.", number)]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 50 and all(len(d.stored) == 1 for d in done)
    entities = [e.text for e in shared.store.get("t", kind="entity")]
    assert len(entities) == 51 and entities.count("Ada") == 1
    assert len(shared.store.get("t", kind="fact")) == 50


def test_costs_are_reported_per_stage_ingest_and_query_apart():
    made, ledger = memory(), Ledger()
    made.remember("t", [e for *_, e in history(5)], ledger)
    made.recall("t", "Ada", 100, ledger=ledger)
    calls = {(row["operation"], row["stage"]): row["calls"] for row in ledger.table()}
    assert (
        calls["ingest", "entities"] == 5 and calls["ingest", "facts"] == 5 and calls["ingest", "judge"] == 4
    )
    assert ledger.total("query").calls == 0 and ("query", "search") in calls
    assert ledger.total("ingest").prompt_tokens > 0


def test_the_same_input_gives_the_same_file(tmp_path):
    for name in "ab":
        made = memory(path=tmp_path / name)
        made.remember("t", [e for *_, e in history(8)])
        made.communities("t")
        made.store.close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_recalled_text_is_kept_but_never_extracted():
    made = memory()
    made.remember("t", [episode("Ada likes Tea.", extract=False)])
    assert [r.kind for r in made.store.get("t")] == ["episode"]


def test_the_model_decides_only_about_unsure_names():
    rules = {**zep_rules(), prompts.RESOLVE: lambda f: {"resolutions": [{"id": 0, "candidate_id": 0}]}}
    made = memory(RuleModel(rules), knobs=ZepKnobs(min_cosine=0.2))
    made.remember("t", [episode("Alexandria likes Tea."), episode("Alexandrina likes Tea.", 1)])
    assert made.model.calls.count("zep.resolve") == 1
    assert [e.text for e in made.store.get("t", kind="entity")] == ["Alexandria", "Tea"]


def test_names_without_a_model():
    known = {"1": "Alexandra Montgomery", "2": "Bob"}
    assert same_name(" alexandra  MONTGOMERY", known) == ("1", False)
    assert same_name("Alexandra-Montgomery", known) == ("1", False)
    assert same_name("Rob", known) == (None, True)
    assert same_name("Anything", {}) == (None, False)
    assert same_name("Bob", {"1": "bob", "2": "Bob"}) == (None, True)
    assert entropy("aaaa") == 0 and entropy("") == 0


def test_dates():
    assert when("2025").isoformat() == "2025-01-01T00:00:00+00:00"
    assert when("2025-03-04").isoformat() == "2025-03-04T00:00:00+00:00"
    assert when("2025-03-04T10:00:00+02:00").hour == 8
    assert [when(x) for x in (None, "", "soon", "2025-99-99")] == [None] * 4


GRAPHS = st.dictionaries(
    st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda e: e[0] != e[1]),
    st.integers(1, 4),
    max_size=25,
)


@given(GRAPHS)
@settings(max_examples=60, deadline=None)
def test_label_propagation_ends_and_partitions(edges):
    weights = {str(n): {} for n in range(10)}
    for (a, b), weight in edges.items():
        weights[str(a)][str(b)] = weights[str(b)][str(a)] = weight
    groups = label_propagation(weights)
    assert sorted(node for group in groups for node in group) == sorted(weights)
    isolated = [node for node, row in weights.items() if not row]
    assert all([node] in groups for node in isolated)


def test_communities_follow_the_graph_and_die_with_their_facts():
    made = memory()
    told = [
        episode(f"{a} likes {b}.", n)
        for n, (a, b) in enumerate([("Ada", "Tea"), ("Bob", "Tea"), ("Cleo", "Jam"), ("Dora", "Jam")])
    ]
    made.remember("t", told)
    assert made.communities("t") == 2 == made.communities("t")
    groups = made.store.get("t", kind="community")
    assert len(groups) == 2 and all(len(g.data["members"]) == 3 for g in groups)
    made.forget("t", Selector(ids=(told[0].id,)))
    assert len(made.store.get("t", kind="community")) == 1
