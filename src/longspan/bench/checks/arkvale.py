"""ArkVale's check: bounds that hold, pages found, and how many of them a small fast tier would have to fetch a token."""

from longspan.bench.checks._recall import decode_figures, same_as_full
from longspan.bench.recall import dense_rows
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.recipe import parse
from longspan.ops.attention import grouped_scores

BALL = "arkvale(budget=0.125, dense_layers=0, page=16)"
CUBOID = "arkvale(budget=0.125, dense_layers=0, page=16, volume=cuboid)"


@check(
    "arkvale",
    claim="a bounding volume of its keys is enough to know when an evicted page is needed again",
    file="src/longspan/methods/decode/arkvale.py",
)
def arkvale(bench: Bench) -> Outcome:
    outcome = Outcome()
    rows = dense_rows(bench)
    found, floor = decode_figures(rows, outcome, [BALL, CUBOID])
    holds, fetched, wanted = True, 0, 0
    session = rows.base.fork(parse(BALL))
    session.finish_read()
    for number, layer in enumerate(rows.layers):
        view = session.view(layer, session.recipe.methods[0])
        keys = view.keys
        for step in range(rows.queries):
            q = rows.q[number][:, rows.cut + step].unsqueeze(1)
            if step == 0:
                logits = grouped_scores(q, keys, 1.0).view(keys.shape[0], -1, keys.shape[1]).amax(1)
                bound = view.method.scores(view, q).repeat_interleave(16, 1)[:, : keys.shape[1]]
                holds &= bool((bound >= logits - 1e-2).all())
            wanted += view.method.select(view, q).indices.numel()
        fetched += view.state["recalls"]
    outcome.figures["pages fetched of those read, a fast tier of the budget's size"] = (
        f"{fetched / wanted:.3f}"
    )
    outcome.must("the ball bounds every logit in its page", holds)
    same_as_full(bench, outcome, "arkvale(budget=1.0)", "with the whole budget")
    outcome.shows("pages by balls beat window + sink by 0.05", found[BALL].mean > floor["window"].mean + 0.05)
    outcome.shows(
        "pages by cuboids beat window + sink by 0.05", found[CUBOID].mean > floor["window"].mean + 0.05
    )
    outcome.shows("fewer than half of the pages read have to be fetched", fetched < wanted / 2)
    return outcome
