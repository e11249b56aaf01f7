"""M4LE's check: gold places in turn, no shortcut by place, and a bound topic against a continuation on a small model."""

from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import margin, ranked, readings
from longspan.bench.item import Item
from longspan.bench.task import get_task
from longspan.bench.tasks.m4le_generators import gold_index
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check


def last_told(item: Item) -> float:
    """Whether the candidate told last in the context is right (the last line of key_topic is the worked example, so the one before)."""
    order = sorted((item.context.rfind(c), c) for c in item.candidates or ())
    last = order[-2] if item.task == "m4le_key_topic" else order[-1]
    return float(last[1] in item.answers)


@check(
    "m4le",
    system="m4le",
    claim="a topic bound to a key is found and gets harder with more keys; the paragraph that continues another is near chance for a small model",
    file="src/longspan/bench/tasks/m4le_generators.py",
)
def m4le(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    made = must_generate(outcome, tokenizer, ["m4le_continuation", "m4le_key_topic"])
    outcome.must(
        "gold places go 0, 4, 9, 14 in turn and round",
        [gold_index(i, 16) for i in range(5)] == [0, 4, 9, 14, 0],
    )
    outcome.must(
        "from 200 candidates on the step is ten", [gold_index(i, 200) for i in range(3)] == [0, 9, 19]
    )
    for name, items in made.items():
        outcome.must(
            f"{name}: the last candidate is right no more often than its turn",
            mean([last_told(i) for i in items]) <= 0.25,
        )
        seen = [i.context.count(i.answers[0]) for i in items]
        outcome.must(f"{name}: the answer stands in the text once", set(seen) == {1})

    def keys(tokens: int, n: int = 8) -> list[Item]:
        return get_task("m4le_key_topic").make(n, tokens, tokenizer, SEED, reserve=False, words=6)

    few, many = keys(260), keys(760)
    near, far = readings(bench, few)["full"], readings(bench, many)["full"]
    right = ranked(outcome, f"key_topic, {len(few[0].candidates or ())} keys", near, few)
    ranked(outcome, f"key_topic, {len(many[0].candidates or ())} keys", far, many)
    outcome.shows(
        f"a bound topic is found above chance ({right:.2f})", right > mean([i.chance or 0 for i in few])
    )
    outcome.shows(
        f"more keys are harder ({margin(near):.2f} then {margin(far):.2f} nats)", margin(far) < margin(near)
    )
    follow = get_task("m4le_continuation").make(8, 620, tokenizer, SEED, reserve=False)
    found = ranked(outcome, "continuation", readings(bench, follow)["full"], follow)
    chance = mean([i.chance or 0 for i in follow])
    outcome.shows(
        f"continuation is within 0.25 of chance, the negative control ({found:.2f}, {chance:.2f})",
        abs(found - chance) <= 0.25,
    )
    return outcome
