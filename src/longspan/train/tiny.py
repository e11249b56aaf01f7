"""Train a tiny Llama from scratch on `tiny_tasks` and real prose, in minutes, on one CPU core.

What makes the tasks form quickly at this size: heads that start on the way to them (`tiny_model`), a dense drill (`pairs`) and hints along the way, lengths that
grow (a stage ends once every task is above `pass_mark`, or after its share of the steps), several questions a sample, answers that weigh far more than
prose in the loss, and tasks that lag being drawn more often.

Deterministic by seed and number of threads: the data of step i come from the generator (seed, i) alone, so a run that is interrupted and resumed ends in the
same weights as one that was not. Checkpoints are safetensors and JSON; the folder is what ``longspan.load`` reads.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from longspan.errors import BadInput
from longspan.ops.sampled_positions import (
    continuous_positions,
    randomised_positions,
    scale_and_offset_positions,
)
from longspan.train.tiny_checkpoint import resume, save_state
from longspan.train.tiny_model import Shape, build, check_shape, export, load_weights_into
from longspan.train.tiny_tasks import ANSWER, GRADED, PROSE, SHORTEST, TASKS, Difficulty, sample

LOG = "training.jsonl"
POSITIONS = ("plain", "randomised", "scaled", "interpolated", "scattered")
RECALL_AND_PROSE = {"pairs": 2.0, "recall": 2.0, "text": 2.0}


@dataclass(frozen=True)
class Plan:
    """How it is trained.

    stages: lengths in tokens, ascending; the last should be the window. tokens_per_step: tokens of a batch, more where that
    would be fewer than `least_rows` sequences: at short lengths many small steps form recall sooner than few large ones.
    stage_share: share of `steps` after which a stage that has not reached `pass_mark` is left; the last stage takes what remains.
    prose_weight: weight of the mean prose loss beside the mean answer loss. The rate warms up, stays, and falls to zero over the last `decay` of the
    steps. mixture: tasks and their relative weights before the adaptive factor. positions: "plain", or drawn at random so that short samples teach long
    ranges: "randomised" (Giraffe), "scaled" (E2-LLM, scales up to `largest_scale`), "interpolated" (all divided by `largest_scale`: position
    interpolation of one factor) or "scattered" (in order over a window drawn up to `largest_scale` times as long, undivided).
    """

    steps: int = 4000
    stages: tuple[int, ...] = (64, 128, 256, 512, 1024)
    tokens_per_step: int = 1536
    least_rows: int = 4
    stage_share: float = 0.2
    pass_mark: float = 0.97
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.25
    weight_decay: float = 0.05
    clip: float = 1.0
    prose_weight: float = 0.5
    mixture: dict[str, float] = field(
        default_factory=lambda: {
            "pairs": 3.0,
            "recall": 1.0,
            "tracking": 1.0,
            "copying": 1.0,
            "counting": 1.0,
            "text": 0.3,
        }
    )
    difficulty: Difficulty = field(default_factory=Difficulty)
    positions: str = "plain"
    largest_scale: int = 8
    seed: int = 0


@dataclass
class Progress:
    """Where a run stands: everything besides tensors that the next step depends on."""

    step: int = 0
    stage: int = 0
    stage_began: int = 0
    accuracy: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0


def losses(
    model: LlamaForCausalLM, ids: Tensor, kinds: Tensor, positions: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (answer loss, prose loss) in nats a token, and whether each answer token is the most probable (bool, flat).

    A sample counts as one in the answer loss however many answers it has, or the drill with its hundreds would drown counting with its few; its
    hints together count as much again.
    positions: float (B, S), or None for 0, 1, 2, ...
    """
    # Without a mask, transformers takes positions that do not rise by one for several sequences packed in a row and parts them.
    mask = None if positions is None else torch.ones_like(ids)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, :-1]
    kinds = kinds[:, 1:]
    hint = kinds < 0
    targets = torch.where(hint, -kinds, ids[:, 1:])
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    ).view_as(targets)
    answer, prose = kinds == ANSWER, kinds == PROSE
    right = logits.detach()[answer].argmax(-1) == targets[answer]
    per_sample = (nll * answer).sum(1) / answer.sum(1).clamp(min=1)
    per_sample = per_sample + (nll * hint).sum(1) / hint.sum(1).clamp(min=1)
    answered = answer.any(1).sum().clamp(min=1)
    return per_sample.sum() / answered, (nll * prose).sum() / prose.sum().clamp(min=1), right


