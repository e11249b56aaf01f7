"""``longspan chat``: talk with a model that remembers across conversations."""

from typing import Annotated

import typer

from longspan.cli import _memory
from longspan.cli._help import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        "longspan chat --memory me.db",
        "longspan chat --memory me.db --model http://localhost:8000/v1#my-model",
    )
)
def chat(
    memory: _memory.Memory = "memory.db",
    tenant: _memory.Tenant = "me",
    model: Annotated[
        str, typer.Option(help="local:NAME, openai:MODEL or http://HOST/v1#MODEL.")
    ] = "local:smollm2-135m",
    system: _memory.System = None,
    embedder: _memory.Embedder = None,
    session: Annotated[str, typer.Option(help="Name of this conversation, to forget it by.")] = "chat",
    budget: Annotated[int, typer.Option(help="Most tokens of memory in a prompt.")] = 1000,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
) -> None:
    """Read messages from the terminal (or a pipe) line by line; an empty line or end of input ends the chat."""
    import sys

    from longspan.cli import _show
    from longspan.cli.remember import cost
    from longspan.context.chat import Chat, checked
    from longspan.context.memory.opening import open_memory

    checked(budget, max_new_tokens)
    opened = open_memory(memory, system=system, model=model, embedder=embedder, wanted_by="a chat")
    talk = Chat(opened, tenant, session, budget=budget, max_tokens=max_new_tokens)
    while line := _read(sys.stdin):
        with _show.status("thinking"):
            said = talk.say(line)
        typer.echo(said.text)
        recalled = talk.recalled
        _show.say(f"{len(recalled.manifest) if recalled else 0} memories used; {cost(talk.ledger, opened)}")


def _read(stream) -> str:
    if stream.isatty():
        typer.echo("> ", nl=False)
    return stream.readline().strip()
