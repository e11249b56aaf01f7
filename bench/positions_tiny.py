"""Every position method on tiny models trained at window 256: loss by position and needle recall by depth at 512, 1024 and 2048, before and after fine-tuning.

    python bench/positions_tiny.py train    [--seeds 0 1]                 # about 3 minutes a seed on one idle core
    python bench/positions_tiny.py measure  [--seeds 0 1] [--lengths 256 512 1024 2048]
    python bench/positions_tiny.py finetune [--seeds 0 1] [--steps 150]
    python bench/positions_tiny.py figure
    python bench/positions_tiny.py all      [--seconds 110]

Everything resumes: a finished cell is in the results file and is not measured again, an unfinished training goes on where it stopped. --seconds ends a slice after
that wall-clock time with exit code 3 while something is left, so `until python bench/positions_tiny.py all --seconds 110; do :; done` does all of it in slices.

Models go to runs/positions_tiny/, results to bench/results/positions_tiny.json and .png. All methods see the same samples: held-out prose (nats a token, in
bins of positions), and one record among three distractors in prose, asked at the end (share answered, chance 1 in 100; and nats of the gold answer).
Fine-tuning continues for `steps` steps of 1024 tokens: a frequency map at length 1024 under its own frequencies; a method that follows the length,
maps distances or biases scores has nothing to train under, so it reads with the model tuned as long at its own window. Both are measured at 1024.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import longspan
from longspan.bench.extension import BINS, DEPTHS, reach
from longspan.bench.tiny_trained import tuning
from longspan.engine.recipe import parse
from longspan.methods.positions.export import exported_config
from longspan.train import tiny, tiny_model
from longspan.train.tiny_checkpoint import PROGRESS

WINDOW, TUNED_AT = 256, 1024
RUNS = Path("runs/positions_tiny")
OUT = Path("bench/results/positions_tiny.json")
UNFINISHED = 3


def recipes(length: int) -> dict[str, str]:
    """The methods at the factor that `length` asks for; windows of distance maps are half or a quarter of the trained one."""
    s = max(1, length // WINDOW)
    group = max(2, 2 * s)
    return {
        "none": "full",
        "pi": f"pi(factor={s})",
        "ntk": f"ntk(factor={s})",
        "dynamic_ntk": "dynamic_ntk",
        "ntk_by_parts": f"ntk_by_parts(factor={s})",
        "yarn": f"yarn(factor={s})",
        "yarn (paper ramp)": f"yarn(factor={s}, ramp=paper)",
        "llama3": f"llama3(factor={s})",
        "abf": "abf(multiplier=50)",
        "longllada": f"longllada(factor={s}, whole=False)",
        "dprope": f"dprope(factor={s})",
        "giraffe power": "giraffe(power=0.5)",
        "giraffe truncated": f"giraffe(truncate={WINDOW})",
        "mrope_plus": f"mrope_plus(factor={s})",
        "self_extend": f"self_extend(neighbours={WINDOW // 4}, group={group})",
        "dpe": f"dpe(neighbours={WINDOW // 4}, scales=(1, {group // 2}, {group}, {group}))",
        "rerope": f"rerope(neighbours={WINDOW // 2})",
        "leaky_rerope": f"rerope(neighbours={WINDOW // 2}, leak={1 / (2 * s)})",
        "dca": "dca",
        "lm_infinite": f"lm_infinite(window={WINDOW * 3 // 4})",
        "flexrope": f"flexrope(slope={8 / WINDOW})",
    }


class Slice:
    """The time this call may take, and whether something was left undone."""

    def __init__(self, seconds: float | None):
        self.end = None if seconds is None else time.monotonic() + seconds
        self.unfinished = False

    @property
    def minutes(self) -> float | None:
        return None if self.end is None else max(0.0, (self.end - time.monotonic()) / 60)

    def over(self) -> bool:
        if self.minutes == 0:
            self.unfinished = True
        return self.unfinished


class Store:
    """Rows by (seed, method, length, tuned steps), written after every one."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.rows: dict[tuple, dict] = {}
        if OUT.is_file():
            self.facts = json.loads(OUT.read_text(encoding="utf-8"))
            self.rows = {self.key(row): row for row in self.facts.pop("rows")}

    @staticmethod
    def key(row: dict) -> tuple:
        return row["seed"], row["method"], row["length"], row["tuned_steps"]

    def add(self, row: dict) -> None:
        self.rows[self.key(row)] = row
        self.facts |= {
            "window": WINDOW,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
        }
        whole = {**self.facts, "rows": list(self.rows.values())}
        OUT.parent.mkdir(parents=True, exist_ok=True)
        part = OUT.with_suffix(".part")
        part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        part.replace(OUT)


