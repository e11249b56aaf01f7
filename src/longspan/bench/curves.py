"""Length curves of benchmarks and scores by scope and dispersion, from measured cells.

A benchmark's score at a length is the plain mean over its tasks (each task and haystack weighs the same), over the tasks measured at every
length of the curve where there are such, so that a curve never falls because a harder task begins. Nothing is greyed here: a task at its floor
is a result of a benchmark, while it cannot tell cache policies apart.

Effective length (RULER, Hsieh et al. 2024): the longest length whose score is at least a threshold. RULER's is 85.6 %, what Llama-2-7B-chat
scores at 4K over its 13 tasks. It is the same for every benchmark here, so that the figure says one thing; a benchmark's own threshold, where it
has one, is a knob of `curves`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from longspan.bench.aggregate import Cell, Row
from longspan.bench.statistics import Interval, stratified

THRESHOLD = 0.856


@dataclass(frozen=True)
class Curve:
    """One recipe on one benchmark in one answer mode and question mode. `scores[i]` is the mean over `tasks` at `lengths[i]`.

    same_tasks: every length has every task of the curve."""

    benchmark: str
    recipe: str
    method: str
    role: str
    budget: float | None
    aware: bool | None
    answer_mode: str
    lengths: tuple[int, ...]
    scores: tuple[Interval, ...]
    tasks: tuple[str, ...]
    same_tasks: bool
    items: int
    threshold: float

    @property
    def effective(self) -> int | None:
        """The longest length whose score is at least the threshold, in tokens; None when there is none."""
        return effective_length(self.lengths, [score.mean for score in self.scores], self.threshold)


def effective_length(
    lengths: Sequence[int], scores: Sequence[float], threshold: float = THRESHOLD
) -> int | None:
    """RULER's rule: the longest of `lengths` whose score (0 to 1) is at least `threshold`; None when none is."""
    return max(
        (length for length, score in zip(lengths, scores, strict=True) if score >= threshold), default=None
    )


@cache
def benchmark_of(task: str) -> str:
    """The benchmark a task or data set belongs to; the task's own name when it is none that is registered here."""
    from longspan.bench.dataset import all_datasets
    from longspan.bench.task import all_tasks

    if task in all_datasets():
        return all_datasets()[task].benchmark
    if task in all_tasks():
        return re.split(r" \(|, ", all_tasks()[task].source, maxsplit=1)[0]
    return task


def curves(cells: Iterable[Cell], threshold: float = THRESHOLD) -> list[Curve]:
    """A curve for every benchmark, recipe, answer mode and question mode that was scored, in this order."""
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.length and cell.score is not None:
            mode = cell.answer_mode or "generate"
            groups[benchmark_of(cell.task), mode, str(cell.aware), cell.recipe, cell.budget].append(cell)
    ordered = sorted(groups.items(), key=lambda entry: [str(part) for part in entry[0]])
    return [_curve(key[0], members, threshold) for key, members in ordered]


def _curve(benchmark: str, cells: Sequence[Cell], threshold: float) -> Curve:
    lengths = sorted({cell.length for cell in cells if cell.length})
    at = {length: [cell for cell in cells if cell.length == length] for length in lengths}
    places = {length: {(cell.task, cell.haystack) for cell in members} for length, members in at.items()}
    shared = set.intersection(*places.values())
    wanted = shared or set.union(*places.values())
    kept = {length: [c for c in members if (c.task, c.haystack) in wanted] for length, members in at.items()}
    scores = [stratified([cell.samples["score"] for cell in kept[length]]) for length in lengths]
    first = cells[0]
    return Curve(
        benchmark=benchmark,
        recipe=first.recipe,
        method=first.method,
        role=first.role,
        budget=first.budget,
        aware=first.aware,
        answer_mode=first.answer_mode or "generate",
        lengths=tuple(lengths),
        scores=tuple(score for score in scores if score is not None),
        tasks=tuple(sorted({task for task, _ in wanted})),
        same_tasks=bool(shared),
        items=sum(cell.n - cell.errors for members in kept.values() for cell in members),
        threshold=threshold,
    )


@dataclass(frozen=True)
class Tagged:
    """A recipe's score over all tasks of one scope and one dispersion: the plain mean over tasks, haystacks and lengths."""

    recipe: str
    role: str
    budget: float | None
    scope: str
    diffusion: str
    score: Interval
    tasks: tuple[str, ...]


def by_tags(cells: Iterable[Cell], rows: Iterable[Row]) -> list[Tagged]:
    """Scores by scope and dispersion (see `taxonomy`). Cells of ONE answer mode and ONE question mode; `rows` say how tasks are tagged."""
    tags: dict[str, Mapping[str, str]] = {row["task"]: row["tags"] for row in rows if row.get("tags")}
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        tag = tags.get(cell.task)
        if tag and cell.score is not None and "scope" in tag and "diffusion" in tag:
            groups[cell.recipe, cell.budget, tag["scope"], tag["diffusion"]].append(cell)
    found = []
    for (recipe, budget, scope, diffusion), members in groups.items():
        score = stratified([cell.samples["score"] for cell in members])
        if score is not None:
            tasks = tuple(sorted({cell.task for cell in members}))
            found.append(Tagged(recipe, members[0].role, budget, scope, diffusion, score, tasks))
    return sorted(found, key=lambda one: (one.recipe, -(one.budget or 0), one.scope, one.diffusion))
