"""``longspan mcp``: offer a memory as tools to any client of the Model Context Protocol."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def mcp(
    memory: Annotated[
        str, typer.Option(help="Memory file (made when missing), or a postgresql:// address.")
    ] = "memory.db",
    tenant: Annotated[str, typer.Option(help="Whose memory; the client cannot change it.")] = "me",
    system: Annotated[
        str | None, typer.Option(help="passages, zep, scm, gsw, comorag, hipporag2, mem0, memgpt or raptor.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="none, local:NAME, openai:MODEL or http://HOST/v1#MODEL.")
    ] = "none",
    embedder: Annotated[
        str | None,
        typer.Option(
            help="minilm, hashing or a model folder. [default: the memory's own, minilm for a new one]"
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer recall alone.")] = False,
) -> None:
    """Serve over standard input and output until the client closes them."""
    from longspan.context.mcp_server import build_server
    from longspan.context.memory.opening import open_memory

    opened = open_memory(memory, system=system, model=model, embedder=embedder)
    build_server(opened, tenant, writable=not read_only).run()
