"""Weights and tokenizer from a name: an alias, a GGUF file, a local folder or a hub id.

Nothing here knows of sessions or methods. Pickled weights are never read: unpickling a file can run any code in it.
Device and dtype are chosen (CUDA in bfloat16, else CPU in float32) unless given.
"""

import hashlib
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from longspan.engine.aliases import ALIASES, wheel_parts
from longspan.engine.gguf import converted, remembered_hash
from longspan.errors import BadInput, nearest

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class LoadedWeights:
    """A model ready for inference and what a results file must say about it.

    source: folder or hub id the weights were read from.
    model_hash: SHA-256 over the GGUF's or the safetensors' bytes (files in name order).
    template_hash: SHA-256 of the chat template's text, or None for a model without one.
    trained_window: positions the model was trained for (config), or None where the config does not say.
    """

    model: Any
    tokenizer: Any
    source: str
    model_hash: str
    template_hash: str | None
    trained_window: int | None
    alias: str | None


def load_weights(
    name_or_path: str | os.PathLike,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attn_implementation: Any = "sdpa",
) -> LoadedWeights:
    """Load a causal language model for inference: eval mode, no gradients.

    name_or_path: an alias (`smollm2-135m`, `gemma3-270m`), a .gguf file, a folder with safetensors, or a hub id.
    attn_implementation: handed to transformers as it is (a name, or a dict by model part).
    Raises BadInput with one sentence for everything a user can put right.
    """
    name = os.fspath(name_or_path)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    folder, model_hash, alias = locate(name)
    with _quiet():
        model, tokenizer = _read(folder, dtype, attn_implementation)
    model.requires_grad_(False)
    model.eval()
    model.to(device)
    template = tokenizer.chat_template
    return LoadedWeights(
        model=model,
        tokenizer=tokenizer,
        source=str(folder),
        model_hash=model_hash if model_hash is not None else _folder_hash(folder),
        template_hash=hashlib.sha256(str(template).encode()).hexdigest() if template else None,
        trained_window=trained_window(model.config),
        alias=alias,
    )


def locate(name: str) -> tuple[Path, str | None, str | None]:
    """Return (local folder with safetensors, hash of the GGUF it came from or None, alias or None) for a model's name."""
    if name in ALIASES:
        alias = ALIASES[name]
        if alias.folder is not None:
            return alias.folder, None, name
        parts = wheel_parts(alias)
        if parts is not None:
            return *converted(parts, sha256=alias.sha256), name
        return _from_hub(alias.hub, f"{name} is not installed ({alias.install}) and "), None, name
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return *converted([path]), None
        raise BadInput(
            f"{name} is a file but not a .gguf; give a .gguf file, a folder with safetensors or a hub id"
        )
    if path.is_dir():
        _check_folder(path)
        return path, None, None
    if name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1:
        raise BadInput(
            f"there is no model at {name}; give a .gguf file, a folder with safetensors or a hub id"
        )
    if "/" not in name:
        raise BadInput(f"unknown model {name!r}: {nearest(name, ALIASES)} (a hub id has the form owner/name)")
    return _from_hub(name, ""), None, None


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or CUDA when there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise BadInput(f"unknown device {device!r}; use cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BadInput("this machine has no usable CUDA device; use device=cpu")
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype asked for, or bfloat16 on CUDA and float32 elsewhere."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise BadInput(f"unknown dtype {dtype!r}: {nearest(str(dtype), DTYPES)}")
    return DTYPES[dtype]


def trained_window(config) -> int | None:
    """Return the number of positions the model was trained for; of the text part for a model with several parts."""
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    window = getattr(text, "max_position_embeddings", None)
    return int(window) if window else None


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise BadInput(f"{path} has no config.json; give a folder in the Hugging Face format or a .gguf file")
    if any(path.glob("*.safetensors")):
        return
    pickled = sorted(entry.name for entry in path.iterdir() if entry.suffix in PICKLED)
    if pickled:
        raise BadInput(
            f"{path} holds only pickled weights ({pickled[0]}), which can run code when read; convert them to "
            "safetensors (model.save_pretrained(folder)) first"
        )
    raise BadInput(f"{path} holds no *.safetensors weights; give a complete folder or a .gguf file")


def _from_hub(repo: str, because: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
    try:
        folder = Path(snapshot_download(repo, allow_patterns=wanted))
    except HFValidationError:
        raise BadInput(f"{repo!r} is not a valid hub id; a hub id has the form owner/name") from None
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError):
        raise BadInput(
            f"{because}the model hub cannot be reached for {repo}; go online, or use a local folder, a .gguf file or an "
            f"installed model ({', '.join(ALIASES)})"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise BadInput(
            f"{because}the model hub refused {repo} (status {status}); check the name, or log in if the model is gated"
        ) from None
    _check_folder(folder)
    return folder


def _read(folder: Path, dtype: torch.dtype, attn_implementation):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attn_implementation,
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} has no tokenizer that can be read: {_first_line(error)}") from None
    try:
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            loaded = AutoModelForImageTextToText.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise BadInput(
            f"{folder} does not hold a causal language model that can be read: {_first_line(error)}"
        ) from None
    model, report = loaded
    if report["missing_keys"]:
        # transformers would fill them with random numbers and go on
        missing = sorted(report["missing_keys"])
        raise BadInput(
            f"{folder} lacks {len(missing)} weights (the first: {missing[0]}); give the complete model"
        )
    return model, tokenizer


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _folder_hash(folder: Path) -> str:
    return remembered_hash(sorted(folder.glob("*.safetensors")))


@contextmanager
def _quiet():
    """Keep transformers' progress bars and advice off the terminal while a model is read."""
    from transformers.utils import logging as noise

    bars, level = noise.is_progress_bar_enabled(), noise.get_verbosity()
    noise.disable_progress_bar()
    noise.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        noise.set_verbosity(level)
        if bars:
            noise.enable_progress_bar()
