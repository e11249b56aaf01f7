"""The table of all cache policies: {50%, 25%, 12.5%} of the cache x {filler, prose} x {question after, question inside}.

    python bench/cache_policies.py [--model smollm2-135m] [--seconds 150]     until it says that it is done
    python bench/cache_policies.py --model gemma3-270m --samples 2 --budgets 0.5 0.25

Every policy that the registry knows and the model can serve is in it (one that lacks its artefact is named with the reason), beside the full
cache, random, window + sinks and the oracle. One `longspan.compare` call a haystack: each context is read once for all of them, and only
policies that change the reading read again. Measured on one number hidden in about 1,000 tokens: log-likelihood of the right number (nats a
token), exact match of the written reply, bytes of the cache with its side data, and seconds of the policy's own work after the read. Rows
go to runs/, and a call goes on where the one before was stopped by --seconds. Results: bench/results/cache_policies.json and
docs/cache_policies.md (for another model, its name is appended).
"""

import argparse
import json
import time
from pathlib import Path

import torch

import longspan
from longspan.bench.aggregate import aggregate
from longspan.bench.results import load
from longspan.bench.run import compare, machine
from longspan.bench.variants import variants
from longspan.engine.recipe import parse
from longspan.engine.registry import methods
from longspan.errors import BadInput

ROOT = Path(__file__).parent.parent
TASK = "niah_single_2"
HAYSTACKS = ("filler", "prose")
BUDGETS = (0.5, 0.25, 0.125)

#: Knobs that differ from a policy's defaults because the question is short (its window must not look past it), and further forms worth a row.
FORMS = {
    "snapkv": ("snapkv(window=8, pool=7, pooling=max)",),
    "adakv": ("adakv(base=snapkv(window=8, pool=7, pooling=max))",),
    "expected_attention": ("expected_attention", "expected_attention(allocator=adaptive, epsilon=0.01)"),
    "finch": ("finch(window=16, positions=original)",),
    "cam": ("cam(base=snapkv(window=8, pool=7, pooling=max))",),
    "kivi": ("kivi(bits=4)", "kivi(bits=2)"),
    "think": ("think(channels=0.6, recent=32)",),
}
REFERENCES = ("random", "window")  # `compare` adds them, with the full cache and the oracle


class OutOfTime(Exception):
    """The time of this call is over; what was measured is on the disk."""


def chosen(lm):
    """(recipes of every policy that runs on the model, those left out with the reason)."""
    kept, left_out = [], {}
    probe = torch.tensor(lm.encode("The lamp burns low and the river is wide. " * 24, special=True)[:200])
    for name, cls in methods().items():
        if cls.stage != "cache" or name in REFERENCES:
            continue
        for form in FORMS.get(name, (name,)):
            try:
                recipe = parse(form)
                recipe = recipe.with_budget(0.5) if recipe.budgeted else recipe
                lm.session(recipe).read(probe)
                kept.append(form)
            except (BadInput, TypeError) as error:
                left_out[form] = str(error)
    return kept, left_out


def measure(lm, haystack, recipes, folder, given):
    """One comparison over one haystack; True when all its cells are measured."""
    until = time.perf_counter() + given.seconds

    def tell(done, total):
        print(f"\r{haystack}: {done} of {total}", end="", flush=True)
        if done < total and time.perf_counter() > until:
            raise OutOfTime

    try:
        compare(
            lm, recipes, out=folder, budgets=given.budgets, tasks=(TASK,), lengths=(given.length,), samples=given.samples,
            haystacks=(haystack,), aware="both", modes=("generate",), max_new_tokens=10, latency_tokens=0,
            resume=(folder / "run.json").exists(), progress=tell, command="python bench/cache_policies.py",
        )  # fmt: skip
    except OutOfTime:
        return False
    finally:
        print()
    return True


