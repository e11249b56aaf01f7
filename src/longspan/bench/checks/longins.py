"""LongIns' check: the marking exam's scores of constant answerers, and a small model's probe of every problem."""

from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import ranked, readings, shows_help
from longspan.bench.scorers import score
from longspan.bench.task import get_task
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

MODES = ("longins_gist", "longins_list", "longins_limt")


def all_of(item) -> str:
    """The reply that calls every answer wrong."""
    return " ".join(f"[{i + 1}]" for i in range(item.metadata["problems"]))


@check(
    "longins",
    system="longins",
    claim="every problem must be read: calling all answers wrong scores exactly 2p / (1 + p), and a small model is not far from chance",
    file="src/longspan/bench/tasks/longins.py",
)
def longins(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    made = must_generate(outcome, tokenizer, MODES)
    items = [item for group in made.values() for item in group]
    outcome.must(
        "calling all answers wrong scores 2p / (1 + p)",
        all(abs(score(item, all_of(item)) - item.metadata["all_wrong_f1"]) < 1e-9 for item in items),
    )
    share = [len(item.answers) / item.metadata["problems"] for item in items]
    outcome.figures["share of wrong answers"] = round(mean(share), 3)
    outcome.figures["score of calling all wrong"] = round(mean([score(i, all_of(i)) for i in items]), 3)
    outcome.must(
        "at least one and at most 30 % of the answers are wrong",
        all(s > 0 and s <= max(0.3, 1 / i.metadata["problems"]) for s, i in zip(share, items, strict=True)),
    )
    outcome.must("every problem is evidence", all(len(i.evidence) == i.metadata["problems"] for i in items))
    for name in ("longins_list", "longins_gist"):
        probe = get_task(name).make(10, 300, tokenizer, SEED, reserve=False)
        found = ranked(outcome, f"{name}: which one is wrong", readings(bench, probe)["full"], probe)
        chance = mean([i.chance or 0 for i in probe])
        outcome.shows(
            f"{name}: a model of this size stays within 0.3 of chance ({found:.2f}, {chance:.2f})",
            abs(found - chance) <= 0.3,
        )
    shows_help(
        outcome,
        bench,
        get_task("longins_list").make(6, 300, tokenizer, SEED, reserve=False),
        "list of the wrong numbers",
    )
    return outcome
