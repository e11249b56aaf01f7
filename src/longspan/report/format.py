"""How numbers, recipes and roles are written: one place, so that the console table and the page agree."""

from __future__ import annotations

from html import escape

from longspan.bench.statistics import Interval

MODE_TITLE = {
    False: "Question-agnostic",
    True: "Question-aware",
    None: "No question",
}
MODE_NOTE = {
    False: "the context was compressed before any question was seen",
    True: "the method saw the question while compressing",
    None: "nothing is asked, or nothing is compressed",
}
ROLE_NOTE = {
    "ceiling": "nothing removed",
    "oracle": "best entries at this budget, chosen with the answer known",
    "floor": "a method has to beat this",
}
MINUS = "−"


def number(value: float | None, digits: int = 2, signed: bool = False) -> str:
    if value is None or value != value:
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def with_interval(value: Interval | None, digits: int = 2, signed: bool = False) -> str:
    """``0.83 [0.71, 0.92]``, or the bare mean where there is no interval."""
    if value is None:
        return "–"
    mean = number(value.mean, digits, signed)
    return mean if value.low is None else f"{mean} {bounds(value, digits, signed)}"


def bounds(value: Interval | None, digits: int = 2, signed: bool = False) -> str:
    if value is None or value.low is None:
        return ""
    return f"[{number(value.low, digits, signed)}, {number(value.high, digits, signed)}]"


def size(count: float | None) -> str:
    if count is None:
        return "–"
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= step:
            value = count / step
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    return f"{count:.0f} B"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.2f} s"
        if value >= 1
        else f"{1000 * value:.0f} ms"
        if value >= 0.01
        else f"{1000 * value:.2f} ms"
    )


def count(number: int, noun: str) -> str:
    """``1 recipe``, ``2 recipes``"""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def tokens(count: int | None) -> str:
    if count is None:
        return "–"
    return f"{count // 1024}K" if count >= 1024 and count % 1024 == 0 else f"{count:,}"


def place(task: str, haystack: str | None, length: int | None, answer_mode: str | None = None) -> str:
    """``niah_single_1 · prose · 4K · rank``"""
    mode = None if answer_mode in (None, "generate") else answer_mode
    return " · ".join(part for part in (task, haystack, tokens(length) if length else None, mode) if part)


def speed_up_bound(weight_bytes: float, dense_bytes: float, cache_bytes: float) -> float:
    """Best decode speed-up a smaller cache allows when every step reads all weights and all entries: (W + KV) / (W + r KV)."""
    return (weight_bytes + dense_bytes) / (weight_bytes + cache_bytes)


def text(value: object) -> str:
    return escape(str(value), quote=True)


def recipe(name: str) -> str:
    """A recipe as code that may break after its commas, plus signs and brackets, never inside a number."""
    return "<code>" + "".join(text(part) + ("<wbr>" if part in "(,+" else "") for part in name) + "</code>"
