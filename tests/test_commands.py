"""The commands on a tiny model: lists, verify and its exit code, the demo from text to report."""

import json
from pathlib import Path

import pytest
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

import longspan.bench.run as running
from longspan.bench import demo
from longspan.bench import verify as checking
from longspan.bench.results import load as load_run
from longspan.bench.verify import Check, Outcome
from longspan.cli import _show
from longspan.cli import main as cli
from longspan.engine.model import Model
from longspan.errors import BadInput


def test_recipes_are_split_outside_brackets():
    assert _show.split_top(["snapkv(window=8,pool=5),keydiff", " dpe(scales=(1, 1)) "]) == [
        "snapkv(window=8,pool=5)",
        "keydiff",
        "dpe(scales=(1, 1))",
    ]
    assert [_show.number(text) for text in ("0.5", "1024", "64MB")] == [0.5, 1024, "64MB"]


def test_time_left_counts_only_what_was_measured(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_show.time, "monotonic", lambda: now[0])
    left = _show._Left()
    assert left.said(40, 100) == ""  # found finished
    now[0] = 10.0
    assert left.said(50, 100) == "0:50 left"
    now[0] = 90.0
    assert left.said(60, 100) == "3:00 left"


def test_lists_are_complete_and_valid_json(capsys):
    from longspan.bench.dataset import all_datasets
    from longspan.bench.task import all_tasks
    from longspan.engine.registry import methods

    def listed(*arguments: str):
        assert cli.run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    found = {fact["name"]: fact for fact in listed("methods")}
    assert set(found) == set(methods())
    assert (
        found["snapkv"]["knobs"]["window"] == 32
        and found["snapkv"]["stage"] == "cache"
        and found["snapkv"]["year"] == 2024
    )
    assert all(fact["summary"] and "\n" not in fact["summary"] for fact in found.values())
    assert found["adakv"]["knobs"]["base"].startswith("snapkv(")
    assert listed("methods", "snapkv") == found["snapkv"]
    tasks = {fact["name"]: fact for fact in listed("tasks")}
    assert set(tasks) == {*all_tasks(), *all_datasets()}
    assert tasks["needle"]["kind"] == "generator" and tasks["needle"]["data"] == "own"
    qasper = tasks["longbench_qasper"]
    assert (
        qasper["benchmark"] == "LongBench" and "THUDM/LongBench" in qasper["data"] and qasper["items"] == 200
    )
    assert all(fact["benchmark"] and fact["data"] and fact["source"] for fact in tasks.values())
    assert {fact["name"] for fact in listed("models")} == {"smollm2-135m", "gemma3-270m", "probe"}
    for arguments in (
        ["methods"],
        ["methods", "kivi"],
        ["tasks"],
        ["tasks", "needle"],
        ["tasks", "nocha"],
        ["models"],
        ["calibrate", "tova"],
    ):
        assert cli.run(arguments) == 0 and capsys.readouterr().out.strip()


def test_verify_prints_the_figures_and_fails_with_code_1(capsys, monkeypatch, tmp_path):
    def run(holds: bool):
        def measured(bench) -> Outcome:
            outcome = Outcome({"share": 0.25})
            outcome.must("totals are exact", holds)
            return outcome

        return measured

    known = {name: Check(name, "", f"{name} is so", run(name == "good")) for name in ("bad", "good")}
    monkeypatch.setattr(checking, "checks", lambda: known)
    monkeypatch.setattr(checking, "Bench", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["verify", "good"]) == 0
    out = capsys.readouterr().out
    assert "good is so" in out and "works" in out and "share: 0.25" in out
    assert cli.run(["verify", "--all", "--json"]) == 1
    found = {item["name"]: item["verdict"] for item in json.loads(capsys.readouterr().out)}
    assert found == {"bad": "fails", "good": "works"}
    assert sorted(path.name for path in (tmp_path / "evidence").iterdir()) == ["bad.json", "good.json"]


def test_the_demo_goes_from_a_text_to_a_report(capsys, monkeypatch, tmp_path):
    hf = tiny("llama", vocab_size=len(byte_level()), num_hidden_layers=1, head_dim=32)
    model = Model(hf, byte_level(), name="tiny", model_hash="tiny", trained_window=4096)
    monkeypatch.setattr(running, "load", lambda name: model)
    monkeypatch.setattr(demo, "SAMPLES", 1)
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--out", "run"]
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    assert out.strip().splitlines()[-1] == "run/report.html"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "snapkv" in page and "http-equiv" not in page and 'src="http' not in page
    facts, rows = load_run(tmp_path / "run")
    assert facts["model"] == "tiny" and not any(row["error"] for row in rows)
    assert {row["haystack"] for row in rows} == {"python-reference.txt"}
    assert {row["length"] for row in rows} == {700, 1400}
    assert {row["role"] for row in rows} == {"method", "ceiling", "floor", "oracle"}
    read = sum(row["prefilled_tokens"] for row in rows)
    assert read < 0.2 * sum(row["context_tokens"] for row in rows)  # contexts are shared
    assert cli.run(arguments) == 2 and "already holds a run" in capsys.readouterr().err
    assert cli.run([*arguments, "--resume"]) == 0 and len(load_run(tmp_path / "run")[1]) == len(rows)


@pytest.mark.parametrize("arguments", [["own.md"], ["--doc", "own.md"]])
def test_the_demo_takes_a_document(monkeypatch, tmp_path, arguments):
    seen = {}

    def stop(*_, haystacks, **__):
        seen["text"] = Path(haystacks[0]).read_text(encoding="utf-8")
        raise BadInput("enough")

    monkeypatch.setattr(demo, "compare", stop)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.md").write_text("# Own\n\n" + "The ferry to Tolvik leaves at half past six. " * 120)
    assert cli.run(["demo", *arguments, "--out", "run"]) == 2
    assert seen["text"].startswith("# Own") and (tmp_path / "run" / "own.txt").exists()