def shape_and_plan(seed: int) -> tuple[tiny_model.Shape, tiny.Plan]:
    shape, plan = tiny.preset("short")
    return shape, replace(plan, seed=seed)


def finished(folder: Path, plan: tiny.Plan) -> bool:
    path = folder / PROGRESS
    return path.is_file() and json.loads(path.read_text())["progress"]["step"] >= plan.steps


def train(options: argparse.Namespace, clock: Slice) -> None:
    for seed in options.seeds:
        shape, plan = shape_and_plan(seed)
        folder = RUNS / f"seed{seed}"
        if finished(folder, plan) or clock.over():
            continue
        progress = tiny.train(shape, plan, folder, minutes=clock.minutes)
        clock.unfinished |= progress.step < plan.steps
        print(f"seed {seed}: step {progress.step} of {plan.steps}, {progress.accuracy}", flush=True)


def measure(options: argparse.Namespace, clock: Slice) -> None:
    store = Store()
    for seed in options.seeds:
        folder = RUNS / f"seed{seed}"
        if not finished(folder, shape_and_plan(seed)[1]):
            clock.unfinished = True
            continue
        for length in options.lengths:
            for name, recipe in chosen(options, length).items():
                if length <= WINDOW and name != "none":
                    continue
                row = {"seed": seed, "tuned_steps": 0, "method": name, "recipe": recipe, "length": length}
                one_cell(store, options, clock, folder, row)


def finetune(options: argparse.Namespace, clock: Slice) -> None:
    store = Store()
    for seed in options.seeds:
        start = RUNS / f"seed{seed}"
        if not finished(start, shape_and_plan(seed)[1]):
            clock.unfinished = True
            continue
        for name, recipe in chosen(options, TUNED_AT).items():
            row = {
                "seed": seed,
                "tuned_steps": options.steps,
                "method": name,
                "recipe": recipe,
                "length": TUNED_AT,
            }
            if Store.key(row) in store.rows and not options.again:
                continue
            folder, read_with = tuned(start, seed, name, recipe, options.steps, clock)
            if folder is not None:
                one_cell(store, options, clock, folder, row | {"read_with": read_with})


def tuned(
    start: Path, seed: int, name: str, recipe: str, steps: int, clock: Slice
) -> tuple[Path | None, str]:
    """(folder of the fine-tuned model, recipe to read it with); no folder when the slice ended first."""
    method = next(iter(parse(recipe).methods), None)
    mapped = method is None or hasattr(method, "rope_parameters")
    length = TUNED_AT if mapped else WINDOW
    shape, _ = shape_and_plan(seed)
    rope = None
    if method is not None and mapped:
        rope = exported_config(tiny_model.load_tiny(start).config, method).rope_parameters
    plan = tuning(steps, length, seed=seed)
    folder = RUNS / f"seed{seed}-{name.replace(' ', '-') if mapped else 'own-window'}-{steps}"
    if not finished(folder, plan):
        if clock.over():
            return None, ""
        shape = replace(shape, window=length, rope=rope)
        progress = tiny.train(shape, plan, folder, minutes=clock.minutes, start_from=start)
        if progress.step < plan.steps:
            clock.unfinished = True
            return None, ""
    return folder, "full" if mapped else recipe  # a map lies in the tuned model's config


def chosen(options: argparse.Namespace, length: int) -> dict[str, str]:
    return {
        name: recipe
        for name, recipe in recipes(length).items()
        if not options.methods or name in options.methods
    }


