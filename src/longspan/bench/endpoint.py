"""Any OpenAI-compatible chat endpoint as the answerer of benchmark items, so that hosted models stand in the same table.

Calls run concurrently, with the retries of `context.backends.endpoint`; every result is written to the run folder as it arrives, so a
killed run goes on where it stopped. An item that failed after its retries is written with its error and no score: it is listed, asked
again by the next resume, and never counted as wrong. The cost line is made from the usage the server reports.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from longspan.bench.item import Item
from longspan.bench.results import Results, cell_id
from longspan.bench.scorers import score
from longspan.context.port import ChatModel, Completion, Message, PortError, Usage
from longspan.errors import BadInput

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Price:
    """Per million tokens, in `currency`; cached prompt tokens cost `cached` when it is given."""

    prompt: float
    reply: float
    cached: float | None = None
    currency: str = "USD"

    @staticmethod
    def parse(text: str) -> "Price":
        """PROMPT,REPLY or PROMPT,REPLY,CACHED, per million tokens."""
        try:
            parts = [float(part) for part in text.split(",")]
            assert len(parts) in (2, 3) and min(parts) >= 0
        except (ValueError, AssertionError):
            raise BadInput(
                f"price {text!r} is not PROMPT,REPLY or PROMPT,REPLY,CACHED, each per million tokens."
            ) from None
        return Price(*parts)

    def of(self, usage: Usage) -> float:
        cached = usage.cached_tokens if self.cached is not None else 0
        prompt = (usage.prompt_tokens - cached) * self.prompt + cached * (self.cached or 0.0)
        return (prompt + usage.completion_tokens * self.reply) / 1e6


@dataclass(frozen=True)
class Failure:
    item: str
    task: str
    error: str
    attempts: int


@dataclass
class Report:
    """`scores` by item id, of answered items only; `failures` are the items without a reply; `skipped` were answered before."""

    model: str
    scores: dict[str, float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    skipped: int = 0
    usage: Usage = field(default_factory=Usage)
    calls: int = 0
    seconds: float = 0.0
    price: Price | None = None

    @property
    def mean(self) -> float | None:
        """Mean score of the answered items; None when there is none."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else None

    @property
    def cost_line(self) -> str:
        """One sentence: what was asked, what it took, what it cost, what failed."""
        usage = self.usage
        cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
        money = f", {self.price.of(usage):.4f} {self.price.currency}" if self.price else ""
        failed = (
            f", {len(self.failures)} failed: {', '.join(f.item for f in self.failures[:5])}"
            if self.failures
            else ""
        )
        more = ", ..." if len(self.failures) > 5 else ""
        before = f", {self.skipped} answered before" if self.skipped else ""
        return (
            f"{self.model}: {len(self.scores)} items answered{before}, {self.calls} calls, {usage.prompt_tokens} prompt tokens{cached}, "
            f"{usage.completion_tokens} reply tokens, {self.seconds:.1f} s{money}{failed}{more}"
        )


def messages_of(item: Item, system: str = "") -> list[Message]:
    """The item as chat messages. An endpoint cannot be given the start of its own reply, so the answer prefix is the last line of
    the user's text."""
    text = item.user_text + (f"\n{item.answer_prefix}" if item.answer_prefix else "")
    head = [Message("system", system)] if system else []
    return [*head, Message("user", text)]


def item_cell(item: Item, model: str, system: str, temperature: float, seed: int | None) -> str:
    """Stable id of one item's measurement: model, settings and the prompt itself."""
    prompt = hashlib.sha256((system + "\x1f" + item.user_text + item.answer_prefix).encode()).hexdigest()
    return cell_id(
        model=model, item=item.id, prompt=prompt, temperature=temperature, seed=seed, mode="generate"
    )


def answer_items(
    items: Iterable[Item],
    model: ChatModel,
    results: Results,
    *,
    concurrency: int = 8,
    system: str = "",
    temperature: float = 0.0,
    seed: int | None = None,
    price: Price | None = None,
    cap: int | None = None,
    length: int | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> Report:
    """Ask `model` every item that `results` does not hold yet, at most `concurrency` at a time, and write a row each.

    cap: most tokens of a reply, where that is less than the item's own. length: that the items were made for, in tokens. report: to add to.
    Items that raise a `PortError` become failures. Anything else that goes wrong stops the run and keeps what was written.
    """
    todo: list[tuple[Item, str]] = []
    report = report if report is not None else Report(model.model_id, price=price)
    for item in items:
        cell = item_cell(item, model.model_id, system, temperature, seed)
        if cell in results.finished:
            report.skipped += 1
        else:
            todo.append((item, cell))
    started = time.monotonic()

    def ask(item: Item) -> Completion:
        return model.complete(
            messages_of(item, system),
            stop=item.stop,
            max_tokens=min(item.max_new_tokens, cap or item.max_new_tokens),
            temperature=temperature,
            seed=seed,
        )

    with ThreadPoolExecutor(max(1, concurrency)) as pool:
        waiting = iter(todo)
        running: dict[Future[Completion], tuple[Item, str]] = {}
        for item, cell in islice(waiting, max(1, concurrency)):
            running[pool.submit(ask, item)] = (item, cell)
        done = 0
        while running:
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                item, cell = running.pop(future)
                try:
                    _record(report, results, _row(item, model.model_id, length), item, cell, future)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                done += 1
                if progress is not None:
                    progress(done, len(todo))
                for following, name in islice(waiting, 1):
                    running[pool.submit(ask, following)] = (following, name)
    report.seconds += time.monotonic() - started
    return report


def _row(item: Item, model: str, length: int | None) -> dict[str, Any]:
    return {
        "recipe": f"endpoint:{model}",
        "method": model,
        "role": "method",
        "task": item.task,
        "haystack": item.haystack,
        "length": length or item.metadata.get("target_tokens"),
        "depth": item.depth,
        "sample": item.metadata.get("index"),
        "seed": item.seed,
        "cluster": _text(item.metadata.get("cluster")),
        "answer_mode": "generate",
        "gold": list(item.answers),
        "tags": dict(item.tags),
    }


def _record(
    report: Report,
    results: Results,
    row: dict[str, Any],
    item: Item,
    cell: str,
    future: "Future[Completion]",
) -> None:
    try:
        completion = future.result()
    except PortError as error:
        report.usage += error.usage
        report.calls += error.attempts
        report.failures.append(Failure(item.id, item.task, str(error), error.attempts))
        # another cell id than an answer's, so that a resumed run asks again and both rows can stand in one file
        failed = cell_id(of=cell, failed=len(results.finished))
        results.append(
            {**row, "cell": failed, "of": cell, "score": None, "answer": None, "error": str(error)}
        )
        return
    report.usage += completion.usage
    report.calls += completion.attempts
    value, wrong = None, None
    try:
        value = report.scores[item.id] = score(item, completion.text)
    except BadInput as error:  # the scorer needs a package that is not there: listed, never counted as wrong
        wrong = str(error)
        report.failures.append(Failure(item.id, item.task, wrong, completion.attempts))
    results.append(
        {
            **row,
            "cell": cell,
            "score": value,
            "answer": completion.text,
            "context_tokens": completion.usage.prompt_tokens or None,
            "new_tokens": completion.usage.completion_tokens or None,
            "finish_reason": completion.finish_reason,
            "error": wrong,
        }
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """The reports as data, for a run's facts."""
    return {
        report.model: {
            "mean": report.mean,
            "answered": len(report.scores),
            "failed": [asdict(failure) for failure in report.failures],
            "usage": asdict(report.usage),
            "seconds": round(report.seconds, 3),
        }
        for report in reports
    }
