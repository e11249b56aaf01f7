"""Double Sparsity's check: heavy channels must find the tokens that random or first channels miss, close to the oracle, at 1/8 and 1/16."""

from longspan.bench.checks._recall import decode_figures, same_as_full
from longspan.bench.recall import DenseRows, dense_rows
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.recipe import parse
from longspan.methods.decode.double_sparsity import tiers

EIGHTH = "double_sparsity(budget=0.125, dense_layers=0)"
HEADS = "double_sparsity(budget=0.125, dense_layers=0, heads=query)"
HALF = "double_sparsity(budget=0.125, dense_layers=0, channels=8)"
RANDOM = "double_sparsity(budget=0.125, dense_layers=0, ranking=random)"
FIRST = "double_sparsity(budget=0.125, dense_layers=0, ranking=first)"
KEYS = "double_sparsity(budget=0.125, dense_layers=0, ranking=k)"
WHOLE = "double_sparsity(budget=0.125, dense_layers=0, channels=64)"
FOUR_BITS = "double_sparsity(budget=0.125, dense_layers=0, bits=4)"
OFFLOAD = "double_sparsity(budget=0.125, dense_layers=0, offload=true, window=512)"
QUEST = "quest(budget=0.125, dense_layers=0)"


@check(
    "double-sparsity",
    system="double-sparsity",
    claim="a quarter of the key channels, chosen by how much they matter, finds nearly the tokens that all channels would",
    file="src/longspan/methods/decode/double_sparsity.py",
)
def double_sparsity(bench: Bench) -> Outcome:
    outcome = Outcome()
    rows = dense_rows(bench)
    found, floor = decode_figures(
        rows, outcome, [EIGHTH, HEADS, HALF, FOUR_BITS, KEYS, RANDOM, FIRST, WHOLE, QUEST, OFFLOAD]
    )
    offloaded(rows, outcome)
    same_as_full(bench, outcome, "double_sparsity(budget=1.0)", "with the whole budget")
    outcome.must(
        "with every channel it is the oracle's choice (0.002)",
        abs(found[WHOLE].mean - floor["oracle"].mean) < 0.002,
    )
    outcome.shows(
        "16 of 64 channels come within 0.03 of the oracle", found[EIGHTH].mean > floor["oracle"].mean - 0.03
    )
    outcome.shows("chosen channels beat random ones", found[EIGHTH].mean > found[RANDOM].mean)
    outcome.shows("chosen channels beat the first ones", found[EIGHTH].mean > found[FIRST].mean)
    outcome.shows(
        "ranking by queries and keys is no worse than by keys (0.005)",
        found[EIGHTH].mean > found[KEYS].mean - 0.005,
    )
    outcome.shows("labels of 4 bits lose less than 0.02", found[FOUR_BITS].mean > found[EIGHTH].mean - 0.02)
    outcome.shows("single tokens beat Quest's pages", found[EIGHTH].mean > found[QUEST].mean)
    outcome.shows("it beats window + sink by 0.1", found[EIGHTH].mean > floor["window"].mean + 0.1)
    outcome.shows(
        "reading what the layer before predicted loses less than 0.05",
        found[OFFLOAD].mean > found[EIGHTH].mean - 0.05,
    )
    return outcome


def offloaded(rows: DenseRows, outcome: Outcome, steps: int = 16) -> None:
    """How many of the tokens a layer would choose were fetched for it, and what a fast tier holds against the slow one."""
    session = rows.base.fork(parse(OFFLOAD))
    session.finish_read()
    (method,) = session.recipe.methods
    for step in range(steps):
        session.length = rows.cut + step
        for number, layer in enumerate(rows.layers):
            method.select(session.view(layer, method), rows.q[number][:, rows.cut + step].unsqueeze(1))
    views = [session.view(layer, method) for layer in rows.layers]
    hits, wanted = (sum(view.state.get(name, 0) for view in views) for name in ("hits", "wanted"))
    fast, slow = (sum(column) for column in zip(*(tiers(view) for view in views), strict=True))
    outcome.figures["offload: tokens fetched in time, of those wanted"] = round(hits / wanted, 3)
    outcome.figures["offload: bytes in the fast tier, share of the cache"] = round(fast / slow, 3)
    outcome.must("offload: the fast tier is smaller than half of the cache", fast < slow / 2)
