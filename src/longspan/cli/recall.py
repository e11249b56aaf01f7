"""``longspan recall``: find what a memory holds about a question, within a token budget."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def recall(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    memory: Annotated[str, typer.Option(help="Memory file, or a postgresql:// address.")] = "memory.db",
    tenant: Annotated[str, typer.Option(help="Whose memory.")] = "me",
    budget: Annotated[int, typer.Option(help="Most tokens to return.")] = 1000,
    model: Annotated[
        str, typer.Option(help="none, local:NAME, openai:MODEL or http://HOST/v1#MODEL.")
    ] = "none",
    embedder: Annotated[
        str | None, typer.Option(help="The one it was filled with; only a model folder has to be named.")
    ] = None,
    valid: Annotated[str | None, typer.Option(help="What held in the world at this time.")] = None,
    recorded: Annotated[str | None, typer.Option(help="What the memory believed at this time.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Text, manifest and cost as JSON.")] = False,
) -> None:
    """Print the recalled context; with --json also where every part came from."""
    import json as encoder
    from dataclasses import asdict

    from longspan.cli import _show
    from longspan.cli.remember import cost
    from longspan.context.ledger import Ledger
    from longspan.context.memory.opening import asked, instant_of, open_memory
    from longspan.context.stores.base import AsOf

    asked(query, budget)
    at, ledger = AsOf(instant_of(valid), instant_of(recorded)), Ledger()
    opened = open_memory(memory, model=model, embedder=embedder, must_exist=True)
    packed = opened.recall(tenant, query, budget, at=at, ledger=ledger)
    if json:
        manifest = [asdict(entry) for entry in packed.manifest]
        said = {"text": packed.text, "tokens": packed.tokens, "manifest": manifest, "cost": ledger.table()}
        typer.echo(encoder.dumps(said, ensure_ascii=False))
        return
    parts = len(packed.manifest)
    if not parts:
        _show.say(f"nothing found in the memory of {tenant!r} within {budget} tokens")
        return
    typer.echo(packed.text)
    _show.say(f"{parts} part{'s' * (parts > 1)}, {packed.tokens} tokens; {cost(ledger)}")
