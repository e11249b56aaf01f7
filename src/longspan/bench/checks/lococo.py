"""LoCoCo's check: prose streamed through a memory of 64 entries, with trained fusion, with selection alone, and with a window."""

from longspan.bench.checks._common import needle_figures, nll
from longspan.bench.checks._streams import streamed, text_ids
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine import calibration

SIZE, BLOCK, STRETCHES = 64, 64, 3
MEMORIES = {
    "trained fusion": f"lococo(budget={SIZE})",
    "heavy hitters alone": f"lococo(budget={SIZE}, mix=0.0)",
    "convolution alone": f"lococo(budget={SIZE}, mix=1.0)",
    "window+sink": f"window(budget={SIZE}, when=chunk)",
    "random": f"random(budget={SIZE}, when=chunk)",
    "full": "full",
}


@check(
    "lococo",
    system="lococo",
    claim="a trained convolution that blends unattended entries models a stream better than dropping them",
    file="src/longspan/methods/cache/lococo.py",
)
def lococo(bench: Bench) -> Outcome:
    outcome, lm = Outcome(), bench.model()
    mixes = calibration.load("lococo", lm).facts["mix"]
    outcome.figures["share of the convolution: lowest, highest layer"] = f"{min(mixes):.3f}, {max(mixes):.3f}"
    outcome.shows(
        "the share has left 0.5 and differs between layers",
        max(mixes) - min(mixes) > 0.02 and all(abs(mix - 0.5) > 1e-3 for mix in mixes),
    )
    totals, peak, lengths = dict.fromkeys(MEMORIES, 0.0), 0.0, set()
    for window in range(STRETCHES):
        ids = text_ids(lm, 8 * BLOCK + 1, "prose", window)
        found = streamed(lm, list(MEMORIES.values()), ids, block=BLOCK, after=2 * BLOCK)
        for name, recipe in MEMORIES.items():
            totals[name] += found[recipe].nll / STRETCHES
        own = found[MEMORIES["trained fusion"]]
        peak = max(peak, own.session.stats.peak_entries)
        lengths |= {n for layer in lm.geometry.growing for n in own.session.layers[layer].store.lengths}
    for name, value in totals.items():
        outcome.figures[
            f"{STRETCHES} streams of {8 * BLOCK} tokens, {SIZE} entries: {name}, nats a token"
        ] = round(value, 4)
    outcome.shows(
        "trained fusion models the stream better than heavy hitters alone",
        totals["trained fusion"] < totals["heavy hitters alone"],
    )
    outcome.shows("and better than a window with sinks", totals["trained fusion"] < totals["window+sink"])
    outcome.shows("and better than random entries", totals["trained fusion"] < totals["random"])
    heads = len(lm.geometry.growing) * lm.geometry.kv_heads
    outcome.must("the memory is the budget exactly", lengths == {SIZE})
    outcome.must("the peak is memory and block", peak <= (SIZE + BLOCK) * heads)
    own = "lococo(budget=0.25, when=prefill)"
    recipes = [
        "full",
        own,
        "lococo(budget=0.25, when=prefill, mix=0.0)",
        "window(budget=0.25)",
        "random(budget=0.25)",
    ]
    for (haystack, inside), table in needle_figures(bench, recipes, outcome).items():
        place = f"{haystack}, question {'inside' if inside else 'after'}"
        outcome.figures[f"{place}: gain over heavy hitters alone, nats"] = round(
            nll(table, recipes[2]) - nll(table, own), 2
        )
        outcome.shows(
            f"{place}: it beats random and window", nll(table, own) < min(nll(table, r) for r in recipes[3:])
        )
    ids = bench.passage(SIZE + 16)
    short, plain = (lm.session(recipe, chunk=32).read(ids) for recipe in (MEMORIES["trained fusion"], "full"))
    difference = float((short.next_logits() - plain.next_logits()).abs().max())
    outcome.must("a text of memory and buffer is read as with the full cache", difference < 1e-2)
    return outcome
