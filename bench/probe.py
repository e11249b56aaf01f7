"""What cache policies and decode selectors keep of the probe model's tasks: recall, tracking, copying, counting at its window.

    python bench/probe.py [--samples 6] [--length 1024] [--model probe]

Every context is read once; each recipe gets a fork, acts, and is then asked up to four questions, each on a fork of its own, tokens fed one by one as in
decoding. An answer counts when every token of it is the most probable one. The questions come after the context was compressed. All figures are of the probe, a model
of 1.2M parameters trained on these very tasks: they tell methods apart and say nothing about language. Results: bench/results/probe.json, docs/probe.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import longspan
from longspan.bench.run import machine
from longspan.engine.aliases import ALIASES
from longspan.engine.batch import Work, forward
from longspan.engine.needs import Needs
from longspan.engine.recipe import parse
from longspan.engine.session import Session
from longspan.train.tiny_ship import FACTS, trained_difficulty
from longspan.train.tiny_tasks import PLANS, Sample, sample

ROOT = Path(__file__).parent.parent
RECIPES = (
    "window",
    "random",
    "oracle",
    "knorm",
    "keydiff",
    "snapkv(window=8)",
    "h2o",
    "tova",
    "quest(page=8)",
    "double_sparsity",
)
BUDGETS = (0.5, 0.25)
QUESTIONS, SEED = 4, 77


def spelled(budgets: tuple[float, ...]) -> dict[str, tuple[str, float | None]]:
    """Recipe as it is run -> (its label, budget)."""
    found: dict[str, tuple[str, float | None]] = {"full": ("full", None)}
    for budget in budgets:
        for name in RECIPES:
            found[str(parse(name).with_budget(budget))] = (name, budget)
    return found


def cut(drawn: Sample, newline: int) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """(context, [(question, answer)]): each question as it stands in the sample, without those before it."""
    ids = torch.from_numpy(drawn.ids)
    end, asked = 0, []
    for begin, stop in drawn.answers:
        start = int((ids[:begin] == newline).nonzero()[-1])
        end = end or start
        asked.append((ids[start:begin], ids[begin:stop]))
    return ids[:end], asked


def right(branches: list[Session], question: torch.Tensor, answer: torch.Tensor) -> list[bool]:
    """Whether each branch, asked this, would write exactly the answer."""
    forks = [branch.fork() for branch in branches]
    found = torch.ones(len(forks), dtype=torch.bool)
    tokens = torch.cat((question, answer[:-1]))
    for at, token in enumerate(tokens):
        logits = forward(forks[0].model, [Work(fork, token.view(1)) for fork in forks])
        step = at - len(question) + 1
        if step >= 0:
            found &= torch.stack([one.argmax() for one in logits]) == answer[step]
    return found.tolist()


def measure(
    lm, samples: int, length: int, budgets: tuple[float, ...], difficulty
) -> dict[str, dict[str, list[bool]]]:
    """recipe -> task -> whether each question was answered."""
    names = list(spelled(budgets))
    (newline,) = lm.encode("\n")
    needs = Needs()
    for name in names:
        needs = needs | parse(name).needs
    scores: dict[str, dict[str, list[bool]]] = {name: {task: [] for task in PLANS} for name in names}
    for task in PLANS:
        rng = np.random.default_rng([SEED, length])
        for _ in range(samples):
            context, asked = cut(sample(task, length, rng, difficulty, held_out=True), newline)
            base = lm.session(None, collect=needs).feed(context)
            branches = []
            for name in names:
                branches.append(base.fork(parse(name)))
                branches[-1].finish_read()
            for question, answer in asked[:QUESTIONS]:
                for name, one in zip(names, right(branches, question, answer), strict=True):
                    scores[name][task].append(one)
        print(f"{task}: {len(scores['full'][task])} questions", flush=True)
    return scores


def table(scores: dict, budgets: tuple[float, ...]) -> list[dict]:
    rows = []
    for name, (label, budget) in spelled(budgets).items():
        shares = {task: round(sum(found) / len(found), 3) for task, found in scores[name].items()}
        rows.append({"recipe": name, "method": label, "budget": budget, **shares})
    return rows


def full_cache() -> list[str]:
    """What the shipped weights reach with the full cache, from the facts beside them."""
    facts = json.loads((ALIASES["probe"].folder / FACTS).read_text())
    shares = ", ".join(f"{task} {facts['full_cache'][task]:.3f}" for task in PLANS)
    return [
        f"Full cache, {facts['samples']} contexts of {facts['length']} tokens a task, every question in turn: {shares}; held-out text "
        f"{facts['full_cache']['text_nll']:.2f} nats a byte.",
        "",
    ]


def markdown(result: dict) -> str:
    lines = [
        "# The probe",
        "",
        f"Generated by `{result['command']}`; do not edit by hand.",
        "",
        "`probe` is a model of 1.2M parameters that comes with Longspan (window 1024, grouped queries), trained on synthetic tasks: recall of one of many names, tracking",
        "a value through assignments, copying a named passage, counting a name's occurrences. It makes exact checks cheap. **Figures on it are of it**: they tell methods",
        "apart and stand beside those of a language model, never instead.",
        "",
        *full_cache(),
        f"Share of questions answered exactly, {result['samples']} contexts of {result['length']} tokens a task, up to {QUESTIONS} questions each, asked after compression; on the probe.",
        "",
        "| method | budget | " + " | ".join(PLANS) + " |",
        "|---|---|" + "---|" * len(PLANS),
    ]
    for row in result["rows"]:
        budget = "" if row["budget"] is None else f"{row['budget']:g}"
        lines.append(
            f"| `{row['method']}` | {budget} | " + " | ".join(f"{row[task]:.2f}" for task in PLANS) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="probe")
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "probe.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "probe.md")
    given = parser.parse_args()
    lm = longspan.load(given.model)
    lm.crossovers = None
    with torch.inference_mode():
        scores = measure(lm, given.samples, given.length, BUDGETS, trained_difficulty(Path(lm.source)))
    result = {
        "schema": 1,
        "model": "probe",
        "samples": given.samples,
        "length": given.length,
        "seed": SEED,
        "machine": machine(),
        "command": "python bench/probe.py",
        "rows": table(scores, BUDGETS),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    given.page.write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
