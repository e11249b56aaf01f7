"""Both stores under one set of tests: time axes, provenance, purge with canaries, tenants, conflicts, migrations, search."""

import json
import multiprocessing
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longspan.context.stores import sqlite as sqlite_module
from longspan.context.stores.base import AsOf, Conflict, Link, Record, Selector, Unit, micros
from longspan.context.stores.sqlite import SqliteStore
from longspan.errors import BadInput

START = datetime(2026, 1, 1, tzinfo=UTC)


def day(number):
    return START + timedelta(days=number)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    if request.param == "sqlite":
        made = SqliteStore(tmp_path / "memory.db")
    else:
        from longspan.context.stores.postgres import PostgresStore

        uri = request.getfixturevalue("server").get_uri()
        made = PostgresStore(uri, f"t{abs(hash(request.node.name)) % 10**12}")
    made.bind_embedder("test-3", 3)
    yield made
    made.close()


def root(id, text="", **more):
    return Record(id, "episode", text or f"text of {id}", **more)


def add(store, tenant, id, at=0, records=(), links=(), retract=(), **more):
    unit = Unit(id, day(at), (root(id, **more), *records), tuple(links), tuple(retract))
    return store.commit(tenant, unit)


def ids(records):
    return [record.id for record in records]


def test_a_unit_is_whole_and_a_retry_does_nothing(store):
    fact = Record(
        "f",
        "fact",
        "Ada likes tea",
        {"n": 1},
        ("e",),
        (),
        day(1),
        day(2),
        prompt="p@1",
        model="rule",
        trust="derived",
    )
    assert add(store, "t", "e", records=[fact])
    assert not add(store, "t", "e", 1, records=[Record("g", "fact", "never")])
    kept = store.get("t", kind="fact")
    assert ids(kept) == ["f"] and kept[0].recorded_at == day(0)
    assert (kept[0].data, kept[0].sources, kept[0].valid_to, kept[0].trust) == (
        {"n": 1},
        ("e",),
        day(2),
        "derived",
    )
    assert store.generation("t") == 1 and store.generation("other") == 0
    broken = Unit("x", day(3), (root("x"), Record("y", "fact", None)))
    with pytest.raises(Exception):  # noqa: B017 - whatever the database says about a missing text
        store.commit("t", broken)
    assert ids(store.get("t")) == ["e", "f"] and store.generation("t") == 1


def test_versions_and_as_of_queries_on_both_axes(store):
    add(store, "t", "e1", 1, [Record("f", "fact", "lives in Berlin", sources=("e1",), valid_from=day(1))])
    closed = Record("f", "fact", "lives in Berlin", sources=("e1", "e2"), valid_from=day(1), valid_to=day(5))
    add(store, "t", "e2", 9, [closed])
    assert store.get("t", ["f"])[0].valid_to == day(5)
    assert store.get("t", ["f"], at=AsOf(recorded=day(8)))[0].valid_to is None
    assert store.get("t", ["f"], at=AsOf(recorded=day(9)))[0].valid_to == day(5)
    assert not store.get("t", ["f"], at=AsOf(recorded=day(0)))
    assert ids(store.get("t", ["f"], at=AsOf(valid=day(4)))) == ["f"]
    assert not store.get("t", ["f"], at=AsOf(valid=day(5)))
    assert ids(store.get("t", ["f"], at=AsOf(valid=day(6), recorded=day(8)))) == ["f"]
    old, new = store.versions("t", "f")
    assert old.retracted_at == new.recorded_at == day(9)
    add(store, "t", "e3", 10, [closed])
    assert len(store.versions("t", "f")) == 2


def test_purge_drops_what_was_derived_and_restores_what_was_replaced(store):
    add(store, "t", "e1", 1, [Record("f", "fact", "in Berlin", sources=("e1",), valid_from=day(1))])
    change = [
        Record("f", "fact", "in Berlin", sources=("e1", "e2"), valid_from=day(1), valid_to=day(2)),
        Record("g", "fact", "in Paris", sources=("e2",), valid_from=day(2)),
        Record("s", "summary", "Berlin, then Paris", sources=("f", "g")),
    ]
    add(store, "t", "e2", 2, change, [Link("f", "g", "then", "e2")])
    add(
        store,
        "t",
        "e3",
        3,
        [Record("c", "community", "cities", sources=("s", "e3"))],
        [Link("e3", "s", "about", "e3")],
    )
    gone = store.purge("t", Selector(ids=("e2",)))
    assert set(gone.removed) == {"e2", "f", "g", "s", "c"} and gone.rebuild == ("e1", "e3")
    assert ids(store.get("t")) == ["e1", "f", "e3"]
    (f,) = store.versions("t", "f")
    assert f.valid_to is None and f.retracted_at is None
    assert store.links("t") == []
    assert add(store, "t", "e2", 4)


