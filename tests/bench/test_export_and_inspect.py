"""Results leave in other harnesses' formats; inspect_ai can use the engine as a model."""

import csv
import json

import pytest
import yaml
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.bench.harness.export import export_kvpress, export_lm_eval, slug, task_name
from longspan.bench.results import cell_id, open_run
from longspan.cli import main as cli
from longspan.engine.model import Model
from longspan.errors import BadInput

FACTS = {
    "model": "smollm2-135m",
    "model_hash": "abc",
    "template_hash": "t",
    "seed": 3,
    "longspan": "0.1",
    "created": "now",
}


def row(recipe, task, sample, score, *, budget=None, aware=None, **more):
    cell = cell_id(recipe=recipe, task=task, sample=sample, aware=aware, **more)
    base = {
        "method": recipe.split("(")[0],
        "role": "method",
        "length": 1024,
        "haystack": "filler",
        "answer_mode": "generate",
    }
    return {
        **base, "cell": cell, "recipe": recipe, "task": task, "sample": sample, "score": score, "answer": f"reply {sample}",
        "gold": ["g"], "budget": budget, "aware": aware, "error": None if score is not None else "it broke", **more,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path):
    with open_run(tmp_path / "run", FACTS) as results:
        for i, score in enumerate((1.0, 0.0, 1.0, 1.0)):
            results.append(row("full", "niah", i, score))
            results.append(row("snapkv(budget=0.25)", "niah", i, score / 2, budget=0.25, aware=False))
            results.append(row("snapkv(budget=0.25)", "niah", i, score, budget=0.25, aware=True))
        results.append(row("full", "niah", 9, None))
        results.append(row("full", "vt", 0, 0.5, answer_mode="rank"))
    return tmp_path / "run"


def test_an_endpoints_rows_are_exported_under_its_own_model(tmp_path):
    with open_run(tmp_path / "run", FACTS) as results:
        results.append({**row("endpoint:gpt", "niah", 0, 1.0), "method": "gpt"})
    export_lm_eval(tmp_path / "run", tmp_path / "lm")
    made = json.loads((tmp_path / "lm/results_endpoint_gpt.json").read_text())
    assert made["model_name"] == "gpt" and made["model_sha"] is None
    (folder,) = export_kvpress(tmp_path / "run", tmp_path / "kv")
    assert folder.name == "ruler__1024__gpt__endpoint__0.00"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"] == "gpt"


def test_the_command_writes_both_formats(run, tmp_path, capsys):
    assert (
        cli.run(["report", str(run), "--lm-eval", str(tmp_path / "lm"), "--kvpress", str(tmp_path / "kv")])
        == 0
    )
    assert list((tmp_path / "lm").glob("results_*.json")) and list((tmp_path / "kv").glob("*/metrics.json"))
    assert capsys.readouterr().out.strip().splitlines()[-1].endswith("report.html")
    with open_run(tmp_path / "empty", FACTS):
        pass
    assert cli.run(["report", str(tmp_path / "empty"), "--kvpress", str(tmp_path / "none")]) == 2


def test_lm_eval_files_hold_what_its_own_runs_write(run, tmp_path):
    paths = export_lm_eval(run, tmp_path / "out")
    names = {path.name for path in paths}
    assert "results_full.json" in names and "samples_niah_1024_filler_full.jsonl" in names
    made = json.loads((tmp_path / "out/results_full.json").read_text())
    assert made["results"]["niah_1024_filler"] == {
        "alias": "niah_1024_filler", "score,none": 0.75, "score_stderr,none": pytest.approx(0.25),
    }  # fmt: skip
    assert made["n-samples"]["niah_1024_filler"] == {
        "original": 5,
        "effective": 4,
    }  # the failed item is counted, not scored
    assert set(made["results"]) == {"niah_1024_filler", "vt_1024_filler_rank"}
    assert (
        made["model_sha"] == "abc"
        and made["chat_template_sha"] == "t"
        and "recipe=full" in made["config"]["model_args"]
    )
    assert json.loads((tmp_path / "out/results_snapkv_budget_0.25_agnostic.json").read_text())["results"][
        "niah_1024_filler"
    ]["score,none"] == pytest.approx(0.375)
    lines = (tmp_path / "out/samples_niah_1024_filler_full.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 5 and samples[0]["target"] == "g" and samples[4]["error"] == "it broke"
    assert samples[0]["filtered_resps"] == ["reply 0"] and samples[0]["doc_hash"] != samples[1]["doc_hash"]


def test_kvpress_folders_are_named_and_filled_as_its_leaderboard_reads_them(run, tmp_path):
    folders = {path.name: path for path in export_kvpress(run, tmp_path / "board")}
    assert set(folders) == {
        "ruler__1024__smollm2-135m__full__0.00",
        "ruler__1024__smollm2-135m__snapkv__0.75",
        "ruler__1024__smollm2-135m__snapkv__0.75__query_aware",
    }
    agnostic = folders["ruler__1024__smollm2-135m__snapkv__0.75"]
    assert json.loads((agnostic / "metrics.json").read_text()) == {"niah": {"string_match": 37.5}}
    config = yaml.safe_load((agnostic / "config.yaml").read_text())
    assert (
        config["compression_ratio"] == 0.75
        and config["query_aware"] is False
        and config["press_name"] == "snapkv"
    )
    assert (
        yaml.safe_load((folders["ruler__1024__smollm2-135m__full__0.00"] / "config.yaml").read_text())[
            "failed_items"
        ]
        == 1
    )
    with (agnostic / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and rows[0]["answer"] == "g" and rows[0]["predicted_answer"] == "reply 0"
    assert "context" not in rows[0]


def test_names_and_empty_runs(tmp_path):
    assert (
        slug("snapkv(budget=0.5)+kivi(bits=4)") == "snapkv_budget_0.5_kivi_bits_4" and slug("///") == "none"
    )
    assert task_name({"task": "vt", "length": None, "answer_mode": "rank"}) == "vt_rank"
    with open_run(tmp_path / "empty", FACTS):
        pass
    with pytest.raises(BadInput, match="holds no results"):
        export_lm_eval(tmp_path / "empty", tmp_path / "out")


def test_inspect_ai_runs_a_task_and_logs_the_cost(tmp_path, monkeypatch):
    inspect_ai = pytest.importorskip("inspect_ai", reason="inspect-ai is an optional extra")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    import longspan.bench.harness.inspect  # noqa: F401  registers the provider

    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path))
    engine = Model(tiny("llama", vocab_size=len(byte_level())), byte_level(), name="tiny", trained_window=512)
    model = get_model("longspan/tiny", engine=engine, recipe="full")
    task = inspect_ai.Task(
        dataset=[Sample("room one", target="zz"), Sample("room two", target="")],
        solver=generate(max_tokens=5),
        scorer=includes(),
    )
    (log,) = inspect_ai.eval(task, model=model, display="none", log_dir=str(tmp_path))
    assert log.status == "success" and len(log.samples) == 2
    output = log.samples[0].output
    assert (
        output.metadata["entries"] > 0
        and output.metadata["recipe"] == "full"
        and output.usage.output_tokens == 5
    )
    assert output.stop_reason == "max_tokens" and log.samples[1].scores["includes"].value == "C"
