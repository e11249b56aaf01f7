"""Runs a suite: job after job into one run folder, resumable, with what was left out and why in suite.json beside the results.

A job is left out when its data is not there, its length is beyond every recipe's reach, or its items cannot be made in that length;
never in silence. Items of one job are held at a time. Progress counts prompt tokens over all cells (a cell's cost is near to linear in
them), estimated for jobs whose items are not made yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longspan.bench.compare import Comparison, Progress
from longspan.bench.dataset import Dataset, find
from longspan.bench.endpoint import Price, Report, answer_items
from longspan.bench.grid import Plan
from longspan.bench.item import Item
from longspan.bench.results import Results, open_run
from longspan.bench.run import AWARE, answer_modes, make_items, ready, run_facts
from longspan.bench.suites import WINDOW, Job, Part, data_folder, jobs
from longspan.bench.variants import Variant, variants
from longspan.context.port import ChatModel
from longspan.engine.limits import reach
from longspan.engine.model import Model
from longspan.errors import BadInput

FILE = "suite.json"


@dataclass(frozen=True)
class Outcome:
    """folder: the run. left_out: jobs that could not run, each with its reason. endpoints: what each of them answered, failed at and cost."""

    folder: Path
    left_out: tuple[Job, ...]
    endpoints: tuple[Report, ...] = ()


@dataclass(frozen=True)
class Peers:
    """Chat endpoints that answer the items a suite makes, in the same table. concurrency: calls at a time, to each. price: of all of them."""

    models: tuple[ChatModel, ...] = ()
    concurrency: int = 8
    price: Price | None = None


def run(
    model: Model | str,
    suite: str,
    *,
    out: str | Path,
    methods: Sequence[str] = ("full",),
    budgets: Sequence[float | int | str] = (0.5, 0.25),
    data: str | None = None,
    seed: int = 0,
    samples: int | None = None,
    aware: str = "both",
    resume: bool = False,
    latency_tokens: int = 4,
    peers: Peers | None = None,
    progress: Progress | None = None,
    command: str | None = None,
) -> Outcome:
    """Measure `methods` on every job of the suite that can run here; rows go into one run folder, as compare's do.

    data: folder of the data sets, or "hub" to download; LONGSPAN_DATA when None. samples: at most this many items of each job.
    peers: endpoints that answer every item the model is to answer in words; lengths are counted in the model's tokens. Without methods the
    model lends its tokenizer alone. progress(done, total): prompt tokens over all cells. Raises BadInput, before the model is loaded, when no job's data is there.
    """
    if samples is not None and samples < 1:
        raise BadInput("samples must be at least 1.")
    if aware not in AWARE:
        raise BadInput(f"aware={aware!r} is not one of {', '.join(AWARE)}.")
    peers = peers or Peers()
    if not methods and not peers.models:
        raise BadInput("There is nothing to measure: give a method or an endpoint.")
    chosen = variants(methods, budgets) if methods else []
    planned = jobs(suite, data)
    _some(planned, suite)
    model = ready(model, chosen, out, resume)
    planned = _some(_within_reach(planned, model, chosen), suite)
    plan = Plan(chosen, AWARE[aware], latency_tokens=latency_tokens, seed=seed)
    with (
        data_folder(data) as knob,
        open_run(out, {**run_facts(model, seed, command), "suite": suite}, resume=resume) as results,
    ):
        if results.facts.get("suite") != suite:
            raise BadInput(f"{out} holds another run than the suite {suite}: choose another --out")
        reports = tuple(Report(peer.model_id, price=peers.price) for peer in peers.models)

        def answer(items: list[tuple[Item, int]], job: Job) -> None:
            for peer, report in zip(peers.models, reports, strict=True):
                answer_items(
                    [item for item, _ in items if "generate" in _modes(item, job.part)],
                    peer,
                    results,
                    concurrency=peers.concurrency,
                    cap=job.part.cap,
                    length=int(job.length),
                    report=report,
                )

        left_out = _measure(model, plan, results, planned, samples, seed, knob, answer, progress)
        _write(Path(out) / FILE, suite, samples, planned, left_out)
    return Outcome(Path(out), tuple(left_out), reports)


def _measure(
    model: Model,
    plan: Plan,
    results: Results,
    planned: Sequence[Job],
    samples: int | None,
    seed: int,
    data: str | None,
    answer: Callable[[list[tuple[Item, int]], Job], None],
    progress: Progress | None,
) -> list[Job]:
    """Make and measure job after job; returns those left out, with what making them showed."""
    left_out = []
    weights = [0 if job.reason else _weight(job, plan, samples) for job in planned]
    done = 0
    for index, job in enumerate(planned):
        if job.reason is None:
            try:
                items = _items(model, job, samples, seed, data)
            except BadInput as error:
                job = replace(job, reason=str(error))
        if job.reason is not None:
            left_out.append(job)
            weights[index] = 0
            continue

        def modes(item: Item, part: Part = job.part) -> list[str]:
            return _modes(item, part)

        capped = replace(plan, max_new_tokens=job.part.cap)
        comparison = Comparison(model, capped, results, items, modes)
        size = int(job.length)
        weights[index] = size * comparison.total

        def tell(cells: int, _: int, before: int = done, size: int = size) -> None:
            if progress is not None:
                progress(before + cells * size, sum(weights))

        comparison.run(tell)
        answer(items, job)
        done += weights[index]
    return left_out


def _modes(item: Item, part: Part) -> list[str]:
    return [mode for mode in answer_modes(item) if mode in part.modes]


def _items(
    model: Model, job: Job, samples: int | None, seed: int, data: str | None
) -> list[tuple[Item, int]]:
    knobs = {"data": data, "level": job.part.level} if isinstance(find(job.task), Dataset) else None
    count = _count(job.part, samples)
    return make_items(model, [job.task], [int(job.length)], count, seed, [job.part.haystack], knobs)


def _count(part: Part, samples: int | None) -> int | None:
    return min((n for n in (part.samples, samples) if n is not None), default=None)


def _weight(job: Job, plan: Plan, samples: int | None) -> int:
    """Prompt tokens over the job's cells, before its items are made: as if every recipe answered in every mode."""
    task = find(job.task)
    published = (task.count or 200) if isinstance(task, Dataset) else 1 << 62
    items = min(published, _count(job.part, samples) or published)
    modes = len([mode for mode in task.answer_modes if mode in job.part.modes])
    cells = sum(len(variant.question_modes(plan.aware)) for variant in plan.variants)
    return int(job.length) * items * modes * cells


