"""LongBioBench's check: ten tasks at their documented scores, the density knob by its blind reader, and a small model's fall with length."""

import re

from longspan.bench.biographies import STANDARD
from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import margin, nats, ranked, readings
from longspan.bench.item import Item
from longspan.bench.task import all_tasks, get_task
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check


def first_value(item: Item) -> bool:
    """Whether the first value of the asked kind in the context is right: a reader that looks for the kind and not for the person."""
    told = re.escape(STANDARD[item.metadata["field"]]).replace(r"\{n\}", "[^.]+?").replace(r"\{v\}", "(.+?)")
    found = re.search(told, item.context)
    return found is not None and found[1] in item.rank_golds


@check(
    "longbiobench",
    system="longbiobench",
    claim="facts among biographies of the same kind: likelier to be found among few than among many, easier as told than paraphrased",
    file="src/longspan/bench/tasks/longbiobench.py",
)
def longbiobench(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    made = must_generate(outcome, tokenizer, [name for name in all_tasks() if name.startswith("bio_")])
    pairs = made["bio_idk"]
    outcome.must(
        "idk comes in pairs: the fact stated, then deleted",
        all(
            a.metadata["pair"] == b.metadata["pair"] and a.answers != b.answers
            for a, b in zip(pairs[::2], pairs[1::2], strict=True)
        ),
    )

    def few(name: str, n: int, tokens: int, **knobs):
        return get_task(name).make(n, tokens, tokenizer, SEED, reserve=False, candidates=4, **knobs)

    share = {}
    for density in (0.0, 1.0):
        items = few("bio_standard", 24, 1500, density=density)
        share[density] = mean([first_value(item) for item in items])
        outcome.figures[f"first value of the kind, density {density:g}"] = round(share[density], 2)
    outcome.must(
        "when only the person asked about has the fact, the first value is always right", share[0.0] == 1
    )
    outcome.must("when all have it, the first value is right by chance only", share[1.0] <= 0.5)
    short, long, told = (
        few("bio_standard", 8, 420),
        few("bio_standard", 8, 900),
        few("bio_paraphrase", 8, 420),
    )
    outcome.figures["biographies"] = (
        f"{short[0].metadata['biographies']} and {long[0].metadata['biographies']}"
    )
    near, far, said = (readings(bench, items)["full"] for items in (short, long, told))
    right = ranked(outcome, "standard, few biographies", near, short)
    ranked(outcome, "standard, more biographies", far, long)
    ranked(outcome, "paraphrased, few biographies", said, told)
    outcome.shows(
        f"standard look-ups are above chance ({right:.2f})", right > mean([i.chance or 0 for i in short])
    )
    outcome.shows(
        f"more biographies make it harder ({margin(near):.2f} then {margin(far):.2f} nats)",
        margin(far) < margin(near),
    )
    outcome.shows(
        f"a paraphrase makes the gold less likely ({nats(near):.2f} then {nats(said):.2f} nats a token)",
        nats(near) < nats(said),
    )
    return outcome
