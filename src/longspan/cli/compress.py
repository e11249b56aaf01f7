"""``longspan compress``: shorten a text or source file to a token budget and keep what a question needs."""

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli._help import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        'longspan compress report.pdf --budget 0.25 --question "What changed in 2024?" --out short.txt',
        'longspan compress module.py --budget 800 --method longcodezip --question "parse dates" --manifest kept.json',
    )
)
def compress(
    file: Annotated[Path, typer.Argument(help="Text, Markdown, HTML, PDF, .docx or source code.")],
    budget: Annotated[str, typer.Option(help="Tokens to keep (2000) or a share (0.25).")],
    question: Annotated[str, typer.Option(help="What the text will be used for.")] = "",
    method: Annotated[
        str | None,
        typer.Option(
            help="bm25, llmlingua, longllmlingua, llmlingua2, longcodezip, specpc, truncate or random_units; "
            "by default longllmlingua with a question, llmlingua without."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="local:NAME; scores tokens and counts the budget.")
    ] = "local:smollm2-135m",
    out: Annotated[Path | None, typer.Option(help="File for the short text; printed by default.")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="JSON file with the kept spans of the source.")
    ] = None,
) -> None:
    """Compress a prompt to an exact number of tokens; the manifest maps every kept character to the source."""
    from longspan.cli import _show
    from longspan.context.agents.draft import writable, write_whole
    from longspan.context.compression import compress_file, save_manifest
    from longspan.context.memory.opening import chat_model

    for path in filter(None, (out, manifest)):
        writable(path)
    with _show.status("compressing"):
        done = compress_file(chat_model(model), file, _show.number(budget), question, method)
    if out is None:
        typer.echo(done.text)
    else:
        write_whole(out, done.text)
    if manifest is not None:
        save_manifest(done, manifest)
    _show.say(
        f"{done.source_tokens:,} -> {done.tokens:,} tokens (budget {done.budget:,}), {len(done.manifest)} spans kept, "
        f"{done.calls} model calls, {done.method}"
    )
