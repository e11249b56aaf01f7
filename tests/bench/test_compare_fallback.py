"""Rows of a comparison say what attention really read, and when a sparse method was answered densely."""

import pytest
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.bench.compare import Comparison
from longspan.bench.grid import Plan
from longspan.bench.item import Item
from longspan.bench.results import ROW_TYPES, open_run
from longspan.bench.results import load as load_run
from longspan.bench.variants import variants
from longspan.engine.crossover import DECODE, PREFILL, Crossovers
from longspan.engine.model import Model
from longspan.ops.attention import CPU_FLASH

BACKEND = "gather" if CPU_FLASH else "reference"
PATTERN, SELECTOR = "a_shape(sink=16, window=16, tile=16)", "oracle(budget=0.25, dense_layers=0)"
ITEM = Item(
    id="i0",
    task="needle",
    context=" ".join(f"The bread of day {i} was good and the road was wet." for i in range(12)),
    question="What was wet?",
    answer_prefix="",
    answers=("road",),
    candidates=None,
    evidence=(),
    metadata={"index": 0},
    max_new_tokens=6,
    stop=(),
    seed=0,
    scorer="presence",
)


def rows_of(lm, folder):
    chosen = variants(["full", PATTERN, SELECTOR], (), references=False)
    plan = Plan(chosen, (False,), ("generate",), latency_tokens=0)
    with open_run(folder, {"model": "tiny"}, resume=False) as results:
        Comparison(lm, plan, results, [(ITEM, 600)], lambda i: ("generate",)).run()
    rows = load_run(folder)[1]
    assert {row["error"] for row in rows} == {None}
    return {row["method"].split("(")[0]: row for row in rows}


@pytest.fixture
def lm():
    hf = tiny("llama", vocab_size=len(byte_level()), num_hidden_layers=2, max_position_embeddings=4096)
    return Model(hf, byte_level(), name="tiny", model_hash="tiny", trained_window=4096)


def test_without_a_table_nothing_falls_back(lm, tmp_path):
    rows = rows_of(lm, tmp_path / "r")
    assert {row["dense_fallback"] for row in rows.values()} == {0.0}
    assert rows["full"]["prefill_density"] == rows["full"]["decode_density"] == 1.0
    assert rows["a_shape"]["prefill_density"] < 1.0 == rows["a_shape"]["decode_density"]
    assert rows["oracle"]["decode_density"] < 0.5
    assert {"prefill_density", "decode_density", "dense_fallback"} <= ROW_TYPES.keys()


def test_below_the_crossover_the_row_says_so(lm, tmp_path):
    never = ((1.0, None),)
    lm.crossovers = Crossovers("m", {(PREFILL, BACKEND): never, (DECODE, BACKEND): never})
    rows = rows_of(lm, tmp_path / "r")
    assert rows["full"]["dense_fallback"] == 0.0
    assert rows["a_shape"]["dense_fallback"] == 1.0 == rows["a_shape"]["prefill_density"]
    assert 0.5 < rows["oracle"]["dense_fallback"] < 1.0  # all steps but the first
    assert rows["oracle"]["decode_density"] > 0.5
