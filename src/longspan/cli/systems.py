"""``longspan systems``: the systems in scope and what proves each."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def systems(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of a table.")] = False,
    status: Annotated[str | None, typer.Option(help="Only works, partial or none.")] = None,
    evidence: Annotated[Path, typer.Option(help="Folder that longspan verify writes.")] = Path("evidence"),
    docs: Annotated[Path | None, typer.Option(help="Write the Markdown table to this file as well.")] = None,
) -> None:
    """List every system with its status: works (its check passed), partial (it ran and did not) or none."""
    from longspan.bench import systems as scope
    from longspan.errors import BadInput, nearest

    entries = scope.statuses(scope.load_evidence(evidence))
    if status is not None:
        known = ("works", "partial", "none")
        if status not in known:
            raise BadInput(f"There is no status {status!r}; {nearest(status, known)}")
        entries = [entry for entry in entries if entry["status"] == status]
    if docs:
        from longspan.bench.systems_page import write_docs

        write_docs(docs, evidence)
    if as_json:
        typer.echo(json.dumps(entries, ensure_ascii=False, indent=1))
        return
    _print(entries)


def _print(entries: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    from longspan.bench.systems_page import summary

    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    table.add_column("system", overflow="fold", min_width=18)
    table.add_column("status", no_wrap=True, min_width=7)
    table.add_column("figures", overflow="fold", ratio=2)
    table.add_column("paper", overflow="ellipsis", no_wrap=True, ratio=3)
    colour = {"works": "green", "partial": "yellow", "none": "dim"}
    for entry in entries:
        figures = summary(entry["figures"])
        table.add_row(
            entry["slug"], f"[{colour[entry['status']]}]{entry['status']}[/]", figures, entry["title"]
        )
    Console().print(table)
