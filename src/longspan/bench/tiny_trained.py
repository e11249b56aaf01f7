"""Tiny models trained on the spot, for what no pretrained model can show: what happens past a trained window that is known to the token.

A model is kept in the user's cache under a digest of everything that made it (shape, plan, the model it started from), so every check and every
later run shares it; another knob gives another model. An interrupted training is resumed. About two minutes a model on one core.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from longspan.engine.calibration import find
from longspan.engine.gguf import cache_root
from longspan.engine.model import load
from longspan.engine.recipe import parse
from longspan.methods.positions.export import exported_config
from longspan.train import tiny
from longspan.train.clex import train_clex
from longspan.train.diffusion import train_diffusion
from longspan.train.tiny_checkpoint import PROGRESS, described
from longspan.train.tiny_model import Shape, load_tiny

VERSION = 1  # of the training code: raise it when the same knobs give other weights
DIFFUSION = 2  # and of masked diffusion's
WINDOW = 256
FINISHED = "finished.json"


def short(seed: int = 0, steps: int = 600) -> tuple[Shape, tiny.Plan]:
    """Settings of the model that checks past the window share: window 256, recall and prose."""
    shape, plan = tiny.preset("short")
    return shape, replace(plan, seed=seed, steps=steps)


def tuning(steps: int, length: int, **knobs) -> tiny.Plan:
    """A continued training at one length, 1024 tokens a step."""
    _, plan = short()
    settings = {
        "steps": steps,
        "stages": (length,),
        "tokens_per_step": 1024,
        "least_rows": 1,
        "warmup": 10,
        "rate": 5e-4,
        "decay": 0.5,
        "positions": "plain",
    }
    return replace(plan, **{**settings, **knobs})


def folder_of(knobs: dict, start_from: Path | None = None) -> Path:
    """Where the model with these settings lies, trained or not."""
    whole = json.dumps([VERSION, knobs, start_from.name if start_from else ""], sort_keys=True)
    return cache_root() / "tiny" / hashlib.sha256(whole.encode()).hexdigest()[:24]


def trained(
    shape: Shape,
    plan: tiny.Plan,
    start_from: Path | None = None,
    *,
    diffusion: bool = False,
    minutes: float | None = None,
    on_step: Callable[[tiny.Progress, dict], None] | None = None,
) -> Path:
    """The folder of the model with these settings, trained now unless it is there.

    diffusion: masked diffusion in place of next-token prediction. minutes: stop after this wall-clock time; the next call resumes. Only a
    finished training leaves `finished.json`.
    """
    knobs = {**described(shape, plan), "diffusion": DIFFUSION} if diffusion else described(shape, plan)
    folder = folder_of(knobs, start_from)
    if not (folder / FINISHED).is_file():
        if diffusion:
            progress = train_diffusion(shape, plan, folder, minutes=minutes, on_step=on_step)
        else:
            progress = tiny.train(
                shape, plan, folder, minutes=minutes, start_from=start_from, on_step=on_step
            )
        if progress.step >= plan.steps:
            (folder / FINISHED).write_text((folder / PROGRESS).read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def is_trained(folder: Path) -> bool:
    return (folder / FINISHED).is_file()


def base(seed: int = 0, **options) -> Path:
    """The model that checks share."""
    return trained(*short(seed), **options)


def tuned(
    recipe: str | None, length: int, steps: int, start: Path | None = None, *, seed: int = 0, **knobs
) -> Path:
    """The shared model (or `start`), trained on at `length` tokens under a frequency map; its config holds the map, so no recipe is needed to run it.

    recipe: one position method with a fixed factor, or None for the model's own. knobs: of the plan, such as positions; minutes.
    """
    minutes = knobs.pop("minutes", None)
    start = start or base(seed)
    shape, _ = short(seed)
    methods = parse(recipe).methods if recipe else ()
    rope = exported_config(load_tiny(start).config, methods[0]).rope_parameters if methods else None
    plan = tuning(steps, length, seed=seed, **knobs)
    return trained(replace(shape, window=max(length, WINDOW), rope=rope), plan, start, minutes=minutes)


def tuned_clex(steps: int, largest: int, start: Path | None = None, *, seed: int = 0) -> Path:
    """The shared model trained on with CLEX's equation at its own window; the artefact goes where `clex` looks for it."""
    start = start or base(seed)
    plan = tuning(steps, WINDOW, seed=seed)
    folder = folder_of({"clex": largest, "plan": described(short(seed)[0], plan)}, start)
    if not is_trained(folder) or find("clex", load(str(folder))) is None:
        facts = train_clex(start, folder, plan, largest=largest)
        (folder / FINISHED).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return folder


def diffusion_or_twin(
    diffusion: bool, *, window: int = 128, steps: int = 1500, minutes: float | None = None
) -> Path:
    """A masked-diffusion model, or the causal model of the same shape, data and number of steps."""
    shape, plan = short(steps=steps)
    plan = replace(plan, stages=(64, window), stage_share=0.3, pass_mark=2.0)
    return trained(replace(shape, window=window), plan, diffusion=diffusion, minutes=minutes)
