"""Suites on a tiny model: what they hold, what is left out and why, rows that match the plan, and resuming."""

import json
from dataclasses import replace

import pytest
from tests.bench import published_rows
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

import longspan.bench.run as running
from longspan.bench import suite_run, suites
from longspan.bench.contexts import cut
from longspan.bench.dataset import find, get_dataset
from longspan.bench.endpoint import Price
from longspan.bench.results import load
from longspan.bench.run import make_items
from longspan.bench.suites import Part, get_suite, jobs
from longspan.cli import main as cli
from longspan.context.port import Completion, Unavailable, Usage
from longspan.engine.model import Model
from longspan.errors import BadInput

CHATML = "{% for m in messages %}<eos>{{ m.role }} {{ m.content }}{% endfor %}{% if add_generation_prompt %}<eos>assistant {% endif %}"


@pytest.fixture(scope="module")
def model():
    hf = tiny("llama", vocab_size=len(byte_level()), num_hidden_layers=1, head_dim=32)
    return Model(hf, byte_level(), name="tiny", model_hash="tiny", trained_window=2048)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return published_rows.write(tmp_path_factory.mktemp("data"))


@pytest.fixture
def small(monkeypatch):
    """A suite in the shape of the real ones: a generator, a length out of reach, two data sets, one without its file."""
    parts = (
        Part(("niah_single_2",), (700, 4096), 2, ("generate", "rank"), cap=2),
        Part(("icl_nonce",), (40,), 1, cap=2),
        Part(("longbench_qasper", "longbench_trec"), (suites.WINDOW,), None, cap=2),
        Part(("longbench_v2",), (suites.WINDOW,), 1, cap=2),
    )
    monkeypatch.setattr(suites, "suites", lambda: {"small": parts})
    return parts


def test_every_suite_names_only_what_exists_in_modes_it_has():
    assert list(suites.suites()) == ["smoke", "cpu", "ruler", "longbench", "helmet", "scbench", "full"]
    for name in suites.suites():
        for part in get_suite(name):
            assert part.tasks and part.lengths and len(set(part.tasks)) == len(part.tasks)
            for task in map(find, part.tasks):
                assert set(task.answer_modes) & set(part.modes)
                assert getattr(task, "levels", ()) == () or part.level in task.levels
                if part.samples is None:
                    get_dataset(task.name)
    tasks = {name: {task for part in parts for task in part.tasks} for name, parts in suites.suites().items()}
    sizes = (len(tasks[name]) for name in ("ruler", "longbench", "helmet", "scbench"))
    assert tuple(sizes) == (13, 21, 21, 24)
    assert tasks["ruler"] | tasks["longbench"] | tasks["helmet"] | tasks["scbench"] <= tasks["full"]
    with pytest.raises(BadInput, match=r"no suite 'smok'.*smoke"):
        get_suite("smok")


def test_missing_data_is_listed_with_its_origin(tmp_path, monkeypatch):
    monkeypatch.delenv("LONGSPAN_DATA", raising=False)
    assert not [job for job in jobs("smoke") if job.reason]  # needs nothing but itself
    (job, *_), reasons = jobs("longbench"), [job.reason for job in jobs("longbench", str(tmp_path))]
    assert "set LONGSPAN_DATA or pass --data" in job.reason and len(reasons) == 21
    assert all("needs longbench/" in reason and "THUDM/LongBench" in reason for reason in reasons)
    with pytest.raises(
        BadInput, match=r"Nothing of the suite longbench can run here.*longbench_2wikimqa: needs .*; 20 more"
    ):
        suite_run.run("no-model-is-loaded", "longbench", out=tmp_path / "run", data=str(tmp_path))
    with pytest.raises(BadInput, match="is not a folder"):
        jobs("ruler", str(tmp_path / "none"))


