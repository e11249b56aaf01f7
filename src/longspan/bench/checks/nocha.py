"""NoCha's check: the published pair accuracies again from stored replies, constant judges, and true claims against false ones by likelihood."""

import itertools
from dataclasses import replace

from longspan.bench.checks._items import mean, must_load
from longspan.bench.checks._readings import Reading, blank, readings
from longspan.bench.excerpt import excerpt
from longspan.bench.item import Item
from longspan.bench.replay import replay_nocha
from longspan.bench.scorers_claims import pair_accuracy, verdict
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.errors import BadInput

TOKENS, PAIRS = 620, 10
WORDS = ("TRUE", "FALSE")


@check(
    "nocha",
    system="nocha",
    claim="stored replies score as published; the page that a claim finds helps to tell the true claim from its false twin",
    file="src/longspan/bench/tasks/nocha.py",
)
def nocha(bench: Bench) -> Outcome:
    outcome = Outcome()
    pairs = [(f"p{i}", gold) for i in range(20) for gold in (True, False)]
    outcome.must(
        "the oracle judges every pair right", pair_accuracy((p, g, WORDS[not g]) for p, g in pairs)[0] == 1
    )
    outcome.must(
        "a constant answer judges no pair right",
        all(pair_accuracy((p, g, word) for p, g in pairs)[0] == 0 for word in WORDS),
    )
    coins = [pair_accuracy([("p", True, a), ("p", False, b)])[0] for a, b in itertools.product(WORDS, WORDS)]
    outcome.must("a coin judges a quarter of the pairs right", mean(coins) == 0.25)
    outcome.must(
        "verdicts are read out of broken tags",
        verdict("<answer>True</answer of>") is True
        and verdict("it is false.") is False
        and verdict("?") is None,
    )
    try:
        for row in replay_nocha():
            outcome.figures[f"replayed: {row.series}, {row.count} pairs"] = round(row.score, 1)
            if row.expected is not None:
                outcome.must(
                    f"{row.series} replays as published ({row.expected} %)",
                    abs(row.score - row.expected) < 0.05,
                )
    except BadInput as error:
        outcome.not_run("replay of the stored replies", str(error))
    items = must_load(outcome, ["nocha_simple"]).get("nocha_simple")
    if not items:
        outcome.not_run(
            "true against false claims by likelihood",
            "the four novels of nocha/books are not in the data folder",
        )
        return outcome
    twins: dict[str, dict[str, Item]] = {}
    for item in items:
        twins.setdefault(item.metadata["pair"], {})[item.answers[0]] = item
    chosen = [
        twins[name] for name in sorted(twins)[:: max(1, len(twins) // PAIRS)][:PAIRS] if len(twins[name]) == 2
    ]
    shown = [_claimed(bench, pair) for pair in chosen]
    rows = readings(bench, [i for pair in shown for i in pair], rank=False)["full"]
    alone = readings(bench, [blank(i) for pair in shown for i in pair], rank=False)["full"]
    with_text, without = _judged(rows), _judged(alone)
    outcome.figures |= {
        "pairs judged by likelihood (chance 0.50)": len(chosen),
        "true claim likelier: with its page, without": f"{with_text[0]:.2f}, {without[0]:.2f}",
        "true minus false, nats: with its page, without": f"{with_text[1]:+.2f}, {without[1]:+.2f}",
    }
    outcome.shows(
        f"the page helps to tell the true claim ({with_text[1]:+.2f} against {without[1]:+.2f} nats without)",
        with_text[1] > without[1],
    )
    outcome.shows(
        f"with the page it is told more often than by a coin ({with_text[0]:.2f})", with_text[0] > 0.5
    )
    return outcome


def _claimed(bench: Bench, pair: dict[str, Item]) -> tuple[Item, Item]:
    """True and false claim as replies after one page, which both claims' words together find."""
    tokenizer = bench.model().tokenizer
    claims = [_claim(pair[word]) for word in WORDS]
    page = excerpt(replace(pair["TRUE"], question=" ".join(claims)), TOKENS, tokenizer)
    first, second = (
        replace(
            page,
            id=f"{page.id}-{word}",
            question="What is true of the book?",
            answer_prefix="It is true that",
            metadata={**page.metadata, "gold_text": claim},
        )
        for word, claim in zip(WORDS, claims, strict=True)
    )
    return first, second


def _claim(item: Item) -> str:
    return item.question.partition("<statement>")[2].partition("</statement>")[0].strip()


def _judged(rows: list[Reading]) -> tuple[float, float]:
    """(share of pairs whose true claim is likelier a token, mean difference in nats a token)."""
    margins = [a.gold / a.tokens - b.gold / b.tokens for a, b in zip(rows[::2], rows[1::2], strict=True)]
    return mean([float(m > 0) for m in margins]), mean(margins)
