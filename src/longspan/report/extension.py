"""Loss by position of every recipe, with the trained window marked; the same as a difference to the full cache on the same text, and both in a table.

Drawn from rows of running text (`nll_by_position`). The loss of a text rises and falls with what it says, so the difference, paired by sample, is where methods part.
Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from longspan.bench.aggregate import Row
from longspan.bench.statistics import Interval, interval, sample
from longspan.report import format as f
from longspan.report import plots, tables
from longspan.report.figures import Point, Series, Style, panel

CURVE_BINS = 24
Course = np.ndarray  # (N, 2): position, nats
Group = tuple[str, str | None, int | None]
NOTE = (
    "Negative log-likelihood of running text, token by token as it was read, nats a token; every recipe read the same texts. "
    "The difference is paired by text, below zero is better than the unchanged model. "
)


def section(
    rows: Sequence[Row], styles: Mapping[str, Style], roles: Mapping[str, str], trained_window: int | None
) -> str:
    """The section's HTML, empty when no row has a course. The window is marked in panels that reach it."""
    groups = courses(rows)
    if not groups:
        return ""
    drawn = {method for recipes in groups.values() for _, method in recipes}
    parts = [
        f'<p class="note">{NOTE}</p>',
        plots.legend({method: style for method, style in styles.items() if method in drawn}, roles),
    ]
    for number, (group, recipes) in enumerate(groups.items()):
        panels = [_panel(recipes, None, styles, trained_window, f"extension{number}", f.place(*group))]
        full = _full(recipes, roles)
        if full is not None and len(recipes) > 1:
            title = f"{f.place(*group)} · difference to full"
            panels.append(_panel(recipes, full, styles, trained_window, f"extension{number}d", title))
        parts.append(f'<div class="panels">{"".join(panels)}</div>')
        parts.append(_table(recipes, full, roles, trained_window))
    return "".join(parts)


def courses(rows: Sequence[Row]) -> dict[Group, dict[tuple[str, str], dict[int, Course]]]:
    """(task, haystack, length) -> (recipe, method) -> sample -> course; groups from short to long."""
    groups: dict[Group, dict[tuple[str, str], dict[int, Course]]] = {}
    for row in rows:
        if row.get("nll_by_position"):
            group = (row["task"], row.get("haystack"), row.get("length"))
            recipe = (row["recipe"], row.get("method") or row["recipe"])
            found = np.asarray(row["nll_by_position"], dtype=np.float64)
            groups.setdefault(group, {}).setdefault(recipe, {})[row.get("sample") or 0] = found
    order = sorted(groups, key=lambda group: (group[0], group[1] or "", group[2] or 0))
    return {group: groups[group] for group in order}


def _full(recipes: Mapping[tuple[str, str], dict[int, Course]], roles: Mapping[str, str]):
    return next((one for (_, method), one in recipes.items() if roles.get(method) == "ceiling"), None)


def paired(mine: Mapping[int, Course], full: Mapping[int, Course]) -> list[Course]:
    """Course of differences of every sample that both have at the same positions."""
    found = []
    for number, course in mine.items():
        other = full.get(number)
        if other is not None and np.array_equal(course[:, 0], other[:, 0]):
            found.append(np.stack((course[:, 0], course[:, 1] - other[:, 1]), 1))
    return found


def _panel(recipes, full, styles, trained_window: int | None, name: str, title: str) -> str:
    series, last = [], 0.0
    for (recipe, method), samples in recipes.items():
        members = list(samples.values()) if full is None else paired(samples, full)
        if not members or samples is full:
            continue
        curve = binned(members)
        last = max(last, curve[-1][0])
        points = [Point(at, Interval(value, None, None, len(members)), "") for at, value in curve]
        series.append(Series(recipe, styles[method], points))
    if not series:
        return ""
    reached = trained_window is not None and trained_window <= 1.5 * last
    svg = panel(
        series,
        x_label="position, tokens",
        y_label="NLL, nats / token" if full is None else "NLL against full",
        name=name,
        marks={float(trained_window): "trained window"} if reached and trained_window else {},
    )
    return plots.figure(svg, title)


def binned(members: Sequence[Course]) -> list[tuple[float, float]]:
    """Mean in at most `CURVE_BINS` equal bins of positions, at each bin's mean position."""
    data = np.concatenate(members)
    edges = np.linspace(data[:, 0].min(), data[:, 0].max() + 1e-9, CURVE_BINS + 1)
    at = np.clip(np.digitize(data[:, 0], edges) - 1, 0, CURVE_BINS - 1)
    counts = np.bincount(at, minlength=CURVE_BINS)
    filled = counts > 0
    means = [
        np.bincount(at, weights=data[:, column], minlength=CURVE_BINS)[filled] / counts[filled]
        for column in (0, 1)
    ]
    return list(zip(means[0].tolist(), means[1].tolist(), strict=True))


def ranges(last: float, trained_window: int | None) -> list[tuple[float, float, str]]:
    """(start, stop, heading): inside the window, then by doublings of it; the whole where the window is unknown or not reached."""
    if not trained_window or last <= trained_window:
        return [(0, float("inf"), "all positions")]
    found = [(0.0, float(trained_window), "inside the window")]
    start = trained_window
    while start < last:
        found.append((float(start), float(2 * start), f"{f.tokens(start)} to {f.tokens(2 * start)}"))
        start *= 2
    return found


def _table(recipes, full, roles: Mapping[str, str], trained_window: int | None) -> str:
    last = max(course[-1, 0] for samples in recipes.values() for course in samples.values())
    parts = ranges(last, trained_window)
    head = "".join(f"<th>{f.text(title)}</th>" for _, _, title in parts)
    body = ""
    for (recipe, method), samples in recipes.items():
        cells = ""
        for start, stop, _ in parts:
            mean = _means(list(samples.values()), start, stop)
            if not mean:
                cells += '<td class="num none">–</td>'
                continue
            change = (
                _means(paired(samples, full), start, stop) if full is not None and samples is not full else []
            )
            found = interval(sample(change, range(len(change))))
            note = f" <small>{f.with_interval(found, signed=True)}</small>" if found is not None else ""
            clear = " clear" if found is not None and found.excludes_zero else ""
            cells += f'<td class="num{clear}">{f.number(float(np.mean(mean)))}{note}</td>'
        role = roles.get(method, "method")
        body += f'<tr class="{role}">{tables.name(recipe, role)}{cells}</tr>'
    return f'<div class="scroll"><table><thead><tr><th>Recipe</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _means(members: Sequence[Course], start: float, stop: float) -> list[float]:
    """Mean of each course inside [start, stop)."""
    inside = [course[(course[:, 0] >= start) & (course[:, 0] < stop), 1] for course in members]
    return [float(values.mean()) for values in inside if len(values)]
