"""``longspan tiny``: train and evaluate tiny models on synthetic tasks."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Tiny models trained from scratch in minutes, for experiments no pretrained model allows."
)


@app.command()
def train(
    folder: Annotated[Path, typer.Argument(help="Where the model goes; an unfinished run there is resumed.")],
    preset: Annotated[str, typer.Option(help="probe, short or smoke.")] = "short",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Trained window in tokens; lengths grow up to it.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    minutes: Annotated[float | None, typer.Option(help="Stop after this wall-clock time.")] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Begin from this folder's weights (fine-tuning).")
    ] = None,
    positions: Annotated[
        str,
        typer.Option(
            help="Positions drawn while training: plain, randomised (Giraffe), scaled (E2-LLM), interpolated or scattered."
        ),
    ] = "plain",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    """Train a tiny Llama; rerun the same command to resume."""
    import torch
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from longspan.train import tiny
    from longspan.train.tiny_model import load_tiny, parameters

    if threads:
        torch.set_num_threads(threads)
    shape, plan = tiny.preset(preset)
    plan = replace(plan, seed=seed, steps=steps or plan.steps, positions=positions)
    if window:
        shape, plan = tiny.with_window(shape, plan, window)
    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        job = bar.add_task("", total=plan.steps)

        def show(progress, facts) -> None:
            scores = " ".join(f"{task} {value:.2f}" for task, value in progress.accuracy.items())
            bar.update(job, completed=progress.step, description=f"length {facts['length']} {scores}")

        tiny.train(shape, plan, folder, minutes=minutes, on_step=show, start_from=start_from)
    typer.echo(f"{folder}: {parameters(load_tiny(folder)):,} parameters")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="A folder written by `longspan tiny train`.")],
    length: Annotated[int, typer.Option(help="Tokens a sample.")] = 1024,
    samples: Annotated[int, typer.Option(help="Samples a task.")] = 100,
) -> None:
    """Print the accuracy on every task, at the difficulty it was trained at, and the held-out prose loss, with the full cache."""
    from longspan.train.tiny_evaluate import evaluate as measure
    from longspan.train.tiny_model import load_tiny
    from longspan.train.tiny_ship import trained_difficulty

    found = measure(load_tiny(folder), length, samples, difficulty=trained_difficulty(folder))
    for task, value in found.items():
        typer.echo(f"{task:10} {value:.3f}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A folder written by `longspan tiny train`.")],
    target: Annotated[Path, typer.Argument(help="Where the small copy goes.")],
    samples: Annotated[int, typer.Option(help="Samples a task for the accuracies stored beside it.")] = 100,
) -> None:
    """Write a float16 copy with the log, the settings and the accuracies it reaches at its window."""
    from longspan.train.tiny_ship import ship

    for task, value in ship(folder, target, samples).items():
        typer.echo(f"{task:10} {value:.3f}")
