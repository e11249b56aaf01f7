"""MIR-Bench's check: the hidden functions as oracle, copying answerers as floor, shots, and eviction of a substitution table."""

from collections import Counter

from longspan.bench.checks._items import SEED, mean, must_generate
from longspan.bench.checks._readings import kept, margin, nats, ranked, readings
from longspan.bench.item import Item
from longspan.bench.scorers import score
from longspan.bench.task import get_task
from longspan.bench.tasks.mirbench import FUNCTIONS
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

STATELESS = {
    "reverse": lambda x: x[::-1],
    "sort": lambda x: " ".join(sorted(x.split())),
    "maximum": lambda x: max(x.split()),
}


def shown(item: Item) -> list[tuple[str, str]]:
    """The input-output pairs of the context."""
    pairs = [text.split("\nOutput: ") for text in item.evidence_text()]
    return [(a.removeprefix("Input: "), b) for a, b in pairs]


def asked(item: Item) -> str:
    return item.question.rsplit("Input: ", 1)[1]


def countable(item: Item) -> bool:
    """Whether every letter of the test input stands in a shown input (what a substitution table needs)."""
    return set(asked(item)) <= set("".join(x for x, _ in shown(item)))


@check(
    "mir-bench",
    system="mir-bench",
    claim="hidden functions are induced from pairs: more shots make the output likelier, and evicting shots takes that back",
    file="src/longspan/bench/tasks/mirbench.py",
)
def mir_bench(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    made = must_generate(outcome, tokenizer, ["mirbench"], n=16)["mirbench"]
    outcome.must(
        "the functions without a secret, applied again, give the gold",
        all(
            STATELESS[i.metadata["function"]](asked(i)) == i.answers[0]
            for i in made
            if i.metadata["function"] in STATELESS
        ),
    )
    last = mean([score(i, shown(i)[-1][1]) for i in made])
    common = mean([score(i, Counter(y for _, y in shown(i)).most_common(1)[0][0]) for i in made])
    outcome.figures |= {
        "functions": len(FUNCTIONS),
        "copying the last output": round(last, 2),
        "the commonest output": round(common, 2),
    }
    outcome.must("copying answerers stay far below the oracle", max(last, common) <= 0.5)
    clean, wrong = (
        get_task("mirbench").make(1, 1024, tokenizer, SEED, family="reverse", error_rate=rate)[0]
        for rate in (0.0, 0.4)
    )
    off = mean([float(x[::-1] != y) for x, y in shown(wrong)])
    outcome.figures["wrong shots at an error rate of 0.4"] = round(off, 2)
    outcome.must(
        "wrong shots appear at about the rate asked for, and none without",
        0.2 <= off <= 0.6 and all(x[::-1] == y for x, y in shown(clean)),
    )

    def shots(n: int, tokens: int, family: str) -> list[Item]:
        return get_task("mirbench").make(
            n, tokens, tokenizer, SEED, reserve=False, family=family, candidates=4
        )

    few, many = (
        [i for f in ("reverse", "sort", "substitute", "maximum") for i in shots(3, t, f)] for t in (170, 460)
    )
    outcome.figures["shots"] = (
        f"{mean([i.metadata['shots'] for i in few]):.0f} and {mean([i.metadata['shots'] for i in many]):.0f} on average"
    )
    short, long = readings(bench, few)["full"], readings(bench, many)["full"]
    ranked(outcome, "few shots", short, few)
    ranked(outcome, "more shots", long, many)
    outcome.shows(
        f"more shots make the output likelier ({nats(short):.2f} then {nats(long):.2f} nats a token)",
        nats(long) < nats(short),
    )
    table = shots(6, 420, "substitute")
    outcome.figures["substitution items whose letters were all shown"] = (
        f"{sum(map(countable, table))} of {len(table)}"
    )
    cut = readings(bench, table, ("full", "random(budget=0.25)"))
    whole, some = cut["full"], cut["random(budget=0.25)"]
    outcome.figures["evidence kept at a quarter"] = round(kept(some), 2)
    outcome.shows(
        f"evicting three quarters of the table costs margin ({margin(whole):.2f} then {margin(some):.2f} nats)",
        margin(some) < margin(whole),
    )
    return outcome
