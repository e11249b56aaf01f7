"""Cutting source code (or prose) for prompt compression: functions, lines, blocks between perplexity peaks, and a 0/1 knapsack."""

import ast
import itertools
import re
from collections.abc import Sequence

import numpy as np

from longspan.methods.prompt.base import Span
from longspan.methods.prompt.spans import paragraphs, sentences

HEADERS = {
    "python": r"[ \t]*(?:async\s+def|def|class)\b|[ \t]*@\w",
    "javascript": r"(?:export\s+)?(?:default\s+)?(?:async\s+)?(?:function|class|interface)\b|(?:export\s+)?const\s+\w+\s*=.*=>",
    "java": r"[ \t]*(?:public|private|protected|static|final|abstract)[\w<>\[\], \t]*[({]",
    "c": r"[A-Za-z_][\w:<>*&, \t]*\([^;]*$|(?:class|struct|template|namespace)\b",
    "rust": r"[ \t]*(?:pub(?:\([^)]*\))?\s+)?(?:async\s+)?(?:unsafe\s+)?(?:fn|impl|struct|enum|trait|mod)\b",
    "go": r"(?:func|type)\b",
}
TEXT = "text"  # prose: paragraphs stand for functions, sentences for lines
LANGUAGES = (*HEADERS, TEXT)
COMMENTS = {"python": "#"}  # every other language here uses //
SECTION = 8  # sentences of prose that stand for a function at most
_CODE_LINE = re.compile(r"[ \t]+\S|.*[{}();:,=]\s*$")
_ALWAYS = re.compile(r"\s*(?:(?:async\s+|pub\s+|export\s+)*(?:def|class|function|fn|func)\b|return\b)")


def comment(language: str) -> str:
    return COMMENTS.get(language, "//")


