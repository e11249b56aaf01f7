"""Giraffe's check: golden truncations, and which basis reaches beyond the window before and after 200 steps of tuning at four times the window."""

from typing import Any

import torch

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import (
    LLAMA2,
    SMOLLM2,
    WINDOW,
    fixed,
    must_be_a_map,
    must_decode_as_read,
    zero_shot,
)
from longspan.bench.scorers import score
from longspan.bench.task import get_task
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.ops.frequency_maps import Rope, default, power, truncated
from longspan.ops.sampled_positions import randomised_positions

TUNED_AT, STEPS = 1024, 200
COUNTS = {
    (LLAMA2, 512): (31, 15, 18),
    (LLAMA2, 2048): (41, 14, 9),
    (SMOLLM2, 2048): (17, 5, 10),
    (SMOLLM2, 8192): (20, 6, 6),
}


@check(
    "giraffe",
    system="giraffe",
    claim="of linear, power and truncated bases, linear scaling with a short tuning reaches furthest; its three tasks tell them apart",
    file="src/longspan/methods/positions/giraffe.py",
)
def giraffe(bench: Bench) -> Outcome:
    outcome = Outcome()
    _bases(outcome)
    _positions(outcome)
    _tasks(outcome, bench.model().tokenizer)
    must_be_a_map(bench, outcome, "giraffe(factor=2, power=0.5, truncate=256)", "giraffe", "all options off")
    must_decode_as_read(bench, outcome, "giraffe(xpos=512)")
    bases = {
        "linear": "pi(factor=4)",
        "power 0.5": "giraffe(power=0.5)",
        "truncated": f"giraffe(truncate={WINDOW})",
    }
    tuned = {
        f"{name}, tuned {STEPS} steps at {TUNED_AT}": (
            tiny_trained.tuned(recipe, TUNED_AT, STEPS),
            fixed("full"),
        )
        for name, recipe in bases.items()
    }
    zero = {f"{name}, zero-shot": fixed(recipe) for name, recipe in bases.items() if name != "linear"}
    zero["xpos 512, zero-shot"] = fixed("giraffe(factor={s}, xpos=512)")
    found = zero_shot(bench, outcome, zero, more=tuned)

    def after(name: str, length: int = TUNED_AT):
        return found[f"{name}, tuned {STEPS} steps at {TUNED_AT}", length]

    outcome.shows(
        f"linear at {TUNED_AT}: recall well above half after tuning, and above its zero-shot recall",
        after("linear").accuracy > 0.5 and after("linear").accuracy > found["pi", TUNED_AT].accuracy,
    )
    outcome.shows(
        "the power basis falls most of the three, zero-shot, from 512 to 2048 tokens (recall)",
        all(
            _fall(found, "power 0.5, zero-shot") >= _fall(found, other)
            for other in ("truncated, zero-shot", "pi")
        ),
    )
    outcome.shows(
        "truncated and tuned: loss at twice the tuned length within 10% of that at it",
        after("truncated", 2048).nll[-1] < 1.1 * after("truncated").nll[-1],
    )
    outcome.shows(
        "tuned at four times the window, linear has the lowest gold nats there",
        all(after("linear").gold_nats <= after(name).gold_nats for name in bases),
    )
    return outcome


def _fall(found: dict, name: str) -> float:
    return found[name, 512].accuracy - found[name, 2048].accuracy


def _bases(outcome: Outcome) -> None:
    for (rope, tokens), wanted in COUNTS.items():
        kept = rope.frequencies
        f = truncated(rope, tokens).inv_freq
        counts = (int((f == kept).sum()), int(((f != kept) & (f > 0)).sum()), int((f == 0).sum()))
        outcome.must(
            f"d {rope.dim}, base {rope.base:g}, truncated to {tokens}: kept, slowed, stopped {wanted}",
            counts == wanted,
        )
    longest = int(2 * torch.pi / float(SMOLLM2.frequencies[-1])) + 1
    outcome.must(
        "truncating to more tokens than the longest wavelength changes nothing",
        torch.equal(truncated(SMOLLM2, longest).inv_freq, SMOLLM2.frequencies),
    )
    last = power(SMOLLM2, 0.5).inv_freq[-1] / SMOLLM2.frequencies[-1]
    outcome.must(
        "power 0.5: the last pair keeps (2/d)^0.5", abs(float(last) - (2 / SMOLLM2.dim) ** 0.5) < 1e-6
    )
    outcome.must(
        "power 0 is the identity",
        torch.equal(power(Rope(32, 1e4, 256), 0).inv_freq, default(Rope(32, 1e4, 256)).inv_freq),
    )


def _positions(outcome: Outcome) -> None:
    draws = [randomised_positions(512, torch.Generator().manual_seed(seed)) for seed in range(50)]
    outcome.must(
        "randomised positions rise strictly and end within the length",
        all(bool((row.diff() > 0).all()) and float(row[-1]) <= 512 * (1 + 1e-6) for row in draws),
    )


def _tasks(outcome: Outcome, tokenizer: Any) -> None:
    for name in ("longchat_lines", "ffqa", "altqa"):
        items = get_task(name).make(12, 1500, tokenizer)
        outcome.must(
            f"{name}: the reference scores 1", all(score(item, item.gold_text) == 1 for item in items)
        )
        outcome.must(f"{name}: an empty reply scores 0", not any(score(item, "") for item in items))
    altered = get_task("altqa").make(24, 1500, tokenizer)
    recalled = [score(item, item.metadata["original"]) for item in altered]
    survives = [item.answers[0] in item.metadata["original"] for item in altered]
    outcome.must(
        "altqa: the original number scores 0 unless the altered one is part of it",
        all(value == 0 or alive for value, alive in zip(recalled, survives, strict=True)),
    )
    outcome.must(
        "altqa: no original answer stands in the text",
        not any(item.metadata["original"] in item.context.split() for item in altered),
    )
