"""LongBench Pro's check: its list metrics by hand and on its schema, and the published summaries added up again."""

import json

from longspan.bench.checks._items import must_load, rows
from longspan.bench.data import data_root
from longspan.bench.scorers_lists import (
    answer_lines,
    lines_accuracy,
    lines_f1,
    lines_found,
    lines_ndcg,
    lines_pairwise,
)
from longspan.bench.tasks.longbench_pro import SCORERS
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

GOLD = ["north gate", "south gate", "east gate"]
METRICS = (lines_accuracy, lines_f1, lines_found, lines_pairwise, lines_ndcg)


def row(number: int, task: str) -> dict:
    names = task if "." in task else f"{task}.1"
    return {
        "id": number, "context": "The north gate opens first.", "language": ("English", "Chinese")[number % 2], "token_length": "8k",
        "primary_task": task, "secondary_task": f"{names} task", "contextual_requirement": "Full", "difficulty": "Easy",
        "question_nonthinking": "List the gates after [Answer].", "question_thinking": "Think, then list the gates after [Answer].",
        "answer": GOLD if task != "T4" else [" ".join(GOLD)],
    }  # fmt: skip


@check(
    "longbench-pro",
    system="longbench-pro",
    claim="line lists after a marker score by five metrics; the published means of 1,500 items add up",
    file="src/longspan/bench/tasks/longbench_pro.py",
)
def longbench_pro(bench: Bench) -> Outcome:
    outcome = Outcome()
    told = "Thinking about [Answer] first.\n[Answer]\n" + "\n".join(GOLD)
    outcome.must("the lines after the last marker are the answer", answer_lines(told) == GOLD)
    outcome.must("the gold lines score 1 by every metric", all(metric(told, GOLD) == 1 for metric in METRICS))
    outcome.must("silence scores 0 by every metric", all(metric("", GOLD) == 0 for metric in METRICS))
    outcome.must("the reversed order scores 0 pairwise", lines_pairwise("\n".join(GOLD[::-1]), GOLD) == 0)
    outcome.must(
        "repeated lines do not raise the set F1",
        lines_f1("\n".join([GOLD[0]] * 5), GOLD) == lines_f1(GOLD[0], GOLD),
    )
    outcome.must(
        "one line too many lowers pairwise and F1, not SubEM",
        lines_pairwise(told + "\nx", GOLD) < 1
        and lines_f1(told + "\nx", GOLD) < 1
        and lines_found(told + "\nx", GOLD) == 1,
    )
    outcome.must("a reply without marker is its whole text", lines_accuracy(GOLD[0], GOLD) == 1)
    with rows({"longbench_pro.json": [row(i, task) for i, task in enumerate(SCORERS)]}) as folder:
        must_load(
            outcome, ["longbench_pro", "longbench_pro_thinking"], folder, what=" of the published schema"
        )
    root = data_root()
    folder = root / "longbench-pro" if root else None
    if folder is None or not folder.is_dir():
        outcome.not_run(
            "the published summaries",
            "set LONGSPAN_DATA to the folder that holds longbench-pro/*.summary.json",
        )
        return outcome
    for path in sorted(folder.glob("*.summary.json")):
        told_ = json.loads(path.read_text(encoding="utf-8"))
        runs = [told_[f"inference_iteration_{i}_overall_metric"] for i in (1, 2, 3)]
        overall, lengths = (
            told_["average_overall_metric"],
            list(told_["average_token_length_metric"].values()),
        )
        name = path.name.partition("_")[0]
        outcome.figures[f"published: {name}"] = round(100 * overall, 2)
        outcome.must(f"{name}: three runs average to the overall score", abs(sum(runs) / 3 - overall) < 1e-6)
        outcome.must(
            f"{name}: six equal length groups average to it too", abs(sum(lengths) / 6 - overall) < 1e-3
        )
        outcome.shows(
            f"{name}: 8k scores above 256k ({100 * lengths[0]:.1f}, {100 * lengths[-1]:.1f})",
            lengths[0] > lengths[-1],
        )
    return outcome
