"""Quality of sparse attention at equal measured density: RULER tasks and prose, per task and worst case.

    python bench/sparse_quality.py [--length 2048] [--samples 4] [--seconds 150]      until it says that it is done

The protocol is sparse-frontier's (Nawrot et al., 2025, arXiv 2504.17768): sparse reading with dense decoding and sparse decoding after dense
reading, never both; every method at the same density, found by bisection of its knob on one text, dense layers and forced entries included; the density it then
has on the tasks is measured and printed; the worst task counts as much as the mean. Tasks: one of RULER's needle tasks with four questions, variable
tracking, common words (each a `longspan.compare` row, greedy replies), and the loss on true continuations of prose. Reading loss comes from
`compare`; decoding loss is taken token by token, since a text scored at once is not decoded. Scores stand beside full attention, the oracle,
window + sink and random at the same density. A method that cannot reach a density is named. Work goes to runs/, and a call goes on where the one
before was stopped by --seconds. Results: bench/results/sparse_quality.json (for another model or length, its name is appended).
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import longspan
from longspan.bench.results import load
from longspan.bench.run import compare, machine, make_items
from longspan.engine.batch import Work, forward
from longspan.engine.model import Model
from longspan.engine.needs import Needs
from longspan.engine.recipe import parse
from longspan.engine.session import Session
from longspan.errors import BadInput

ROOT = Path(__file__).parent.parent
TASKS = ("niah_multiquery", "vt", "cwe")
PROSE = "perplexity"
DENSITIES = (0.5, 0.25)
SEED, TILE, STEPS = 43, 64, 8
NEARLY = 0.05  # relative: a density this close to the wanted one is it

#: {x} is the knob that sets the density, in the range given; int ranges are tokens.
PREFILL = {
    f"oracle_tiles(budget={{x}}, tile={TILE})": (0.01, 1.0),
    f"a_shape(sink={TILE}, window={{x}}, tile={TILE})": (1, 8192),
    f"random_tiles(budget={{x}}, tile={TILE})": (0.01, 1.0),
    f"xattention(budget={{x}}, tile={TILE})": (0.01, 1.0),
    f"minference(shape=block_sparse, blocks={{x}}, tile={TILE})": (0.01, 1.0),
    "minference(vertical={x}, slash={x})": (8, 8192),
    f"flexprefill(gamma={{x}}, least=64, tile={TILE})": (0.05, 0.9999),
    "sale(budget={x}, dense_below=0)": (0.01, 1.0),
    "spargeattention(budget={x})": (0.01, 1.0),
    "moa(budget={x}, plan=uniform)": (0.01, 1.0),
}
DECODE = {
    "oracle(budget={x})": (0.005, 1.0),
    "window(budget={x})": (0.005, 1.0),
    "random(budget={x})": (0.005, 1.0),
    "quest(budget={x})": (0.005, 1.0),
    "double_sparsity(budget={x})": (0.005, 1.0),
    "arkvale(budget={x}, page=16)": (0.005, 1.0),
    "shadowkv(budget={x})": (0.005, 1.0),
    "clusterkv(budget={x})": (0.005, 1.0),
    "squeezed_attention(budget={x})": (0.005, 1.0),
    "infllm(budget={x}, block=32, local=32)": (0.005, 1.0),
    "longheads(budget={x}, chunk=64)": (0.005, 1.0),
    "retrolm(budget={x}, page=32)": (0.005, 1.0),
    "delta(budget={x}, planners=(2, 10, 20))": (0.005, 1.0),
    "tidaldecode(budget={x})": (0.005, 1.0),
}
FLOORS = ("a_shape", "random_tiles", "window", "random")
ORACLES = ("oracle_tiles", "oracle")


class OutOfTime(Exception):
    """The time of this call is over; what was measured is on the disk."""


class Clock:
    def __init__(self, seconds: float):
        self.until = time.perf_counter() + seconds

    def check(self) -> None:
        if time.perf_counter() > self.until:
            raise OutOfTime


# -- equal density -------------------------------------------------------------------------------------------------
def bisect(
    density: Callable[[float], float], wanted: float, low: float, high: float, steps: int = STEPS
) -> tuple[float, float]:
    """The knob in [low, high] whose density is nearest to `wanted`, and that density; density grows with the knob."""
    whole = isinstance(low, int)
    best: tuple[float, float] | None = None
    for step in range(steps):
        x = wanted if step == 0 and not whole and low <= wanted <= high else (low * high) ** 0.5
        x = round(x) if whole else round(x, 4)
        found = density(x)
        if best is None or abs(found - wanted) < abs(best[1] - wanted):
            best = (x, found)
        if abs(found - wanted) <= NEARLY * wanted or (whole and high - low <= 1):
            break
        low, high = (x, high) if found < wanted else (low, x)
    assert best is not None
    return best


def read_share(lm: Model, ids: torch.Tensor, recipe: str) -> float:
    """Share of the causal pairs that reading `ids` computes."""
    return lm.session(recipe).read(ids).stats.prefill_density


def step_share(base: Session, ids: torch.Tensor, recipe: str) -> float:
    """Share of a full cache's entries that decoding `ids` reads: a dropped entry is not read either."""
    branch = decoding(base, recipe)
    steps_of([branch], ids)
    heads = sum(base.layers[i].geometry.kv_heads for i in base.growing_layers())
    whole = base.growing_entries() + len(ids) * heads
    return branch.stats.decode_density * branch.growing_entries() / whole


