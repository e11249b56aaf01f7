"""Needle Threading's check: the released haystack, walks of exactly the asked length, and what a hop and a window cost a small model."""

import json
import re

from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import accuracy, kept, margin, ranked, readings
from longspan.bench.task import get_task
from longspan.bench.tasks.needle_threading import published_pairs, render
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

SHORT = {"alphabet": "short", "candidates": 6}
KINDS = ("single", "multiple", "conditional", "forward", "backward", "parallel", "branched")


def walk(context: str, key: str, steps: int) -> str:
    """The value `steps` hops from `key`."""
    pairs = json.loads(context.split("\n", 1)[1])
    for _ in range(steps):
        key = pairs[key]
    return key


@check(
    "needle-threading",
    system="needle-threading",
    claim="following a thread of keys is harder than one look-up, and a window loses the pairs outside it",
    file="src/longspan/bench/tasks/needle_threading.py",
)
def needle_threading(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    text, _ = render(list(published_pairs(25)))
    outcome.must("25 released pairs are exactly 2,000 characters", len(text) == 2000)
    outcome.must(
        "a longer haystack starts with the shorter one", published_pairs(60)[:25] == published_pairs(25)
    )
    must_generate(outcome, tokenizer, {f"threading_{kind}": SHORT for kind in KINDS})

    def made(name: str, n: int, **knobs):
        task = get_task(f"threading_{name}")
        return task.make(n, 340, tokenizer, SEED, reserve=False, **{**SHORT, **knobs})

    for direction, rising in (("forward", True), ("backward", False)):
        items = made("forward", 6, length=3, direction=direction)
        starts = [[a for a, _ in item.evidence] for item in items]
        outcome.must(
            f"{direction} threads stand in their order",
            all(s == sorted(s, reverse=not rising) for s in starts),
        )
        keys = [re.findall(r'key "(\w+)"', item.question)[0] for item in items]
        outcome.must(
            f"{direction}: the answer is exactly three hops away",
            all(walk(i.context, k, 3) == i.answers[0] for i, k in zip(items, keys, strict=True)),
        )
    single, hops = made("single", 8), made("forward", 8, length=2)
    outcome.figures["pairs in 340 tokens"] = single[0].metadata["pairs"]
    table = readings(bench, single, ("full", "window(budget=0.5)"))
    one = ranked(outcome, "one look-up", table["full"], single)
    ranked(outcome, "one look-up, window of half", table["window(budget=0.5)"], single)
    two = readings(bench, hops)["full"]
    ranked(outcome, "two hops", two, hops)
    outcome.shows(f"a look-up is above chance ({one:.2f})", one > mean([i.chance or 0 for i in single]))
    outcome.shows(
        f"two hops are harder than one (margin {margin(two):.2f} against {margin(table['full']):.2f} nats)",
        margin(two) < margin(table["full"]),
    )
    cut = table["window(budget=0.5)"]
    outside = [row for row in cut if not row.kept]
    inside = [row for row in cut if row.kept and row.kept > 0.99]
    outcome.figures["share of the evidence inside the window"] = round(kept(cut), 2)
    if inside and outside:
        outcome.shows(
            f"a pair outside the window is lost (margin {margin(outside):.2f} against {margin(inside):.2f} nats inside)",
            margin(outside) < margin(inside),
        )
    outcome.shows("the window never ranks better than the whole text", accuracy(cut) <= one)
    return outcome
