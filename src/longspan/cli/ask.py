"""``longspan ask``: answer questions about a text, Markdown, HTML, PDF or Word file."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def ask(
    file: Annotated[Path, typer.Argument(help="The text to ask about (text, Markdown, HTML, PDF, .docx).")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION...", help="One or more; they share one read.")
    ],
    method: Annotated[str, typer.Option(help='Recipe, as in "snapkv(budget=0.5)+kivi(bits=4)".')] = "full",
    model: Annotated[str, typer.Option(help="Alias, folder, GGUF file or hub id.")] = "smollm2-135m",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a text file that is not UTF-8.")] = None,
) -> None:
    """Read a file under a method and answer questions about it, all from one read where the method allows; the cost follows each answer."""
    from longspan.cli import _show
    from longspan.context.documents import read_document
    from longspan.engine.recipe import parse
    from longspan.errors import BadInput

    if not all(question.strip() for question in questions):
        raise BadInput("A question is empty; give the words to ask.")
    recipe = parse(method)
    text = read_document(file, encoding=encoding).text
    with _show.status("loading the model"):
        from longspan.engine.model import load

        lm = load(model)
    session = None
    for number, question in enumerate(questions):
        fresh = session is None or recipe.prompt.aware  # what is read depends on the question
        if fresh:
            with _show.bar("tokens read") as progress:
                session = lm.session(recipe).read(text, question=question, progress=progress)
        if len(questions) > 1:
            typer.echo(f"{'' if number == 0 else chr(10)}> {question}")
        branch = session.fork()
        answer = branch.ask(
            question,
            keep=True,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            on_text=lambda piece: typer.echo(piece, nl=False),
        )
        typer.echo()
        _show.say(_cost(session, branch, answer, first=fresh))


def _cost(session, branch, answer, first: bool) -> str:
    from longspan.engine.admission import size

    stats = session.stats
    given = sum(done.source_tokens for done in stats.shortened)
    dropped = given - sum(done.tokens for done in stats.shortened)
    dense = session.model.geometry.dense_elements(session.length + dropped) * session.element_size
    waited = branch.stats.seconds.get("prefill", 0.0) + answer.first_token_seconds
    reading = sum(stats.seconds.get(phase, 0.0) for phase in ("shorten", "prefill", "methods"))
    shortened = f"{given:,} shortened to " if stats.shortened else ""
    pieces = " and ".join(stats.by_chunk) if stats.tokens_read > session.chunk else ""
    fallback = max(stats.dense_fallback, branch.stats.dense_fallback)
    return (
        f"[{shortened}{stats.tokens_read:,} tokens read in {reading:.1f} s | cache {size(dense)} -> {size(stats.cache_bytes)}"
        f"{f' + {size(stats.side_bytes)} side data' if stats.side_bytes else ''} | "
        f"first token {reading + waited if first else waited:.2f} s | {answer.tokens_per_second:.1f} tokens/s"
        f"{f' | {pieces} worked on chunks of {session.chunk}' if pieces else ''}"
        f"{f' | {fallback:.0%} of sparse calls answered densely: faster at this length' if fallback else ''}]"
    )
