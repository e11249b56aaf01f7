"""``longspan chat``: talk with a model that remembers across conversations."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def chat(
    memory: Annotated[
        str, typer.Option(help="Memory file (made when missing), or a postgresql:// address.")
    ] = "memory.db",
    tenant: Annotated[str, typer.Option(help="Whose memory.")] = "me",
    model: Annotated[
        str, typer.Option(help="local:NAME, openai:MODEL or http://HOST/v1#MODEL.")
    ] = "local:smollm2-135m",
    system: Annotated[
        str | None, typer.Option(help="passages, zep, scm, gsw, comorag, hipporag2, mem0, memgpt or raptor.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="minilm, hashing or a model folder. [default: the memory's own, minilm for a new one]"
        ),
    ] = None,
    session: Annotated[str, typer.Option(help="Name of this conversation, to forget it by.")] = "chat",
    budget: Annotated[int, typer.Option(help="Most tokens of memory in a prompt.")] = 1000,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
) -> None:
    """Read messages from the terminal (or a pipe) line by line; an empty line or end of input ends the chat."""
    import sys

    from longspan.cli import _show
    from longspan.cli.remember import cost
    from longspan.context.chat import Chat
    from longspan.context.memory.opening import open_memory

    opened = open_memory(memory, system=system, model=model, embedder=embedder, wanted_by="a chat")
    talk = Chat(opened, tenant, session, budget=budget, max_tokens=max_new_tokens)
    while line := _read(sys.stdin):
        typer.echo(talk.say(line).text)
        recalled = talk.recalled
        _show.say(f"{len(recalled.manifest) if recalled else 0} memories used; {cost(talk.ledger)}")


def _read(stream) -> str:
    if stream.isatty():
        typer.echo("> ", nl=False)
    return stream.readline().strip()
