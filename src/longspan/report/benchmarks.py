"""The benchmark pages of a suite's report: a length curve with the effective length, every task by length, and scores by scope and dispersion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from longspan.bench.aggregate import Cell, Row
from longspan.bench.curves import Curve, Tagged, benchmark_of, by_tags, curves
from longspan.bench.statistics import Interval
from longspan.report import format as f
from longspan.report.figures import SOFT, Point, Series, Style, panel
from longspan.report.plots import figure
from longspan.report.slices import of_mode
from longspan.report.tables import name, plain, table

MODE = {"generate": "written replies", "rank": "ranked candidates"}
SCOPE = {"S0": "under 1 %", "S1": "1 to 10 %", "S2": "10 to 50 %", "S3": "half or more"}


def section(cells: Sequence[Cell], look: Mapping[str, Style]) -> str:
    """One part a benchmark, in order of name; "" when nothing was scored at a known length."""
    found = curves(cells)
    if not found:
        return ""
    threshold = found[0].threshold
    note = (
        '<p class="note">A benchmark\'s score is the mean over its tasks, every task and haystack weighing the same, tasks at their floor included. '
        f"Effective length, RULER's rule: the longest length whose score is at least {100 * threshold:.1f} %. Bars and brackets are 95 % bootstrap "
        "intervals. Written replies and ranked candidates are never pooled.</p>"
    )
    parts = [note, _overview(found)]
    for number, (benchmark, members) in enumerate(groupby(found, key=lambda curve: curve.benchmark)):
        parts.append(_benchmark(benchmark, list(members), cells, look, number))
    return "".join(parts)


def _anchor(benchmark: str) -> str:
    return "benchmark-" + "".join(c if c.isalnum() else "-" for c in benchmark.lower())


def _effective(curve: Curve) -> str:
    """The effective length in words."""
    if curve.effective is None:
        return f"under {f.tokens(curve.lengths[0])}"
    more = "at least " if curve.effective == curve.lengths[-1] else ""
    return f"{more}{f.tokens(curve.effective)}"


def _overview(found: Sequence[Curve]) -> str:
    """Every benchmark with its scores at its shortest and longest length, and the effective length."""
    rows = []
    for curve in found:
        title = f'<th scope="row"><a href="#{_anchor(curve.benchmark)}">{f.text(curve.benchmark)}</a></th>'
        first, last = curve.scores[0], curve.scores[-1]
        cells = [
            f"<td>{f.recipe(curve.recipe)}</td>",
            f"<td>{f.text(_mode(curve))}</td>",
            plain(str(len(curve.tasks))),
            _scored(first, curve.lengths[0]),
            _scored(last, curve.lengths[-1]) if len(curve.lengths) > 1 else plain("–"),
            plain(_effective(curve)),
        ]
        rows.append(f'<tr class="{curve.role}">{title}{"".join(cells)}</tr>')
    head = ["Benchmark", "Recipe", "Answers", "Tasks", "Shortest", "Longest", "Effective length"]
    return table(head, rows, words=("Recipe", "Answers"))


def _mode(curve: Curve) -> str:
    aware = "" if curve.aware is None else f", {f.MODE_TITLE[curve.aware].lower()}"
    return MODE.get(curve.answer_mode, curve.answer_mode) + aware


def _scored(score: Interval, length: int) -> str:
    return f'<td class="num">{f.number(score.mean)} <small>{f.tokens(length)}</small></td>'


def _benchmark(
    benchmark: str, found: Sequence[Curve], cells: Sequence[Cell], look: Mapping[str, Style], number: int
) -> str:
    parts = [f'<h3 id="{_anchor(benchmark)}">{f.text(benchmark)}</h3>']
    panels = []
    for place, (mode, members) in enumerate(groupby(found, key=_mode)):
        lines = [curve for curve in members if len(curve.lengths) > 1]
        if lines:
            panels.append(
                figure(_panel(lines, look, f"benchmark-{number}-{place}"), mode[0].upper() + mode[1:])
            )
    if panels:
        parts.append(f'<div class="panels">{"".join(panels)}</div>')
    if not all(curve.same_tasks for curve in found):
        parts.append(
            '<p class="note">Not every task was measured at every length: points of this curve are means over different tasks.</p>'
        )
    own = [cell for cell in cells if cell.score is not None and benchmark_of(cell.task) == benchmark]
    parts.append(_by_length(found, own))
    return "".join(parts)


def _panel(found: Sequence[Curve], look: Mapping[str, Style], title: str) -> str:
    """Scores by length; the threshold is a dotted level."""
    series = []
    for curve in found:
        style = look[curve.method]
        points = [
            Point(
                length,
                score,
                f"{curve.recipe} at {f.tokens(length)}: {f.with_interval(score)}, {len(curve.tasks)} tasks",
            )
            for length, score in zip(curve.lengths, curve.scores, strict=True)
        ]
        series.append(
            Series(curve.method, Style(style.colour, style.marker or "o", style.line, style.width), points)
        )
    threshold = found[0].threshold
    level = Interval(threshold, None, None, 0)
    lengths = sorted({length for curve in found for length in curve.lengths})
    line = Series(
        "threshold",
        Style(SOFT, "", ":", 1.0),
        [Point(lengths[0], level, f"threshold {threshold}")],
        level=True,
    )
    return panel(
        [line, *series],
        x_label="context length, tokens (log)",
        y_label="score",
        name=title,
        x_log=True,
        x_ticks={length: f.tokens(length) for length in lengths},
        y_range=(-0.03, 1.03),
    )


def _by_length(found: Sequence[Curve], cells: Sequence[Cell]) -> str:
    """Foldable: the mean and every task, recipes down and lengths across."""
    lengths = sorted({length for curve in found for length in curve.lengths})
    rows = []
    for curve in found:
        at = dict(zip(curve.lengths, curve.scores, strict=True))
        rows.append(_line("mean of the tasks", curve, at, lengths, _effective(curve)))
    for (task, haystack, mode, _), members in groupby(
        sorted(cells, key=_place), key=lambda c: (c.task, c.haystack, c.answer_mode, str(c.aware))
    ):
        title = " · ".join(part for part in (task, haystack) if part)
        for _, own in groupby(
            sorted(members, key=lambda c: (c.recipe, c.budget or 0)), key=lambda c: (c.recipe, c.budget)
        ):
            group = list(own)
            at = {cell.length: cell.score for cell in group if cell.length and cell.score}
            rows.append(_line(title, group[0], at, lengths, "", mode))
    head = ["Task", "Recipe", "Answers", *(f.tokens(length) for length in lengths), "Effective length"]
    return f"<details><summary>Every task by length</summary>{table(head, rows, words=('Recipe', 'Answers'))}</details>"


def _place(cell: Cell) -> tuple:
    return (cell.task, cell.haystack or "", cell.answer_mode or "", str(cell.aware))


def _line(
    title: str,
    one: Any,
    at: Mapping[int, Interval],
    lengths: Sequence[int],
    effective: str,
    mode: str | None = None,
) -> str:
    answers = _mode(one) if isinstance(one, Curve) else MODE.get(mode or "generate", mode or "")
    columns = [plain(f.with_interval(at[n]) if n in at else "–") for n in lengths]
    return (
        f'<tr class="{one.role}"><th scope="row">{f.text(title)}</th><td>{f.recipe(one.recipe)}</td><td>{f.text(answers)}</td>'
        f"{''.join(columns)}{plain(effective or '–')}</tr>"
    )


def tags(cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    """Scores by scope and dispersion, one table an answer mode and question mode; "" with fewer than two classes."""
    parts = []
    scored = [cell for cell in cells if cell.score is not None]
    for mode in sorted({cell.answer_mode or "generate" for cell in scored}):
        of_answers = [cell for cell in scored if (cell.answer_mode or "generate") == mode]
        for aware in sorted({cell.aware for cell in of_answers if cell.aware is not None}) or [None]:
            found = by_tags(of_mode(of_answers, aware), rows)
            classes = sorted({(one.scope, one.diffusion) for one in found})
            if len(classes) > 1:
                title = MODE.get(mode, mode) + ("" if aware is None else f", {f.MODE_TITLE[aware].lower()}")
                parts.append(f"<h3>{f.text(title[0].upper() + title[1:])}</h3>{_tag_table(found, classes)}")
    if not parts:
        return ""
    note = (
        '<p class="note">Scope S: the share of the text that an answer needs ('
        + ", ".join(f"{name_} {share}" for name_, share in SCOPE.items())
        + "). Dispersion D0 to D3: how hard that is to find (spread, words unlike the question's, look-alikes, dependent steps). "
        "Means over the tasks of a class; classes without a task are left out. Length alone says neither.</p>"
    )
    return note + "".join(parts)


def _tag_table(found: Sequence[Tagged], classes: Sequence[tuple[str, str]]) -> str:
    rows = []
    for _, own in groupby(found, key=lambda one: (one.recipe, one.budget)):
        members = {(one.scope, one.diffusion): one for one in own}
        first = next(iter(members.values()))
        columns = [name(first.recipe, first.role), plain(f.percent(first.budget))]
        for place in classes:
            one = members.get(place)
            columns.append('<td class="num none">–</td>' if one is None else _tag_cell(one))
        rows.append(f'<tr class="{first.role}">{"".join(columns)}</tr>')
    return table(["Recipe", "Budget", *(f"{scope} {diffusion}" for scope, diffusion in classes)], rows)


def _tag_cell(one: Tagged) -> str:
    count = f"{len(one.tasks)} task{'s' if len(one.tasks) > 1 else ''}"
    return f'<td class="num" title="{f.text(", ".join(one.tasks))}">{f.number(one.score.mean)} <small>{f.bounds(one.score)} {count}</small></td>'


def left_out(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Jobs of the suite that could not run, grouped by reason."""
    if not jobs:
        return ""
    by_reason: dict[str, list[str]] = {}
    for job in jobs:
        at = f" at {f.tokens(job['length'])}" if isinstance(job["length"], int) else ""
        by_reason.setdefault(job["reason"], []).append(f"{job['task']}{at}")
    lines = [
        f"<tr><td>{f.text(', '.join(names))}</td><td>{f.text(reason)}</td></tr>"
        for reason, names in by_reason.items()
    ]
    return table(["What", "Why"], lines, words=("What", "Why"))
