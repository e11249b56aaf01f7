"""MoA's check: spans chosen by influence must lose less of what follows a text than the same span for every head, at the same cache."""

from longspan.bench.checks._common import needle_figures, prose_figures, shows_better
from longspan.bench.checks._recall import prefill_figures, same_as_full
from longspan.bench.recall import dense_rows
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine import calibration

OURS, UNIFORM = "moa(budget=0.5)", "moa(budget=0.5, plan=uniform)"
WINDOW, RANDOM = "window(budget=0.5, sink=64)", "random(budget=0.5)"
SPARSER, SPARSER_UNIFORM = "moa(budget=0.25)", "moa(budget=0.25, plan=uniform)"


@check(
    "moa",
    system="moa",
    claim="heads with spans of their own, chosen by their influence on the loss, lose less than one span for all at the same density",
    file="src/longspan/methods/prefill/moa.py",
)
def moa(bench: Bench) -> Outcome:
    outcome = Outcome()
    lm = bench.model()
    facts = calibration.load("moa", lm).facts
    for budget, plan in facts["plans"].items():
        outcome.must(
            f"the plan for {budget} keeps no more at any length it was made for",
            max(plan["densities"]) <= float(budget) + 1e-9,
        )
        spans = [alpha + beta * 2048 for row in plan["rules"] for alpha, beta in row]
        outcome.figures[f"plan for {budget}: narrowest and widest span at 2048 tokens"] = (
            f"{min(spans):.0f} / {max(spans):.0f}, {sum(span >= 1984 for span in spans)} of {len(spans)} heads see everything"
        )
    prose = prose_figures(
        bench, [OURS, UNIFORM, SPARSER, SPARSER_UNIFORM, WINDOW, RANDOM], outcome, windows=2
    )
    tables = needle_figures(
        bench,
        ["full", OURS, UNIFORM, WINDOW, RANDOM],
        outcome,
        sides=(False,),
        haystacks=("prose",),
        samples=4,
    )
    table = tables["prose", False]
    geometry = lm.geometry
    whole = bench.prompt("prose", 0).read.numel() * geometry.kv_heads * len(geometry.growing)
    for recipe in (OURS, UNIFORM):
        share = table[recipe].entries / whole
        outcome.figures[f"share of the cache held: {recipe}"] = round(share, 3)
        outcome.must(
            f"{recipe} holds at most half of the entries (one block a head more at odd lengths)",
            share <= 0.535,
        )
    rows = dense_rows(bench)
    found = prefill_figures(rows, outcome, OURS, [UNIFORM])
    same_as_full(bench, outcome, "moa(budget=1.0)", "with the whole budget")
    outcome.shows(
        f"prose: its predictions are closer to the full cache's than with one span ({prose[OURS].divergence:.4f} against {prose[UNIFORM].divergence:.4f})",
        prose[OURS].divergence < prose[UNIFORM].divergence,
    )
    outcome.shows(
        f"the same at a quarter ({prose[SPARSER].divergence:.4f} against {prose[SPARSER_UNIFORM].divergence:.4f})",
        prose[SPARSER].divergence < prose[SPARSER_UNIFORM].divergence,
    )
    shows_better(outcome, "needle", table, OURS, UNIFORM)
    shows_better(outcome, "needle", table, OURS, RANDOM)
    outcome.shows(
        "its masks keep more attention than one window of the same density",
        found[OURS].mean > found["window"].mean,
    )
    outcome.shows("and more than random tiles", found[OURS].mean > found["random"].mean)
    return outcome
