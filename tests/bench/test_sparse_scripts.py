"""The scripts that measure sparse attention: what they will run parses, covers the registry, and meets the density asked for."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tests.engine.models import engine_model

from longspan.bench.recall import COLLECTED, DenseRows
from longspan.engine.recipe import parse
from longspan.engine.registry import methods

BENCH = Path(__file__).parents[2] / "bench"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recall, quality = script("sparse_recall"), script("sparse_quality")


def test_every_registered_sparse_method_has_a_recall_row():
    named = {form.split("(")[0] for stage in ("decode", "prefill") for form in recall.forms(stage)}
    registered = {name for name, cls in methods().items() if cls.stage in ("decode", "prefill")}
    assert registered - named == {"a_shape"}  # the window baseline
    for phase, form, budget in recall.work(4096):
        assert form == "window" or parse(form.format(b=budget)).one(phase.split()[0]) is not None


def test_every_target_is_measured():
    planned = set(recall.work(4096))
    assert recall.TARGETS.keys() <= planned


def test_a_decode_row_holds_the_baselines_at_its_own_density():
    lm = engine_model()
    ids = torch.randint(5, 250, (160,), generator=torch.Generator().manual_seed(1))
    cut = lm.session(None, collect=COLLECTED).feed(ids[:-8])
    rows = DenseRows(cut, cut.fork(collect=cut.needs).feed(ids[-8:]))
    row = recall.row_of(lambda: rows, "decode", "oracle(budget={b}, dense_layers=0)", 0.125)
    assert row["kept"] == pytest.approx(row["oracle"], abs=1e-3)
    assert row["density"] == pytest.approx(0.125, abs=0.01)
    assert row["oracle"] > max(row["window"], row["random"])
    missing = recall.row_of(lambda: rows, "decode", recall.DECODE_FORMS["delta"][0], 0.125)
    assert "planner" in missing["left_out"] and "kept" not in missing


def test_bisection_finds_the_knob_of_a_density():
    asked = []

    def density(x):
        asked.append(x)
        return min(1.0, 0.1 + 0.9 * x**2)  # forced entries at the bottom

    x, found = quality.bisect(density, 0.5, 0.005, 1.0)
    assert found == density(x) and abs(found - 0.5) <= quality.NEARLY * 0.5
    assert len(asked) <= quality.STEPS + 1
    x, found = quality.bisect(lambda x: x / 1000, 0.25, 1, 8192)
    assert isinstance(x, int) and abs(found - 0.25) <= quality.NEARLY * 0.25
    x, found = quality.bisect(lambda x: 0.7, 0.25, 0.005, 1.0)
    assert found == 0.7  # cannot be reached: the nearest, which the caller marks


@pytest.mark.parametrize("form", [*quality.PREFILL, *quality.DECODE])
def test_every_form_parses_over_its_range(form):
    low, high = {**quality.PREFILL, **quality.DECODE}[form]
    assert low < high and type(low) is type(high)
    for x in (low, high):
        assert len(parse(form.format(x=x)).methods) == 1
