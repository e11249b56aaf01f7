"""Crossovers of sparse kernels: the table's rule and file, the measurement, and the dense fallback that is said in the stats."""

import json

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model, stepwise
from typer.testing import CliRunner

from longspan.bench import crossover as measuring
from longspan.cli.main import app
from longspan.engine import crossover
from longspan.engine.batch import Work, forward
from longspan.engine.crossover import DECODE, PREFILL, Crossovers, crossover_length
from longspan.errors import BadInput
from longspan.ops.attention import CPU_FLASH

SLOW = ((1.0, None),)  # sparse never wins
SMALL = measuring.Grid(
    prefill_lengths=(64, 96),
    decode_lengths=(64, 96),
    densities=(0.5, 0.25),
    chunk=32,
    tile=16,
    rounds=1,
    walk_bytes=0,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(crossover.SWITCH, raising=False)


@pytest.fixture
def model(monkeypatch):
    """A model whose table a test may set."""
    lm = engine_model()
    monkeypatch.setattr(lm, "crossovers", None)
    return lm


def test_the_crossover_is_where_sparse_wins_for_good():
    assert crossover_length([(1, False), (2, True), (4, False), (8, True), (16, True)]) == 8
    assert crossover_length([(1, True), (2, True)]) == 1
    assert crossover_length([(1, True), (2, False)]) is None


def test_the_next_larger_measured_density_decides():
    table = Crossovers("m", {(PREFILL, "gather"): ((0.1, 1000), (0.4, 4000))})
    asked = [(0.05, 999), (0.05, 1000), (0.1, 1000), (0.2, 1000), (0.2, 4000), (0.5, 100_000)]
    answers = [table.dense_is_faster(PREFILL, "gather", keys, density) for density, keys in asked]
    assert answers == [True, False, False, True, False, True]
    assert not table.dense_is_faster(DECODE, "gather", 1, 0.5)  # not measured: as asked


def test_the_file_comes_back_and_the_switch_turns_it_off(monkeypatch):
    assert crossover.read("cpu") is None
    rows = [
        {"phase": PREFILL, "backend": "gather", "keys": keys, "asked": 0.25, "speedup": speedup}
        for keys, speedup in ((1024, 0.9), (2048, 1.2))
    ]
    crossover.store("cpu", {"crossover": measuring.crossovers(rows)})
    table = crossover.read("cpu")
    assert table.machine == crossover.node()
    assert table.lengths == {(PREFILL, "gather"): ((0.25, 2048),)}
    assert crossover.read("cuda") is None
    monkeypatch.setenv(crossover.SWITCH, "off")
    assert crossover.read("cpu") is None
    monkeypatch.setenv(crossover.SWITCH, "maybe")
    with pytest.raises(BadInput, match="neither on nor off"):
        crossover.read("cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts | {"machine": "another"}, "another machine"),
        (lambda facts: facts | {"version": 0}, "another machine or version"),
        (lambda facts: {"machine": facts["machine"]}, "damaged"),
        (lambda facts: facts | {"crossover": {"prefill": [1]}}, "damaged"),
    ],
)
def test_a_damaged_or_foreign_table_says_what_to_do(change, message):
    path = crossover.store("cpu", {"crossover": {}})
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(BadInput, match=message) as caught:
        crossover.read("cpu")
    assert "longspan calibrate kernels" in str(caught.value)


@pytest.mark.parametrize("backend", ["gather"] if CPU_FLASH else ["reference"])
def test_below_the_crossover_reading_is_dense_and_says_so(model, backend):
    recipe = "a_shape(sink=16, window=16, tile=16)"
    full = model.session(None, chunk=32).read(IDS).next_logits()
    sparse = model.session(recipe, chunk=32).read(IDS)
    assert sparse.stats.dense_fallback == 0 and sparse.stats.prefill_density < 1
    model.crossovers = Crossovers("m", {(PREFILL, backend): SLOW})
    dense = model.session(recipe, chunk=32).read(IDS)
    assert dense.stats.dense_fallback == 1 and dense.stats.prefill_density == 1
    torch.testing.assert_close(dense.next_logits(), full, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(sparse.next_logits(), full, atol=1e-3)
    model.crossovers = Crossovers("m", {(PREFILL, backend): ((1.0, 80),)})
    part = model.session(recipe, chunk=32).read(IDS)  # chunks end at 32, 64 and 96 keys
    calls = sum(run.counters.sparse_calls for run in part.layers.values())
    below = sum(run.counters.dense_calls for run in part.layers.values())
    assert 0 < below < calls and part.stats.dense_fallback == below / calls
    assert sparse.stats.prefill_density < part.stats.prefill_density < 1


@pytest.mark.parametrize("backend", ["gather"] if CPU_FLASH else ["reference"])
def test_below_the_crossover_decoding_is_dense_once_the_density_is_known(model, backend):
    session = model.session("oracle(budget=0.25)", chunk=32).read(IDS)
    sparse = stepwise(session, MORE)
    full = stepwise(model.session(None, chunk=32).read(IDS), MORE)
    model.crossovers = Crossovers("m", {(DECODE, backend): SLOW})
    fork = session.fork()
    for token in MORE:
        forward(model, [Work(fork, token.view(1))])
    layers = len(fork.growing_layers())
    assert fork.stats.dense_fallback == (len(MORE) - 1) / len(MORE)  # the first step learns the density
    assert sum(run.counters.sparse_calls for run in fork.layers.values()) == layers * len(MORE)
    assert fork.stats.decode_density > 1 - 1 / len(MORE)
    known = session.fork()
    for run in known.layers.values():
        run.counters.share = 0.25
    torch.testing.assert_close(stepwise(known, MORE), full, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(sparse, full, atol=1e-3)


def test_calibrate_kernels_measures_and_stores(monkeypatch):
    seen = []
    path, facts = measuring.calibrate_kernels(SMALL, lambda done, total: seen.append((done, total)))
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]
    assert path == crossover.path_for("cpu") and path.parent.name == "kernels"
    rows = facts["measured"]
    assert {(r["phase"], r["keys"]) for r in rows} == {(p, n) for p in (PREFILL, DECODE) for n in (64, 96)}
    assert len(rows) == 8 and all(r["speedup"] > 0 and 0 < r["density"] <= 1 for r in rows)
    table = crossover.read("cpu")
    assert {phase for phase, _ in table.lengths} == {PREFILL, DECODE}
    for points in table.lengths.values():
        assert [density for density, _ in points] == [0.25, 0.5]


def test_the_command_prints_every_crossover(monkeypatch):
    original = measuring.calibrate_kernels
    monkeypatch.setattr(measuring, "calibrate_kernels", lambda grid, progress: original(SMALL, progress))
    result = CliRunner().invoke(app, ["calibrate", "kernels"])
    assert result.exit_code == 0, result.output
    assert result.output.count("faster than dense") == 4
    assert str(crossover.path_for("cpu")) in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_heads": 8}, "do not divide"),
        ({"prefill_lengths": (32,)}, "longer than the chunk"),
        ({"densities": (0.0,)}, "between 0 and 1"),
    ],
)
def test_an_impossible_grid_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        measuring.check_grid(measuring.Grid(**change))
