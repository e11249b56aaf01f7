"""Unfinished training runs of tiny models on disk: tensors as safetensors, everything else as JSON."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from longspan.errors import BadInput

STATE = "training.safetensors"
PROGRESS = "training.json"
FREE = ("steps", "decay", "stage_share", "pass_mark", "rate", "mixture")  # may change when a run is resumed


def described(shape, plan) -> dict:
    """Settings as JSON knows them. A knob of later date is left out at its default: what was made before it existed is the same model."""
    found = json.loads(json.dumps({"shape": asdict(shape), "plan": asdict(plan)}))
    if not found["shape"]["start_counting"]:
        del found["shape"]["start_counting"]
    return found


def save_state(model, optimizer, shape, plan, progress, folder: Path) -> None:
    """Write weights, optimiser moments, settings and progress; a crash in between leaves the last good state."""
    tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for index, p in enumerate(group["params"]):
            for key, value in optimizer.state.get(p, {}).items():
                kind = "wide" if group is optimizer.param_groups[0] else "flat"
                tensors[f"optimizer.{kind}.{index}.{key}"] = value.detach().contiguous()
    save_file(tensors, folder / (STATE + ".part"))
    (folder / (STATE + ".part")).replace(folder / STATE)
    description = {**described(shape, plan), "progress": asdict(progress)}
    (folder / PROGRESS).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def resume(model, optimizer, shape, plan, folder: Path) -> dict | None:
    """Restore model and optimiser in place; return the stored progress, or None when there is no run. BadInput when the settings differ."""
    if not (folder / STATE).is_file():
        return None
    stored = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    now = described(shape, plan)
    for part, free in (("shape", ()), ("plan", FREE)):
        for knob, value in now[part].items():
            if knob not in free and stored[part].get(knob) != value:
                raise BadInput(
                    f"{folder} holds a run with {knob}={stored[part].get(knob)}, not {value}; resume with the same "
                    "settings or choose another folder"
                )
    tensors = load_file(folder / STATE)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"model.{name}"])
    for kind, group in zip(("wide", "flat"), optimizer.param_groups):
        for index, p in enumerate(group["params"]):
            prefix = f"optimizer.{kind}.{index}."
            found = {k[len(prefix) :]: v.clone() for k, v in tensors.items() if k.startswith(prefix)}
            if found:
                optimizer.state[p] = found
    return stored["progress"]
