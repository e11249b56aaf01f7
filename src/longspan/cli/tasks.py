"""``longspan tasks``: the generators and data sets that compare and bench can run."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from longspan.bench.dataset import Dataset
    from longspan.bench.task import Task

app = typer.Typer()


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="Details of one task or data set.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of the data sets. [default: LONGSPAN_DATA]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """List every generator and every data set: what it asks, how it is scored, where its data comes from, and whether that is here."""
    from longspan.bench.dataset import all_datasets, find
    from longspan.bench.suites import data_folder
    from longspan.bench.task import all_tasks

    with data_folder(data):
        if name is not None:
            (facts,) = [_facts(find(name))]
            _one(facts, as_json)
            return
        made = [_facts(task) for task in all_tasks().values()]
        loaded = [_facts(dataset) for dataset in all_datasets().values()]
    if as_json:
        typer.echo(json.dumps(made + loaded, ensure_ascii=False, indent=1, default=str))
        return
    _tables(made, loaded)


def _facts(task: "Task | Dataset") -> dict[str, Any]:
    """What --json gives for one task: `data` says where it comes from, `missing` why it cannot run here (None: it can)."""
    from longspan.bench.curves import benchmark_of
    from longspan.bench.dataset import Dataset

    loaded = isinstance(task, Dataset)
    facts = {
        "name": task.name,
        "kind": "data set" if loaded else "generator",
        "benchmark": benchmark_of(task.name),
        "description": task.description,
        "source": task.source,
        "answer_modes": list(task.answer_modes),
        "haystacks": list(task.haystacks),
        "scorer": task.scorer,
        "max_new_tokens": task.max_new_tokens,
        "scope": task.scope,
        "diffusion": task.diffusion,
        "knobs": dict(task.knobs),
        "data": "own",
    }
    if isinstance(task, Dataset):
        hub = f"hub {task.files.hub}" if task.files.hub else ""
        facts |= {
            "data": "; ".join(part for part in (hub, task.files.origin) if part),
            "licence": task.files.licence,
            "items": task.count,
            "levels": list(task.levels),
        }
    return {**facts, "missing": task.missing()}


def _one(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1, default=str))
        return
    for key, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        shown = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else shown
        typer.echo(f"{key.replace('_', ' '):15} {shown if shown not in (None, '') else '-'}")


def _tables(made: list[dict[str, Any]], loaded: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("generator", no_wrap=True)
    table.add_column("what it asks", overflow="fold", ratio=3)
    table.add_column("modes", overflow="fold")
    table.add_column("data", overflow="fold", ratio=2, style="dim")
    for fact in made:
        missing = fact["missing"] and fact["missing"].partition(" (")[0].partition(":")[0]
        own = "own" if not fact["haystacks"] else f"own, in {' or '.join(fact['haystacks'])}"
        table.add_row(fact["name"], fact["description"], ", ".join(fact["answer_modes"]), missing or own)
    console.print(table)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("data set", no_wrap=True)
    table.add_column("benchmark", overflow="fold")
    table.add_column("comes from", overflow="fold", ratio=2, style="dim")
    table.add_column("here", no_wrap=True)
    for fact in loaded:
        table.add_row(
            fact["name"], fact["benchmark"], fact["data"], "missing" if fact["missing"] else "present"
        )
    console.print()
    console.print(table)
    here = sum(fact["missing"] is None for fact in loaded)
    console.print(
        f"{len(made)} generators; {here} of {len(loaded)} data sets are here. What is missing is named by longspan tasks NAME.",
        style="dim",
    )
