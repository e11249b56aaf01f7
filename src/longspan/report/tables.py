"""HTML tables: recipes pooled over tasks, every cell of every group, the worst case per task, failed rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from longspan.bench.aggregate import Cell
from longspan.bench.statistics import Interval
from longspan.bench.summaries import Pooled
from longspan.report import format as f


def value(measured: Interval | None, digits: int = 2, signed: bool = False) -> str:
    """A table cell: the mean and, in a lighter face under it, its interval; a change that excludes zero is bold."""
    if measured is None:
        return '<td class="num none">–</td>'
    ends = f.bounds(measured, digits, signed)
    clear = " clear" if signed and measured.excludes_zero else ""
    mean = f.number(measured.mean, digits, signed)
    return f'<td class="num{clear}">{mean}' + (f" <small>{ends}</small>" if ends else "") + "</td>"


def _bar(value: Interval | None) -> str:
    """Score cell with a bar behind the number and a whisker for the interval."""
    if value is None:
        return '<td class="num none">–</td>'
    whisker = ""
    if value.low is not None:
        whisker = f'<i style="left:{100 * value.low:.1f}%;width:{100 * (value.high - value.low):.1f}%"></i>'
    bar = (
        f'<span class="bar"><b style="width:{100 * max(0.0, min(1.0, value.mean)):.1f}%"></b>{whisker}</span>'
    )
    return f'<td class="num score">{f.number(value.mean)} <small>{f.bounds(value)}</small>{bar}</td>'


def plain(content: str) -> str:
    return f'<td class="num">{content}</td>'


def name(recipe: str, role: str) -> str:
    note = f' <small class="role">{role}</small>' if role in f.ROLE_NOTE else ""
    return f'<th scope="row">{f.recipe(recipe)}{note}</th>'


def _speed(full_s: float | None, own: Interval | None, bound: float | None) -> str:
    if not full_s or own is None or not own.mean:
        return '<td class="num none">–</td>'
    limit = f" <small>of {bound:.2f}×</small>" if bound else ""
    return f'<td class="num">{full_s / own.mean:.2f}×{limit}</td>'


def _quality_head(scored: bool) -> list[str]:
    head = ["Recipe", "Budget", *(["Score", "Score vs full"] if scored else [])]
    return [*head, "Gold log-lik. / token", "Log-lik. vs full"]


def _quality(one: Cell | Pooled, scored: bool) -> list[str]:
    return [
        name(one.recipe, one.role),
        plain(f.percent(one.budget)),
        *([_bar(one.score), value(one.score_change, signed=True)] if scored else []),
        value(one.logprob),
        value(one.logprob_change, signed=True),
    ]


def pooled_table(pooled: Sequence[Pooled], weight_bytes: float | None) -> str:
    """One row a recipe, every group weighing the same. The bound column is there when the weights' size is known."""
    full = next((one for one in pooled if one.role == "ceiling"), None)
    full_s = full.time_per_token_s.mean if full and full.time_per_token_s else None
    scored = any(one.score for one in pooled)
    head = [
        *_quality_head(scored),
        "Cache",
        "of dense",
        "Evidence kept",
        "First token",
        "Per token",
        "Speed-up" + (" (bound)" if weight_bytes else ""),
    ]
    rows = []
    for one in pooled:
        bound = None
        if weight_bytes and full and full.cache_bytes and one.cache_bytes:
            bound = f.speed_up_bound(weight_bytes, full.cache_bytes, one.cache_bytes)
        cells = [
            *_quality(one, scored),
            plain(f.size(one.cache_bytes)),
            plain(f.percent(one.cache_share)),
            plain(f.percent(one.retention)),
            plain(f.seconds(one.ttft_s)),
            plain(f.seconds(one.time_per_token_s.mean if one.time_per_token_s else None)),
            _speed(full_s, one.time_per_token_s, bound),
        ]
        rows.append(f'<tr class="{one.role}">{"".join(cells)}</tr>')
    return table(head, rows)


