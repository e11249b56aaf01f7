"""Locret's check: scores made when a token is read, against other scores that need no later query, all with the same chunks and budget."""

import torch

from longspan.bench.checks._common import needle_figures, nll
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine import calibration
from longspan.methods.cache.locret_heads import Plan, evaluate, sample

BUDGET, TOKENS = 150, 600
RIVALS = ("knorm", "keydiff", "window", "random")


@check(
    "locret",
    system="locret",
    claim="a small trained head a layer knows from a token's own q, k and v which entries an answer will read",
    file="src/longspan/methods/cache/locret.py",
)
def locret(bench: Bench) -> Outcome:
    outcome, lm = Outcome(), bench.model()
    tensors = calibration.load("locret", lm).tensors
    held_out = [sample(lm, Plan(shortest=256, longest=512, seed=1), number) for number in range(4)]
    overlaps = evaluate(lm, tensors, held_out)
    outcome.figures["best tenth by label found, texts not trained on: heads / key norm / chance"] = (
        " / ".join(str(overlaps[f"overlap_{name}"]) for name in ("heads", "knorm", "random"))
    )
    outcome.shows(
        "the heads find at least 40% of the tokens that answers look at most",
        overlaps["overlap_heads"] >= 0.4,
    )
    outcome.shows("twice what chance finds", overlaps["overlap_heads"] > 2 * overlaps["overlap_random"])
    outcome.shows("and more than the key norm does", overlaps["overlap_heads"] > overlaps["overlap_knorm"])
    heads = f"locret(budget={BUDGET})"
    rivals = {name: f"{name}(budget={BUDGET}, when=chunk)" for name in RIVALS}
    few = {"samples": min(3, bench.samples), "tokens": min(TOKENS, bench.tokens)}
    after = needle_figures(bench, ["full", heads, *rivals.values()], outcome, sides=(False,), **few)
    inside = needle_figures(
        bench, ["full", heads, rivals["window"], rivals["random"]], outcome, sides=(True,), **few
    )
    for (haystack, _), table in after.items():
        found = {name: nll(table, recipe) for name, recipe in rivals.items()}
        own = nll(table, heads)
        outcome.shows(
            f"{haystack}, question after: it beats window and random",
            own < min(found["window"], found["random"]),
        )
        outcome.shows(
            f"{haystack}, question after: it beats the key scores",
            own < min(found["knorm"], found["keydiff"]),
        )
    for (haystack, _), table in inside.items():
        found = {name: nll(table, rivals[name]) for name in ("window", "random")}
        outcome.shows(
            f"{haystack}, question inside: it beats window and random",
            nll(table, heads) < min(found.values()),
        )
    chunk, ids = 128, bench.passage(TOKENS)
    layers = len(lm.geometry.growing) * lm.geometry.kv_heads
    session = lm.session(heads, chunk=chunk).read(ids)
    outcome.must(
        "it never holds more than budget and chunk", session.stats.peak_entries <= (BUDGET + chunk) * layers
    )
    outcome.must("and ends with the budget exactly", session.growing_entries() == BUDGET * layers)
    whole = lm.session("locret(budget=1.0)", chunk=chunk).read(ids)
    plain = lm.session(chunk=chunk).read(ids)
    difference = float((whole.next_logits() - plain.next_logits()).abs().max())
    outcome.must("with the whole budget it is the full cache", difference < 1e-2)
    scores = whole.layers[lm.geometry.growing[-1]].store.padded().side["retain"]
    shorter = lm.session("locret(budget=1.0)", chunk=chunk).read(ids[:-200])
    again = shorter.layers[lm.geometry.growing[-1]].store.padded().side["retain"]
    outcome.must(
        "a token's score does not change with what comes later",
        bool(torch.allclose(scores[:, : again.shape[1]], again, atol=1e-2, rtol=1e-2)),
    )
    outcome.figures["side bytes of the scores, of K and V"] = round(
        session.stats.side_bytes / session.stats.cache_bytes, 4
    )
    return outcome
