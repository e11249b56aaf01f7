"""``longspan recall``: find what a memory holds about a question, within a token budget."""

from typing import Annotated

import typer

from longspan.cli import _memory
from longspan.cli._help import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        'longspan recall "What is my locker code?" --memory me.db --budget 300',
        'longspan recall "Where does Ada work?" --memory me.db --valid 2026-05-31 --json',
    )
)
def recall(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    memory: _memory.Held = "memory.db",
    tenant: _memory.Tenant = "me",
    budget: Annotated[int, typer.Option(help="Most tokens to return.")] = 1000,
    model: _memory.Model = "none",
    embedder: _memory.FilledWith = None,
    valid: Annotated[
        str | None,
        typer.Option(help="What held in the world at this time, ISO 8601; a day is its first moment, UTC."),
    ] = None,
    recorded: Annotated[
        str | None, typer.Option(help="What the memory believed at this time, ISO 8601.")
    ] = None,
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
        when = " at that time" if valid or recorded else ""
        _show.say(
            f"nothing found in the memory of {tenant!r}{when} within {budget} token{'s' * (budget > 1)}"
        )
        return
    typer.echo(packed.text)
    cut = ", cut to the budget" * any(entry.shortened for entry in packed.manifest)
    _show.say(f"{parts} part{'s' * (parts > 1)}{cut}, {packed.tokens} tokens; {cost(ledger, opened)}")
