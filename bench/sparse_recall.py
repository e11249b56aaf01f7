"""Attention-mass recall of every sparse method on a real model, beside oracle, window + sink and random at the very density it read.

    python bench/sparse_recall.py [--tokens 4096] [--seconds 150]      until it says that it is done
    python bench/sparse_recall.py --text FILE                          another text, UTF-8 (results under its name)

Decode: the last 64 queries of the text, each choosing among all entries before them; budgets 1/8 and 1/16, no layer kept dense unless the method
is made of dense layers (planners), which then do not count. Prefill: tiles of 64 where the method has the knob, rows of the second half, at 2048 tokens
every second layer and at 4096 every fifth. A method that chooses its own amount is compared at what it chose.
`target`: what an independent measurement found on other English prose; a difference above 0.03 is marked, not hidden. Such figures are of the
same kind and not of the same text. A method that cannot run on the model is named with the reason. One row is written as soon as it is measured
(bench/results/sparse_recall.json, at the end docs/sparse_recall.md), and a call goes on where the one before was stopped by --seconds.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import torch

from longspan.bench.checks._recall import widest_window
from longspan.bench.recall import (
    COLLECTED,
    DenseRows,
    Recall,
    decode_baselines,
    decode_recall,
    prefill_recall,
)
from longspan.bench.run import machine
from longspan.bench.testbed import Bench
from longspan.engine.recipe import parse
from longspan.engine.registry import methods
from longspan.errors import BadInput

ROOT = Path(__file__).parent.parent
OUT = ROOT / "bench" / "results" / "sparse_recall.json"
PAGE = OUT.parent.parent.parent / "docs" / "sparse_recall.md"
QUERIES, TILE = 64, 64
DECODE_BUDGETS, PREFILL_BUDGETS = (0.125, 0.0625), (0.25, 0.125)
PREFILL_RUNS = {2048: 2, 4096: 5}  # tokens -> every which layer

#: Further forms of a decode method worth a row, and forms that need knobs; {b} is the budget.
DECODE_FORMS = {
    "double_sparsity": tuple(
        f"double_sparsity(budget={{b}}, channels={c}, heads=query, dense_layers=0)" for c in (16, 8, 4)
    ),
    "delta": (
        "delta(budget={b}, planners=(2, 10, 20))",
        "delta(budget={b}, planners=(0, 4, 8, 12, 16, 20, 24, 28))",
    ),
}
PREFILL_FORMS = {
    "xattention": tuple(f"xattention(budget={{b}}, stride={s}, tile={TILE})" for s in (4, 8, 16)),
    "minference": (f"minference(shape=block_sparse, blocks={{b}}, tile={TILE})", "minference"),
    "moa": ("moa(budget={b}, plan=uniform)",),
    "sale": ("sale(budget={b}, dense_below=0)",),
    "a_shape": (),  # the window baseline
}
TARGETS = {  # (phase, form, budget or density): mass kept, mean over layers
    **{
        ("decode", DECODE_FORMS["double_sparsity"][i], b): value
        for i, pair in enumerate(((0.948, 0.916), (0.930, 0.891), (0.899, 0.857)))
        for b, value in zip(DECODE_BUDGETS, pair, strict=True)
    },
    ("decode", "quest(budget={b}, dense_layers=0)", 0.125): 0.837,
    ("decode", "quest(budget={b}, dense_layers=0)", 0.0625): 0.756,
    ("decode", "shadowkv(budget={b}, dense_layers=0)", 0.125): 0.853,
    ("decode", "shadowkv(budget={b}, dense_layers=0)", 0.0625): 0.772,
    ("decode", DECODE_FORMS["delta"][0], 0.125): 0.685,
    ("decode", DECODE_FORMS["delta"][0], 0.0625): 0.600,
    ("decode", DECODE_FORMS["delta"][1], 0.125): 0.80,
    ("decode", "window", 0.125): 0.731,
    ("decode", "window", 0.0625): 0.677,
    **{
        ("prefill 2048", form, b): value
        for form, pair in (
            (f"oracle_tiles(budget={{b}}, tile={TILE})", (0.879, 0.765)),
            (PREFILL_FORMS["xattention"][0], (0.790, 0.700)),
            (PREFILL_FORMS["xattention"][1], (0.788, 0.698)),
            (PREFILL_FORMS["xattention"][2], (0.787, 0.698)),
            (PREFILL_FORMS["minference"][0], (0.787, 0.697)),
            (f"random_tiles(budget={{b}}, tile={TILE})", (0.664, 0.608)),
            ("window", (0.768, 0.689)),
        )
        for b, value in zip(PREFILL_BUDGETS, pair, strict=True)
    },
}
TOLERANCE = 0.03


def forms(stage: str) -> list[str]:
    """Every registered method of a stage as a recipe with {b} for its budget, all layers sparse and tiles of 64 where it has the knobs."""
    special = DECODE_FORMS if stage == "decode" else PREFILL_FORMS
    found = []
    for name, cls in methods().items():
        if cls.stage != stage:
            continue
        known = {field.name for field in fields(cls)}
        knobs = ["budget={b}"] if "budget" in known else []
        knobs += ["dense_layers=0"] if "dense_layers" in known else []
        knobs += [f"tile={TILE}"] if "tile" in known else []
        found += special.get(name, (f"{name}({', '.join(knobs)})" if knobs else name,))
    return found


def work(tokens: int) -> list[tuple[str, str, float | None]]:
    """What is to be measured: (phase, form, budget), a budget only for forms that take one."""
    plan: list[tuple[str, str, float | None]] = []
    for form in forms("decode"):
        plan += [("decode", form, b) for b in (DECODE_BUDGETS if "{b}" in form else (None,))]
    plan += [("decode", "window", b) for b in DECODE_BUDGETS]
    for length in PREFILL_RUNS:
        if length <= tokens:
            for form in forms("prefill"):
                budgets = PREFILL_BUDGETS if "{b}" in form else (None,)
                plan += [(f"prefill {length}", form, b) for b in budgets]
            plan += [(f"prefill {length}", "window", b) for b in PREFILL_BUDGETS]
    return plan


def summary(found: Recall) -> dict[str, float]:
    return {
        "kept": round(found.mean, 4),
        "worst_layer": round(found.worst, 4),
        "density": round(found.density, 4),
    }


def sparse_only(found: Recall) -> tuple[Recall, list[int]]:
    """The layers in which something was left out: a layer that a method keeps dense says nothing about its choice."""
    layers = [i for i, density in enumerate(found.densities) if density < 1]
    return found.on(layers), layers


def fitting(rows: DenseRows, recipe: str) -> str:
    """The recipe, once its methods have been held against the model: BadInput where one cannot run on it."""
    for method in parse(recipe).methods:
        method.check(rows.base.model)
    return recipe


def measure_decode(rows: DenseRows, form: str, budget: float | None) -> dict:
    if form == "window":
        return summary(decode_baselines(rows, budget)["window"]) | {"sparse_layers": len(rows.layers)}
    recipe = fitting(rows, form.format(b=budget))
    whole = decode_recall(rows, [recipe])[recipe]
    found, layers = sparse_only(whole)
    if not layers:
        raise BadInput("it kept every layer dense at this length.")
    baselines = decode_baselines(rows, whole.densities)
    beside = {name: round(one.on(layers).mean, 4) for name, one in baselines.items()}
    return summary(found) | {"sparse_layers": len(layers), **beside}


def measure_prefill(rows: DenseRows, tokens: int, form: str, budget: float | None) -> dict:
    every = PREFILL_RUNS[tokens]
    if form == "window":
        recipe = f"a_shape(sink={TILE}, window={widest_window(tokens, budget, TILE)}, tile={TILE})"
        return summary(prefill_recall(rows, [recipe], every=every, tokens=tokens)[recipe])
    recipe = fitting(rows, form.format(b=budget))
    found = prefill_recall(rows, [recipe], every=every, tokens=tokens)[recipe]
    if found.density >= 1:
        raise BadInput("it read everything at this length.")
    share = found.density
    beside = {
        "oracle": f"oracle_tiles(budget={share:.4f}, tile={TILE})",
        "window": f"a_shape(sink={TILE}, window={widest_window(tokens, share, TILE)}, tile={TILE})",
        "random": f"random_tiles(budget={share:.4f}, tile={TILE})",
    }
    measured = prefill_recall(rows, list(beside.values()), every=every, tokens=tokens)
    both = {name: measured[one] for name, one in beside.items()}
    return (
        summary(found)
        | {name: round(one.mean, 4) for name, one in both.items()}
        | {f"{name}_density": round(one.density, 4) for name, one in both.items()}
    )


def read_rows(bench: Bench, model: str, tokens: int, text: Path | None) -> DenseRows:
    lm = bench.model(model)
    if text is None:
        ids = bench.passage(tokens, model=model)
    else:
        ids = torch.tensor(lm.encode(text.read_text(encoding="utf-8"), special=True)[:tokens])
        if len(ids) < tokens:
            raise BadInput(f"{text} has {len(ids)} tokens; at least {tokens} are needed.")
    cut = lm.session(None, collect=COLLECTED)
    cut.feed(ids[:-QUERIES])
    return DenseRows(cut, cut.fork(collect=cut.needs).feed(ids[-QUERIES:]))


def row_of(rows: Callable[[], DenseRows], phase: str, form: str, budget: float | None) -> dict:
    row: dict = {"phase": phase, "recipe": form.format(b=budget), "form": form, "budget": budget}
    started = time.perf_counter()
    try:
        if phase == "decode":
            row |= measure_decode(rows(), form, budget)
        else:
            row |= measure_prefill(rows(), int(phase.split()[1]), form, budget)
    except BadInput as error:
        return row | {"left_out": str(error)}
    target = TARGETS.get((phase, form, budget))
    if target is not None:
        row |= {"target": target, "within": abs(row["kept"] - target) <= TOLERANCE}
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def missing(plan: list, result: dict) -> Iterator[tuple[str, str, float | None]]:
    done = {(row["phase"], row["form"], row["budget"]) for row in result["rows"]}
    yield from (one for one in plan if one not in done)


def show(rows: list[dict]) -> None:
    for row in rows:
        if "left_out" in row:
            print(f"{row['phase']:13} {row['recipe']:62} not measured: {row['left_out']}")
            continue
        beside = "  ".join(
            f"{name} {row[name]:.3f}" for name in ("oracle", "window", "random") if name in row
        )
        target = f"  target {row['target']:.3f}{'' if row['within'] else ' (!)'}" if "target" in row else ""
        print(
            f"{row['phase']:13} {row['recipe']:62} {row['kept']:.3f} at {row['density']:.3f}  {beside}{target}"
        )


def page(result: dict) -> str:
    """The figures as a Markdown page: one table a phase, the best first."""
    lines = [
        "# Attention mass that sparse methods keep",
        "",
        "Generated by `python bench/sparse_recall.py`; do not edit by hand.",
        "",
        f"{result['model']}, {result['tokens']} tokens of {result['text']}, mean over layers and heads of the attention mass that lies in what a method reads; beside it the best possible",
        "(oracle), the first and newest tokens (window) and random ones at the density that the method really read. Worst: its worst layer.",
    ]
    measured = [row for row in result["rows"] if "left_out" not in row]
    for phase in sorted({row["phase"] for row in measured}):
        lines += ["", f"## {phase[0].upper()}{phase[1:]}", ""]
        lines += [
            "| recipe | kept | density | worst | oracle | window | random |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in sorted(
            (r for r in measured if r["phase"] == phase), key=lambda r: (-(r["budget"] or 0), -r["kept"])
        ):
            cells = [
                row["kept"],
                row["density"],
                *(row.get(n) for n in ("worst_layer", "oracle", "window", "random")),
            ]
            shown = ("" if cell is None else f"{cell:.3f}" for cell in cells)
            lines.append(f"| `{row['recipe']}` | {' | '.join(shown)} |")
    for row in result["rows"]:
        if "left_out" in row:
            lines += ["", f"Not measured: `{row['recipe']}` ({row['phase']}): {row['left_out']}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--text", type=Path)
    parser.add_argument(
        "--seconds", type=float, default=150, help="stop after this time; call again to go on"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    name = given.text.stem if given.text else "prose"
    identity = {"model": given.model, "tokens": given.tokens, "queries": QUERIES, "text": name}
    result = {"schema": 1, **identity, "machine": machine(), "torch": torch.__version__, "rows": []}
    if given.out.is_file():
        stored = json.loads(given.out.read_text())
        if any(stored.get(key) != value for key, value in identity.items()):
            raise SystemExit(f"{given.out} holds another measurement; name another file with --out.")
        result = stored
    plan = work(given.tokens)
    until = time.perf_counter() + given.seconds
    held: list[DenseRows] = []

    def rows() -> DenseRows:
        if not held:
            held.append(read_rows(Bench(), given.model, given.tokens, given.text))
        return held[0]

    with torch.inference_mode():
        for phase, form, budget in missing(plan, result):
            if time.perf_counter() > until:
                print(f"{len(result['rows'])} of {len(plan)} measured; call again to go on.")
                return
            result["rows"].append(row_of(rows, phase, form, budget))
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(result, indent=1) + "\n")
            show(result["rows"][-1:])
    show(result["rows"])
    if given.out == OUT:
        PAGE.write_text(page(result))
    print(f"done: {given.out}")


if __name__ == "__main__":
    main()
