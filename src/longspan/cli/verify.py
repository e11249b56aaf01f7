"""``longspan verify``: measure whether a system does what its paper claims, and keep the evidence."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

DOCS = Path("docs/systems.md")


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", show_default=False, help="Checks to run.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Run every check.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of evidence instead of text.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the evidence files.")] = Path("evidence"),
) -> None:
    """Run checks on a real model; each prints its claim, what was measured, and works, no effect, incomplete or fails (exit code 1)."""
    from longspan.bench import verify as job
    from longspan.bench.systems_page import write_docs
    from longspan.cli import _show
    from longspan.errors import BadInput

    if bool(names) == everything:
        listed = ", ".join(job.checks()) or "none yet"
        raise BadInput(f"Give the names of checks, or --all for every one; there are: {listed}")
    chosen = None if everything else list(dict.fromkeys(names or ()))
    found = job.run_checks(chosen, out=out, progress=lambda name: _show.say(f"checking {name}"))
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found], ensure_ascii=False, indent=1))
    else:
        _print(found)
    if everything and DOCS.exists():
        write_docs(DOCS, out)
    if any(item.verdict == "fails" for item in found):
        raise typer.Exit(1)


def _print(found: list) -> None:
    from rich.console import Console

    from longspan.bench.systems_page import show

    console = Console(highlight=False)
    colour = {"works": "green", "no effect": "yellow", "incomplete": "yellow", "fails": "red"}
    for item in found:
        console.print(f"[bold]{item.name}[/]  [{colour[item.verdict]}]{item.verdict}[/]")
        console.print(f"  {item.claim}", style="dim", markup=False)
        for name, value in item.figures.items():
            console.print(f"  {name}: {show(value)}", markup=False)
