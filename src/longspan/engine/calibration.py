"""Artefacts of methods that need an offline pass over a model (head patterns, gates, channels, thresholds): where they lie, how they are read.

An artefact belongs to one method and one model: METHOD/MODEL.safetensors (tensors) or METHOD/MODEL.json (plain values), with the model's
hash inside. Looked for in a folder the user gives, then in the user's cache, then among those that ship with the package. One made on
another model is refused: it would load and quietly choose wrong entries.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from longspan.engine.gguf import cache_root
from longspan.errors import BadInput

if TYPE_CHECKING:
    from longspan.engine.model import Model

VERSION = 1
SHIPPED = Path(__file__).parent.parent / "data" / "calibration"
KINDS = (".safetensors", ".json")
KEPT = 8  # artefact files held in memory
_files: dict[tuple[str, int, int], tuple[dict[str, Tensor], dict[str, Any]]] = {}
_lock = threading.Lock()  # sessions of a server start in several threads


@dataclass(frozen=True)
class Artefact:
    """tensors: by name (empty for a JSON artefact). facts: plain values, and how it was made. Values are shared between all who load the
    file: replace them, never write into them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    path: Path


def user_folder() -> Path:
    """Where `longspan calibrate` puts artefacts unless told otherwise."""
    return cache_root() / "calibration"


def file_name(model: Model) -> str:
    """A model's name as a file's stem: its alias, or the last part of its path or hub id."""
    stem = Path(model.name.rstrip("/")).name or model.model_hash[:12]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem.removesuffix(".gguf")) or "model"


def find(method: str, model: Model, folder: str | Path | None = None) -> Path | None:
    """The artefact file of a method for a model, or None; by name only, its hash is checked when it is loaded."""
    roots = ([Path(folder)] if folder is not None else []) + [user_folder(), SHIPPED]
    candidates = [root / method / f"{file_name(model)}{kind}" for root in roots for kind in KINDS]
    return next((path for path in candidates if path.is_file()), None)


def load(method: str, model: Model, folder: str | Path | None = None) -> Artefact:
    """Read a method's artefact for `model`. BadInput, saying how to make it, when it is missing, damaged or of another model."""
    remedy = f"make it with: longspan calibrate {method} --model {model.name or 'MODEL'}"
    path = find(method, model, folder)
    if path is None:
        raise BadInput(
            f"{method} needs an artefact for the model {model.name or model.model_hash[:12]} that is not there; {remedy}"
        )
    try:
        tensors, facts = _kept(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        raise BadInput(f"{path} is not a calibration artefact or is damaged; {remedy}") from None
    if not isinstance(facts, dict):
        raise BadInput(f"{path} is not a calibration artefact or is damaged; {remedy}")
    if facts.get("version") != VERSION or facts.get("method") != method:
        raise BadInput(f"{path} is of another method or version; {remedy}")
    if facts.get("model_hash") != model.model_hash:
        raise BadInput(
            f"{path} was made on a model with other weights (hash {str(facts.get('model_hash'))[:12]}); {remedy}"
        )
    return Artefact(dict(tensors), dict(facts), path)


def matched(
    found: Artefact, wanted: dict[str, tuple[int, ...]], what: str, model: Model
) -> dict[str, Tensor]:
    """All tensors of an artefact in fp32 on the model's device. wanted: how the shapes of some begin; BadInput, naming `what`, for other shapes."""
    for name, shape in wanted.items():
        if tuple(found.tensors[name].shape[: len(shape)]) != shape:
            raise BadInput(
                f"{what} are not for {len(model.geometry.growing)} growing layers of this model's heads; make them anew."
            )
    return {name: value.float().to(model.device) for name, value in found.tensors.items()}


def save(
    method: str,
    model: Model,
    *,
    tensors: dict[str, Tensor] | None = None,
    facts: dict[str, Any] | None = None,
    folder: str | Path | None = None,
) -> Path:
    """Write an artefact (safetensors when there are tensors, else JSON) under `folder` or the user's cache, and return its path.

    facts: plain values; say how it was made. BadInput when the place cannot be written.
    """
    kind = ".safetensors" if tensors else ".json"
    path = (Path(folder) if folder is not None else user_folder()) / method / f"{file_name(model)}{kind}"
    inside = {
        "version": VERSION,
        "method": method,
        "model": model.name,
        "model_hash": model.model_hash,
        **(facts or {}),
    }
    text = json.dumps(inside, indent=None if tensors else 1, ensure_ascii=False)
    if tensors:
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        data = safetensors.torch.save(whole, {"calibration": text})
    else:
        data = (text + "\n").encode()
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise BadInput(
            f"cannot write the artefact to {path} ({error.strerror}); choose another --out."
        ) from None
    return path


def _kept(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is in the file, read again only when the file has changed. The last few files stay in memory."""
    now = path.stat()
    key = (str(path.resolve()), now.st_mtime_ns, now.st_size)
    with _lock:
        if key not in _files:
            _files[key] = _read(path)
            while len(_files) > KEPT:
                _files.pop(next(iter(_files)))
        _files[key] = found = _files.pop(key)  # the newest comes last
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    data = path.read_bytes()
    if path.suffix == ".json":
        return {}, json.loads(data)
    size = int.from_bytes(data[:8], "little")
    facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["calibration"])
    return safetensors.torch.load(data), facts