def draw_batch(plan: Plan, progress: Progress) -> tuple[list[str], Tensor, Tensor]:
    """The batch of this step: tasks, ids and kinds (B, length). A function of (seed, step, accuracies) and nothing else."""
    rng = np.random.default_rng([plan.seed, progress.step])
    length = plan.stages[progress.stage]
    names = list(plan.mixture)
    weights = np.array(
        [plan.mixture[n] * (1.1 - progress.accuracy.get(n, 0.0) if n in GRADED else 1.0) for n in names]
    )
    tasks = [
        str(t)
        for t in rng.choice(
            names, max(plan.least_rows, plan.tokens_per_step // length), p=weights / weights.sum()
        )
    ]
    samples = [sample(task, length, rng, plan.difficulty) for task in tasks]
    return (
        tasks,
        torch.from_numpy(np.stack([s.ids for s in samples])),
        torch.from_numpy(np.stack([s.kinds for s in samples])),
    )


def draw_positions(plan: Plan, step: int, rows: int, length: int) -> Tensor | None:
    """Training positions of this step, fp32 (rows, length), one draw a sample; None for plain ones."""
    if plan.positions == "plain":
        return None
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    if plan.positions == "interpolated":
        return (torch.arange(length) / plan.largest_scale).expand(rows, -1)
    if plan.positions == "randomised":
        return torch.stack([randomised_positions(length, generator) for _ in range(rows)])
    if plan.positions == "scattered":
        return torch.stack(
            [continuous_positions(length, length, plan.largest_scale, generator)[0] for _ in range(rows)]
        )
    return torch.stack(
        [scale_and_offset_positions(length, plan.largest_scale, generator)[0] for _ in range(rows)]
    )


def rate_at(plan: Plan, step: int) -> float:
    """Learning rate: linear warm-up, constant, linear to zero over the last `decay` of the steps."""
    left = (plan.steps - step) / max(1, plan.steps * plan.decay)
    return plan.rate * min(1.0, (step + 1) / plan.warmup, left)


def train(
    shape: Shape,
    plan: Plan,
    folder: Path,
    *,
    minutes: float | None = None,
    save_every: int = 200,
    on_step: Callable[[Progress, dict], None] | None = None,
    start_from: Path | None = None,
) -> Progress:
    """Train until `plan.steps` or the wall-clock limit in minutes; resume when `folder` holds an unfinished run.

    start_from: a folder whose weights replace the random initialisation (fine-tuning); its shape must match.
    Every 20 steps a line goes to training.jsonl and to `on_step`. Raises BadInput when the plan and the stored run disagree.
    """
    _check(shape, plan)
    model = build(shape, plan.seed)
    if start_from is not None:
        load_weights_into(model, start_from)

    def step(optimizer: torch.optim.Optimizer, progress: Progress) -> dict:
        return _step(model, optimizer, plan, progress)

    return run(
        model, shape, plan, Path(folder), step, minutes=minutes, save_every=save_every, on_step=on_step
    )


def run(
    model: LlamaForCausalLM,
    shape: Shape,
    plan: Plan,
    folder: Path,
    take_step: Callable[[torch.optim.Optimizer, Progress], dict],
    *,
    minutes: float | None = None,
    save_every: int = 200,
    on_step: Callable[[Progress, dict], None] | None = None,
) -> Progress:
    """Take steps from where the run in `folder` stands to its end or the limit in minutes; log, save and export.

    take_step(optimizer, progress): one step of the objective, with `descend` and `advance`; returns what to log of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=plan.rate,
        betas=(0.9, 0.98),
    )
    stored = resume(model, optimizer, shape, plan, folder)
    progress = Progress(**stored) if stored else Progress()
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    while progress.step < plan.steps and (deadline is None or time.monotonic() < deadline):
        began = time.monotonic()
        facts = take_step(optimizer, progress)
        progress.seconds += time.monotonic() - began
        if progress.step % 20 == 0 or progress.step == plan.steps:
            with open(folder / LOG, "a", encoding="utf-8") as log:
                log.write(json.dumps({**asdict(progress), **facts}) + "\n")
            if on_step is not None:
                on_step(progress, facts)
        if progress.step % save_every == 0:
            save_state(model, optimizer, shape, plan, progress, folder)
    save_state(model, optimizer, shape, plan, progress, folder)
    export(model, folder)
    return progress


def _step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, plan: Plan, progress: Progress) -> dict:
    tasks, ids, kinds = draw_batch(plan, progress)
    positions = draw_positions(plan, progress.step, *ids.shape)
    answer_loss, prose_loss, right = losses(model, ids, kinds, positions)
    descend(model, optimizer, plan, progress.step, answer_loss + plan.prose_weight * prose_loss)
    per_row = right.split((kinds[:, 1:] == ANSWER).sum(1).tolist())
    for task in GRADED:
        seen = [row for name, row in zip(tasks, per_row) if name == task]
        if seen:
            now = float(torch.cat(seen).float().mean())
            before = progress.accuracy.get(task, 0.0)
            progress.accuracy[task] = before + 0.1 * (now - before)
    advance(plan, progress, ids.numel())
    return {
        "length": ids.shape[1],
        "answer_nll": float(answer_loss.detach()),
        "prose_nll": float(prose_loss.detach()),
    }


def descend(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, step: int, loss: Tensor
) -> None:
    """One update of `model` against `loss`, at the rate of this step."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
    for group in optimizer.param_groups:
        group["lr"] = rate_at(plan, step)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def advance(plan: Plan, progress: Progress, tokens: int) -> None:
    """Count a step of `tokens` tokens; a stage ends once every graded task passes, or after its share of the steps."""
    progress.step += 1
    progress.tokens += tokens
    trained = [task for task in plan.mixture if task in GRADED]
    passed = trained and min(progress.accuracy.get(task, 0.0) for task in trained) >= plan.pass_mark
    spent = progress.step - progress.stage_began >= plan.stage_share * plan.steps
    if progress.stage < len(plan.stages) - 1 and (passed or spent):
        progress.stage += 1
        progress.stage_began = progress.step


def _check(shape: Shape, plan: Plan) -> None:
    check_shape(shape)
    if min(plan.stages) < SHORTEST:
        raise BadInput(f"stage length {min(plan.stages)} is too short for the tasks; use at least {SHORTEST}")
    unknown = [task for task in plan.mixture if task not in TASKS]
    if unknown:
        raise BadInput(f"unknown task {unknown[0]!r} in the mixture; use {', '.join(TASKS)}")
    if plan.positions not in POSITIONS:
        raise BadInput(f"positions={plan.positions!r} is not one of {', '.join(POSITIONS)}")
    if list(plan.stages) != sorted(plan.stages):
        raise BadInput("stage lengths must ascend")


def preset(name: str) -> tuple[Shape, Plan]:
    """Named settings: "probe" (the shipped probe model), "short" (window 256, for extension experiments), "smoke" (seconds)."""
    presets = {
        "probe": (
            Shape(feed_forward=256, rope_base=1e6, start_counting=True),
            Plan(
                stages=(128, 256, 512, 1024),
                least_rows=2,
                pass_mark=0.96,
                decay=0.3,
                prose_weight=0.1,
                mixture={
                    "pairs": 0.3,
                    "recall": 0.8,
                    "tracking": 2.5,
                    "copying": 2.0,
                    "counting": 3.0,
                    "text": 0.3,
                },
                difficulty=Difficulty(distractors=5, counts=3),
            ),
        ),
        "short": (
            Shape(hidden=128, query_heads=4, feed_forward=256, window=256, rope_base=10000.0),
            Plan(steps=1000, stages=(64, 128, 256), mixture=RECALL_AND_PROSE),
        ),
        "smoke": (
            Shape(layers=2, hidden=64, query_heads=4, kv_heads=2, feed_forward=64, window=128),
            Plan(steps=20, stages=(64, 128), tokens_per_step=512, least_rows=1, warmup=5),
        ),
    }
    if name not in presets:
        raise BadInput(f"unknown preset {name!r}; use {', '.join(presets)}")
    return presets[name]


def with_window(shape: Shape, plan: Plan, window: int) -> tuple[Shape, Plan]:
    """The same settings for another window: lengths double from 64 up to it."""
    lengths = [SHORTEST << i for i in range(32) if SHORTEST << i < window]
    return replace(shape, window=window), replace(plan, stages=(*lengths, window))
