"""``longspan forget``: delete from a memory, with everything that was derived from it."""

from typing import Annotated

import typer

from longspan.cli import _memory
from longspan.cli._help import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        "longspan forget --session notes.md --memory me.db",
        "longspan forget --subject Ada --memory me.db",
    )
)
def forget(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of memories, as recall --json shows them.")
    ] = None,
    memory: _memory.Held = "memory.db",
    tenant: _memory.Tenant = "me",
    session: Annotated[str, typer.Option(help="Forget a session (a file name, unless it was named).")] = "",
    subject: Annotated[str, typer.Option(help="Forget what a speaker said.")] = "",
    everything: Annotated[bool, typer.Option("--everything", help="Forget all of this tenant.")] = False,
    model: Annotated[str, typer.Option(help="For systems that derive the rest again.")] = "none",
    embedder: _memory.FilledWith = None,
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
