"""Length curves, effective lengths and scores by tags: by hand on rows whose means are known, and on the page."""

import re

import pytest

from longspan.bench.aggregate import aggregate
from longspan.bench.curves import THRESHOLD, benchmark_of, by_tags, curves, effective_length
from longspan.report.page import render, suite, write_report

FACTS = {"model": "m", "suite": "cpu", "longspan": "0", "created": ""}


def row(
    task: str, length: int, score: float | None, *, sample: int = 0, mode: str = "generate", **more
) -> dict:
    return {
        "recipe": "full", "method": "full", "role": "ceiling", "budget": None, "task": task, "haystack": None, "length": length,
        "depth": None, "sample": sample, "seed": 0, "aware": None, "answer_mode": mode, "gold_logprob": -1.0, "gold_tokens": 2,
        "score": score, "error": None, "tags": {"scope": "S0", "diffusion": "D1"}, **more,
    }  # fmt: skip


ROWS = [
    *(row("niah_single_1", n, s, sample=i) for n, pair in ((1024, (1, 1)), (2048, (1, 1)), (4096, (1, 0))) for i, s in enumerate(pair)),
    *(row("vt", n, s, tags={"scope": "S1", "diffusion": "D2"}) for n, s in ((1024, 1.0), (2048, 0.8), (4096, 0.0))),
    row("fwe", 1024, 0.0, tags={"scope": "S3", "diffusion": "D1"}),
    row("bio_standard", 1024, 0.1),
    row("bio_standard", 1024, 0.9, mode="rank"),
]  # fmt: skip


def test_the_effective_length_is_the_longest_that_meets_the_threshold():
    assert THRESHOLD == 0.856
    assert effective_length((1, 2, 4, 8), (0.9, 0.5, 0.856, 0.85)) == 4
    assert effective_length((1, 2), (0.2, 0.1)) is None
    assert effective_length((1, 2), (0.2, 0.1), threshold=0.2) == 1


def test_a_curve_is_the_mean_over_the_tasks_that_every_length_has():
    found = {(curve.benchmark, curve.answer_mode): curve for curve in curves(aggregate(ROWS))}
    assert list(found) == [("LongBioBench", "generate"), ("LongBioBench", "rank"), ("RULER", "generate")]
    ruler = found["RULER", "generate"]
    assert ruler.lengths == (1024, 2048, 4096) and ruler.tasks == ("niah_single_1", "vt") and ruler.same_tasks
    assert [score.mean for score in ruler.scores] == pytest.approx([1.0, 0.9, 0.25])
    assert ruler.effective == 2048 and ruler.items == 9
    low = found["LongBioBench", "generate"]
    assert low.effective is None and low.scores[0].mean == pytest.approx(0.1)


def test_lengths_without_a_common_task_say_so():
    (curve,) = curves(aggregate([row("vt", 1024, 1.0), row("fwe", 2048, 0.5)]))
    assert not curve.same_tasks and [score.mean for score in curve.scores] == [1.0, 0.5]


def test_every_task_belongs_to_a_benchmark():
    assert benchmark_of("tsort") == benchmark_of("ada_leval_best_answer") == "Ada-LEval"
    assert benchmark_of("m4le_key_topic") == benchmark_of("m4le_hotpotqa") == "M4LE"
    assert benchmark_of("longbench_qasper") == "LongBench" and benchmark_of("no such task") == "no such task"


def test_scores_by_tags_weigh_every_cell_the_same():
    cells = [cell for cell in aggregate(ROWS) if cell.answer_mode == "generate"]
    found = {(one.scope, one.diffusion): one for one in by_tags(cells, ROWS)}
    assert set(found) == {("S0", "D1"), ("S1", "D2"), ("S3", "D1")}
    assert found["S0", "D1"].score.mean == pytest.approx((1 + 1 + 0.5 + 0.1) / 4)
    assert found["S0", "D1"].tasks == ("bio_standard", "niah_single_1")


def test_the_page_of_a_suite_has_a_part_for_every_benchmark_and_for_the_tags():
    jobs = [{"task": "longbench_qasper", "length": 4096, "reason": "needs <data>"}]
    page = render(FACTS, ROWS, jobs)
    assert re.findall(r'<h3 id="(benchmark-[\w-]+)">', page) == ["benchmark-longbiobench", "benchmark-ruler"]
    ruler = page[page.index('id="benchmark-ruler"') : page.index('<section id="tags">')]
    assert "mean of the tasks" in ruler and ">2K<" in ruler and ruler.count("<svg") == 1
    tags = re.search(r'<section id="tags">(.*?)</section>', page, re.S)[1]
    assert "S1 D2" in tags and "S0 D1" in tags and "0.65" in tags
    assert "needs &lt;data&gt;" in re.search(r'<section id="left-out">(.*?)</section>', page, re.S)[1]
    assert 'id="benchmarks"' not in render({**FACTS, "suite": None}, ROWS)


def test_what_the_suite_left_out_is_read_beside_the_rows(tmp_path):
    from longspan.bench.results import open_run

    with open_run(tmp_path / "run", FACTS) as results:
        for number, one in enumerate(ROWS):
            results.append({**one, "cell": str(number)})
    assert suite(tmp_path / "run") == {}
    (tmp_path / "run" / "suite.json").write_text(
        '{"left_out": [{"task": "vt", "length": 8192, "reason": "too long"}]}'
    )
    assert "too long" in write_report(tmp_path / "run").read_text()
