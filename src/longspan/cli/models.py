"""``longspan models``: the models that run without a model hub."""

import json
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of a table.")] = False,
) -> None:
    """List the models known by a short name; any folder, GGUF file or hub id works as well."""
    from longspan.engine.aliases import ALIASES, wheel_parts

    facts = []
    for alias in ALIASES.values():
        parts = wheel_parts(alias) if alias.folder is None else [alias.folder / "model.safetensors"]
        size = sum(path.stat().st_size for path in parts) if parts else None
        facts.append(
            {
                "name": alias.name,
                "installed": parts is not None,
                "bytes": size,
                "hub": alias.hub,
                "install": alias.install,
            }
        )
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("model", "here", "hub id", "install"):
        table.add_column(heading, overflow="fold")
    for fact in facts:
        here = f"{fact['bytes'] / 1e6:,.0f} MB" if fact["installed"] else "no"
        table.add_row(fact["name"], here, fact["hub"], fact["install"])
    Console(highlight=False).print(table)
    typer.echo("\nAnything else: a folder with safetensors, a .gguf file, or a hub id (owner/name).")
