"""``longspan methods``: the methods a recipe can name, with their knobs and sources."""

import json
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Details of one method.")] = None,
    stage: Annotated[
        str | None, typer.Option(help="Only one stage: cache, prefill, decode, positions, ...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """List every method: stage, knobs with their defaults, source, and what it does in a line."""
    from longspan.engine import registry
    from longspan.engine.catalogue import describe
    from longspan.engine.recipe import STAGES
    from longspan.errors import BadInput, nearest

    if name is not None:
        fact = describe(registry.method_class(name))
        typer.echo(json.dumps(fact, ensure_ascii=False, indent=1) if as_json else _details(fact))
        return
    if stage is not None and stage not in STAGES:
        raise BadInput(f"There is no stage {stage!r}; {nearest(stage, STAGES)}")
    facts = [describe(cls) for cls in registry.methods().values()]
    facts = [fact for fact in facts if stage is None or fact["stage"] == stage]
    facts.sort(key=lambda fact: (STAGES.index(fact["stage"]), fact["name"]))
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("stage", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does", overflow="fold", ratio=3)
    table.add_column("knobs", overflow="fold", ratio=2, style="dim")
    last = ""
    for fact in facts:
        knobs = ", ".join(f"{knob}={value}" for knob, value in fact["knobs"].items())
        table.add_row(fact["stage"] if fact["stage"] != last else "", fact["name"], fact["summary"], knobs)
        last = fact["stage"]
    Console(highlight=False).print(table)


def _use(fact: dict) -> list[str]:
    from longspan.engine.method import READS

    step = fact["chunk_step"]
    return [
        f"chunks of a text: {READS[fact['reads']]}{f', in multiples of {step} tokens' if step > 1 else ''}",
        f"several sessions in one batch: {'yes' if fact['batch_safe'] else 'no'}",
        f"a second text in a session: {'yes' if fact['turn_safe'] else 'no'}",
        f"keys or queries before rotation: {'needed' if fact['pre_rope'] else 'not needed'}",
    ]


def _details(fact: dict) -> str:
    knobs = [f"  {knob} = {value}" for knob, value in fact["knobs"].items()]
    source = [f"  {fact[key]}" for key in ("paper", "code") if fact[key]]
    parts = [f"{fact['name']} ({fact['stage']})", "", fact["notes"], "", "Knobs:", *knobs]
    parts += ["", fact["knob_notes"]] if fact["knob_notes"] else []
    parts += ["", "Use, with these knobs:", *(f"  {line}" for line in _use(fact))]
    return "\n".join([*parts, "", f"Source ({fact['year']}):", *source] if source else parts)