def test_purge_of_a_middle_version_leaves_no_gap(store):
    add(store, "t", "e1", 1, [Record("f", "fact", "one", sources=("e1",))])
    add(store, "t", "e2", 2, [Record("f", "fact", "two", sources=("e2",))])
    add(store, "t", "e3", 3, [Record("f", "fact", "three", sources=("e3",))])
    store.purge("t", Selector(ids=("e2",)))
    assert [r.text for r in store.get("t", ["f"], at=AsOf(recorded=day(2.5)))] == ["one"]
    assert [r.text for r in store.get("t", ["f"])] == ["three"]
    add(store, "t", "e4", 4, retract=["f"])
    assert not store.get("t", ["f"])
    store.purge("t", Selector(ids=("e4",)))
    assert [r.text for r in store.get("t", ["f"])] == ["three"]


def test_support_keeps_a_record_alive_until_none_is_left(store):
    add(
        store,
        "t",
        "e1",
        1,
        [Record("ada", "entity", "Ada", support=("e1",)), Record("f", "fact", "tea", sources=("e1",))],
    )
    unit = Unit(
        "e2", day(2), (root("e2"), Record("ada", "entity", "Ada", support=("e2",))), support=(("f", "e2"),)
    )
    assert store.commit("t", unit)
    assert store.get("t", ["ada"])[0].support == ("e1", "e2") and store.get("t", ["f"])[0].support == ("e2",)
    assert len(store.versions("t", "ada")) == 1
    add(store, "t", "e3", 3, [Record("s", "summary", "on Ada", sources=("ada",))])
    gone = store.purge("t", Selector(ids=("e1",)))
    assert set(gone.removed) == {"e1", "f"} and gone.rebuild == ("e2",)
    assert store.get("t", ["ada"])[0].support == ("e2",)
    assert set(store.purge("t", Selector(ids=("e2",))).removed) == {"e2", "ada", "s"}


def test_selectors(store):
    for number in range(4):
        add(
            store, "t", f"e{number}", number, session=f"s{number % 2}", subject="Ada" if number < 2 else "Bob"
        )
    assert store.purge("t", Selector(session="s0", subject="Ada")).removed == ("e0",)
    assert store.purge("t", Selector(subject="Bob")).removed == ("e2", "e3")
    assert store.purge("t", Selector(subject="Nobody")).removed == ()
    assert ids(store.get("t")) == ["e1"]
    assert store.purge("t", Selector(everything=True)).removed == ("e1",)
    for wrong in ({}, {"everything": True, "session": "s"}):
        with pytest.raises(BadInput, match="say what to forget"):
            Selector(**wrong)


VECTORS = np.eye(3, dtype=np.float32)


def test_search_respects_kind_time_tenant_and_threshold(store):
    facts = [
        Record(f"f{i}", "fact", text, sources=("e",), valid_from=day(i), vector=VECTORS[i])
        for i, text in enumerate(["bees in Berlin", "bees and more bees", "nothing of note"])
    ]
    add(store, "t", "e", records=[*facts, Record("n", "note", "bees", sources=("e",), vector=VECTORS[0])])
    add(store, "u", "e", text="bees bees", vector=VECTORS[0])
    assert ids(r for r, _ in store.search_text("t", "bee!", kinds=["fact"], limit=9)) == ["f1", "f0"]
    assert ids(
        r for r, _ in store.search_text("t", "bees", kinds=["fact"], limit=9, at=AsOf(valid=day(0)))
    ) == ["f0"]
    assert store.search_text("t", 'the " OR * NEAR(', kinds=["fact"], limit=9) == []
    query = np.array([0.8, 0.6, 0], dtype=np.float32)
    found = store.search_vector("t", query, kinds=["fact"], limit=9)
    assert [(r.id, round(s, 5)) for r, s in found] == [("f0", 0.8), ("f1", 0.6), ("f2", 0.0)]
    assert ids(r for r, _ in store.search_vector("t", query, kinds=["fact"], limit=9, above=0.5)) == [
        "f0",
        "f1",
    ]
    assert ids(r for r, _ in store.search_vector("t", query, kinds=["note", "fact"], limit=2)) == ["f0", "n"]
    add(store, "t", "e2", 1, retract=["f0"], vector=VECTORS[0])
    assert ids(r for r, _ in store.search_vector("t", query, kinds=["fact"], limit=1)) == ["f1"]
    assert store.search_vector("nobody", query, kinds=["fact"], limit=9) == []