def detect(text: str) -> str:
    """The language of `text` (one of LANGUAGES): prose unless most of its lines look like code."""
    rows = [line for line in text.split("\n") if line.strip()]
    if 2 * sum(bool(_CODE_LINE.match(row)) for row in rows) < len(rows):
        return TEXT
    counts = {name: sum(bool(re.match(header, row)) for row in rows) for name, header in HEADERS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else TEXT


def rows_of(text: str, span: Span, language: str) -> list[Span]:
    """The smallest pieces of a function: lines, or the sentences of prose."""
    return sentences(text, *span) if language == TEXT else lines(text, *span)


def functions(text: str, language: str) -> list[Span]:
    """Line-aligned spans that cover `text`, one a function (methods apart, so a class gives its header line, its attributes and its methods);
    what precedes the first is a span of its own. Prose: paragraphs, long ones in runs of `SECTION` sentences."""
    if language == TEXT:
        return [
            (run[0][0], run[-1][1])
            for paragraph in paragraphs(text)
            for run in _runs(sentences(text, *paragraph), SECTION)
        ]
    if language == "python":
        try:
            return _cuts(text, _python_starts(text))
        except (SyntaxError, ValueError):
            pass  # broken code: header lines still cut it
    pattern = re.compile(HEADERS.get(language, HEADERS["c"]))
    starts, previous_decorator = [], False
    for start, end in lines(text):
        line = text[start:end]
        if pattern.match(line) and not previous_decorator:
            starts.append(start)
        previous_decorator = bool(re.match(r"[ \t]*@\w", line))
    return _cuts(text, starts)


def _python_starts(text: str) -> list[int]:
    offset = [0, *(end for _, end in lines(text))]
    starts = []

    def visit(body: Sequence[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                starts.append(offset[first - 1])
                starts.append(offset[min(node.end_lineno or node.lineno, len(offset) - 1)])
                if isinstance(node, ast.ClassDef):
                    inner = node.body[0]
                    decorators = getattr(inner, "decorator_list", [])
                    starts.append(offset[min([inner.lineno, *(d.lineno for d in decorators)]) - 1])
                    visit(node.body)

    visit(ast.parse(text).body)
    return starts


def class_header(text: str, span: Span, chunks: Sequence[Span]) -> Span | None:
    """The chunk that opens the class around an indented Python `span`."""
    depth = _indent(text, span)
    for chunk in reversed([c for c in chunks if c[0] < span[0]]):
        if _indent(text, chunk) < depth:
            first = text[slice(*chunk)].lstrip()
            return chunk if first.startswith(("class ", "@")) else None
    return None


def _indent(text: str, span: Span) -> int:
    body = text[slice(*span)]
    first = next((line for line in body.split("\n") if line.strip()), "")
    return len(first) - len(first.lstrip())


def _runs(spans: Sequence[Span], count: int) -> list[Sequence[Span]]:
    return [spans[i : i + count] for i in range(0, len(spans), count)]


def _cuts(text: str, starts: Sequence[int]) -> list[Span]:
    edges = sorted({0, len(text), *starts})
    spans: list[Span] = []
    for a, b in itertools.pairwise(edges):
        if spans and not text[a:b].strip():
            spans[-1] = (spans[-1][0], b)  # blank lines after a function stay with it
        else:
            spans.append((a, b))
    return spans


def lines(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    spans, at = [], start
    for line in text[start:end].split("\n"):
        spans.append((at, at + len(line) + 1))
        at += len(line) + 1
    last = len(text) if end is None else end
    spans[-1] = (spans[-1][0], last)
    return spans if spans[-1][0] < last else spans[:-1]


def line_surprise(
    spans: Sequence[Span], offsets: Sequence[Span], log_probs: Sequence[float], base: int
) -> np.ndarray:
    """Bits a token of every line, from one pass over the function that starts at character `base`; 0 for an empty line."""
    ends = np.array([end - base for _, end in spans])
    owner = np.minimum(np.searchsorted(ends, [b - 1 for _, b in offsets], side="right"), len(spans) - 1)
    nll = np.bincount(owner, weights=-np.asarray(log_probs), minlength=len(spans)) / np.log(2)
    return nll / np.maximum(np.bincount(owner, minlength=len(spans)), 1)


def blocks(spans: Sequence[Span], surprise: np.ndarray, k: float = 0.2, fallback: float = 0.5) -> list[Span]:
    """Cut after every line whose surprise peaks: at least both neighbours, and above one of them by mean + k std (of the
    positive values; `fallback` when there are fewer than three)."""
    valid = surprise[np.isfinite(surprise) & (surprise > 0)]
    threshold = valid.mean() + k * valid.std() if len(valid) >= 3 else fallback
    cuts = []
    for i in range(1, len(surprise) - 1):
        left, here, right = surprise[i - 1 : i + 2]
        if here >= left and here >= right and (here - left >= threshold or here - right >= threshold):
            cuts.append(i)
    edges = [0, *(i + 1 for i in cuts), len(spans)]
    return [(spans[a][0], spans[b - 1][1]) for a, b in itertools.pairwise(edges) if b > a]


def always_kept(block: str, language: str) -> bool:
    """Blocks that open a definition, start with a comment, or return. None of prose."""
    if language == TEXT:
        return False
    first = next((line for line in block.split("\n") if line.strip()), "")
    if _ALWAYS.match(first) or first.lstrip().startswith(comment(language)):
        return True
    return any(line.strip().startswith("return ") for line in block.split("\n"))


def knapsack(
    values: Sequence[float], weights: Sequence[int], capacity: int, limit: int = 100 * 2000
) -> list[int]:
    """Indices of the chosen items: exact while items * capacity <= `limit`, else greedy by value per token. Items without
    positive value are never taken."""
    useful = [i for i, v in enumerate(values) if v > 0 and weights[i] <= capacity]
    if len(useful) * capacity > limit:
        chosen, left = [], capacity
        for i in sorted(useful, key=lambda i: (-values[i] / max(1, weights[i]), i)):
            if weights[i] <= left:
                chosen.append(i)
                left -= weights[i]
        return sorted(chosen)
    best = np.zeros(capacity + 1)
    taken = np.zeros((len(useful), capacity + 1), dtype=bool)
    for row, i in enumerate(useful):
        w = weights[i]
        candidate = np.full(capacity + 1, -np.inf)
        candidate[w:] = best[: capacity + 1 - w] + values[i]
        taken[row] = candidate > best
        best = np.maximum(best, candidate)
    chosen, left = [], capacity
    for row in range(len(useful) - 1, -1, -1):
        if taken[row, left]:
            chosen.append(useful[row])
            left -= weights[useful[row]]
    return sorted(chosen)


def parses(text: str) -> bool:
    import textwrap

    try:
        ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError):
        return False
    return True
