"""HiBench's check: answers recomputed by an independent walk, under shuffled lines and other names, and a small model's root and leaves."""

import random
import re

from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import margin, ranked, readings
from longspan.bench.item import Item
from longspan.bench.task import all_tasks, get_task
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

WALKED = ("root", "depth", "kth_ancestor", "common_ancestor")


def walk(kind: str, edges: list[tuple[str, str]], question: str) -> str:
    """The answer from (parent, child) lines and the question's words alone."""
    parent = {child: above for above, child in edges}

    def up(node: str) -> list[str]:
        return [node] + (up(parent[node]) if node in parent else [])

    names = re.findall(r"\b[A-Z]{3,4}\b", question)
    if kind == "root":
        (only,) = {above for above, _ in edges} - set(parent)
        return only
    if kind == "depth":
        return str(len(up(names[0])) - 1)
    if kind == "kth_ancestor":
        steps = int(re.search(r"is (\d+) step", question)[1])  # type: ignore[index]
        return up(names[0])[steps]
    return next(node for node in up(names[0]) if node in up(names[1]))


def recomputed(kind: str, item: Item, rename: bool) -> bool:
    """Whether shuffled (and renamed) lines still give the item's answer (renamed alike)."""
    edges, question, gold = re.findall(r"(\w+) -> (\w+)", item.context), item.question, item.answers[0]
    random.Random(SEED).shuffle(edges)
    if rename:
        names = sorted({name for edge in edges for name in edge})
        other = dict(zip(names, [*names[1:], names[0]], strict=True))
        edges = [(other[a], other[b]) for a, b in edges]
        question = re.sub(r"\b[A-Z]{3,4}\b", lambda found: other.get(found[0], found[0]), question)
        gold = other.get(gold, gold)
    return walk(kind, edges, question) == gold


@check(
    "hibench",
    system="hibench",
    claim="questions over trees told as text: one-pass questions (root) are in a small model's reach, walks (depth, common ancestor) are not",
    file="src/longspan/bench/tasks/hibench.py",
)
def hibench(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    made = must_generate(outcome, tokenizer, [name for name in all_tasks() if name.startswith("hibench_")])
    for kind in WALKED:
        items = made[f"hibench_{kind}"]
        outcome.must(
            f"{kind}: an independent walk over shuffled lines gives the answer",
            all(recomputed(kind, i, False) for i in items),
        )
        outcome.must(
            f"{kind}: renaming every node renames the answer alike",
            all(recomputed(kind, i, True) for i in items),
        )
    golds = [item.answers[0] for item in made["hibench_isomorphic"]]
    outcome.must("yes and no are balanced", golds.count("yes") == golds.count("no"))
    shown = {}
    for kind, prefix in (("root", "one pass"), ("common_ancestor", "walk")):
        items = get_task(f"hibench_{kind}").make(12, 140, tokenizer, SEED, reserve=False, candidates=4)
        rows = readings(bench, items)["full"]
        shown[kind] = (
            ranked(outcome, f"{kind} ({prefix}), {items[0].metadata['nodes']} nodes", rows, items),
            margin(rows),
        )
    chance = mean([i.chance or 0 for i in items])
    small, large = (
        get_task("hibench_root").make(12, t, tokenizer, SEED, reserve=False, candidates=4) for t in (140, 420)
    )
    near, far = (margin(readings(bench, part)["full"]) for part in (small, large))
    outcome.figures["root, margin in nats"] = (
        f"{near:+.2f} with {small[0].metadata['nodes']} nodes, {far:+.2f} with {large[0].metadata['nodes']}"
    )
    outcome.shows(
        f"the root of a small tree is above chance ({shown['root'][0]:.2f})", shown["root"][0] > chance
    )
    outcome.shows(f"a larger tree is harder ({near:.2f} then {far:.2f} nats)", far < near)
    return outcome
