"""``longspan report``: draw the HTML report of a run folder."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN_FOLDER", help="The --out folder of a compare run, finished or not.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes; else report.html in the folder.")
    ] = None,
    table: Annotated[bool, typer.Option(help="Print the table as well.")] = False,
    parquet: Annotated[Path | None, typer.Option(help="Write the rows as a Parquet file too.")] = None,
    lm_eval: Annotated[
        Path | None, typer.Option(help="Folder for the results in lm-evaluation-harness' JSON.")
    ] = None,
    kvpress: Annotated[
        Path | None,
        typer.Option(help="Folder for the replies and scores as kvpress's leaderboard keeps them."),
    ] = None,
) -> None:
    """Draw one self-contained HTML page from the results so far; its path is printed last."""
    from longspan.bench.harness.export import export_kvpress, export_lm_eval
    from longspan.bench.results import export_parquet
    from longspan.report.page import write_report
    from longspan.report.table import print_run

    page = write_report(folder, out)
    if table:
        print_run(folder)
    if parquet:
        typer.echo(export_parquet(folder, parquet))
    if lm_eval:
        _written(export_lm_eval(folder, lm_eval), lm_eval)
    if kvpress:
        _written(export_kvpress(folder, kvpress), kvpress)
    typer.echo(page)


def _written(made: list[Path], folder: Path) -> None:
    from longspan.errors import BadInput

    if not made:
        raise BadInput(
            f"Nothing was written to {folder}: the run holds no row of the kind that format keeps."
        )
    typer.echo(folder)
