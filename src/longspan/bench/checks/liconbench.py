"""LIConBench's check: constant answerers, the order knob, rounds of demonstrations, and what dropping the oldest ones loses."""

import itertools

from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import kept, margin, ranked, readings
from longspan.bench.item import Item
from longspan.bench.task import get_task
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check


def last_label(item: Item) -> float:
    return float(item.metadata["shown"][-1] in item.answers)


def recency(best: list[str | None], items: list[Item]) -> float:
    """Mean place, 0 (first) to 1 (last), of the last demonstration of the label that was chosen."""
    places = []
    for label, item in zip(best, items, strict=True):
        shown = item.metadata["shown"]
        last = max(i for i, name in enumerate(shown) if name == label)
        places.append(last / (len(shown) - 1))
    return mean(places)


@check(
    "liconbench",
    system="liconbench",
    claim="many-shot classification uses the demonstrations, more rounds help, and a policy that drops the oldest loses their labels",
    file="src/longspan/bench/tasks/icl.py",
)
def liconbench(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    must_generate(outcome, tokenizer, ("icl_nonce", "icl_fewnerd"))

    def shots(n: int, tokens: int, **knobs) -> list[Item]:
        return get_task("icl_nonce").make(
            n, tokens, tokenizer, SEED, reserve=False, classes=4, candidates=4, **knobs
        )

    many = shots(60, 400)
    constant = mean([last_label(item) for item in many])
    outcome.figures["answering the last label shown"] = round(constant, 2)
    outcome.must("the last label shown is right for about one item in four classes", 0.1 <= constant <= 0.4)
    cycled, grouped = shots(2, 600, order="cycled"), shots(2, 600, order="grouped")
    outcome.must(
        "cycled demonstrations repeat the same order",
        all(i.metadata["shown"][:4] == i.metadata["shown"][4:8] for i in cycled),
    )
    outcome.must(
        "grouped demonstrations keep a class together", all(_together(i.metadata["shown"]) for i in grouped)
    )
    few, more = shots(10, 230), shots(10, 640)
    outcome.figures["demonstrations"] = (
        f"{len(few[0].metadata['shown'])} and {len(more[0].metadata['shown'])}"
    )
    short, long = readings(bench, few)["full"], readings(bench, more)["full"]
    ranked(outcome, "few rounds", short, few)
    right = ranked(outcome, "more rounds", long, more)
    outcome.figures["place of the chosen label's last demonstration (1 = the last)"] = round(
        recency([r.best for r in long], more), 2
    )
    outcome.shows(f"more rounds are above chance ({right:.2f})", right > 0.25)
    outcome.shows(
        f"more rounds help ({margin(short):.2f} then {margin(long):.2f} nats)", margin(long) > margin(short)
    )
    early = [
        i
        for i in shots(24, 420, order="grouped")
        if i.metadata["shown"].index(i.answers[0]) < len(i.metadata["shown"]) / 2
    ][:8]
    table = readings(bench, early, ("full", "window(budget=0.5)"))
    lost, whole = table["window(budget=0.5)"], table["full"]
    ranked(outcome, "labels shown early, whole text", whole, early)
    ranked(outcome, "labels shown early, newest half", lost, early)
    outcome.figures["evidence kept by the newest half"] = round(kept(lost), 2)
    outcome.shows(
        f"dropping the oldest half loses labels shown early ({margin(whole):.2f} then {margin(lost):.2f} nats)",
        margin(lost) < margin(whole),
    )
    return outcome


def _together(shown: list[str]) -> bool:
    return sum(a != b for a, b in itertools.pairwise(shown)) == len(set(shown)) - 1
