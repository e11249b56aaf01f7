"""A recipe that cannot act on an item is listed with its reason; the others of the same read go on."""

import pytest
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.bench.compare import Comparison
from longspan.bench.grid import Plan
from longspan.bench.item import Item
from longspan.bench.results import load, open_run
from longspan.bench.variants import variants
from longspan.engine.model import Model


@pytest.fixture(scope="module")
def lm():
    hf = tiny("llama", vocab_size=len(byte_level()), num_hidden_layers=2)
    return Model(hf, byte_level(), name="tiny", model_hash="tiny", trained_window=4096)


def test_a_budget_that_is_too_small_fails_its_own_rows_only(lm, tmp_path):
    item = Item(
        id="i",
        task="needle",
        context="The road was wet and the bread was good. " * 6,
        question="Was it wet?",
        answer_prefix="",
        answers=("yes",),
        candidates=None,
        evidence=(),
        metadata={"index": 0},
        max_new_tokens=2,
        stop=(),
        seed=0,
        scorer="presence",
    )
    plan = Plan(variants(["chelsea", "keydiff"], [0.9, 0.1], references=False), (False, True), ("generate",))
    with open_run(tmp_path / "run", {"model": "tiny"}, resume=False) as results:
        Comparison(lm, plan, results, [(item, 256)], lambda _: ("generate",)).run()
    rows = load(tmp_path / "run")[1]
    failed = [(row["method"], row["budget"], row["aware"]) for row in rows if row["error"]]
    assert len(rows) == 8 and sorted(failed) == [("chelsea", 0.1, False), ("chelsea", 0.1, True)]
    for row in rows:
        if row["error"]:
            assert "must protect" in row["error"] and row["score"] is None
        else:
            assert 0.0 < row["method_s"] <= row["ttft_s"]