def test_the_smoke_suite_runs_as_planned_and_resumes(model, tmp_path, monkeypatch, capsys):
    parts = [replace(part, samples=1, cap=1 if part.cap else None) for part in get_suite("smoke")]
    parts = [replace(part, lengths=(1536,), tasks=part.tasks[:2]) for part in parts]
    monkeypatch.setattr(suites, "suites", lambda: {"smoke": tuple(parts)})
    monkeypatch.setattr(running, "load", lambda name: model)
    monkeypatch.chdir(tmp_path)
    arguments = [
        "bench",
        "smoke",
        "--out",
        "run",
        "--methods",
        "knorm",
        "--budgets",
        "0.5",
        "--aware",
        "agnostic",
    ]
    assert cli.run(arguments) == 0
    out = capsys.readouterr()
    assert out.out.strip().splitlines()[-1] == "run/report.html" and "left out" not in out.err
    facts, rows = load(tmp_path / "run")
    assert facts["suite"] == "smoke" and not [row["error"] for row in rows if row["error"]]
    asked = {(row["task"], row["answer_mode"]) for row in rows}
    assert asked == {(t, m) for part in parts for t in part.tasks for m in part.modes}
    assert {row["role"] for row in rows} == {"method", "ceiling", "floor", "oracle"}
    written = json.loads((tmp_path / "run" / suite_run.FILE).read_text())
    assert [job["task"] for job in written["ran"]] == [t for part in parts for t in part.tasks]
    assert cli.run(arguments) == 2 and "already holds a run" in capsys.readouterr().err
    assert cli.run([*arguments, "--resume"]) == 0 and len(load(tmp_path / "run")[1]) == len(rows)
    assert cli.run(["bench", "smoke", "--resume"]) == 2


class Scripted:
    """A chat model that fails at its first calls."""

    model_id = "scripted"

    def __init__(self, failures):
        self.failures, self.caps = failures, []

    def complete(self, messages, *, stop, max_tokens, temperature, seed):
        self.caps.append(max_tokens)
        if len(self.caps) <= self.failures:
            raise Unavailable("http://127.0.0.1:1/v1 is not there", Usage(), 2, 0.1)
        return Completion("no idea", Usage(100, 3), "stop", None, 0.1, 1)


def test_an_endpoint_answers_the_same_items_in_the_same_table(model, small, data, tmp_path):
    peer = Scripted(failures=1)
    peers = suite_run.Peers((peer,), concurrency=1, price=Price.parse("1,2"))
    options = {"out": tmp_path / "run", "data": str(data), "peers": peers, "latency_tokens": 0}
    (report,) = suite_run.run(model, "small", **options).endpoints
    _, rows = load(tmp_path / "run")
    theirs = [row for row in rows if row["recipe"] == "endpoint:scripted"]
    ours = [row for row in rows if row["recipe"] == "full" and row["answer_mode"] == "generate"]
    assert len(theirs) == len(ours) == len(peer.caps)
    assert {(r["task"], r["length"]) for r in theirs} == {(r["task"], r["length"]) for r in ours}
    assert [row["score"] for row in theirs if row["error"]] == [None] and len(report.failures) == 1
    assert "1 failed" in report.cost_line and "USD" in report.cost_line
    suite_run.run(model, "small", resume=True, **options)  # asks again only what failed
    _, rows = load(tmp_path / "run")
    theirs = [row for row in rows if row["recipe"] == "endpoint:scripted"]
    assert len(peer.caps) == len(ours) + 1 and len(theirs) == len(ours)
    assert not any(row["error"] for row in theirs) and all(cap <= 64 for cap in peer.caps)


def test_an_endpoint_alone_and_nobody(model, small, data, tmp_path):
    peers = suite_run.Peers((Scripted(0),))
    suite_run.run(model, "small", out=tmp_path / "run", data=str(data), methods=(), peers=peers)
    assert {row["role"] for row in load(tmp_path / "run")[1]} == {"method"}
    with pytest.raises(BadInput, match="give a method or an endpoint"):
        suite_run.run(model, "small", out=tmp_path / "none", methods=())
    for text in ("1", "a,b", "1,-2", "1,2,3,4"):
        with pytest.raises(BadInput, match="per million tokens"):
            Price.parse(text)


