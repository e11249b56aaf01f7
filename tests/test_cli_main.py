"""The command line's skeleton: lazy commands, one sentence for bad input, exit codes; `systems` and its evidence."""

import json
import subprocess
import sys

import pytest

from longspan.bench import systems as scope
from longspan.cli import main as cli
from longspan.errors import BadInput
from synthetic_run import write_synthetic_run


def test_help_lists_every_command_without_importing_torch():
    code = (
        "import sys; from longspan.cli.main import run; code = run(['--help']); "
        "sys.exit(3 if 'torch' in sys.modules or 'transformers' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in cli.command_files():
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sytems"], "did you mean systems?"),
        (["report"], "RUN_FOLDER"),
        (["report", "--fro", "x"], "No such option"),
        (["report", "/nowhere"], "not a run folder"),
        (["systems", "--status", "wrks"], "did you mean works?"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, arguments, said):
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and "Traceback" not in captured.err


def test_interrupt_is_130(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(scope, "load_evidence", interrupt)
    assert cli.run(["systems"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(*_, **__):
        raise RuntimeError("bug")

    monkeypatch.setattr(scope, "load_evidence", bug)
    with pytest.raises(RuntimeError):
        cli.run(["systems"])


def test_report_command_prints_the_page_last(tmp_path, capsys):
    folder = write_synthetic_run(
        tmp_path / "run", lengths=(1024,), depths=(0.0, 1.0), budgets=(0.5,), samples=1
    )
    assert cli.run(["report", str(folder), "--parquet", str(tmp_path / "rows.parquet")]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(folder / "report.html")
    assert (folder / "report.html").exists() and (tmp_path / "rows.parquet").exists()


def test_the_scope_is_complete():
    table = scope.systems()
    assert [system.id for system in table] == list(range(1, 142))
    assert len({system.slug for system in table}) == 141
    assert all(system.title and system.room for system in table)


def evidence(name: str, system: str, verdict: str, **figures) -> scope.Evidence:
    return scope.Evidence(
        name,
        system,
        "a claim",
        figures,
        verdict,
        "2000-01-02",
        "a machine",
        f"longspan verify {name}",
        "src/x.py",
    )


def test_status_follows_the_evidence(tmp_path, capsys):
    folder = tmp_path / "evidence"
    for item in (
        evidence("chelsea", "chelsea", "works", ratio=1.25),
        evidence("rat", "rat", "no effect", gain=0.0),
        evidence("dpe", "dpe", "works", a=1),
        evidence("dpe-long", "dpe", "fails", a=2),
    ):
        scope.save_evidence(item, folder)
    entries = {entry["slug"]: entry for entry in scope.statuses(scope.load_evidence(folder))}
    assert len(entries) == 141
    assert entries["chelsea"]["status"] == "works" and entries["chelsea"]["figures"] == {"ratio": 1.25}
    assert entries["rat"]["status"] == "partial" and entries["dpe"]["status"] == "partial"
    assert entries["dpe"]["figures"] == {"dpe: a": 1, "dpe-long: a": 2}
    assert sum(entry["status"] == "none" for entry in entries.values()) == 138
    assert (
        cli.run(["systems", "--json", "--evidence", str(folder), "--docs", str(tmp_path / "systems.md")]) == 0
    )
    listed = json.loads(capsys.readouterr().out)
    assert {"slug", "title", "status", "check", "figures"} <= set(listed[0]) and len(listed) == 141
    page = (tmp_path / "systems.md").read_text()
    table, checks = page.split("# Checks")
    assert (
        table.count("\n| ") == 142
        and "[ratio 1.25](#chelsea)" in table
        and "partial (rat: no effect)" in table
    )
    assert "| ratio | 1.25 |" in checks and checks.count("\n## ") == 4


def test_without_evidence_nothing_works(tmp_path):
    assert {entry["status"] for entry in scope.statuses(scope.load_evidence(tmp_path / "absent"))} == {"none"}


def test_a_file_that_is_not_evidence_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BadInput, match="not an evidence file"):
        scope.load_evidence(tmp_path)
    data = {
        "system": "rat",
        "claim": "",
        "figures": {},
        "verdict": "great",
        "date": "",
        "machine": "",
        "command": "",
    }
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(BadInput, match="verdict 'great'"):
        scope.load_evidence(tmp_path)
