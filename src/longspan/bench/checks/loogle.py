"""LooGLE's check: exact scorers, evidence found in the real sample, and evidence kept or lost by a cache policy."""

from longspan.bench.checks._items import mean, must_load
from longspan.bench.checks._readings import kept, readings, shows_help
from longspan.bench.scorers import score
from longspan.bench.scorers_loogle import bleu, deviation, order_deviation, rouge_recall
from longspan.bench.tasks.loogle import cloze_micro
from longspan.bench.testbed import Bench
from longspan.bench.truncation import Truncation
from longspan.bench.verify import Outcome, check

TOKENS, ITEMS = 520, 8
SETS = ("loogle_shortdep_qa", "loogle_longdep_qa", "loogle_shortdep_cloze", "loogle_longdep_summarization")
POLICIES = ("snapkv(budget=0.25)", "random(budget=0.25)")


@check(
    "loogle",
    system="loogle",
    claim="answers come from the quoted evidence: it makes them likelier, and a policy that reads the question keeps more of it",
    file="src/longspan/bench/tasks/loogle.py",
)
def loogle(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    figures = [order_deviation("4 3 2 1", "1 2 3 4", kind) for kind in ("LSD", "LMD", "SD")]
    outcome.must("a reversed order of four deviates by LSD 5, LMD 2, SD 2", figures == [5, 2, 2])
    outcome.must(
        "the right order deviates by nothing",
        all(deviation([0, 1, 2, 3], kind) == 0 for kind in ("LSD", "LMD", "SD", "SDD")),
    )
    outcome.must(
        "a text has BLEU-1 and ROUGE recall 1 with itself",
        bleu("a b c d", "a b c d", 1) == 1 and rouge_recall("a b c d", "a b c d") > 0.999,
    )
    made = must_load(outcome, SETS)
    if not made:
        return outcome
    cloze = made["loogle_shortdep_cloze"]
    outcome.must(
        "the oracle fills every mask, exactly and partly",
        cloze_micro(cloze, [i.gold_text for i in cloze]) == (1.0, 1.0),
    )
    outcome.must("silence fills none", cloze_micro(cloze, [""] * len(cloze)) == (0.0, 0.0))
    for name in SETS[:3]:
        quotes = sum(i.metadata["evidence_quotes"] for i in made[name])
        outcome.figures[f"{name}: quoted evidence found in its document"] = (
            f"{sum(len(i.evidence) for i in made[name])} of {quotes}"
        )
    told = [i for i in made["loogle_shortdep_qa"] if len(i.evidence) == 1 and score(i, i.gold_text) == 1]
    step = max(1, len(told) // ITEMS)
    items = [Truncation("around").apply(i, TOKENS, tokenizer) for i in told[::step][:ITEMS]]
    outcome.must("a window around the evidence holds it whole", all(i.evidence_text() for i in items))
    shows_help(outcome, bench, items)
    table = readings(bench, items, POLICIES, aware=True, rank=False)
    shares = [kept(table[recipe]) for recipe in POLICIES]
    for recipe, share in zip(POLICIES, shares, strict=True):
        outcome.figures[f"evidence kept, question read: {recipe}"] = round(share, 3)
    outcome.shows(
        f"SnapKV keeps more of the evidence than chance ({shares[0]:.2f} against {shares[1]:.2f})",
        shares[0] > shares[1],
    )
    outcome.figures["items"] = f"{len(items)} of {mean([len(made[n]) for n in SETS]):.0f} a set on average"
    return outcome
