"""What may stand in one table: cells of one question mode, one haystack and one answer mode, never two."""

from __future__ import annotations

from collections.abc import Sequence

from longspan.bench.aggregate import Cell
from longspan.report import format as f


def setting(aware: bool | None, title: str) -> str:
    return ", ".join(part for part in (f.MODE_TITLE[aware], title) if part)


def _modes(cells: Sequence[Cell]) -> list[bool | None]:
    return sorted({cell.aware for cell in cells if cell.aware is not None}) or [None]


def of_mode(cells: Sequence[Cell], aware: bool | None) -> list[Cell]:
    """Cells of one question mode and the references that belong to both; never the other mode's."""
    own = [cell for cell in cells if cell.aware == aware]
    answered = {(cell.recipe, cell.group) for cell in own}
    shared = [cell for cell in cells if cell.aware is None and (cell.recipe, cell.group) not in answered]
    return own + (shared if aware is not None else [])


def slices(cells: Sequence[Cell]) -> list[tuple[str, bool | None, list[Cell]]]:
    """(title, question mode, cells) for each question mode, haystack and answer mode of the tasks that have gold answers."""
    answered = [cell for cell in cells if cell.answer_mode != "perplexity"]
    result = []
    for aware in _modes(answered):
        mode_cells = of_mode(answered, aware)
        keys = sorted({(cell.haystack or "", cell.answer_mode or "generate") for cell in mode_cells})
        for haystack, answer_mode in keys:
            members = [
                cell
                for cell in mode_cells
                if (cell.haystack or "", cell.answer_mode or "generate") == (haystack, answer_mode)
            ]
            if any(cell.aware == aware for cell in members):
                mode = "" if answer_mode == "generate" else f"{answer_mode} scoring"
                title = ", ".join(part for part in (f"{haystack} haystack" if haystack else "", mode) if part)
                result.append((title, aware, members))
    return result
