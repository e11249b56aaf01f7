"""``longspan forget``: delete from a memory, with everything that was derived from it."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def forget(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of memories, as recall --json shows them.")
    ] = None,
    memory: Annotated[str, typer.Option(help="Memory file, or a postgresql:// address.")] = "memory.db",
    tenant: Annotated[str, typer.Option(help="Whose memory.")] = "me",
    session: Annotated[str, typer.Option(help="Forget a session (a file name, unless it was named).")] = "",
    subject: Annotated[str, typer.Option(help="Forget what a speaker said.")] = "",
    everything: Annotated[bool, typer.Option("--everything", help="Forget all of this tenant.")] = False,
    model: Annotated[str, typer.Option(help="For systems that derive the rest again.")] = "none",
    embedder: Annotated[
        str | None, typer.Option(help="The one it was filled with; only a model folder has to be named.")
    ] = None,
) -> None:
    """Delete memories for good: no byte of their text stays in the file."""
    from longspan.context.memory.opening import open_memory
    from longspan.context.stores.base import Selector

    selector = Selector(tuple(ids or ()), session, subject, everything)
    gone = open_memory(memory, model=model, embedder=embedder, must_exist=True).forget(tenant, selector)
    if not gone.removed:
        typer.echo(f"nothing in the memory of {tenant!r} matches; nothing was removed")
        return
    removed, again = len(gone.removed), len(gone.rebuild)
    typer.echo(
        f"{removed} record{'s' * (removed != 1)} removed, {again} {'memory' if again == 1 else 'memories'} derived again"
    )
