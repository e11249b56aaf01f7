"""``longspan trace``: show which passages of a file an answer came from."""

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli._help import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        'longspan trace report.pdf "What changed in 2024?" --out trace.html',
        'longspan trace report.pdf "Who signed?" --answer "Mara Ines" --method tracllm',
    )
)
def trace(
    file: Annotated[Path, typer.Argument(help="Text, Markdown, HTML, PDF or .docx.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    answer: Annotated[
        str | None, typer.Option(help="The answer to trace; the model's own by default.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="contextcite, tracllm, attribot, loo or shapley.")
    ] = "contextcite",
    level: Annotated[str, typer.Option(help="sentence, paragraph or segment (100 words).")] = "sentence",
    model: Annotated[
        str, typer.Option(help="local:NAME; it must offer log-probabilities.")
    ] = "local:smollm2-135m",
    window: Annotated[int, typer.Option(help="Tokens of the document that are scored.")] = 4096,
    out: Annotated[Path, typer.Option(help="HTML page with the passages coloured.")] = Path("trace.html"),
) -> None:
    """Find the passages that the answer depends on, print the strongest, and draw them in a page."""
    from longspan.cli import _show
    from longspan.context.agents.draft import writable
    from longspan.context.documents import read_document
    from longspan.context.memory.opening import chat_model
    from longspan.context.trace import trace as find
    from longspan.report.trace_page import write_page

    writable(out)
    document = read_document(file)
    with _show.status("tracing"):
        found = find(
            chat_model(model), document.text, question, answer, method=method, level=level, window=window
        )
    typer.echo(f"answer: {found.answer}")
    for index in found.attribution.top(3):
        source = found.sources[index]
        page = document.page_of(source.start)
        place = f" (page {page})" if page else ""
        typer.echo(f"{found.attribution.scores[index]:+8.2f}  {' '.join(source.text.split())}{place}")
    _show.say(f"{found.calls} model calls; the document adds {found.support:+.2f} nats to the answer")
    typer.echo(write_page(found, f"Trace of {file.name}", out))
