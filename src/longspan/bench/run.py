"""From a user's choice of tasks, lengths and samples to a finished run folder."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from longspan.bench.compare import Comparison, Progress
from longspan.bench.dataset import Dataset, find
from longspan.bench.grid import Plan
from longspan.bench.haystacks import open_haystack
from longspan.bench.item import Item
from longspan.bench.lengths import template_overhead
from longspan.bench.results import check_folder, open_run
from longspan.bench.variants import Variant, variants
from longspan.engine.model import Model, load
from longspan.engine.recipe import Recipe
from longspan.errors import BadInput, nearest

MODES = ("generate", "rank", "perplexity")
SEAMS = 4  # tokens: document marks, and what encoding context, question and prefix apart can cost beyond encoding them together
AWARE = {"agnostic": (False,), "aware": (True,), "both": (False, True)}


def make_items(
    model: Model,
    tasks: Sequence[str],
    lengths: Sequence[int],
    samples: int | None,
    seed: int,
    haystacks: Sequence[str],
    knobs: dict[str, Any] | None = None,
) -> list[tuple[Item, int]]:
    """Items of every task or data set at every length, `samples` each (None: all that a data set has), as (item, length) pairs.

    What brings its own text is made once for all `haystacks`. Of `knobs` each task takes those it knows.
    """
    overhead = template_overhead(model.tokenizer)
    made = []
    for name in tasks:
        task = find(name)
        kinds = [
            kind
            for kind in haystacks
            if kind in task.haystacks or (task.haystacks and kind not in ("filler", "prose"))
        ]
        for length in lengths:
            for kind in kinds or [task.haystacks[0] if task.haystacks else None]:
                known = {k: v for k, v in (knobs or {}).items() if k in task.knobs}
                if isinstance(task, Dataset):
                    around = SEAMS + (overhead if task.chat else 0)
                    rows = task.make(samples, length, model.tokenizer, seed, overhead=around, **known)
                    made += [(_placed(item, index, length), length) for index, item in enumerate(rows)]
                    continue
                if samples is None:
                    raise BadInput(
                        f"{name} makes as many items as it is asked for: give a number of samples."
                    )
                for item in task.make(
                    samples, length, model.tokenizer, seed, kind, overhead=overhead, **known
                ):
                    made.append((item, length))
    return made


def _placed(item: Item, index: int, length: int) -> Item:
    """A data set's row as an item of this run: rows keep their id at every length, items must not."""
    return replace(item, id=f"{item.id}-{length}", metadata={**item.metadata, "index": index})


def answer_modes(item: Item) -> tuple[str, ...]:
    """The answer modes that the item's task or data set offers."""
    return find(item.task).answer_modes


def ready(model: Model | str, chosen: Sequence[Variant], out: str | Path, resume: bool) -> Model:
    """The loaded model, once the run folder can be written and every method fits the model; BadInput otherwise."""
    if isinstance(model, str):
        check_folder(out, resume=resume)
        model = load(model)
    for variant in chosen:
        for method in variant.recipe.methods:
            method.check(model)
    return model


def compare(
    model: Model | str,
    methods: Sequence[str | Recipe],
    *,
    out: str | Path,
    budgets: Sequence[float | int | str] = (0.5, 0.25),
    tasks: Sequence[str] = ("niah_single_2",),
    lengths: Sequence[int] = (1024,),
    samples: int = 4,
    seed: int = 0,
    haystacks: Sequence[str] = ("filler", "prose"),
    aware: str = "both",
    modes: Sequence[str] = ("generate", "rank", "perplexity"),
    references: bool = True,
    max_new_tokens: int | None = None,
    latency_tokens: int = 4,
    resume: bool = False,
    beyond_window: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
    knobs: dict[str, Any] | None = None,
) -> Path:
    """Measure `methods` at every budget on every task and length, beside full, random, window and oracle; returns the run folder.

    model: loaded, or a name that is loaded once everything else is known to be right. haystacks: kinds ("filler", "prose") or paths to
    texts. beyond_window: read texts longer than a recipe reaches, to see what happens there. aware: "agnostic" (the question comes after compression), "aware", or "both".
    Raises BadInput for anything misspelt or out of range before a token is read.
    """
    if aware not in AWARE:
        raise BadInput(f"aware={aware!r} is not one of {', '.join(AWARE)}.")
    for mode in modes:
        if mode not in MODES:
            raise BadInput(f"There is no answer mode {mode!r}; {nearest(mode, MODES)}")
    if samples < 1 or any(length < 1 for length in lengths):
        raise BadInput("samples and lengths must be at least 1.")
    if (max_new_tokens is not None and max_new_tokens < 1) or latency_tokens < 0:
        raise BadInput("max_new_tokens must be at least 1, and latency_tokens at least 0.")
    for name in tasks:
        find(name)
    for kind in haystacks:
        open_haystack(kind)
    chosen = variants(methods, budgets, references)
    model = ready(model, chosen, out, resume)
    items = make_items(model, tasks, lengths, samples, seed, haystacks, knobs)
    plan = Plan(
        chosen,
        AWARE[aware],
        tuple(modes),
        max_new_tokens,
        latency_tokens,
        seed=seed,
        beyond_window=beyond_window,
    )
    with open_run(out, run_facts(model, seed, command), resume=resume) as results:
        comparison = Comparison(model, plan, results, items, answer_modes)
        comparison.run(progress)
    return Path(out)


def run_facts(model: Model, seed: int, command: str | None = None) -> dict[str, Any]:
    """What makes a run's rows comparable and repeatable: model, hashes, versions, machine, seed, command."""
    from longspan import __version__

    return {
        "longspan": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "model": model.name,
        "model_hash": model.model_hash,
        "template_hash": model.template_hash,
        "trained_window": model.geometry.trained_window,
        "weight_bytes": model.weight_bytes,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "machine": machine(),
        "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command or " ".join(sys.argv),
    }


def machine() -> str:
    """Processor, cores and memory, and the GPU when there is one."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {torch.get_num_threads()} CPU threads"
    import psutil

    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, {torch.get_num_threads()} threads, {psutil.virtual_memory().total / 2**30:.0f} GiB"
