"""Ada-LEval's check: TSort's odds and parsing, BestAnswer's designations, and the order of two segments by likelihood."""

import torch

from longspan.bench.checks._items import SEED, mean, must_generate, must_load, rows
from longspan.bench.haystacks import open_haystack
from longspan.bench.scorers import score
from longspan.bench.scorers_lists import designation
from longspan.bench.task import get_task
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.needs import Needs

SEGMENT, PAIRS, NARROW = 128, 12, "window(budget=32, when=chunk)"
THREADS = [
    {
        "question_id": i,
        "question": f"How do I sort by {k}?",
        "all_answers": [f"Use {a}." for a in range(13)],
        "answer": f"A{i + 1}",
        "tags": ["python"],
    }
    for i, k in enumerate(("name", "age", "size"))
]


def nats(bench: Bench, ids: torch.Tensor, recipe: str) -> float:
    """Negative log-likelihood of a text read under a recipe, without its first token."""
    session = bench.model().session(recipe, collect=Needs(token_logprobs=True), chunk=16).read(ids)
    return -float(session.token_logprobs()[1:].sum())


@check(
    "ada-leval",
    system="ada-leval",
    claim="the true order of two segments of a text is the likelier one, as long as the model sees across the border",
    file="src/longspan/bench/tasks/ada_leval.py",
)
def ada_leval(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    items = must_generate(outcome, tokenizer, ["tsort"])["tsort"]
    outcome.must(
        "one of the 24 orders is right",
        all(abs(mean([score(i, c) for c in i.candidates or ()]) - 1 / 24) < 1e-9 for i in items),
    )
    outcome.must(
        "a list that is too short is wrong", all(score(i, i.answers[0][:-4] + "]") == 0 for i in items)
    )
    drawn = get_task("tsort").make(2, 2048, tokenizer, SEED)
    outcome.must("the four parts in gold order are the running text", all(_in_order(item) for item in drawn))
    outcome.must(
        "A12 is not A1", designation("the best is A12", 13) == "A12" and designation("A1 is", 13) == "A1"
    )
    with rows({f"stackselect_{level}.json": THREADS for level in ("1k",)}) as folder:
        must_load(outcome, ["ada_leval_best_answer"], folder, what=" of BestAnswer's schema")
    found: dict[str, list[float]] = {"full": [], NARROW: []}
    for window in range(PAIRS):
        ids = bench.passage(2 * SEGMENT, 3 * window)
        swapped = torch.cat((ids[SEGMENT:], ids[:SEGMENT]))
        for recipe, margins in found.items():
            margins.append(nats(bench, swapped, recipe) - nats(bench, ids, recipe))
    share = {recipe: mean([float(m > 0) for m in margins]) for recipe, margins in found.items()}
    for recipe, margins in found.items():
        outcome.figures[
            f"two segments of {SEGMENT} tokens, {recipe}: right order likelier, margin in nats"
        ] = f"{share[recipe]:.2f}, {mean(margins):+.1f}"
    outcome.shows(
        f"the true order is likelier in more than half of the pairs ({share['full']:.2f})",
        share["full"] > 0.5,
    )
    outcome.shows(
        f"the margin shrinks when the model sees less than a segment ({mean(found['full']):.1f} then {mean(found[NARROW]):.1f} nats)",
        mean(found[NARROW]) < mean(found["full"]),
    )
    return outcome


def _in_order(item) -> bool:
    """The parts named by the gold list, first to last, stand in this order in the haystack."""
    book = " ".join("".join(open_haystack("prose").units).split())
    texts = [" ".join(item.context[a:b].split()) for a, b in item.evidence]
    order = [int(n) for n in item.answers[0].strip("[]").split(",")]
    places = [book.find(texts[n - 1]) for n in order]
    return -1 not in places and places == sorted(places)
