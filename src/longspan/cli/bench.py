"""``longspan bench``: run a suite of benchmarks on one model, and draw the report."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

INTERRUPTED = 130


@app.command()
def bench(
    suite: Annotated[
        str | None, typer.Argument(help="smoke, cpu, ruler, longbench, helmet, scbench or full.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Say what the suite holds and what is missing here, and stop.")
    ] = False,
    model: Annotated[str, typer.Option(help="Alias, folder, GGUF file or hub id.")] = "smollm2-135m",
    methods: Annotated[
        list[str] | None, typer.Option(help="Recipes separated by commas; may be repeated. [default: full]")
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Shares, entries a head, or bytes (0.5,1024,64MB).")
    ] = "0.5,0.25",
    data: Annotated[
        str | None,
        typer.Option(help="Folder of the data sets, or hub to download them. [default: LONGSPAN_DATA]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: a new one under runs/]")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out; nothing is measured twice.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the items.")] = 0,
    samples: Annotated[
        int | None, typer.Option(help="At most this many items of each task. [default: the suite's own]")
    ] = None,
    aware: Annotated[
        str, typer.Option(help="Question seen before compression: agnostic, aware or both.")
    ] = "both",
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="A chat endpoint that answers the same items: http://HOST/v1#MODEL or openai:MODEL; may be repeated. "
            "--methods none leaves the answers to it alone."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at a time, to each endpoint.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds an endpoint may take for a reply.")] = 60.0,
    retries: Annotated[int, typer.Option(min=0, help="Calls to an endpoint after one that failed.")] = 4,
    price: Annotated[
        str | None,
        typer.Option(
            help="Of an endpoint's million tokens, for the cost line: PROMPT,REPLY[,CACHED].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a frozen list of benchmark tasks; rows, table and report are those of compare. What cannot run here is named."""
    from longspan.bench import suite_run
    from longspan.bench.demo import new_folder
    from longspan.bench.endpoint import Price
    from longspan.cli import _show
    from longspan.cli.compare import finish
    from longspan.context.memory.opening import chat_endpoint
    from longspan.errors import BadInput

    if listed or suite is None:
        _list(suite, data)
        return
    if resume and out is None:
        raise BadInput("--resume needs --out with the run folder to continue.")
    peers = suite_run.Peers(
        tuple(chat_endpoint(spec, timeout=timeout, retries=retries) for spec in endpoint or ()),
        concurrency,
        Price.parse(price) if price else None,
    )
    folder = out or new_folder(stem=f"bench-{suite}")
    try:
        with _show.bar("tokens") as progress:
            outcome = suite_run.run(
                model,
                suite,
                out=folder,
                methods=[] if methods == ["none"] else _show.split_top(methods or ["full"]),
                peers=peers,
                budgets=[_show.number(budget) for budget in _show.split_top([budgets])],
                data=data,
                seed=seed,
                samples=samples,
                aware=aware,
                resume=resume,
                progress=progress,
            )
    except KeyboardInterrupt:
        _show.say(
            f"The results so far are in {folder}; the same command with --out {folder} --resume goes on from there."
        )
        raise typer.Exit(INTERRUPTED) from None
    for job in outcome.left_out:
        _show.say(f"left out: {job.task} at {job.length}: {job.reason}")
    for report in outcome.endpoints:
        _show.say(report.cost_line)
        for failure in report.failures:
            _show.say(f"failed: {failure.item}: {failure.error}")
    finish(folder)


def _list(suite: str | None, data: str | None) -> None:
    """Suites with the share of jobs that can run here, or one suite's jobs with lengths, samples, modes and what is missing."""
    from rich.console import Console
    from rich.table import Table

    from longspan.bench import suites

    here = None if (data or "").partition(":")[0] == "hub" else data  # listing never downloads
    table = Table(box=None, pad_edge=False, header_style="dim")
    if suite is None:
        for head in ("suite", "tasks", "lengths", "can run here"):
            table.add_column(head, overflow="fold")
        for name in suites.suites():
            found = suites.jobs(name, here)
            lengths = sorted(
                {job.length for job in found}, key=lambda length: (isinstance(length, str), length)
            )
            free = sum(job.reason is None for job in found)
            tasks = len({job.task for job in found})
            table.add_row(name, str(tasks), ", ".join(map(str, lengths)), f"{free} of {len(found)}")
    else:
        for head in ("task", "length", "samples", "modes", "missing here"):
            table.add_column(head, overflow="fold", no_wrap=head == "task")
        for job in suites.jobs(suite, here):
            part = job.part
            length = f"{job.length}{f' ({part.level})' if part.level else ''}"
            table.add_row(
                job.task, length, str(part.samples or "all"), ", ".join(part.modes), job.reason or ""
            )
    Console(highlight=False).print(table)