def test_neighbours_walk_both_ways_and_respect_time(store):
    add(store, "t", "e1", 1, links=[Link(a, b, "knows", "e1") for a, b in ["ab", "bc", "cd"]])
    add(store, "t", "e2", 5, links=[Link("d", "z", "owns", "e2"), Link("a", "b", "knows", "e1", 3.0)])
    assert store.neighbours("t", ["b"], depth=2) == {"b": 0, "a": 1, "c": 1, "d": 2}
    assert store.neighbours("t", ["d"], depth=9, kinds=["owns"]) == {"d": 0, "z": 1}
    assert "z" not in store.neighbours("t", ["d"], depth=9, at=AsOf(recorded=day(4)))
    assert store.neighbours("u", ["d"], depth=9) == {"d": 0}


def test_a_writer_that_read_old_state_is_told(store):
    seen = store.generation("t")
    add(store, "t", "e1")
    with pytest.raises(Conflict):
        store.commit("t", Unit("e2", day(1), (root("e2"),)), expect=seen)
    assert store.commit("t", Unit("e2", day(1), (root("e2"),)), expect=store.generation("t"))


def test_boundary_refusals(store):
    with pytest.raises(BadInput, match="has no zone"):
        micros(datetime(2026, 1, 1))
    with pytest.raises(BadInput, match="tenant id"):
        store.get("")
    with pytest.raises(BadInput, match=r"filled with the embedder 'test-3'.*'other'"):
        store.bind_embedder("other", 3)


def test_newest_and_order(store):
    for number in (3, 1, 2):
        add(store, "t", f"e{number}", 9, valid_from=day(number), session="s")
    assert ids(store.get("t")) == ["e1", "e2", "e3"]
    assert ids(store.get("t", kind="episode", newest=2)) == ["e2", "e3"]
    assert ids(store.get("t", session="other")) == []


TEXT = st.text(max_size=40)
WRITES = st.lists(
    st.tuples(
        st.sampled_from(["t", "u"]),
        st.integers(0, 5),
        TEXT,
        st.lists(st.tuples(st.integers(0, 3), TEXT), max_size=3),
        st.booleans(),
    ),
    max_size=12,
)


@given(WRITES)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_histories_keep_the_invariants(writes):
    """Any units and purges: one current version an id, no gap or overlap between versions, no dangling provenance."""
    store = SqliteStore(":memory:")
    store.bind_embedder("test-3", 3)
    alive = {"t": set(), "u": set()}
    for number, (tenant, episode, text, facts, purge) in enumerate(writes):
        id = f"{tenant}-e{episode}"
        if purge:
            store.purge(tenant, Selector(ids=(id,)))
            alive[tenant].discard(id)
        else:
            made = [Record(f"f{n}", "fact", words, sources=(id,)) for n, words in facts]
            assert add(store, tenant, id, number, made, text=text) == (id not in alive[tenant])
            alive[tenant].add(id)
        assert {r.id for r in store.get(tenant, kind="episode")} == alive[tenant]
    for tenant, roots in alive.items():
        for n in range(4):
            versions = store.versions(tenant, f"f{n}")
            assert sum(v.retracted_at is None for v in versions) == bool(versions)
            assert all(a.retracted_at == b.recorded_at for a, b in pairwise(versions))
            assert all(set(v.sources) <= roots for v in versions)


def test_the_same_history_gives_the_same_bytes(tmp_path):
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    for path in paths:
        made = SqliteStore(path)
        made.bind_embedder("test-3", 3)
        for number in range(20):
            add(made, "t", f"e{number}", number, [Record("f", "fact", f"v{number}", sources=(f"e{number}",))])
        made.purge("t", Selector(ids=("e3",)))
        made.close()
    assert paths[0].read_bytes() == paths[1].read_bytes()


