"""NeedleBench's check: needles whole and once, chains walked again, and single facts against ancestral traces on a small model."""

import re

from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import margin, ranked, readings
from longspan.bench.item import Item
from longspan.bench.task import get_task
from longspan.bench.taxonomy import measure
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

TASKS = ("needlebench_single", "needlebench_multi", "needlebench_reasoning", "atc")


def never_a_child(item: Item, names: list[str]) -> list[str]:
    """Names of a chain that are nobody's child: each sentence tells one parent and one child, and the asked person is the last child."""
    texts = item.evidence_text()
    asked = next(name for name in names if name in item.question)
    return [name for name in names if sum(name in text for text in texts) == 1 and name != asked]


@check(
    "needlebench",
    system="needlebench",
    claim="one fact is found at any depth; a chain in which every sentence counts is out of a small model's reach",
    file="src/longspan/bench/tasks/needlebench.py",
)
def needlebench(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    made = must_generate(outcome, tokenizer, TASKS)
    eldest = get_task("atc").make(8, 1024, tokenizer, SEED, question="eldest", links=5)
    chains = [
        (i, sorted({n for t in i.evidence_text() for n in re.findall(r"[A-Z]\w+ [A-Z]\w+", t)} & _people(i)))
        for i in eldest
    ]
    outcome.must(
        "the eldest is the one end of the chain that was not asked about",
        all(never_a_child(i, names) == [i.answers[0]] for i, names in chains),
    )
    ratios = [
        sum(b - a for a, b in i.evidence) / len(i.context)
        for i in get_task("atc").make(4, 4096, tokenizer, SEED, question="eldest")
    ]
    outcome.figures["atc: share of the text that is needed"] = round(mean(ratios), 3)
    outcome.must(
        "atc needs nearly all of its text (scope S3)",
        all((measure(i) or i).scope == "S3" for i in made["atc"] if i.metadata["question"] != "kth"),
    )
    placed = [
        get_task("needlebench_single").make(1, 1024, tokenizer, SEED, haystack="prose", depth=d)[0].depth
        for d in (0.0, 0.5, 1.0)
    ]
    outcome.must(
        "depths are honoured within 0.1",
        all(abs((found or 0) - d) < 0.1 for found, d in zip(placed, (0, 0.5, 1), strict=True)),
    )
    items = [
        get_task("needlebench_single").make(
            1, 420, tokenizer, seed, haystack="prose", depth=depth, reserve=False, candidates=4
        )[0]
        for depth in (0.0, 0.5, 1.0)
        for seed in range(3)
    ]
    rows = readings(bench, items)["full"]
    single = ranked(outcome, "one fact", rows, items)
    for number, depth in enumerate((0, 50, 100)):
        outcome.figures[f"one fact at {depth} % depth: margin, nats"] = round(
            margin(rows[3 * number : 3 * number + 3]), 2
        )
    traces = get_task("atc").make(
        10, 512, tokenizer, SEED, reserve=False, question="eldest", links=4, candidates=4
    )
    found = ranked(outcome, "atc with 4 links", readings(bench, traces)["full"], traces)
    outcome.shows(f"one fact is found well above chance ({single:.2f})", single >= 0.6)
    outcome.shows(f"an ancestral trace is not ({found:.2f}, chance 0.25)", found <= 0.5)
    return outcome


def _people(item: Item) -> set[str]:
    """The chain's names: they occur once or twice in the evidence, and the foils are among them."""
    told = " ".join(item.evidence_text())
    return {name for name in re.findall(r"[A-Z]\w+ [A-Z]\w+", told) if told.count(name) <= 2}
