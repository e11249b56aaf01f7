"""The check of adjusted base frequency (Effective Long-Context Scaling): continued training at four times the window under three rotations, retrieval of the first
sentence, the power law of loss over context, the length curriculum."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import (
    SMOLLM2,
    WINDOW,
    must_be_neutral,
    must_decode_as_read,
    must_depend_on_distance,
)
from longspan.bench.extension import needle_recall, prose_nll
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.ops.frequency_maps import adjusted_base, ntk
from longspan.train import tiny

LONG, STEPS, MULTIPLIER = 1024, 200, 50
STRETCHES, BINS, SWITCH = 24, 64, 0.6
ROTATIONS = {"rope": None, "pi": "pi(factor=4)", "abf": f"abf(multiplier={MULTIPLIER})"}


@check(
    "long-scaling-abf",
    system="long-scaling-abf",
    claim="a larger base and continued training on longer texts reach the first sentence; most steps may stay short",
    file="src/longspan/methods/positions/abf.py",
)
def abf(bench: Bench) -> Outcome:
    outcome = Outcome()
    _exact(bench, outcome)
    folders = {name: tiny_trained.tuned(recipe, LONG, STEPS) for name, recipe in ROTATIONS.items()}
    folders["abf, curriculum"] = curriculum()
    loss, first, courses = {}, {}, {}
    for name, folder in folders.items():
        model = bench.model(str(folder))
        courses[name] = np.array(prose_nll(model, "full", LONG, STRETCHES, bins=BINS))
        loss[name] = float(courses[name].mean())
        found = needle_recall(model, "full", LONG, 20, depths=(0.0,))[0.0]
        first[name] = (found.accuracy, found.gold_nats)
        outcome.figures[f"{STEPS} steps at {LONG}: {name}"] = (
            f"NLL {loss[name]:.3f}, first record recalled {found.accuracy:.2f}, gold nats {found.gold_nats:.2f}"
        )
    untuned = prose_nll(bench.model(str(tiny_trained.base())), "full", LONG, 8)
    outcome.figures[f"before training on, at {LONG}: NLL"] = round(float(np.mean(untuned)), 3)
    outcome.shows(
        "final loss of ABF within 2% of the best rotation",
        loss["abf"] <= 1.02 * min(loss["rope"], loss["pi"]),
    )
    outcome.shows("first record: ABF at least as often as PI", first["abf"][0] >= first["pi"][0])
    outcome.shows(
        "first record: ABF at least as often as the unchanged base", first["abf"][0] >= first["rope"][0]
    )
    _power_law(outcome, courses["abf"])
    _curriculum(outcome, loss)
    prose = bench.prose(["full", f"abf(multiplier={MULTIPLIER})"], read=512, score_tokens=32, windows=2)
    cost = prose[f"abf(multiplier={MULTIPLIER})"].nll - prose["full"].nll
    outcome.figures["smollm2-135m, short text, base times 50 without training: NLL"] = f"{cost:+.3f}"
    outcome.shows("without training a larger base costs on short text", cost > 0)
    return outcome


def _exact(bench: Bench, outcome: Outcome) -> None:
    must_be_neutral(bench, outcome, "abf(multiplier=1)", "the same base")
    must_depend_on_distance(bench, outcome, f"abf(multiplier={MULTIPLIER})")
    must_decode_as_read(bench, outcome, f"abf(multiplier={MULTIPLIER})")
    dim = SMOLLM2.dim
    raised = adjusted_base(SMOLLM2, SMOLLM2.base * MULTIPLIER).inv_freq
    same = ntk(SMOLLM2, MULTIPLIER ** ((dim - 2) / dim)).inv_freq
    outcome.must(
        "it is NTK scaling by 50^((d-2)/d)", torch.allclose(raised.log(), same.log(), rtol=0, atol=1e-5)
    )
    rope = bench.model().geometry.layers[0].rope
    x = torch.randn(2, 1, dim, generator=torch.Generator().manual_seed(0))
    from longspan.engine.recipe import parse

    at_zero = [
        rope.rotate(x, torch.tensor([0]), parse(f"abf(multiplier={m})").methods[0].frequencies(rope, 1))
        for m in (2, 50)
    ]
    outcome.must("position 0 is the same under any base", torch.equal(*at_zero))


def curriculum() -> Path:
    """The same training with its first 60% at the short window and as many tokens a step."""
    shape, _ = tiny_trained.short()
    plan = curriculum_plan()
    rope = {"rope_type": "default", "rope_theta": shape.rope_base * MULTIPLIER}
    return tiny_trained.trained(replace(shape, window=LONG, rope=rope), plan, tiny_trained.base())


def curriculum_plan() -> tiny.Plan:
    return replace(tiny_trained.tuning(STEPS, LONG), stages=(WINDOW, LONG), stage_share=SWITCH, pass_mark=2.0)


def _curriculum(outcome: Outcome, loss: dict[str, float]) -> None:
    plan = curriculum_plan()
    sizes = [tiny.draw_batch(plan, tiny.Progress(stage=stage))[1].numel() for stage in (0, 1)]
    outcome.must("tokens a step are the same before and after the switch", sizes[0] == sizes[1])
    pairs = SWITCH * WINDOW + (1 - SWITCH) * LONG
    outcome.figures[f"curriculum, {SWITCH:.0%} of the steps at {WINDOW}: attention pairs saved"] = (
        f"{1 - pairs / LONG:.0%}"
    )
    change = loss["abf, curriculum"] / loss["abf"] - 1
    outcome.figures["curriculum: final loss against training at full length throughout"] = f"{change:+.1%}"
    outcome.shows("the curriculum reaches the same loss within 1%, or a lower one", change < 0.01)


def _power_law(outcome: Outcome, course: np.ndarray) -> None:
    """Least squares of log(loss - gamma) on log(context), gamma from a grid; over bins from 32 tokens on, merged to twice the width each."""
    centres, values = merged(course)
    best = None
    for gamma in np.linspace(0, 0.98 * values.min(), 50):
        x, y = np.log(centres), np.log(values - gamma)
        slope, intercept = np.polyfit(x, y, 1)
        fitted = np.exp(intercept + slope * x) + gamma
        r2 = 1 - ((values - fitted) ** 2).sum() / ((values - values.mean()) ** 2).sum()
        if best is None or r2 > best[0]:
            best = (float(r2), float(-slope), float(np.exp(-intercept / slope)), float(gamma))
    assert best is not None
    r2, beta, alpha, gamma = best
    outcome.figures["loss(c) = (alpha / c)^beta + gamma"] = (
        f"alpha {alpha:.2g}, beta {beta:.2f}, gamma {gamma:.2f}, R2 {r2:.3f}"
    )
    outcome.shows(
        "the loss falls with the context as a power law (R2 above 0.95, beta above 0)", r2 > 0.95 and beta > 0
    )


def merged(course: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(centre in tokens, mean loss) of the ranges 32-64, 64-128, ... of a course of equal bins over `LONG` tokens."""
    width = LONG // len(course)
    centres, values, start = [], [], 32
    while start < LONG:
        part = course[start // width : 2 * start // width]
        centres.append(start * 2**0.5)
        values.append(part.mean())
        start *= 2
    return np.array(centres), np.array(values)
