"""``longspan remember``: store files, notes or conversations in a memory file."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def remember(
    files: Annotated[
        list[Path], typer.Argument(help="Text, Markdown, HTML, PDF, .docx, .jsonl turns, or folders of them.")
    ],
    memory: Annotated[str, typer.Option(help="Memory file, or a postgresql:// address.")] = "memory.db",
    tenant: Annotated[str, typer.Option(help="Whose memory.")] = "me",
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
    session: Annotated[str, typer.Option(help="Name to forget it by later; the file name by default.")] = "",
    speaker: Annotated[str, typer.Option(help="Who says it.")] = "",
    time: Annotated[str | None, typer.Option(help="When it was said, ISO 8601; now by default.")] = None,
) -> None:
    """Store files in a memory. Running it again skips what is there already."""
    from longspan.cli import _show
    from longspan.context.ledger import Ledger
    from longspan.context.memory.opening import instant_of, open_memory, told_in
    from longspan.errors import BadInput

    when = instant_of(time)
    told, passed = told_in(files, session=session, speaker=speaker, time=when)
    for reason in passed:
        _show.say(f"passed over: {reason}")
    opened, ledger = open_memory(memory, system=system, model=model, embedder=embedder), Ledger()
    failed = 0
    for path, episodes in told:
        done = opened.remember(tenant, episodes, ledger)
        typer.echo(f"{path}: {len(done.stored)} stored, {len(done.known)} known, {len(done.failed)} failed")
        for _, reason in done.failed[:3]:
            _show.say(reason)
        failed += len(done.failed)
    _show.say(cost(ledger))
    if failed:
        raise BadInput(f"{failed} passages were not stored; run the same command again to retry them")


def cost(ledger) -> str:
    total = ledger.total()
    tokens = total.prompt_tokens + total.completion_tokens
    return f"{total.calls} model calls, {tokens} tokens, {total.seconds:.1f} s"
