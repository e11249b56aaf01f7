"""HoloBench's check: gold under placement and padding, more information more evidence, and what costs a small model more: amount or length."""

from longspan.bench.checks._items import SEED, must_generate
from longspan.bench.checks._readings import margin, ranked, readings
from longspan.bench.item import Item
from longspan.bench.task import get_task
from longspan.bench.tasks.holobench import KINDS, STRATEGIES
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check


@check(
    "holobench",
    system="holobench",
    claim="questions over tables told as sentences: the amount of relevant text costs more than length, and a maximum is easier than a count",
    file="src/longspan/bench/tasks/holobench.py",
)
def holobench(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    must_generate(outcome, tokenizer, [f"holobench_{kind}" for kind in KINDS])

    def one(kind: str, tokens: int = 1024, n: int = 1, **knobs) -> list[Item]:
        return get_task(f"holobench_{kind}").make(n, tokens, tokenizer, SEED, reserve=False, **knobs)

    placed = {kind: {one(kind, strategy=s)[0].answers for s in STRATEGIES} for kind in KINDS}
    outcome.must(
        "gold does not depend on where the rows stand", all(len(golds) == 1 for golds in placed.values())
    )
    shares = (0.2, 0.5, 0.9)
    spans = [len(one("count", 2048, info_share=s)[0].evidence) for s in shares]
    outcome.must("more information, more rows to read", spans == sorted(set(spans)))
    padded = [_rows(one("sum", t, info_share=s)[0]) for t, s in ((600, 0.9), (1050, 0.5))]
    outcome.figures["rows that answer"] = f"{spans} at info shares {shares}"
    outcome.must(
        "padding with another table leaves the queried rows as they were",
        set(padded[0]) <= set(padded[1]) or set(padded[1]) <= set(padded[0]),
    )
    found = {}
    for what, tokens, share in (
        ("short, little", 300, 0.34),
        ("longer, little", 620, 0.16),
        ("longer, much", 620, 1.0),
    ):
        items = [i for kind in ("max", "count") for i in one(kind, tokens, 6, info_share=share, candidates=4)]
        rows = readings(bench, items)["full"]
        found[what] = margin(rows)
        ranked(
            outcome,
            f"max and count, {what} ({items[0].metadata['main_rows']} rows in {tokens} tokens)",
            rows,
            items,
        )
        outcome.figures[f"{what}: margin of max, of count"] = (
            f"{margin(rows[:6]):+.2f}, {margin(rows[6:]):+.2f}"
        )
    length = found["short, little"] - found["longer, little"]
    amount = found["longer, little"] - found["longer, much"]
    outcome.figures["margin lost to length, to amount, nats"] = f"{length:.2f}, {amount:.2f}"
    outcome.shows(
        f"more relevant rows cost more than more length ({amount:.2f} against {length:.2f} nats)",
        amount > length,
    )
    look = one("lookup", 300, 8, candidates=4)
    rows = readings(bench, look)["full"]
    near = ranked(outcome, "lookup of one row", rows, look)
    outcome.shows(f"looking up one row is above chance ({near:.2f})", near > 0.25)
    return outcome


def _rows(item: Item) -> list[str]:
    return [line for line in item.context.split("\n") if "earns" in line]
