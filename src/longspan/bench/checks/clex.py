"""CLEX's check: the untrained equation is NTK by 2t - 1 in closed form; 300 steps at the short window carry the loss to four times it."""

import torch

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import (
    SMOLLM2,
    WINDOW,
    fixed,
    incremental_gap,
    must_be_neutral,
    must_decode_as_read,
    zero_shot,
)
from longspan.bench.checks.lm_infinite import dense_within_window
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.ops.frequency_maps import ntk
from longspan.ops.neural_frequencies import solve
from longspan.ops.sampled_positions import continuous_positions

STEPS, LARGEST = 300, 4


@check(
    "clex",
    system="clex",
    claim="frequencies from a small equation over the scale, trained on short texts, carry a model to the largest scale it drew",
    file="src/longspan/methods/positions/clex.py",
)
def clex(bench: Bench) -> Outcome:
    outcome = Outcome()
    _closed_form(outcome)
    must_be_neutral(bench, outcome, "clex(trained=false, window=65536)", "t = 1")
    must_decode_as_read(bench, outcome, "clex(trained=false)")
    folder = tiny_trained.tuned_clex(STEPS, LARGEST)
    across = incremental_gap(bench.model(str(folder)), "clex", torch.arange(2 * WINDOW + 12) % 200 + 5, 24)
    outcome.figures["trained, decoding from t = 2 into t = 3 against one-shot: largest logit difference"] = (
        f"{across:.1e}"
    )
    outcome.must("decoding across a whole t equals one-shot reading (1e-4)", across < 1e-4)
    found = zero_shot(
        bench,
        outcome,
        {"clex, untrained": fixed(f"clex(trained=false, largest={LARGEST})")},
        more={
            f"clex, {STEPS} steps at {WINDOW}": (folder, fixed(f"clex(largest={LARGEST})")),
            f"plain, {STEPS} steps at {WINDOW}": (tiny_trained.tuned(None, WINDOW, STEPS), fixed("full")),
            f"random positions, {STEPS} steps at {WINDOW}": (
                tiny_trained.tuned(None, WINDOW, STEPS, positions="scattered", largest_scale=LARGEST),
                fixed("full"),
            ),
        },
    )
    mine = found[f"clex, {STEPS} steps at {WINDOW}", 1024]
    short = dense_within_window(bench.model(str(folder)), 1024, WINDOW, 4)
    growth = mine.beyond(WINDOW) / short - 1
    outcome.figures["tokens 256 to 1024: at t = 4, and read from within the window at t = 1"] = (
        f"{mine.beyond(WINDOW):.2f}, {short:.2f} ({growth:+.1%})"
    )
    outcome.shows(
        "at four times the window the loss is within 10% of the same model's inside it", growth < 0.10
    )
    for name in (
        f"plain, {STEPS} steps at {WINDOW}",
        "pi",
        f"random positions, {STEPS} steps at {WINDOW}",
        "clex, untrained",
    ):
        outcome.shows(
            f"at 1024 tokens its loss beyond the window is below that of: {name}",
            mine.beyond(WINDOW) < found[name, 1024].beyond(WINDOW),
        )
    return outcome


def _closed_form(outcome: Outcome) -> None:
    worst = max(
        float((solve(SMOLLM2, t).log() - ntk(SMOLLM2, 2 * t - 1).inv_freq.log()).abs().max())
        for t in (2, 3, 4, 8, 16)
    )
    outcome.figures["untrained, t up to 16: largest difference of log-frequency to NTK by 2t - 1"] = (
        f"{worst:.1e}"
    )
    outcome.must("the solver meets the closed form (1e-5)", worst < 1e-5)
    zero = torch.zeros(32, 64)
    driven = solve(SMOLLM2, 4, torch.randn(64, 32, generator=torch.Generator().manual_seed(0)), zero)
    outcome.must("a zero down-projection is the untrained equation", torch.equal(driven, solve(SMOLLM2, 4)))
    draws = [
        continuous_positions(WINDOW, WINDOW, LARGEST, torch.Generator().manual_seed(i)) for i in range(50)
    ]
    outcome.must(
        "training positions rise strictly from 0 to the end of t windows",
        all(
            float(row[0]) == 0 and bool((row.diff() > 0).all()) and float(row[-1]) == WINDOW * t - 1
            for row, t in draws
        ),
    )
    outcome.must(
        "every t from 1 to the largest is drawn", {t for _, t in draws} == set(range(1, LARGEST + 1))
    )
