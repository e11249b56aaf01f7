"""``longspan mcp``: offer a memory as tools to any client of the Model Context Protocol."""

from typing import Annotated

import typer

from longspan.cli import _memory
from longspan.cli._help import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        "longspan mcp --memory /home/ada/me.db",
        "longspan mcp --memory postgresql://localhost/notes --tenant ada --read-only",
    )
)
def mcp(
    memory: _memory.Memory = "memory.db",
    tenant: Annotated[str, typer.Option(help="Whose memory; the client cannot change it.")] = "me",
    system: _memory.System = None,
    model: _memory.Model = "none",
    embedder: _memory.Embedder = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer recall alone.")] = False,
) -> None:
    """Serve over standard input and output until the client closes them."""
    from longspan.context.mcp_server import build_server
    from longspan.context.memory.opening import open_memory

    opened = open_memory(memory, system=system, model=model, embedder=embedder)
    build_server(opened, tenant, writable=not read_only).run()
