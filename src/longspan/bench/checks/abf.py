"""The check of adjusted base frequency (Effective Long-Context Scaling): continued training at four times the window under three rotations, retrieval of the first
sentence, the power law of loss over context, the length curriculum.

The law is measured on one set of tokens after contexts of growing length: by position in a text, what is said there moves the loss more than how much
came before. The tiny model's loss on prose stops falling at some 128 characters, so it has no law to fit; SmolLM2 has.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import (
    SMOLLM2,
    WINDOW,
    must_be_a_map,
)
from longspan.bench.extension import needle_recall, prose_nll
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.model import Model
from longspan.engine.needs import Needs
from longspan.ops.frequency_maps import adjusted_base, ntk
from longspan.train import tiny
from longspan.train.tiny_tasks import sample

LONG, STEPS, MULTIPLIER = 1024, 200, 50
STRETCHES, SWITCH = 24, 0.6
CONTEXTS, TARGETS, PLACES = (32, 64, 128, 256, 512, 992), 32, 16
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
    loss, first = {}, {}
    for name, folder in folders.items():
        model = bench.model(str(folder))
        loss[name] = float(np.mean(prose_nll(model, "full", LONG, STRETCHES)))
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
    _power_law(bench, outcome, folders["abf"])
    _curriculum(outcome, loss)
    prose = bench.prose(["full", f"abf(multiplier={MULTIPLIER})"], read=512, score_tokens=32, windows=2)
    cost = prose[f"abf(multiplier={MULTIPLIER})"].nll - prose["full"].nll
    outcome.figures["smollm2-135m, short text, base times 50 without training: NLL"] = f"{cost:+.3f}"
    outcome.shows("without training a larger base costs on short text", cost > 0)
    return outcome


def _exact(bench: Bench, outcome: Outcome) -> None:
    must_be_a_map(bench, outcome, f"abf(multiplier={MULTIPLIER})", "abf(multiplier=1)", "the same base")
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


def loss_by_context(model: Model, texts: Sequence[torch.Tensor]) -> np.ndarray:
    """Mean nats a token of the last `TARGETS` tokens of every text, (contexts,): the same tokens each time, after so many before them."""
    rows = []
    for ids in texts:
        rows.append([])
        for context in CONTEXTS:
            session = model.session(None, collect=Needs(token_logprobs=True)).read(ids[-context - TARGETS :])
            rows[-1].append(-float(session.token_logprobs()[-TARGETS:].mean()))
    return np.mean(rows, 0)


def power_law(contexts: Sequence[int], losses: np.ndarray) -> tuple[float, float, float, float]:
    """(R2, beta, alpha, gamma) of loss(c) = (alpha / c)^beta + gamma: least squares of log(loss - gamma) on log(c), gamma from a grid."""
    best = None
    for gamma in np.linspace(0, 0.98 * losses.min(), 50):
        x, y = np.log(contexts), np.log(losses - gamma)
        slope, intercept = np.polyfit(x, y, 1)
        fitted = np.exp(intercept + slope * x) + gamma
        r2 = 1 - ((losses - fitted) ** 2).sum() / ((losses - losses.mean()) ** 2).sum()
        if best is None or r2 > best[0]:
            best = (float(r2), float(-slope), float(np.exp(-intercept / slope)), float(gamma))
    assert best is not None
    return best


def _power_law(bench: Bench, outcome: Outcome, tuned: Path) -> None:
    """The law on a model that uses its context, and what the tiny one shows of it."""
    rng = np.random.default_rng(3)
    length = CONTEXTS[-1] + TARGETS
    texts = {
        "smollm2-135m": [bench.passage(length, place) for place in range(PLACES)],
        str(tuned): [
            torch.from_numpy(sample("text", length, rng, held_out=True).ids) for _ in range(2 * STRETCHES)
        ],
    }
    found = {name: loss_by_context(bench.model(name), rows) for name, rows in texts.items()}
    for name, label in (("smollm2-135m", "smollm2-135m"), (str(tuned), "tiny, abf")):
        r2, beta, alpha, gamma = power_law(CONTEXTS, found[name])
        outcome.figures[f"{label}: loss of the same tokens after {'/'.join(map(str, CONTEXTS))}"] = "/".join(
            f"{value:.3f}" for value in found[name]
        )
        outcome.figures[f"{label}: loss(c) = (alpha / c)^beta + gamma"] = (
            f"alpha {alpha:.2g}, beta {beta:.2f}, gamma {gamma:.2f}, R2 {r2:.3f}"
        )
        if name == "smollm2-135m":
            outcome.shows(
                "smollm2-135m: the loss falls with the context as a power law (R2 above 0.95, beta above 0)",
                r2 > 0.95 and beta > 0,
            )