def on_disk(path):
    return b"".join(p.read_bytes() for p in path.parent.iterdir() if p.name.startswith(path.name)).lower()


def test_canaries_leave_the_raw_file(tmp_path):
    path = tmp_path / "memory.db"
    made = SqliteStore(path)
    made.bind_embedder("test-3", 3)
    rng = np.random.default_rng(0)
    for number in range(60):
        canary = f"zqcanary{number:03d}x"
        vector = rng.normal(size=3).astype(np.float32)
        derived = Record(
            f"f{number}", "fact", f"derived {canary}", {"note": canary}, (f"e{number}",), vector=vector
        )
        add(
            made,
            "t",
            f"e{number}",
            number,
            [derived],
            text=f"{canary} " * 20,
            session=f"s{number}",
            subject=canary,
        )
    secret = vector.tobytes()
    assert b"zqcanary007x" in on_disk(path) and secret in on_disk(path)
    for number in (7, 59):
        assert made.purge("t", Selector(session=f"s{number}")).removed == (f"e{number}", f"f{number}")
    raw = on_disk(path)
    assert (
        b"canary007" not in raw and b"canary059" not in raw and secret not in raw and b"zqcanary008x" in raw
    )
    assert made.search_text("t", "zqcanary007x", kinds=["episode", "fact"], limit=5) == []
    made.purge("t", Selector(everything=True))
    assert b"canary" not in on_disk(path)
    made.close()


def test_a_purge_cut_off_before_cleaning_is_finished_on_opening(tmp_path, monkeypatch):
    path = tmp_path / "memory.db"
    made = SqliteStore(path)
    add(made, "t", "e1", text="zqcanary " * 500)
    monkeypatch.setattr(
        SqliteStore, "_erase_traces", lambda self, number: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        made.purge("t", Selector(ids=("e1",)))
    monkeypatch.undo()
    made.close()
    SqliteStore(path).close()
    assert b"zqcanary" not in on_disk(path)


def test_postgres_canaries_leave_the_table_files(server, tmp_path):
    from longspan.context.stores.postgres import PostgresStore

    made = PostgresStore(server.get_uri(), "canary")
    made.bind_embedder("test-3", 3)
    add(made, "t", "e1", text="zqcanary001x", records=[Record("f", "fact", "zqcanary001x!", sources=("e1",))])
    add(made, "t", "e2", text="zqcanary002x")
    made.purge("t", Selector(ids=("e1",)))
    made._db.execute("CHECKPOINT")
    tables = server.pgdata / "base"
    raw = b"".join(file.read_bytes() for file in tables.rglob("*") if file.is_file())
    made.close()
    assert b"zqcanary001x" not in raw and b"zqcanary002x" in raw


def test_old_files_are_migrated_newer_and_foreign_ones_refused(tmp_path, monkeypatch):
    path = tmp_path / "old.db"
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_module, "MIGRATIONS", sqlite_module.MIGRATIONS[:1])
        old = SqliteStore(path)
        add(old, "t", "e1")
        assert old.schema_version == 1
        old.close()
    opened = SqliteStore(path)
    assert opened.schema_version == len(sqlite_module.MIGRATIONS) and ids(opened.get("t")) == ["e1"]
    opened._db.execute("PRAGMA user_version = 99")
    opened.close()
    with pytest.raises(BadInput, match="schema version 99"):
        SqliteStore(path)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE x (y)")
    with pytest.raises(BadInput, match="another program"):
        SqliteStore(foreign)
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database at all" * 100)
    with pytest.raises(BadInput, match="not a Longspan memory"):
        SqliteStore(garbage)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_fifty_writers_on_one_store_and_on_connections_of_their_own(kind, tmp_path, request):
    if kind == "sqlite":
        opened = lambda: SqliteStore(tmp_path / "memory.db")  # noqa: E731
    else:
        from longspan.context.stores.postgres import PostgresStore

        uri = request.getfixturevalue("server").get_uri()
        opened = lambda: PostgresStore(uri, "fifty")  # noqa: E731
    shared, broken = opened(), []

    def write(number):
        try:
            own = shared if number % 2 else opened()
            for turn in range(4):
                add(
                    own,
                    f"t{number % 3}",
                    f"e{number}-{turn}",
                    records=[Record(f"f{number}-{turn}", "fact", "x", sources=(f"e{number}-{turn}",))],
                )
            if own is not shared:
                own.close()
        except Exception as error:
            broken.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    for n in range(3):
        mine = [number for number in range(50) if number % 3 == n]
        found = shared.get(f"t{n}")
        assert Counter(r.kind for r in found) == {"episode": 4 * len(mine), "fact": 4 * len(mine)}
        assert {int(r.id[1:].split("-")[0]) for r in found} == set(mine)  # no other tenant's
        assert shared.generation(f"t{n}") == 4 * len(mine)
    shared.close()


