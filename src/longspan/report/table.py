"""The console table: the page's pooled rows for a terminal, one table for each question mode, haystack and answer mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from longspan.bench.aggregate import aggregate
from longspan.bench.results import load
from longspan.bench.summaries import Pooled, pool
from longspan.report import format as f
from longspan.report.slices import setting, slices

WIDE = 120  # terminal columns from which every column is shown
STYLE = {"ceiling": "dim", "oracle": "dim", "floor": "dim italic", "method": ""}


def print_run(folder: str | Path, console: Console | None = None) -> None:
    """Print the tables of a run folder, with fewer columns where the terminal is narrow."""
    _, rows = load(folder)
    console = console or Console()
    console.print(render(rows, wide=console.width >= WIDE))


def render(rows: Sequence[Mapping[str, Any]], *, wide: bool = True) -> Group:
    cells = aggregate(rows)
    parts: list[Any] = [
        _table(setting(aware, title), pooled, wide)
        for title, aware, members in slices(cells)
        if (pooled := pool(members))
    ]
    continued = pool([cell for cell in cells if cell.answer_mode == "perplexity"])
    if continued:
        parts.append(_table("Continuing the text, log-likelihood of its own tokens", continued, wide))
    greyed = sorted({f"{f.place(*cell.group)}: {cell.greyed}" for cell in cells if cell.greyed})
    if greyed:
        parts.append(Text("Left out as greyed: " + "; ".join(greyed), style="dim"))
    failed = sum(cell.errors for cell in cells)
    if failed:
        reasons = Counter(row["error"] for row in rows if row.get("error"))
        first, more = reasons.most_common(1)[0][0], len(reasons) - 1
        others = f"; {more} other reason{'s' * (more > 1)} in the report" if more else ""
        parts.append(Text(f"{failed} result{'s' * (failed > 1)} failed: {first}{others}", style="red"))
    return Group(*parts)


def _table(title: str, pooled: Sequence[Pooled], wide: bool) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    table.add_column("recipe", overflow="fold", min_width=24)
    columns = _columns(any(one.score for one in pooled), wide)
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in pooled:
        note = f" ({one.role})" if one.role in f.ROLE_NOTE else ""
        table.add_row(one.recipe + note, *(show(one) for _, show in columns), style=STYLE.get(one.role, ""))
    return table


def _columns(scored: bool, wide: bool) -> list[tuple[str, Callable[[Pooled], str]]]:
    columns: list[tuple[str, Callable[[Pooled], str]]] = []
    if scored and wide:
        columns.append(("score", lambda one: f.with_interval(one.score)))
    elif scored:
        columns.append(("score", lambda one: f.number(one.score.mean if one.score else None)))
    if wide:
        columns.append(("log-lik./token", lambda one: f.number(one.logprob.mean if one.logprob else None)))
    columns.append(
        (
            "vs full" if wide else "log-lik. vs full",
            lambda one: f.with_interval(one.logprob_change, signed=True),
        )
    )
    columns.append(("cache", lambda one: f.size(one.cache_bytes)))
    if wide:
        columns.append(("of dense", lambda one: f.percent(one.cache_share)))
        columns.append(("first token", lambda one: f.seconds(one.ttft_s)))
    columns.append(
        ("per token", lambda one: f.seconds(one.time_per_token_s.mean if one.time_per_token_s else None))
    )
    return columns
