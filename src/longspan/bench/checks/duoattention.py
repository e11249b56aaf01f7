"""DuoAttention's check: which heads keep everything, as the gates learned it, against chance, a score without training, and the gates upside down."""

import tempfile
from pathlib import Path
from random import Random

from longspan.bench.checks._common import must_total, needle_figures, nll
from longspan.bench.testbed import Bench, Measured
from longspan.bench.verify import Outcome, check
from longspan.engine import calibration
from longspan.engine.batch import Work, forward

SEEDS = 3
BUDGETS = (0.5, 0.25)
Table = dict[str, Measured]


@check(
    "duoattention",
    system="duoattention",
    claim="heads that trained gates call retrieval heads need the whole cache, and the others only sinks and a window",
    file="src/longspan/methods/cache/duoattention.py",
)
def duoattention(bench: Bench) -> Outcome:
    outcome, lm = Outcome(), bench.model()
    facts = calibration.load("duoattention", lm).facts
    gates = facts["gates"]
    flat = [gate for row in gates for gate in row]
    outcome.figures["gates above 0.5 / of all heads"] = f"{sum(gate > 0.5 for gate in flat)} / {len(flat)}"
    outcome.figures["gates: lowest, median, highest"] = (
        f"{min(flat):.2f}, {sorted(flat)[len(flat) // 2]:.2f}, {max(flat):.2f}"
    )
    with tempfile.TemporaryDirectory() as root:
        others = {
            **{
                f"random {seed}": _written(Path(root), lm, f"random-{seed}", _shuffled(gates, seed))
                for seed in range(SEEDS)
            },
            "upside down": _written(Path(root), lm, "worst", [[1 - gate for gate in row] for row in gates]),
        }
        recipes = {}
        for budget in BUDGETS:
            recipes |= {
                ("gates", budget): f"duoattention(budget={budget})",
                ("reach", budget): f"duoattention(budget={budget}, by=reach)",
                ("random", budget): f"random(budget={budget})",
                ("window", budget): f"window(budget={budget})",
                **{
                    (name, budget): f"duoattention(budget={budget}, folder='{folder}')"
                    for name, folder in others.items()
                },
            }
        tables = needle_figures(bench, ["full", *recipes.values()], outcome)
        _rename(
            outcome,
            {
                recipe: f"{name} heads at {budget:.0%}"
                for (name, budget), recipe in recipes.items()
                if name in others
            },
        )
    for (haystack, inside), table in tables.items():
        place = f"{haystack}, question {'inside' if inside else 'after'}"
        for budget in BUDGETS:
            found = {name: nll(table, recipe) for (name, b), recipe in recipes.items() if b == budget}
            chance = sum(found[f"random {seed}"] for seed in range(SEEDS)) / SEEDS
            outcome.figures[
                f"{place}, {budget:.0%}: trained / without training / {SEEDS} random splits / window, nats"
            ] = f"{found['gates']:.2f} / {found['reach']:.2f} / {chance:.2f} / {found['window']:.2f}"
            if budget == BUDGETS[0]:
                outcome.shows(f"{place}: trained heads beat random heads", found["gates"] < chance)
                outcome.shows(
                    f"{place}: trained heads beat the score without training", found["gates"] < found["reach"]
                )
                outcome.shows(f"{place}: any heads beat a window in all", chance < found["window"])
                outcome.shows(f"{place}: trained heads beat random entries", found["gates"] < found["random"])
    session = bench.dense("prose", 0, False).fork(recipes["gates", 0.5])
    session.finish_read()
    must_total(outcome, session, 0.5)
    lengths = [n for layer in session.growing_layers() for n in session.layers[layer].store.lengths]
    full, window = lengths.count(session.length), lengths.count(80)
    outcome.figures["heads that keep all / a part / 80 entries"] = (
        f"{full} / {len(lengths) - full - window} / {window}"
    )
    outcome.must("all heads but one keep everything or their window", full + window >= len(lengths) - 1)
    _streaming(bench, outcome)
    return outcome


def _streaming(bench: Bench, outcome: Outcome) -> None:
    """Reading and writing with streaming heads of constant size."""
    lm, chunk = bench.model(), 128
    ids = bench.passage(bench.tokens)
    session = lm.session("duoattention(budget=0.5, when=chunk, every=16)", chunk=chunk).read(ids)
    lengths = [n for layer in session.growing_layers() for n in session.layers[layer].store.lengths]
    outcome.must(
        "read in chunks, it never holds more than its budget and a chunk",
        session.stats.peak_entries <= sum(lengths) + chunk * len(lengths),
    )
    for token in ids[:40]:
        forward(lm, [Work(session, token.view(1))])
    later = [n for layer in session.growing_layers() for n in session.layers[layer].store.lengths]
    streaming = [n for n, before in zip(later, lengths, strict=True) if before == 80]
    outcome.must("streaming heads stay within window and 16 tokens while writing", max(streaming) <= 96)
    geometry, width = lm.geometry, lm.geometry.head_dim + lm.geometry.layers[lm.geometry.growing[0]].value_dim
    outcome.figures["bytes of K and V after 40 tokens more, of the full cache's"] = round(
        sum(later)
        * width
        * lm.dtype.itemsize
        / (geometry.dense_elements(session.length) * lm.dtype.itemsize),
        3,
    )
    whole = lm.session("duoattention(budget=1.0, when=chunk)", chunk=chunk).read(ids)
    plain = lm.session(chunk=chunk).read(ids)
    difference = float((whole.next_logits() - plain.next_logits()).abs().max())
    outcome.figures["largest logit difference when all heads are retrieval heads"] = difference
    outcome.must("with all heads retrieval heads it is the full cache", difference < 1e-2)


def _shuffled(gates: list[list[float]], seed: int) -> list[list[float]]:
    flat = [gate for row in gates for gate in row]
    Random(seed).shuffle(flat)
    width = len(gates[0])
    return [flat[i : i + width] for i in range(0, len(flat), width)]


def _written(root: Path, lm, name: str, gates: list[list[float]]) -> Path:
    """An artefact with other gates, in a folder of its own."""
    facts = {"gates": gates, "mean_gates": gates, "reach": gates}
    return calibration.save("duoattention", lm, facts=facts, folder=root / name).parent.parent


def _rename(outcome: Outcome, names: dict[str, str]) -> None:
    """Say in the figures what an artefact of this check was instead of where it lay."""
    for key in list(outcome.figures):
        place, _, recipe = key.partition(": ")
        if recipe in names:
            outcome.figures[f"{place}: {names[recipe]}"] = outcome.figures.pop(key)