def steps_of(branches: list[Session], ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of each of `ids` (N,), fed one by one to all branches in packed steps: (branches, N)."""
    found = []
    logits = [branch.next_logits() for branch in branches]
    for token in ids:
        found.append(torch.stack([one.float().log_softmax(-1)[token] for one in logits]))
        logits = list(forward(branches[0].model, [Work(branch, token.view(1)) for branch in branches]))
    return torch.stack(found, 1)


def decoding(base: Session, recipe: str) -> Session:
    """A fork of the densely read base under a decode recipe, ready to decode."""
    branch = base.fork(parse(recipe))
    branch.finish_read()
    return branch


def tune(lm: Model, given: argparse.Namespace, state: dict, save: Callable[[], None], clock: Clock) -> None:
    """Fill state["tuned"]: "phase density form" -> {recipe, density} or {left_out}."""
    wanted = [(phase, form, d) for phase, forms in (("prefill", PREFILL), ("decode", DECODE)) for d in given.densities for form in forms]  # fmt: skip
    missing = [one for one in wanted if " ".join(map(str, one)) not in state["tuned"]]
    if not missing:
        return
    passage = make_items(lm, [PROSE], [given.length], 1, SEED + 1, ("prose",))[0][0]
    ids = torch.tensor(lm.encode(passage.context, special=True))
    after = torch.tensor(lm.encode(passage.answers[0]))[:8]
    base = None
    for phase, form, d in missing:
        clock.check()
        low, high = (PREFILL if phase == "prefill" else DECODE)[form]
        try:
            if phase == "decode" and base is None:
                base = lm.session(None, collect=needs_of(DECODE)).read(ids)
            measure = partial(step_share, base, after) if base else partial(read_share, lm, ids)
            x, found = bisect(lambda x, m=measure, f=form: m(f.format(x=x)), d, low, high)
            entry = {"recipe": form.format(x=x), "density": round(found, 4)}
            if abs(found - d) > 2 * NEARLY * d:
                entry["off"] = True
        except BadInput as error:
            entry = {"left_out": str(error)}
        state["tuned"][f"{phase} {form} {d}"] = entry
        save()
        print(f"{phase:8} {d:<6g} {form:60} {entry}", flush=True)


def needs_of(forms: dict) -> Needs:
    """What all these recipes want collected while the text is read."""
    needs = Needs()
    for form in forms:
        needs = needs | parse(form.format(x=0.25)).needs
    return needs


# -- quality -------------------------------------------------------------------------------------------------------
def chosen(state: dict, phase: str) -> list[str]:
    """Tuned recipes of a phase, those that came near their density."""
    found = [e["recipe"] for key, e in state["tuned"].items() if key.startswith(phase) and "recipe" in e and not e.get("off")]  # fmt: skip
    return list(dict.fromkeys(found))


def run_tasks(lm: Model, given: argparse.Namespace, state: dict, phase: str, clock: Clock) -> None:
    folder = given.runs / phase
    tasks = (*TASKS, PROSE) if phase == "prefill" else TASKS

    def tell(done: int, total: int) -> None:
        print(f"\r{phase}: {done} of {total}", end="", flush=True)
        if done < total:
            clock.check()

    compare(
        lm, ["full", *chosen(state, phase)], out=folder, budgets=(), tasks=tasks, lengths=(given.length,), samples=given.samples,
        seed=SEED, haystacks=("prose",), aware="agnostic", modes=("generate", "perplexity"), references=False, latency_tokens=0,
        resume=(folder / "run.json").exists(), progress=tell, command="python bench/sparse_quality.py",
    )  # fmt: skip
    print()


def decode_prose(
    lm: Model, given: argparse.Namespace, state: dict, save: Callable[[], None], clock: Clock
) -> None:
    """state["prose"]: recipe -> [nats a token of each sample's true continuation, decoded token by token]."""
    recipes = ["full", *chosen(state, "decode")]
    items = make_items(lm, [PROSE], [given.length], given.samples, SEED, ("prose",))
    for number, (item, _) in enumerate(items):
        missing = [r for r in recipes if len(state["prose"].get(r, [])) <= number]
        if not missing:
            continue
        clock.check()
        base = lm.session(None, collect=needs_of(DECODE)).read(
            torch.tensor(lm.encode(item.context, special=True))
        )
        ids = torch.tensor(lm.encode(item.answers[0]))
        for recipe in missing:
            found = steps_of([decoding(base, recipe)], ids)
            state["prose"].setdefault(recipe, []).append(round(-float(found.mean()), 5))
        save()
        print(f"prose, decoded: {number + 1} of {len(items)}", flush=True)


# -- the table -----------------------------------------------------------------------------------------------------
def table(given: argparse.Namespace, state: dict) -> list[dict]:
    """One row a recipe and density: score on every task, share of full attention's, the mean and the worst of these, prose loss above full's."""
    cells = []
    for phase in ("prefill", "decode"):
        rows = [row for row in load(given.runs / phase)[1] if not row.get("error")]
        by: dict[tuple[str, str], list[dict]] = {}
        for row in rows:
            by.setdefault((row["recipe"], row["task"]), []).append(row)
        score = {key: mean([row["score"] for row in found]) for key, found in by.items() if key[1] != PROSE}
        full_name = str(parse("full"))
        for key, entry in state["tuned"].items():
            if not key.startswith(phase):
                continue
            d = float(key.rsplit(" ", 1)[1])
            if "recipe" not in entry or entry.get("off"):
                reason = entry.get("left_out", f"nearest density on prose {entry.get('density')}")
                cells.append(
                    {"phase": phase, "density": d, "recipe": entry.get("recipe", key), "left_out": reason}
                )
                continue
            name = str(parse(entry["recipe"]))
            measured = [density_of(row, phase) for task in TASKS for row in by.get((name, task), [])]
            scores = {task: score.get((name, task)) for task in TASKS}
            shares = {
                task: value / score[full_name, task]
                for task, value in scores.items()
                if value is not None and score.get((full_name, task))
            }
            method = entry["recipe"].split("(")[0]
            cells.append(
                {
                    "phase": phase,
                    "density": d,
                    "recipe": entry["recipe"],
                    "role": "floor" if method in FLOORS else "oracle" if method in ORACLES else "method",
                    "density_on_prose": entry["density"],
                    "density_on_tasks": rounded(mean(measured)),
                    "scores": {task: rounded(value) for task, value in scores.items()},
                    "share_of_full": rounded(mean(list(shares.values()))),
                    "worst_task": min(shares, key=lambda task: shares[task]) if shares else None,
                    "worst_share": rounded(min(shares.values())) if shares else None,
                    "prose_nats_above_full": rounded(prose_gap(phase, entry["recipe"], by, state)),
                }
            )
    return cells


def density_of(row: dict, phase: str) -> float | None:
    """Share of the causal pairs read, or of the full cache's entries that decoding read: what a policy dropped is not read either."""
    if phase == "prefill":
        return row.get("prefill_density")
    read = row.get("decode_density")
    return None if read is None else read * row["cache_bytes"] / row["dense_bytes"]


def prose_gap(phase: str, recipe: str, by: dict, state: dict) -> float | None:
    if phase == "decode":
        full, mine = state["prose"].get("full"), state["prose"].get(recipe)
        return mean(mine) - mean(full) if full and mine else None
    losses = {}
    for name in ("full", recipe):
        rows = by.get((str(parse(name)), PROSE), [])
        losses[name] = mean([-row["gold_logprob"] / row["gold_tokens"] for row in rows])
    return None if None in losses.values() else losses[recipe] - losses["full"]


def mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def show(cells: list[dict], full: dict) -> None:
    print(f"full: {full}")
    for cell in sorted(cells, key=lambda c: (c["phase"], c["density"], -(c.get("share_of_full") or -1))):
        head = f"{cell['phase']:8} {cell['density']:<5g} {cell['recipe']:58}"
        if "left_out" in cell:
            print(f"{head} not measured: {cell['left_out']}")
            continue
        scores = "  ".join(f"{task} {value}" for task, value in cell["scores"].items())
        gap = cell["prose_nats_above_full"]
        prose = "" if gap is None else f"prose {gap:+.3f} nats  "
        print(
            f"{head} share of full {cell['share_of_full']}  worst {cell['worst_share']} ({cell['worst_task']})  {scores}  "
            f"{prose}density on tasks {cell['density_on_tasks']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--densities", type=float, nargs="+", default=list(DENSITIES))
    parser.add_argument(
        "--seconds", type=float, default=150, help="stop after this time; call again to go on"
    )
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    name = (
        "sparse_quality"
        if (given.model, given.length) == ("smollm2-135m", 2048)
        else f"sparse_quality_{given.model}_{given.length}"
    )
    given.runs = given.runs or ROOT / "runs" / name
    given.out = given.out or ROOT / "bench" / "results" / f"{name}.json"
    given.runs.mkdir(parents=True, exist_ok=True)
    kept = given.runs / "state.json"
    state = json.loads(kept.read_text()) if kept.is_file() else {"tuned": {}, "prose": {}}
    clock = Clock(given.seconds)

    def save() -> None:
        kept.write_text(json.dumps(state, indent=1) + "\n")

    lm = longspan.load(given.model)
    lm.crossovers = None  # the methods are measured, not what this machine is fast at
    try:
        with torch.inference_mode():
            tune(lm, given, state, save, clock)
            for phase in ("prefill", "decode"):
                run_tasks(lm, given, state, phase, clock)
            decode_prose(lm, given, state, save, clock)
    except OutOfTime:
        print("\nnot done; call again to go on.")
        return
    cells = table(given, state)
    rows = [row for row in load(given.runs / "prefill")[1] if row["recipe"] == str(parse("full"))]
    full = {task: rounded(mean([row["score"] for row in rows if row["task"] == task])) for task in TASKS}
    result = {
        "schema": 1,
        "model": given.model,
        "length": given.length,
        "samples": given.samples,
        "seed": SEED,
        "machine": machine(),
        "torch": torch.__version__,
        "command": "python bench/sparse_quality.py",
        "full": full,
        "cells": cells,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    show(cells, full)
    print(f"done: {given.out}")


if __name__ == "__main__":
    main()