def group_tables(cells: Sequence[Cell]) -> str:
    """Every cell, one foldable table for each task, haystack, length, answer mode and question mode."""
    parts = []
    ordered = sorted((cell for cell in cells if cell.aware is not None), key=lambda cell: cell.aware)
    irrelevant = [cell for cell in cells if cell.aware is None]
    blocks: dict[tuple, list[Cell]] = {}
    for cell in ordered:
        blocks.setdefault((cell.aware, cell.group), []).append(cell)
    for cell in irrelevant:
        homes = [key for key in blocks if key[1] == cell.group and key[0] is not None]
        for key in homes or [(None, cell.group)]:
            blocks.setdefault(key, []).insert(0, cell)
    for (aware, group), members in sorted(
        blocks.items(), key=lambda item: (str(item[0][0]), [str(part) for part in item[0][1]])
    ):
        grey = members[0].greyed
        note = f' <span class="tag">greyed: {f.text(grey)}</span>' if grey else ""
        title = f"{f.text(f.place(*group))} <small>{f.MODE_TITLE[aware].lower()}</small>{note}"
        scored = any(cell.score for cell in members)
        margins = any(cell.margin for cell in members)
        head = [
            *_quality_head(scored),
            *(["Margin"] if margins else []),
            "Cache",
            "Evidence kept",
            "First token",
            "Per token",
            "Ended by",
            "Items",
        ]
        rows = [_cell_row(cell, scored, margins) for cell in members]
        klass = "greyed" if grey else ""
        parts.append(
            f'<details class="{klass}"><summary>{title}</summary>{table(head, rows, words=("Ended by",))}</details>'
        )
    return "".join(parts)


def _cell_row(cell: Cell, scored: bool, margins: bool) -> str:
    ended = ", ".join(f"{reason} {count}" for reason, count in sorted(cell.finish.items())) or "–"
    failed = f' <small class="bad">{cell.errors} failed</small>' if cell.errors else ""
    columns = [
        *_quality(cell, scored),
        *([value(cell.margin, 1)] if margins else []),
        plain(f.size(cell.cache_bytes)),
        plain(f.percent(cell.retention)),
        plain(f.seconds(cell.ttft_s.mean if cell.ttft_s else None)),
        plain(f.seconds(cell.time_per_token_s.mean if cell.time_per_token_s else None)),
        f"<td>{f.text(ended)}</td>",
        plain(f"{cell.n}{failed}"),
    ]
    return f'<tr class="{cell.role}">{"".join(columns)}</tr>'


def worst_table(worst: Sequence[Cell]) -> str:
    """Recipes down, tasks across: the largest loss against the full cache and where it happened."""
    tasks = sorted({cell.task for cell in worst})
    key = lambda cell: (cell.role == "floor", cell.method, -(cell.budget or 0), cell.recipe)  # noqa: E731
    rows = []
    for _, group in groupby(sorted(worst, key=key), key=lambda cell: (cell.recipe, cell.budget)):
        members = list(group)
        by_task = {cell.task: cell for cell in members}
        columns = [name(members[0].recipe, members[0].role), plain(f.percent(members[0].budget))]
        for task in tasks:
            cell = by_task.get(task)
            change = (cell.score_change or cell.logprob_change) if cell else None
            if cell is None or change is None:
                columns.append('<td class="num none">–</td>')
                continue
            loss = min(1.0, max(0.0, -change.mean))
            unit = "" if cell.score_change else " nats"
            columns.append(
                f'<td class="num loss" style="--v:{loss:.2f}">{f.number(change.mean, signed=True)}{unit} '
                f"<small>{f.text(f.place('', cell.haystack, cell.length, cell.answer_mode))}</small></td>"
            )
        rows.append(f'<tr class="{members[0].role}">{"".join(columns)}</tr>')
    return table(["Recipe", "Budget", *tasks], rows)


def error_table(rows: Sequence[Mapping]) -> str:
    lines = [
        f"<tr>{name(row['recipe'], row.get('role') or '')}"
        f"<td>{f.text(f.place(row['task'], row.get('haystack'), row.get('length')))}</td><td>{f.text(row['error'])}</td></tr>"
        for row in rows
    ]
    return table(["Recipe", "Where", "What happened"], lines, words=("Where", "What happened"))


def table(head: Sequence[str], rows: Sequence[str], words: Sequence[str] = ()) -> str:
    """A table in its own horizontal scroller. Columns are numbers unless first or named in `words`."""
    titles = "".join(
        f'<th scope="col"{" class=words" if title in words else ""}>{f.text(title)}</th>' for title in head
    )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
