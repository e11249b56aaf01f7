"""Fitting a method's own few parameters beside a frozen model: AdamW with a rate of its own at every step, resumable, with progress.

The run's state (parameters, moments, losses) is kept every few steps in METHOD/MODEL.unfinished beside the artefact to be, and a run that is
started again with the same plan on the same weights goes on from there and ends in the same numbers. It is deleted when the fit is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from longspan.engine import calibration
from longspan.errors import BadInput

if TYPE_CHECKING:
    from longspan.engine.model import Model

PARTS = ("", "/mean", "/square")  # a parameter and AdamW's two moments of it


def fit(
    method: str,
    model: Model,
    parameters: dict[str, Tensor],
    gradients: Callable[[int], float],
    *,
    steps: int,
    rate: Callable[[int], float],
    plan: dict[str, Any],
    beside: dict[str, Tensor] | None = None,
    rates: dict[str, float] | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    clip: float | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    every: int = 2,
) -> list[float]:
    """Bring `parameters` (leaves that ask for gradients, changed in place) through `steps` steps; returns the loss of every step.

    gradients(step): adds the gradients of that step, a function of step and parameters alone, and returns its loss. beside: tensors that it
    changes itself, kept with the run. rate(step): learning rate; rates: factors on it by parameter name. clip: bound on the size of every gradient value. plan: what the run depends on; a stored state of another
    plan or other weights is not taken up. every: steps between two stored states. BadInput when the state cannot be written.
    """
    path = (folder or calibration.user_folder()) / method / f"{calibration.file_name(model)}.unfinished"
    plan = {**plan, "steps": steps, "model_hash": model.model_hash}
    optimizer = torch.optim.AdamW(
        [{"params": [value], "factor": (rates or {}).get(name, 1.0)} for name, value in parameters.items()],
        lr=0.0,
        betas=betas,
        weight_decay=0.0,
    )
    beside = beside or {}
    losses = _resume(path, plan, parameters, beside, optimizer)
    for step in range(len(losses), steps):
        losses.append(gradients(step))
        if clip is not None:
            torch.nn.utils.clip_grad_value_(parameters.values(), clip)
        for group in optimizer.param_groups:
            group["lr"] = rate(step) * group["factor"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % every == 0 and step + 1 < steps:
            _store(path, plan, parameters, beside, optimizer, losses)
        if progress is not None:
            progress(step + 1, steps)
    path.unlink(missing_ok=True)
    return losses


def up_and_down(
    steps: int, rate: float, up: float, down: float, least: float = 0.0
) -> Callable[[int], float]:
    """A rate that rises linearly from `least` x rate over the first share `up` of the steps and falls back over the last share `down`."""

    def at(step: int) -> float:
        rise = (step + 1) / (up * steps) if up else 1.0
        fall = (steps - step) / (down * steps) if down else 1.0
        return rate * (least + (1 - least) * min(1.0, rise, fall))

    return at


def _store(
    path: Path,
    plan: dict[str, Any],
    parameters: dict[str, Tensor],
    beside: dict[str, Tensor],
    optimizer: Any,
    losses: list[float],
) -> None:
    tensors = dict(beside)
    for name, value in parameters.items():
        state = optimizer.state[value]
        held = (value, state["exp_avg"], state["exp_avg_sq"])
        tensors |= {f"{name}{part}": tensor for part, tensor in zip(PARTS, held, strict=True)}
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(
            safetensors.torch.save(whole, {"run": json.dumps({"plan": plan, "losses": losses})})
        )
        temporary.replace(path)
    except OSError as error:
        raise BadInput(
            f"cannot write the state of the fit to {path} ({error.strerror}); choose another --out."
        ) from None


def _resume(
    path: Path,
    plan: dict[str, Any],
    parameters: dict[str, Tensor],
    beside: dict[str, Tensor],
    optimizer: Any,
) -> list[float]:
    """Take up a stored state of the same plan; the losses of its steps, [] when there is none."""
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        run = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["run"])
        known, losses = run["plan"], [float(loss) for loss in run["losses"]]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return []
    shapes = {f"{name}{part}": value.shape for name, value in parameters.items() for part in PARTS}
    shapes |= {name: value.shape for name, value in beside.items()}
    if known != json.loads(json.dumps(plan)) or {n: t.shape for n, t in tensors.items()} != shapes:
        return []
    with torch.no_grad():
        for name, value in {**parameters, **beside}.items():
            value.copy_(tensors[name])
    for name, value in parameters.items():
        optimizer.state[value] = {
            "step": torch.tensor(float(len(losses))),
            "exp_avg": tensors[f"{name}/mean"].to(value),
            "exp_avg_sq": tensors[f"{name}/square"].to(value),
        }
    return losses
