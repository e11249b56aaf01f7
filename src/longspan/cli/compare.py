"""``longspan compare``: measure methods against each other on one model, and draw the report."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

INTERRUPTED = 130


@app.command()
def compare(
    methods: Annotated[
        list[str], typer.Option(help="Recipes separated by commas; may be repeated.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(help="Run folder: results, run facts, report.html.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="Alias, folder, GGUF file or hub id.")] = "smollm2-135m",
    budgets: Annotated[
        str, typer.Option(help="Shares, entries a head, or bytes (0.5,1024,64MB).")
    ] = "0.5,0.25",
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="As `longspan tasks` lists them; may be repeated. [default: niah_single_2]"),
    ] = None,
    lengths: Annotated[str, typer.Option(help="Context lengths in the model's tokens.")] = "1024",
    samples: Annotated[int, typer.Option(help="Items of each task, haystack and length.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the items.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out; nothing is measured twice.")
    ] = False,
    haystacks: Annotated[str, typer.Option(help="filler, prose, or paths of UTF-8 texts.")] = "filler,prose",
    aware: Annotated[
        str, typer.Option(help="Question seen before compression: agnostic, aware or both.")
    ] = "both",
    modes: Annotated[str, typer.Option(help="Answer modes.")] = "generate,rank,perplexity",
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Cap on every answer. [default: each task's own]")
    ] = None,
    references: Annotated[
        bool, typer.Option(help="Measure full, random, window and oracle beside the methods.")
    ] = True,
    latency_tokens: Annotated[
        int, typer.Option(help="Tokens decoded alone to time each recipe; 0: none.")
    ] = 4,
    beyond_window: Annotated[
        bool, typer.Option("--beyond-window", help="Also read texts longer than a recipe reaches.")
    ] = False,
    show: Annotated[bool, typer.Option("--table/--no-table", help="Print the table.")] = True,
) -> None:
    """Compare long-context methods: every recipe at every budget on the same contexts, each context read once."""
    from longspan.bench.run import compare as run
    from longspan.cli import _show

    try:
        with _show.bar("cells") as progress:
            run(
                model,
                _show.split_top(methods),
                out=out,
                budgets=[_show.number(budget) for budget in _show.split_top([budgets])],
                tasks=_show.split_top(tasks or ["niah_single_2"]),
                lengths=[_show.whole(length, "Lengths") for length in _show.split_top([lengths])],
                samples=samples,
                seed=seed,
                haystacks=_show.split_top([haystacks]),
                aware=aware,
                modes=_show.split_top([modes]),
                references=references,
                max_new_tokens=max_new_tokens,
                latency_tokens=latency_tokens,
                resume=resume,
                beyond_window=beyond_window,
                progress=progress,
            )
    except KeyboardInterrupt:
        _show.say(f"The results so far are in {out}; the same command with --resume goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
    finish(out, show)


def finish(folder: Path, show: bool = True) -> None:
    """Print the table of a run and write its report; the page's path comes last. BadInput when no method that was asked for has a result."""
    from longspan.bench.results import load
    from longspan.errors import BadInput
    from longspan.report.page import write_report
    from longspan.report.table import print_run

    page = write_report(folder)
    if show:
        print_run(folder)
    typer.echo(page)
    _, rows = load(folder)
    asked = [row for row in rows if row["role"] == "method"] or rows
    if asked and all(row.get("error") for row in asked):
        raise BadInput(f"Nothing that was asked for could be measured: {asked[0]['error']}")