def test_what_cannot_run_is_left_out_with_the_reason(model, small, data, tmp_path):
    (data / "longbench" / "longbench_v2.json").unlink(missing_ok=True)
    told = []
    outcome = suite_run.run(
        model,
        "small",
        out=tmp_path / "run",
        data=str(data),
        latency_tokens=0,
        progress=lambda done, total: told.append((done, total)),
    )
    gone = {(job.task, job.length): job.reason for job in outcome.left_out}
    assert "beyond the 2,048" in gone["niah_single_2", 4096]
    assert "needs at least" in gone["icl_nonce", 40]
    assert "needs longbench/longbench_v2.json" in gone["longbench_v2", 2048] and len(gone) == 3
    assert json.loads((tmp_path / "run" / suite_run.FILE).read_text())["left_out"] == [
        job.facts for job in outcome.left_out
    ]
    assert told[-1][0] == told[-1][1] and all(done <= total for done, total in told)
    _, rows = load(tmp_path / "run")
    assert {row["task"] for row in rows} == {"niah_single_2", "longbench_qasper", "longbench_trec"}
    qasper = next(row for row in rows if row["task"] == "longbench_qasper")
    assert qasper["truncation"] == "middle" and qasper["truncated"] is False and qasper["prompt_hash"]
    assert not any(row["error"] for row in rows) and all(row["context_tokens"] <= 2048 for row in rows)


def test_data_sets_are_cut_and_templated_as_their_benchmark_says(data):
    tokenizer = byte_level().__class__(tokenizer_object=byte_level().backend_tokenizer, eos_token="<eos>")
    tokenizer.chat_template = CHATML
    hf = tiny("llama", vocab_size=len(tokenizer), num_hidden_layers=1, head_dim=32)
    model = Model(hf, tokenizer, name="chat", trained_window=2048)
    assert model.chat is not None
    names = ("longbench_qasper", "longbench_trec")
    made = make_items(model, names, (240, 500), None, 0, ("prose",), {"data": str(data)})
    assert len({item.id for item, _ in made}) == len(made)
    assert [item.metadata["index"] for item, _ in made[:1]] == [0]
    for item, length in made:
        pieces = cut(model, item)
        used = sum(map(len, (pieces.read, pieces.question, pieces.reply))) + item.max_new_tokens
        assert used <= length
        assert pieces.template == ("raw" if item.task == "longbench_trec" else "chat")
    assert any(item.metadata["truncated"] for item, _ in made)
    with pytest.raises(BadInput, match="give a number of samples"):
        make_items(model, ["vt"], [1024], None, 0, ["prose"])


def test_a_scorer_without_its_package_is_listed_not_wrong(model, data, tmp_path, monkeypatch):
    def absent(item, reply):
        raise BadInput("this score needs rouge==1.0.1")

    monkeypatch.setattr("longspan.bench.rows.score_reply", absent)
    monkeypatch.setenv("LONGSPAN_DATA", str(data))
    folder = running.compare(
        model,
        ["full"],
        out=tmp_path / "run",
        tasks=["longbench_qasper"],
        lengths=[400],
        samples=1,
        max_new_tokens=1,
        latency_tokens=0,
    )
    (row,) = load(folder)[1]
    assert row["score"] is None and row["error"] == "this score needs rouge==1.0.1"


def test_lists(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("LONGSPAN_DATA", raising=False)
    assert cli.run(["bench"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in suites.suites())
    assert cli.run(["bench", "longbench", "--list"]) == 0
    out = capsys.readouterr().out
    assert "needs longbench/qasper.jsonl" in out and "window" in out
