"""``longspan remember``: store files, notes or conversations in a memory file."""

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli import _memory
from longspan.cli._help import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        "longspan remember notes.md meetings/ --memory me.db",
        "longspan remember chat.jsonl --memory me.db --system zep --model local:smollm2-135m",
    )
)
def remember(
    files: Annotated[
        list[Path], typer.Argument(help="Text, Markdown, HTML, PDF, .docx, .jsonl turns, or folders of them.")
    ],
    memory: _memory.Memory = "memory.db",
    tenant: _memory.Tenant = "me",
    system: _memory.System = None,
    model: _memory.Model = "none",
    embedder: _memory.Embedder = None,
    session: Annotated[str, typer.Option(help="Name to forget it by later; the file name by default.")] = "",
    speaker: Annotated[str, typer.Option(help="Who says it.")] = "",
    time: Annotated[str | None, typer.Option(help="When it was said, ISO 8601; now by default.")] = None,
) -> None:
    """Store files in a memory. Running it again skips what is there already."""
    from longspan.cli import _show
    from longspan.context.ledger import Ledger
    from longspan.context.memory.opening import instant_of, is_new, open_memory, told_in
    from longspan.errors import BadInput

    told, passed = told_in(files, memory, session=session, speaker=speaker, time=instant_of(time))
    for reason in passed:
        _show.say(f"passed over: {reason}")
    new = is_new(memory)
    opened, ledger = open_memory(memory, system=system, model=model, embedder=embedder), Ledger()
    failed = stored = 0
    for path, episodes in told:
        with _show.status(f"storing {path}"):
            done = opened.remember(tenant, episodes, ledger)
        typer.echo(f"{path}: {len(done.stored)} stored, {len(done.known)} known, {len(done.failed)} failed")
        stored += len(done.stored)
        if done.stopped:
            if new and not stored:
                opened.store.close()
                Path(memory).expanduser().unlink()
            raise BadInput(f"{done.stopped}; nothing more was tried, run the same command again to go on")
        for _, reason in done.failed[:3]:
            _show.say(reason)
        failed += len(done.failed)
    _show.say(cost(ledger, opened))
    if failed:
        what = "passage was" if failed == 1 else "passages were"
        raise BadInput(f"{failed} {what} not stored; run the same command again to try once more")


def cost(ledger, memory) -> str:
    """Calls, tokens and seconds; the rules that stand in for a model cost neither calls nor tokens."""
    total = ledger.total()
    if memory.model.model_id == "heuristic":
        return (
            f"{'no model: names and facts by spelling alone, ' if total.calls else ''}{total.seconds:.1f} s"
        )
    tokens = total.prompt_tokens + total.completion_tokens
    return f"{total.calls} model calls, {tokens:,} tokens, {total.seconds:.1f} s"
