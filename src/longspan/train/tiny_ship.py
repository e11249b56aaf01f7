"""A trained tiny model as it ships: float16 weights, its settings and log, and what it can do."""

import json
import shutil
from pathlib import Path

import torch

from longspan.errors import BadInput
from longspan.train.tiny_checkpoint import PROGRESS
from longspan.train.tiny_evaluate import evaluate
from longspan.train.tiny_model import export, load_tiny, parameters
from longspan.train.tiny_tasks import Difficulty

LOG = "training.jsonl"
FACTS = "facts.json"


def trained_difficulty(folder: Path) -> Difficulty:
    """What the samples of a training run, or of the model shipped from it, were drawn with; the default where nothing says."""
    for name in (PROGRESS, FACTS):
        if (Path(folder) / name).is_file():
            stored = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
            return Difficulty(**stored["plan"]["difficulty"])
    return Difficulty()


def ship(folder: Path, target: Path, samples: int = 100) -> dict[str, float]:
    """Write the float16 copy and facts.json (settings, accuracies of that copy at its window); return the accuracies.

    samples: per task. Raises BadInput when `folder` holds no trained model.
    """
    if not (folder / PROGRESS).is_file():
        raise BadInput(f"{folder} holds no training run; give a folder written by `longspan tiny train`")
    target.mkdir(parents=True, exist_ok=True)
    export(load_tiny(folder), target, torch.float16)
    model = load_tiny(target)
    window = model.config.max_position_embeddings
    stored = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    scores = evaluate(model, window, samples, difficulty=trained_difficulty(folder))
    facts = {
        "parameters": parameters(model),
        "length": window,
        "samples": samples,
        "full_cache": scores,
        **stored,
    }
    (target / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(folder / LOG, target / LOG)
    return scores
