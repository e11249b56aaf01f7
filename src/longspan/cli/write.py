"""``longspan write``: write a long text from a brief, part by part, to an asked length; can be stopped and resumed."""

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli._help import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        'longspan write "A history of the lighthouse at Cape Tolvik" --words 5000 --out lighthouse.md',
        "longspan write brief.txt --words 20000 --out book.md --model openai:MODEL",
    )
)
def write(
    brief: Annotated[str, typer.Argument(help="What to write: a sentence or more, or a file that holds it.")],
    words: Annotated[int, typer.Option(help="Length to reach.")],
    out: Annotated[
        Path, typer.Option(help="File to write; the draft lies beside it until the text is whole.")
    ],
    model: Annotated[
        str, typer.Option(help="local:NAME, openai:MODEL or http://HOST/v1#MODEL.")
    ] = "local:smollm2-135m",
    window: Annotated[int, typer.Option(help="Tokens the model can hold.")] = 8192,
    seed: Annotated[int, typer.Option(help="Of the retries.")] = 0,
    restart: Annotated[bool, typer.Option(help="Throw away an unfinished draft and an old file.")] = False,
) -> None:
    """Plan the text, write it part by part, and follow the asked length; run the same command again after a stop."""
    from longspan.cli import _show
    from longspan.context.agents.agentwrite import AgentWrite, brief_of, write_file
    from longspan.context.ledger import Ledger, Metered
    from longspan.context.memory.opening import chat_model

    ledger = Ledger()
    agent, text = AgentWrite(window=window, seed=seed), brief_of(brief)
    metered = Metered(chat_model(model, "writing"), ledger, "query")

    def progress(part: int, parts: int, reached: int, asked: int) -> None:
        _show.say(f"part {part} of {parts}: {reached:,} of {asked:,} words")

    done = write_file(agent, metered, text, words, out, restart=restart, progress=progress)
    total = ledger.total()
    typer.echo(
        f"{out}: {done.words:,} words in {done.parts} parts (asked {done.asked:,}; length score {done.score:.0f})"
    )
    said = f"{total.calls} model calls, {total.prompt_tokens + total.completion_tokens:,} tokens, {total.seconds:.1f} s"
    said += f"; repeated 4-grams {done.repetition:.1%}"
    if done.planned_by != "model":
        said += "; the model gave no usable plan, so the parts are of equal length"
    if done.skipped:
        said += f"; {done.skipped} parts skipped because the model had nothing new"
    _show.say(said)
