"""Shared by the checks of benchmarks, without a model: what must hold for the items of every generator and data set.

`must_generate` states for a generator: same seed, same text in another process; a length within one unit below the target; evidence spans that
hold what they say; oracle, empty, blind and truncated answerers at their documented scores. `must_load` states the answerers' scores for a
data set, over the rows of a folder. `rows` writes rows in a benchmark's true schema for sets whose data cannot be had.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from longspan.bench import answerers
from longspan.bench.dataset import get_dataset
from longspan.bench.item import Item
from longspan.bench.lengths import Budget, count_tokens
from longspan.bench.reproduce import SEED, digest, elsewhere
from longspan.bench.scorers import score
from longspan.bench.task import get_task
from longspan.bench.verify import Outcome
from longspan.errors import BadInput


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def must_generate(
    outcome: Outcome,
    tokenizer: Any,
    plans: Mapping[str, Mapping[str, Any]] | Sequence[str],
    *,
    tokens: int = 1024,
    n: int = 8,
) -> dict[str, list[Item]]:
    """State the properties above for tasks (name -> knobs) and return their items, made for `tokenizer`.

    A task whose data is missing is named as not run.
    """
    known = dict(plans) if isinstance(plans, Mapping) else {name: {} for name in plans}
    for name in [name for name in known if get_task(name).missing()]:
        outcome.not_run(f"items of {name}", str(get_task(name).missing()))
        del known[name]
    made = {
        name: get_task(name).make(n, max(tokens, get_task(name).min_tokens), tokenizer, SEED, **knobs)
        for name, knobs in known.items()
    }
    if not made:
        return made
    outcome.figures["generators"] = len(made)
    outcome.must(
        "same seed, same text in another process",
        elsewhere(list(known.items()), tokens, 2) == digest(list(known.items()), tokens, 2),
    )
    items = [item for group in made.values() for item in group]
    outcome.must(
        "every item is at most as long as asked, and one unit more would be too long",
        all(map(_fits(tokenizer), items)),
    )
    outcome.must(
        "every evidence span holds whole text of the context, once where it is unique", all(map(_told, items))
    )
    for what, answer in answerers.ANSWERERS.items():
        means = {name: mean([score(i, answer(i)) for i in group]) for name, group in made.items()}
        outcome.must(f"{what} answerer at its documented score: {_span(means)}", _documented(what, means))
    _must_truncate(outcome, made, tokenizer)
    return made


def _fits(tokenizer: Any) -> Callable[[Item], bool]:
    def fits(item: Item) -> bool:
        target, more = item.metadata["target_tokens"], item.metadata["tokens_one_more"]
        used = Budget(target, tokenizer).used(item)
        return used == item.metadata["tokens"] <= target and (more is None or more > target)

    return fits


def _told(item: Item) -> bool:
    texts = item.evidence_text()
    once = get_task(item.task).verbatim
    return all(t.strip() == t and t and (not once or item.context.count(t) == 1) for t in texts)


def _documented(what: str, means: Mapping[str, float]) -> bool:
    tasks = [(get_task(name), value) for name, value in means.items()]
    if what == "oracle":
        return all(abs(value - task.ceiling) < 1e-6 for task, value in tasks)
    if what == "empty":
        return all(abs(value - task.floor) < 1e-6 for task, value in tasks)
    return all(task.blind is None or value <= task.blind for task, value in tasks)


def _must_truncate(outcome: Outcome, made: Mapping[str, list[Item]], tokenizer: Any) -> None:
    """The oracle with a window: nothing from none, everything from the whole text, never less from a longer one."""
    rising = True
    shares = []
    for group in made.values():
        for item in group[:2]:
            if not item.evidence:
                continue
            whole = count_tokens(tokenizer, item.context)
            windows = [0, whole // 4, whole // 2, 2 * whole]
            scores = [score(item, answerers.truncated(item, w, tokenizer)) for w in windows]
            rising &= scores == sorted(scores) and scores[-1] == get_task(item.task).ceiling
            shares.append(scores[2])
    if shares:
        outcome.figures["oracle that sees the last half, mean score"] = round(mean(shares), 3)
        outcome.must(
            "an oracle with a window scores from nothing up to the ceiling as the window grows", rising
        )


def _span(means: Mapping[str, float]) -> str:
    low, high = min(means.values()), max(means.values())
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"


def must_load(
    outcome: Outcome, names: Sequence[str], data: str | Path | None = None, *, what: str = ""
) -> dict[str, list[Item]]:
    """State that the oracle and an empty reply have their documented scores over the rows of data sets, and return the items.

    `data`: a folder; without it LONGSPAN_DATA, and sets that are not there are named as not run.
    """
    found, oracle, empty = {}, True, True
    for name in names:
        dataset = get_dataset(name)
        if reason := dataset.missing(data):
            outcome.not_run(f"rows of {name}", reason)
            continue
        found[name] = items = dataset.load(data)
        oracle &= abs(mean([score(i, answerers.oracle(i)) for i in items]) - dataset.ceiling) < 1e-6
        empty &= abs(mean([score(i, "") for i in items]) - dataset.floor) < 1e-6
    if found:
        count = sum(map(len, found.values()))
        outcome.figures[f"items loaded{what}"] = f"{count} of {len(found)} sets"
        outcome.must(f"oracle at the ceiling on every set{what}", oracle)
        outcome.must(f"an empty reply at the floor on every set{what}", empty)
    return found


@contextmanager
def rows(files: Mapping[str, Any]) -> Iterator[Path]:
    """A folder with one file a name, for the length of a check: a list becomes JSON lines (a JSON list for .json), text is text."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                text = content
            elif isinstance(content, list) and path.suffix != ".json":
                text = "\n".join(json.dumps(row, ensure_ascii=False) for row in content)
            else:
                text = json.dumps(content, ensure_ascii=False)
            path.write_text(text, encoding="utf-8")
        yield Path(folder)


def refused(call: Callable[[], Any]) -> bool:
    """Whether `call` is refused in a sentence."""
    try:
        call()
    except BadInput:
        return True
    return False