def table(folders, recipes, budgets):
    """Cells of all haystacks whose recipe is in the table, as plain values."""
    wanted = {variant.spelled for variant in variants(recipes, budgets)}
    rows = [
        row for folder in folders if folder.exists() for row in load(folder)[1] if row["recipe"] in wanted
    ]
    seconds = {}
    for row in rows:
        seconds.setdefault((row["recipe"], row["haystack"], row["aware"]), []).append(
            row.get("method_s") or 0.0
        )
    cells = []
    for cell in aggregate(rows):
        own = sorted(seconds[cell.recipe, cell.haystack, cell.aware])
        cells.append(
            {
                "recipe": cell.recipe,
                "policy": cell.method,
                "role": cell.role,
                "budget": cell.budget,
                "haystack": cell.haystack,
                "question": None if cell.aware is None else "inside" if cell.aware else "after",
                "samples": cell.n,
                "failed": cell.errors,
                "gold_nats_per_token": _rounded(cell.logprob),
                "exact_match": _rounded(cell.score),
                "cache_bytes": cell.cache_bytes,
                "share_of_full_bytes": cell.cache_share and round(cell.cache_share, 4),
                "needle_kept": cell.retention,
                "method_seconds": round(own[len(own) // 2], 4),
            }
        )
    return cells


def _rounded(interval):
    return interval and [
        round(x, 3) if x is not None else None for x in (interval.mean, interval.low, interval.high)
    ]


def markdown(stored):
    """docs/cache_policies.md: one wide table for policies with a budget, one for those without."""
    cells, budgets = stored["cells"], stored["budgets"]
    by_place = {(c["policy"], c["haystack"], c["question"], c["budget"]): c for c in cells}
    names = list(dict.fromkeys(c["policy"] for c in cells))
    role = {c["policy"]: c["role"] for c in cells}
    with_budget = [n for n in names if any(c["policy"] == n and c["budget"] is not None for c in cells)]
    without = [n for n in names if n not in with_budget]
    places = [(h, q) for h in HAYSTACKS for q in ("after", "inside")]

    def at(name, haystack, question, budget):
        return by_place.get((name, haystack, question, budget)) or by_place.get(
            (name, haystack, None, budget)
        )

    def mean(name):
        found = [
            c["gold_nats_per_token"][0] for c in cells if c["policy"] == name and c["gold_nats_per_token"]
        ]
        return sum(found) / len(found) if found else float("-inf")

    best = {}
    for haystack, question in places:
        for budget in budgets:
            for name in with_budget:
                one = at(name, haystack, question, budget)
                if role[name] == "method" and one and one["gold_nats_per_token"]:
                    value, key = one["gold_nats_per_token"][0], (haystack, question, budget)
                    best[key] = max(best.get(key, value), value)

    def shown(one, key=None):
        if not one or not one["gold_nats_per_token"]:
            return "failed" if one else ""
        value = one["gold_nats_per_token"][0]
        text = f"{value:.2f} / {one['exact_match'][0]:.2f}" if one["exact_match"] else f"{value:.2f}"
        return f"**{text}**" if key in best and value == best[key] and one["role"] == "method" else text

    def bytes_and_time(name, budget):
        found = [c for c in cells if c["policy"] == name and c["budget"] == budget and c["cache_bytes"]]
        if not found:
            return "", ""
        return (
            f"{sum(c['share_of_full_bytes'] for c in found) / len(found):.3f}",
            f"{1000 * max(c['method_seconds'] for c in found):.0f}",
        )

    def line(name, which):
        own = [shown(at(name, h, q, b), (h, q, b)) for h, q in places for b in which]
        costs = [bytes_and_time(name, b) for b in which]
        return f"| `{name}` | " + " | ".join([*own, *(share for share, _ in costs), costs[-1][1]]) + " |"

    heads = [f"{h}, {q}, {b:.1%}".replace(".0%", "%") for h, q in places for b in budgets]
    shares = [f"bytes at {b:.1%}".replace(".0%", "%") for b in budgets]
    order = sorted(with_budget, key=lambda name: (role[name] == "floor", role[name] == "method", -mean(name)))
    lines = [
        "# Cache policies",
        "",
        f"Generated by `{stored['command']}`; do not edit by hand.",
        "",
        f"{stored['model']}, {stored['samples']} texts of {stored['length']} tokens a haystack, one number hidden in each ({TASK}). A cell: log-likelihood of the",
        'right number in nats a token (nearer 0 is better) / share of replies that hold it. "after": the question comes after compression, '
        '"inside": it was read',
        "with the text; the two never share a column. Bytes: K, V and side data over those of the full cache. Added ms: the policy's own work after the",
        "read at the smallest budget (a policy that reads the text again by itself has that in it; one that changes the reading has not). Bold: the best",
        "policy of a column. Few texts: differences under 0.3 nats say little. Intervals are in the JSON file beside the script.",
        "",
        "| policy | " + " | ".join([*heads, *shares, "added ms"]) + " |",
        "|---|" + "---|" * (len(heads) + len(shares) + 1),
        *(line(name, budgets) for name in order),
        "",
        "Without a budget (the full cache, and what keeps every entry in fewer bits or channels):",
        "",
        "| policy | " + " | ".join([*(f"{h}, {q}" for h, q in places), "bytes", "added ms"]) + " |",
        "|---|" + "---|" * (len(places) + 2),
        *(line(name, [None]) for name in without),
    ]
    if stored["left_out"]:
        lines += ["", "Not in the table:", ""]
        lines += [f"- `{name}`: {why}" for name, why in stored["left_out"].items()]
    if not stored["complete"]:
        lines += ["", "Not all cells are measured yet."]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--budgets", type=float, nargs="*", default=list(BUDGETS))
    parser.add_argument("--only", nargs="*", help="recipes to measure in place of all policies")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="stop soon after this time; call again to go on"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument(
        "--out",
        type=Path,
        help="the JSON file; the Markdown table lies in docs/ unless --table says otherwise",
    )
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    suffix = "" if given.model == "smollm2-135m" else f"_{given.model}"
    out = given.out or ROOT / "bench" / "results" / f"cache_policies{suffix}.json"
    page = given.table or ROOT / "docs" / f"cache_policies{suffix}.md"
    started = time.perf_counter()
    lm = longspan.load(given.model)
    recipes, left_out = (given.only, {}) if given.only else chosen(lm)
    folders = {h: given.runs / f"cache_policies-{given.model}-{given.length}-{h}" for h in HAYSTACKS}
    complete = True
    for haystack, folder in folders.items():
        given.seconds -= time.perf_counter() - started
        started = time.perf_counter()
        complete &= given.seconds > 0 and measure(lm, haystack, recipes, folder, given)
    stored = {
        "command": f"python bench/cache_policies.py --model {given.model}",
        "model": given.model,
        "machine": machine(),
        "task": TASK,
        "length": given.length,
        "samples": given.samples,
        "budgets": given.budgets,
        "complete": complete,
        "left_out": left_out,
        "cells": table(folders.values(), recipes, given.budgets),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(stored, indent=1) + "\n")
    page.write_text(markdown(stored), encoding="utf-8")
    print("done" if complete else "not done: call again")


if __name__ == "__main__":
    main()