def _within_reach(planned: Sequence[Job], model: Model, chosen: Sequence[Variant]) -> list[Job]:
    """Jobs with WINDOW as a number; lengths that no recipe reads are left out before their items are made."""
    trained = model.geometry.trained_window
    furthest = max((reach(model.session(variant.recipe), trained) for variant in chosen), default=1 << 62)
    found = []
    for job in planned:
        job = replace(job, length=trained if job.length == WINDOW else job.length)
        if job.reason is None and int(job.length) > furthest:
            reason = (
                f"{job.length:,} tokens are beyond the {furthest:,.0f} that the model and these methods read"
            )
            job = replace(job, reason=reason)
        found.append(job)
    return found


def _some(planned: list[Job], suite: str) -> list[Job]:
    """The jobs, when one of them can run; else BadInput with the first reason."""
    if all(job.reason for job in planned):
        reasons = list(dict.fromkeys(f"{job.task}: {job.reason}" for job in planned))
        more = f"; {len(reasons) - 1} more by longspan bench {suite} --list" if len(reasons) > 1 else ""
        raise BadInput(f"Nothing of the suite {suite} can run here. {reasons[0]}{more}")
    return planned


def _write(
    path: Path, suite: str, samples: int | None, planned: Sequence[Job], left_out: Sequence[Job]
) -> None:
    gone = {(job.task, job.length, job.part) for job in left_out}
    ran = [job.facts for job in planned if (job.task, job.length, job.part) not in gone]
    facts = {"suite": suite, "samples": samples, "ran": ran, "left_out": [job.facts for job in left_out]}
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
