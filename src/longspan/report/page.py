"""One self-contained HTML page from a run folder: no network, no script needed to read it, opens from file://.

Sections whose rows the run lacks are left out. What the page says about numbers is computed in bench/; nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from longspan.bench.aggregate import ROLE_ORDER, Cell, aggregate
from longspan.bench.results import load
from longspan.bench.summaries import heat_maps, pool, worst_cases
from longspan.errors import BadInput
from longspan.report import benchmarks, extension, findings, heat, plots, tables
from longspan.report import format as f
from longspan.report.figures import Style, styles
from longspan.report.slices import setting, slices

PAGE_NAME, SUITE_NAME = "report.html", "suite.json"


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Render the run in `folder` to `out` (default: report.html inside the folder) and return the path."""
    facts, rows = load(folder)
    path = Path(out) if out else Path(folder) / PAGE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(facts, rows, suite(folder).get("left_out", ())), encoding="utf-8")
    return path


def suite(folder: str | Path) -> dict[str, Any]:
    """What `longspan bench` wrote beside the rows about its suite; empty for other runs and for a suite that is not done."""
    path = Path(folder) / SUITE_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def render(
    facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], left_out: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The page's HTML from run facts and rows. `left_out`: jobs of a suite that could not run. Raises BadInput when there is no row yet."""
    if not rows:
        raise BadInput("the run folder holds no results yet: let at least one cell finish before the report")
    cells = aggregate(rows)
    roles: dict[str, str] = {}
    for cell in sorted(cells, key=lambda cell: ROLE_ORDER.get(cell.role, 2)):
        roles.setdefault(cell.method, cell.role)
    look = styles(list(roles.items()))
    failed = [row for row in rows if row.get("error")]
    legend = plots.legend(look, roles)
    sections = [
        ("summary", "In short", _summary(cells)),
        ("quality", "Quality against cache and time", _quality(cells, look, legend, facts)),
        ("lengths", "Score by context length", _lengths(cells, look, legend)),
        ("benchmarks", "Benchmarks", benchmarks.section(cells, look) if facts.get("suite") else ""),
        ("tags", "By scope and dispersion", benchmarks.tags(cells, rows) if facts.get("suite") else ""),
        ("needles", "Needle heat maps", _needles(rows)),
        ("kept", "Kept entries", _kept(rows)),
        ("worst", "Worst case by task", _worst(cells)),
        (
            "extension",
            "Loss by position",
            extension.section(rows, look, roles, facts.get("trained_window")),
        ),
        ("cells", "Every cell", _cells(cells)),
        ("failed", "Failed cells", tables.error_table(failed) if failed else ""),
        ("left-out", "Left out of the suite", benchmarks.left_out(left_out)),
        ("provenance", "How this was measured", _provenance(facts, rows)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in sections
    )
    title = f"Longspan: {facts.get('model', 'comparison')}"
    assets = files("longspan.report") / "assets"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{f.text(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{(assets / 'report.css').read_text(encoding='utf-8')}</style></head><body><main>"
        f"{_header(facts, rows, cells)}<nav>{links}</nav>{body}"
        f"<footer>longspan {f.text(facts.get('longspan', ''))} · {f.text(facts.get('created', ''))}</footer></main>"
        f"<script>{(assets / 'report.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _header(facts: Mapping[str, Any], rows: Sequence[Mapping], cells: Sequence[Cell]) -> str:
    recipes, tasks = {cell.recipe for cell in cells}, {cell.task for cell in cells}
    lengths = sorted({cell.length for cell in cells if cell.length})
    span = (
        ""
        if not lengths
        else f" at {f.tokens(lengths[0])}" + (f" to {f.tokens(lengths[-1])}" if lengths[1:] else "")
    )
    read = sum(row.get("prefilled_tokens") or 0 for row in rows)
    greyed = sum(cell.greyed is not None for cell in cells)
    return (
        f"<h1>Long-context methods on {f.text(facts.get('model', 'a model'))}</h1>"
        f'<p class="lead">{f.count(len(recipes), "recipe")} on {f.count(len(tasks), "task")}{span} tokens: {len(rows):,} results in {len(cells)} cells'
        + (f", {greyed} greyed" if greyed else "")
        + (f", {read:,} tokens prefilled in all" if read else "")
        + ".</p>"
    )


def _summary(cells: Sequence[Cell]) -> str:
    return findings.summary([(title, aware, pool(members)) for title, aware, members in slices(cells)])


def _quality(cells: Sequence[Cell], look: Mapping[str, Style], legend: str, facts: Mapping[str, Any]) -> str:
    parts = [
        '<p class="note">Each task, haystack and length weighs the same; greyed groups and groups not every recipe ran on are left out. '
        "Bars and brackets are 95 % bootstrap intervals; differences to the full cache are paired by item and bold when the interval "
        "excludes zero. Cache bytes include side data. "
        + _bound_note(facts)
        + "Ceiling, oracle and floor rows are references, in italics.</p>",
        legend,
    ]
    for number, (title, aware, members) in enumerate(slices(cells)):
        pooled = pool(members)
        if not pooled:
            continue
        parts.append(f"<h3>{f.text(setting(aware, title))} <small>{f.MODE_NOTE[aware]}</small></h3>")
        panels = []
        for y, x, caption in (
            ("score", "bytes", "Score by cache size"),
            ("logprob", "bytes", "Gold log-likelihood by cache size"),
            ("score", "time", "Score by time per token"),
        ):
            svg = plots.quality_panel(pooled, look, x=x, y=y, name=f"quality-{number}-{y}-{x}")
            if svg:
                panels.append(plots.figure(svg, caption))
        parts.append(f'<div class="panels">{"".join(panels)}</div>')
        parts.append(tables.pooled_table(pooled, facts.get("weight_bytes")))
    return "".join(parts) if len(parts) > 2 else ""


def _bound_note(facts: Mapping[str, Any]) -> str:
    if not facts.get("weight_bytes"):
        return ""
    return (
        "Speed-up is the full cache's time per token over the recipe's; the bound beside it is (W + KV) / (W + r KV), all that reading "
        f"fewer cache bytes can give with W = {f.size(facts['weight_bytes'])} of weights. "
    )


def _lengths(cells: Sequence[Cell], look: Mapping[str, Style], legend: str) -> str:
    parts = []
    for number, (title, aware, members) in enumerate(slices(cells)):
        budgets = sorted({cell.budget for cell in members if cell.role == "method"}, key=lambda b: -(b or 0))
        panels = []
        for budget in budgets:
            svg = plots.length_panel(members, look, budget, f"length-{number}-{budget}")
            if svg:
                panels.append(
                    plots.figure(svg, "No budget" if budget is None else f"Budget {f.percent(budget)}")
                )
        if panels:
            parts.append(f"<h3>{f.text(setting(aware, title))}</h3>")
            parts.append(f'<div class="panels">{"".join(panels)}</div>')
    return legend + "".join(parts) if parts else ""


def _needles(rows: Sequence[Mapping]) -> str:
    maps = heat_maps(rows)
    note = (
        '<p class="note">Mean score × 100; context length down, needle depth in % across. '
        '<span class="swatch heat"></span> 0 to 100 <span class="swatch grey"></span> greyed: the full cache is near the floor there.</p>'
    )
    return note + heat.needle_maps(maps) if maps else ""


def _kept(rows: Sequence[Mapping]) -> str:
    maps = heat.kept_maps(rows)
    note = (
        '<p class="note">Share of each stretch of the context that a layer kept, mean over KV heads, for one sample. '
        '<span class="swatch blue"></span> none to all <span class="swatch mark"></span> where the evidence is.</p>'
    )
    return note + maps if maps else ""


def _worst(cells: Sequence[Cell]) -> str:
    worst = worst_cases(cells)
    parts = []
    for aware in sorted({cell.aware for cell in worst}, key=str):
        members = [cell for cell in worst if cell.aware == aware]
        parts.append(f"<h3>{f.MODE_TITLE[aware]}</h3>{tables.worst_table(members)}")
    note = '<p class="note">Largest loss against the full cache over haystacks and lengths of each task, and where it was. Means hide these.</p>'
    return note + "".join(parts) if parts else ""


def _cells(cells: Sequence[Cell]) -> str:
    legend = (
        '<p class="note">Never pooled, one table for each task, haystack, length and question mode. <span class="swatch grey"></span> '
        "Greyed: the full cache itself is near the task's floor, so the group cannot tell methods apart.</p>"
    )
    return legend + tables.group_tables(cells)


def _provenance(facts: Mapping[str, Any], rows: Sequence[Mapping]) -> str:
    seeds = sorted({row["seed"] for row in rows if row.get("seed") is not None})
    shown = ", ".join(map(str, seeds[:12])) + (f" and {len(seeds) - 12} more" if len(seeds) > 12 else "")
    names = {
        "model_hash": "model hash",
        "template_hash": "chat template hash",
        "schema": "results schema",
        "seed": "run seed",
    }
    entries = {names.get(key, key.replace("_", " ")): value for key, value in facts.items()}
    if facts.get("weight_bytes"):
        entries["weight bytes"] = f.size(facts["weight_bytes"])
    entries["item seeds"] = shown or "–"
    listed = "".join(f"<dt>{f.text(key)}</dt><dd>{f.text(value)}</dd>" for key, value in entries.items())
    recipes = "".join(
        f"<li><code>{f.text(recipe)}</code></li>" for recipe in sorted({row["recipe"] for row in rows})
    )
    return f'<dl class="facts">{listed}</dl><h3>Recipes</h3><ul class="recipes">{recipes}</ul>'