def _postgres_process(uri, said):
    from longspan.context.stores.postgres import PostgresStore

    own = PostgresStore(uri, "killed")
    os.write(said, b"ready\n")
    for turn in range(10_000):
        id = f"{os.getpid()}-{turn}"
        facts = [Record(f"f{id}-{n}", "fact", "x", sources=(id,)) for n in range(3)]
        add(own, "t", id, records=facts)
        os.write(said, f"{id}\n".encode())


@pytest.mark.parametrize(("kills", "seed"), [(3, 0), pytest.param(100, 1, marks=pytest.mark.slow)])
def test_clients_killed_while_they_write_to_a_server_leave_whole_units(server, kills, seed):
    from longspan.context.stores.postgres import PostgresStore

    rng, committed = random.Random(seed), set()
    for _ in range(kills):
        heard, said = os.pipe()
        worker = multiprocessing.get_context("fork").Process(
            target=_postgres_process, args=(server.get_uri(), said)
        )
        worker.start()
        os.close(said)
        assert os.read(heard, 6) == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.2))
        worker.kill()
        worker.join()
        with open(heard, "rb") as pipe:
            out = pipe.read().decode()
        committed |= set(out[: out.rfind("\n") + 1].split())
    made = PostgresStore(server.get_uri(), "killed")
    episodes = {r.id for r in made.get("t", kind="episode")}
    facts = Counter(r.sources[0] for r in made.get("t", kind="fact"))
    made.close()
    assert committed <= episodes and facts == dict.fromkeys(episodes, 3)


def _process(path, number):
    own = SqliteStore(path)
    for turn in range(5):
        add(own, "t", f"e{number}-{turn}")
    own.close()


def test_processes_write_to_one_file(tmp_path):
    path = tmp_path / "memory.db"
    SqliteStore(path).close()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_process, args=(path, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    made = SqliteStore(path)
    assert len(made.get("t")) == 20 and made.generation("t") == 20


def test_search_sees_what_another_connection_wrote_and_purged(tmp_path):
    """The cached vectors grow with new rows and are dropped where rows went, also when others wrote them."""
    one, two = SqliteStore(tmp_path / "m.db"), SqliteStore(tmp_path / "m.db")
    one.bind_embedder("test-3", 3)
    two.bind_embedder("test-3", 3)
    found = lambda: [(r.id, s) for r, s in one.search_vector("t", VECTORS[0], kinds=["episode"], limit=9)]  # noqa: E731
    add(one, "t", "a", vector=VECTORS[0])
    assert found() == [("a", 1.0)]
    add(two, "t", "b", vector=VECTORS[1])
    assert found() == [("a", 1.0), ("b", 0.0)]
    two.purge("t", Selector(ids=("b",)))
    add(two, "t", "c", vector=-VECTORS[0])
    assert found() == [("a", 1.0), ("c", -1.0)]
    two.purge("t", Selector(ids=("a",)))
    assert found() == [("c", -1.0)]


def test_ranking_of_one_tenant_does_not_depend_on_another(tmp_path):
    answers = []
    for crowded in (False, True):
        made = SqliteStore(":memory:")
        made.bind_embedder("test-3", 3)
        for number, text in enumerate(["red bees", "blue bees bees", "red red sky"]):
            add(made, "t", f"e{number}", text=text, vector=VECTORS[number])
            if crowded:
                add(made, "u", f"e{number}", text="red " * 50, vector=VECTORS[number])
        found = made.search_text("t", "red bees", kinds=["episode"], limit=9)
        answers.append(json.dumps([(r.id, s) for r, s in found]))
    assert answers[0] == answers[1]
