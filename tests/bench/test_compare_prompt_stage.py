"""compare and ask with prompt methods: one read for all recipes that share a short text, honest token counts, mapped evidence."""

import pytest
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

import longspan.engine.model as engine_model
from longspan.bench.compare import Comparison
from longspan.bench.grid import Plan
from longspan.bench.item import Item
from longspan.bench.results import load as load_run
from longspan.bench.results import open_run
from longspan.bench.variants import variants
from longspan.cli import main as cli
from longspan.engine.model import Model

NEEDLE = "The vault number of Astor is 4711."
FILLER = [f"The bread of day {i} was good and the road was wet." for i in range(30)]
TEXT = " ".join([*FILLER[:17], NEEDLE, *FILLER[17:]])
QUESTION = "What is the vault number of Astor?"


@pytest.fixture(scope="module")
def lm():
    hf = tiny("llama", vocab_size=len(byte_level()), num_hidden_layers=2)
    return Model(hf, byte_level(), name="tiny", model_hash="tiny", trained_window=4096)


def item(question=QUESTION, number=0):
    at = TEXT.index(NEEDLE)
    return Item(
        id=f"i{number}",
        task="needle",
        context=TEXT,
        question=question,
        answer_prefix="",
        answers=("4711",),
        candidates=None,
        evidence=((at, at + len(NEEDLE)),),
        metadata={"index": number},
        max_new_tokens=3,
        stop=(),
        seed=0,
        scorer="presence",
    )


def rows_of(lm, folder, recipes, budgets=(), aware=(False, True), items=None):
    plan = Plan(variants(recipes, budgets, references=False), aware, ("generate",), latency_tokens=0)
    with open_run(folder, {"model": "tiny"}, resume=False) as results:
        Comparison(lm, plan, results, [(i, 1600) for i in items or [item()]], lambda i: ("generate",)).run()
    return load_run(folder)[1]


def test_rows_count_tokens_before_and_after_and_follow_the_evidence(lm, tmp_path):
    rows = rows_of(lm, tmp_path / "r", ["full", "bm25(budget=0.2)", "truncate(budget=0.2)"])
    full, kept, lost = rows
    whole = len(lm.encode(TEXT, special=True))
    assert {row["error"] for row in rows} == {None}
    assert full["context_tokens"] == full["read_tokens"] == kept["context_tokens"] == whole
    for row in (kept, lost):
        assert row["read_tokens"] <= 1 + round(0.2 * len(lm.encode(TEXT)))
        assert row["cache_bytes"] < 0.3 * row["dense_bytes"]
    assert lost["dense_bytes"] == full["dense_bytes"] == full["cache_bytes"]
    assert lost["cache_bytes"] == full["cache_bytes"] // whole * lost["read_tokens"]
    assert (kept["aware"], lost["aware"], full["aware"]) == (True, None, None)
    assert kept["needle_retention"] == pytest.approx(1.0)
    assert lost["needle_retention"] == 0.0


def test_recipes_that_share_a_short_text_share_its_read(lm, tmp_path, monkeypatch):
    from longspan.engine import session

    made = []
    real = session.shorten
    monkeypatch.setattr(session, "shorten", lambda *a: made.append(a[3]) or real(*a))
    recipes = [
        "bm25(budget=0.4) + snapkv(window=8)",
        "bm25(budget=0.4) + keydiff",
        "truncate(budget=0.4) + keydiff",
    ]
    items = [item(), item("Which day had the good bread?", 1)]
    rows = rows_of(lm, tmp_path / "r", recipes, (0.5, 0.25), items=items)
    assert {row["error"] for row in rows} == {None}
    assert len(rows) == 2 * (2 * 2 + 2 * 2)  # the aware prompt method has one question mode, the other two
    assert sorted(made) == sorted(["", QUESTION, "Which day had the good bread?"])
    short = {row["read_tokens"] for row in rows if row["recipe"].startswith("bm25")}
    read = sum(row["prefilled_tokens"] for row in rows)
    assert read < 4 * max(short) + len(rows) * 60
    for row in rows:
        if row["recipe"].startswith("bm25") and row["sample"] == 0:
            assert 0 < row["needle_retention"] <= 1.0
            share = 0.5 if row["budget"] == 0.5 else 0.25
            assert (
                row["cache_bytes"]
                < 1.3 * share * row["dense_bytes"] * row["read_tokens"] / row["context_tokens"]
            )
        assert row["needle_retention"] == 0.0 or row["recipe"].startswith("bm25")


def test_what_cannot_run_is_listed_with_its_reason(lm, tmp_path):
    (row,) = rows_of(lm, tmp_path / "r", ["longcodezip"], (0.5,), aware=(False,))
    assert row["score"] is None and "none was given with the text" in row["error"] and row["aware"] is False


def test_recipes_that_read_in_their_own_way_read_the_short_text(lm, tmp_path):
    (row,) = rows_of(lm, tmp_path / "r", ["bm25(budget=0.4) + a_shape(sink=8, window=64, tile=8)"])
    assert row["error"] is None and row["read_tokens"] < 0.45 * row["context_tokens"]
    assert row["prefill_density"] < 1.0


def test_ask_shortens_for_each_question_when_the_method_looks_at_it(lm, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine_model, "load", lambda name: lm)
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    ask = ["ask", str(file), QUESTION, "And the bread?", "--max-new-tokens", "2", "--method"]
    assert cli.run([*ask, "bm25(budget=0.3)+snapkv(budget=0.5, window=8)"]) == 0
    said = capsys.readouterr().err
    whole = f"{len(lm.encode(TEXT)):,}"
    assert said.count(f"{whole} shortened to") == 2
    assert cli.run([*ask, "llmlingua2(budget=0.3)"]) == 0
    assert capsys.readouterr().err.count(f"{whole} shortened to") == 2
    assert cli.run([*ask, "longcodezip(budget=2.0)"]) == 2
    assert "above 1" in capsys.readouterr().err
