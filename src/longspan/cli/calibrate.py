"""``longspan calibrate``: make the artefact that a method needs for a model."""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

TRAINED = {
    "clex": "longspan.train.clex"
}  # methods whose artefact comes of training: modules with `calibrate`


@app.command()
def calibrate(
    method: Annotated[
        str,
        typer.Argument(
            help='A method, with knobs if need be, as in "name(knob=1)"; or "kernels": this machine, no model.'
        ),
    ],
    model: Annotated[str, typer.Option(help="Alias, folder, GGUF file or hub id.")] = "smollm2-135m",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the artefact. [default: the user's cache]")
    ] = None,
) -> None:
    """Run a method's offline pass over a model and keep what it found; the artefact's path is printed.

    `longspan calibrate kernels`, once per machine, measures from which length on each sparse kernel beats dense attention. Below it sparse
    methods are answered densely, which `ask` says and every result counts; LONGSPAN_CROSSOVER=off keeps them sparse.
    """
    from longspan.cli import _show

    if method == "kernels":
        _kernels(out)
        return
    from longspan.engine.recipe import parse
    from longspan.errors import BadInput

    chosen = parse(method).methods
    if len(chosen) != 1:
        raise BadInput(f'"{method}" is not one method; calibrate takes one at a time.')
    run = getattr(chosen[0], "calibrate", None)
    if chosen[0].name in TRAINED:
        run = partial(import_module(TRAINED[chosen[0].name]).calibrate, chosen[0])
    if run is None:
        typer.echo(f"{chosen[0].name} has nothing to calibrate; it runs on any model as it is.")
        return
    with _show.status("loading the model"):
        from longspan.engine.model import load

        lm = load(model)
    with _show.bar("steps") as progress:
        path = run(lm, out, progress)
    typer.echo(path)


def _kernels(out: Path | None) -> None:
    import torch

    from longspan.bench.crossover import Grid, calibrate_kernels
    from longspan.cli import _show
    from longspan.errors import BadInput

    if out is not None:
        raise BadInput(
            "the kernels' table belongs to this machine and lies in the user's cache; leave --out away, or set LONGSPAN_CACHE."
        )
    on_gpu = torch.cuda.is_available()
    grid = Grid(device="cuda", dtype=torch.bfloat16) if on_gpu else Grid()
    with _show.bar("lengths") as progress:
        path, facts = calibrate_kernels(grid, progress)
    for phase, backends in facts["crossover"].items():
        for backend, lengths in backends.items():
            for density, length in lengths.items():
                found = f"from {length:,} keys" if length else f"not up to {_longest(facts, phase):,} keys"
                typer.echo(f"{phase:8} {backend:10} density {float(density):<7g} faster than dense {found}")
    typer.echo(path)


def _longest(facts: dict, phase: str) -> int:
    return max(row["keys"] for row in facts["measured"] if row["phase"] == phase)