def one_cell(store: Store, options: argparse.Namespace, clock: Slice, folder: Path, row: dict) -> None:
    if (Store.key(row) in store.rows and not options.again) or clock.over():
        return
    model = _model(folder)
    found = reach(
        model,
        row.get("read_with", row["recipe"]),
        row["length"],
        prose=options.samples,
        prompts=options.samples,
    )
    store.add(
        {
            **row,
            "samples": options.samples,
            "nll_by_bin": list(found.nll),
            "recall": {
                str(depth): {"accuracy": one.accuracy, "gold_nats": one.gold_nats}
                for depth, one in found.recall.items()
            },
        }
    )
    print(
        f"seed {row['seed']} tuned {row['tuned_steps']:3} {row['method']:18} {row['length']:5} "
        f"nll beyond {found.beyond(WINDOW) if row['length'] > WINDOW else found.nll[-1]:6.3f} recall {found.accuracy:.2f}",
        flush=True,
    )


_LOADED: dict[Path, Any] = {}


def _model(folder: Path) -> Any:
    if folder not in _LOADED:
        _LOADED.clear()
        _LOADED[folder] = longspan.load(str(folder))
    return _LOADED[folder]


def figure(*_: Any) -> None:
    """One figure: loss by position and recall by depth at each length, mean over seeds; the last column is after fine-tuning."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(Store().rows.values())
    columns = sorted({(row["tuned_steps"], row["length"]) for row in rows if row["length"] > WINDOW})
    fig, axes = plt.subplots(3, len(columns), figsize=(5 * len(columns), 13), squeeze=False)
    labels = {}
    for column, (steps, length) in enumerate(columns):
        cells = [row for row in rows if row["length"] == length and row["tuned_steps"] == steps]
        seeds = sorted({row["seed"] for row in cells})
        plain = {row["seed"]: np.array(row["nll_by_bin"]) for row in cells if row["method"] == "none"}
        for number, name in enumerate(recipes(512)):
            mine = [row for row in cells if row["method"] == name]
            if not mine:
                continue
            centres = (np.arange(BINS) + 0.5) * length / BINS
            look = {"ls": ("-", "--", ":")[number // 10], "color": plt.cm.tab10(number % 10), "lw": 1.2}
            curve = np.mean([row["nll_by_bin"] for row in mine], axis=0)
            (labels[name],) = axes[0, column].plot(centres, curve, **look)
            paired = [
                np.array(row["nll_by_bin"]) - plain[row["seed"]] for row in mine if row["seed"] in plain
            ]
            if paired and name != "none":
                axes[1, column].plot(centres, np.mean(paired, axis=0), **look)
            depth = np.mean([[row["recall"][str(d)]["accuracy"] for d in DEPTHS] for row in mine], axis=0)
            axes[2, column].plot(DEPTHS, depth, **look)
        for row in (0, 1):
            axes[row, column].axvline(WINDOW, color="black", lw=0.8)
        when = f"after {steps} steps" if steps else "no tuning"
        title = f"{length} tokens, {when} ({len(seeds)} seed{'s' if len(seeds) > 1 else ''})"
        axes[0, column].set(title=title, xlabel="position", ylim=(1, 4.5))
        axes[1, column].set(xlabel="position", ylim=(-1, 0.6))
        axes[1, column].axhline(0, color="grey", lw=0.6)
        axes[2, column].set(xlabel="depth of the record", ylim=(-0.03, 1.03))
    axes[0, 0].set_ylabel("prose, nats a token")
    axes[1, 0].set_ylabel("prose, nats a token against none")
    axes[2, 0].set_ylabel("record recalled")
    order = [name for name in recipes(512) if name in labels]
    axes[0, -1].legend(
        [labels[name] for name in order], order, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1)
    )
    fig.suptitle(f"Tiny models trained at {WINDOW} tokens (black line)")
    fig.savefig(OUT.with_suffix(".png"), dpi=110, bbox_inches="tight")


PARTS = {"train": train, "measure": measure, "finetune": finetune, "figure": figure}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=(*PARTS, "all"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--methods", nargs="+", default=[], help="all when not given")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument(
        "--seconds", type=float, default=None, help="end the slice after this wall-clock time"
    )
    parser.add_argument("--again", action="store_true", help="measure cells anew that the results hold")
    options = parser.parse_args()
    clock = Slice(options.seconds)
    for name in PARTS if options.part == "all" else (options.part,):
        PARTS[name](options, clock)
    if clock.unfinished:
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    main()
