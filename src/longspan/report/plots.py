"""The page's panels: quality against cache bytes and against time, scores by length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from longspan.bench.aggregate import Cell
from longspan.bench.summaries import Pooled, pool
from longspan.report import format as f
from longspan.report.figures import Point, Series, Style, panel

MIB = 2**20
DODGE = 0.022  # doublings of context length between neighbours


def figure(svg: str, title: str) -> str:
    return f"<figure><figcaption>{f.text(title)}</figcaption>{svg}</figure>"


def legend(styles: Mapping[str, Style], roles: Mapping[str, str]) -> str:
    """Swatches of every method; matplotlib's markers are close enough to these characters to be matched by eye."""
    glyph = {
        "o": "●",
        "s": "■",
        "D": "◆",
        "^": "▲",
        "v": "▼",
        "P": "✚",
        "X": "✖",
        "*": "★",
        "": "",
        "x": "×",
        "+": "+",
    }
    items = []
    for method, style in styles.items():
        note = f" <small>{roles[method]}</small>" if roles.get(method) in f.ROLE_NOTE else ""
        dash = {"--": "dashed", ":": "dotted", "-.": "dotted"}.get(style.line, "solid")
        items.append(
            f'<li><span class="key" style="color:{style.css};border-top-style:{dash}"><b>{glyph.get(style.marker, "+")}</b></span>'
            f"<code>{f.text(method)}</code>{note}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def quality_panel(
    pooled: Sequence[Pooled], styles: Mapping[str, Style], *, x: str, y: str, name: str
) -> str | None:
    """Quality (`y`: score or logprob) against `x`: bytes or time. Budgets of a method are joined; None when there is nothing to draw."""
    by_method: dict[str, list[tuple[Pooled, Point]]] = {}
    for one in pooled:
        at, value = _cost(one, x), getattr(one, y)
        if at is not None and value is not None:
            tip = f"{one.recipe}: {y} {f.with_interval(value)}, {f.size(one.cache_bytes)}"
            if one.time_per_token_s:
                tip += f", {f.seconds(one.time_per_token_s.mean)} a token"
            by_method.setdefault(one.method, []).append((one, Point(at, value, tip)))
    if not by_method:
        return None
    series = []
    for method, members in by_method.items():
        points = sorted((point for _, point in members), key=lambda point: point.x)
        level = members[0][0].role == "ceiling"
        series.append(Series(method, styles[method], points, level=level))
        if level:  # the full cache also costs something: a bare mark keeps its place on the x axis
            series.append(Series(method, Style(styles[method].colour, "d", "", 0), points))
    label = {"bytes": "cache, MiB (log)", "time": "time per token, ms"}[x]
    return panel(
        series,
        x_label=label,
        y_label={"score": "score", "logprob": "gold log-lik., nats / token"}[y],
        name=name,
        x_log=x == "bytes",
        y_range=(-0.03, 1.03) if y == "score" else (None, None),
    )


def _cost(one: Pooled, x: str) -> float | None:
    if x == "bytes":
        return None if one.cache_bytes is None else one.cache_bytes / MIB
    return None if one.time_per_token_s is None else 1000 * one.time_per_token_s.mean


def length_panel(
    cells: Iterable[Cell], styles: Mapping[str, Style], budget: float | None, name: str
) -> str | None:
    """Score (or log-likelihood where nothing is scored) by context length at one budget, pooled over tasks; references always shown."""
    wanted = [
        cell
        for cell in cells
        if cell.length and (cell.budget == budget or cell.role == "ceiling" or cell.budget is None)
    ]
    lengths = sorted({cell.length for cell in wanted if not cell.greyed})
    if len(lengths) < 2:
        return None
    metric = "score" if any(cell.score for cell in wanted) else "logprob"
    by_method: dict[str, list[Point]] = {}
    for length in lengths:
        for one in pool([cell for cell in wanted if cell.length == length]):
            value = getattr(one, metric)
            if value is not None:
                tip = f"{one.recipe} at {f.tokens(length)}: {f.with_interval(value)}"
                by_method.setdefault(one.method, []).append(Point(length, value, tip))
    series = []
    for number, (method, points) in enumerate(by_method.items()):
        step = 2 ** (
            DODGE * (number - (len(by_method) - 1) / 2)
        )  # side by side, so that intervals stay apart
        series.append(Series(method, styles[method], [Point(p.x * step, p.y, p.tip) for p in points]))
    return panel(
        series,
        x_label="context length, tokens (log)",
        y_label="score" if metric == "score" else "gold log-lik., nats / token",
        name=name,
        x_log=True,
        x_ticks={length: f.tokens(length) for length in lengths},
        y_range=(-0.03, 1.03) if metric == "score" else (None, None),
    )
