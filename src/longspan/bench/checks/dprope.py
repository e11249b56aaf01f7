"""DPRoPE's check: golden choices per pair, least disturbance of the angles among single maps, and between interpolation and NTK-by-parts beyond the window."""

import torch

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import (
    LLAMA2,
    SMOLLM2,
    WINDOW,
    fixed,
    must_be_a_map,
    zero_shot,
)
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.ops.angle_histograms import disturbances
from longspan.ops.angle_histograms import dprope as choose
from longspan.ops.frequency_maps import Rope, ntk, yarn

LLAMA2_TWICE = "EEIIIIIEIIIEEEEIIIIIEEEEEEEEIEIIIIIIIIIIIIIIIIEIIIIIIIIIIIIIIIII"
SMOLLM2_FOUR = "EEIIEEEEEIEIIIIIIIIIIIIIIIIIIIII"
LLAMA2_FOUR = (8.395e-4, 9.354e-5, 6.369e-5)  # mean disturbance: extrapolate, interpolate, chosen
TUNED_AT, STEPS = 1024, 200


@check(
    "dprope",
    system="dprope",
    claim="per pair, extrapolate or interpolate, whichever disturbs the distribution of rotary angles less",
    file="src/longspan/methods/positions/dprope.py",
)
def dprope(bench: Bench) -> Outcome:
    outcome = Outcome()
    _goldens(outcome)
    recipe = "dprope(factor=4)"
    must_be_a_map(bench, outcome, recipe, "dprope(factor=1)", "factor 1 extrapolates every pair")
    found = zero_shot(
        bench,
        outcome,
        {
            "dprope": fixed("dprope(factor={s})"),
            "ntk_by_parts": fixed("ntk_by_parts(factor={s})"),
        },
        more={
            f"dprope, tuned {STEPS} steps at {TUNED_AT}": (
                tiny_trained.tuned(recipe, TUNED_AT, STEPS),
                fixed("full"),
            )
        },
    )
    for length in (512, 1024):
        pi, mine, parts = (found[name, length].beyond(WINDOW) for name in ("pi", "dprope", "ntk_by_parts"))
        outcome.shows(
            f"{length} tokens, zero-shot: loss beyond the window between interpolation's and NTK-by-parts', or below both",
            mine < pi and mine <= 1.02 * max(pi, parts),
        )
    outcome.shows(
        f"{STEPS} steps of tuning lower its loss at {TUNED_AT} tokens",
        found[f"dprope, tuned {STEPS} steps at {TUNED_AT}", TUNED_AT].beyond(WINDOW)
        < found["dprope", TUNED_AT].beyond(WINDOW),
    )
    return outcome


def _goldens(outcome: Outcome) -> None:
    for rope, factor, wanted in ((LLAMA2, 2, LLAMA2_TWICE), (SMOLLM2, 4, SMOLLM2_FOUR)):
        letters = choose(rope, factor)[1]
        same = sum(a == b for a, b in zip(letters, wanted, strict=True))
        outcome.figures[f"d {rope.dim}, factor {factor}: choices as the reference's"] = (
            f"{same} of {len(wanted)}"
        )
        slow = 2 * torch.pi / rope.frequencies > 2 * rope.window
        tail = [letter for letter, is_slow in zip(letters, slow.tolist(), strict=True) if is_slow]
        outcome.must(
            f"d {rope.dim}, factor {factor}: pairs slower than twice the window all interpolate",
            set(tail) == {"I"},
        )
        outcome.must(
            f"d {rope.dim}, factor {factor}: choices as the reference's but for ties of rounding (at most 2)",
            same >= len(wanted) - 2,
        )
    rows = disturbances(LLAMA2, 4 * LLAMA2.window, [LLAMA2.frequencies, LLAMA2.frequencies / 4])
    means = (*rows.mean(1).tolist(), float(rows.min(0).values.mean()))
    outcome.figures["Llama-2 at four times: mean disturbance of extrapolating, interpolating, choosing"] = (
        ", ".join(f"{value:.3e}" for value in means)
    )
    outcome.must(
        "mean disturbances equal the reference's (2%)",
        all(abs(a / b - 1) < 0.02 for a, b in zip(means, LLAMA2_FOUR, strict=True)),
    )
    rope = Rope(32, 1e4, 256)
    maps = [rope.frequencies, rope.frequencies / 4, ntk(rope, 4).inv_freq, yarn(rope, 4).inv_freq]
    chosen = choose(rope, 4)[0].inv_freq
    own = float(disturbances(rope, 1024, [chosen])[0].mean())
    both = disturbances(rope, 1024, maps).mean(1).tolist()
    outcome.figures[
        "tiny model at four times: disturbance chosen against extrapolating, interpolating, NTK, YaRN"
    ] = f"{own:.2e}; " + ", ".join(f"{value:.2e}" for value in both)
    outcome.must("the choice disturbs no more than either of its two maps", own <= min(both[:2]) + 1e-12)
