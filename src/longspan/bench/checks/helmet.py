"""HELMET's check: deterministic demonstrations, permuted labels, and recall under growth and under cache policies on a small model."""

import json
import random
from dataclasses import replace

from longspan.bench.checks._items import SEED, mean, must_generate, must_load, rows
from longspan.bench.checks._readings import accuracy, kept, margin, nats, ranked, readings
from longspan.bench.dataset import get_dataset
from longspan.bench.item import Item
from longspan.bench.task import get_task
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.bench.words import distinct, letters

POLICIES = ("full", "snapkv(budget=0.25)", "window(budget=0.25)")


def pairs(seed: int, count: int) -> dict:
    """One row of the JSON key-value set, with short keys that a small model can read."""
    rng = random.Random(seed)
    flat = distinct(lambda: letters(rng, 5), 2 * count)
    table = dict(zip(flat[::2], flat[1::2], strict=True))
    key, *shown = rng.sample(list(table), 3)
    return {
        "context": json.dumps(table),
        "question": key,
        "answer": table[key],
        "demos": [[k, table[k]] for k in shown],
    }


def labelled(n: int) -> list[dict]:
    rng = random.Random(SEED)
    return [
        {"text": f"{rng.choice(('who', 'what', 'where'))} {letters(rng, 6)} {i}", "label": i % 6}
        for i in range(n)
    ]


@check(
    "helmet",
    system="helmet",
    claim="labels are known from the context only, and recall of pairs falls with length and with the cache: full, SnapKV, window",
    file="src/longspan/bench/helmet.py",
)
def helmet(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    files = {
        f"json_kv/test_k{n}_dep6.jsonl": [pairs(SEED + i, c) for i in range(8)]
        for n, c in ((105, 12), (220, 30))
    }
    files |= {"icl/trec_coarse_test.jsonl": labelled(12), "icl/trec_coarse_train.jsonl": labelled(60)}
    with rows(files) as folder:
        made = must_load(
            outcome, ["helmet_json_kv", "helmet_icl_trec_coarse"], folder, what=" of the published schema"
        )
        long = get_dataset("helmet_json_kv").load(folder, level="16k")
        again = get_dataset("helmet_icl_trec_coarse").load(folder)
    shots, few = made["helmet_icl_trec_coarse"], made["helmet_json_kv"]
    outcome.must(
        "the same file gives the same prompts", [i.user_text for i in shots] == [i.user_text for i in again]
    )
    outcome.must("labels are permuted for every test item", len({_labels(i) for i in shots}) == len(shots))
    outcome.must("permuting labels changes labels only", len({_texts(i) for i in shots}) == 1)
    outcome.must(
        "demonstrations come in rounds of every label",
        all(len(set(_labels(i)[k : k + 6])) == 6 for i in shots for k in (0, 6, 12)),
    )
    must_generate(
        outcome,
        tokenizer,
        {"niah_multikey_2": {}, "niah_multivalue": {}, "icl_nonce": {"labels": "integers"}},
    )
    short = [_candidates(i) for i in few]
    far = [_candidates(i) for i in long]
    table = readings(bench, short, POLICIES)
    for name, found in table.items():
        ranked(outcome, f"JSON pairs, 12 of them, {name}", found, short)
    more = readings(bench, far)["full"]
    ranked(outcome, "JSON pairs, 30 of them, full", more, far)
    outcome.shows(
        f"recall of pairs is above chance ({accuracy(table['full']):.2f})",
        accuracy(table["full"]) > mean([i.chance or 0 for i in short]),
    )
    outcome.shows(
        f"more pairs are harder ({margin(table['full']):.2f} then {margin(more):.2f} nats)",
        margin(more) < margin(table["full"]),
    )
    full, snap, window = (nats(table[name]) for name in POLICIES)
    outcome.figures["evidence kept: SnapKV, window"] = (
        f"{kept(table[POLICIES[1]]):.2f}, {kept(table[POLICIES[2]]):.2f}"
    )
    outcome.shows(
        f"the whole cache beats SnapKV, and SnapKV a window ({full:.2f}, {snap:.2f}, {window:.2f} nats a token)",
        full < snap < window,
    )
    demos = [
        get_task("icl_nonce").make(
            8, t, tokenizer, SEED, reserve=False, classes=6, labels="integers", candidates=6
        )
        for t in (260, 620)
    ]
    near, later = (readings(bench, items)["full"] for items in demos)
    ranked(outcome, "integer labels, few demonstrations", near, demos[0])
    ranked(outcome, "integer labels, more demonstrations", later, demos[1])
    outcome.shows(
        f"more demonstrations help ({margin(near):.2f} then {margin(later):.2f} nats)",
        margin(later) > margin(near),
    )
    return outcome


def _labels(item: Item) -> tuple[str, ...]:
    return tuple(
        line.removeprefix("label: ") for line in item.context.split("\n") if line.startswith("label: ")
    )


def _texts(item: Item) -> tuple[str, ...]:
    return tuple(line for line in item.context.split("\n") if not line.startswith("label: "))


def _candidates(item: Item) -> Item:
    """The item with values of its own object to choose from."""
    values = [
        v for k, v in json.loads(item.context[item.context.index("{") : item.context.rindex("}") + 1]).items()
    ]
    rng = random.Random(item.id)
    others = rng.sample([v for v in values if v != item.answers[0]], 5)
    return replace(item, candidates=(item.answers[0], *others))
