"""MMInference's check: grids and boundaries on heads that have them, against lines and windows that read as much."""

import torch

from longspan.bench.checks._recall import widest_window
from longspan.bench.synthetic_heads import HeadView, grid, image_tokens, same_place, two_kinds
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.recipe import parse
from longspan.ops.attention import attend
from longspan.ops.row_units import UnitMask
from longspan.ops.sparse_prefill import prefill
from longspan.ops.tile_scores import exact_rows

STEPS = (16, 49)
ALL = ((0, 1024),)
LATE = slice(512, None)
OURS = "mminference(vertical=8, slash=56)"
Head = tuple[torch.Tensor, torch.Tensor]


@check(
    "mminference",
    system="mminference",
    claim="heads that read the same place of every frame, or change where an image begins, need rows and keys put together by place and by kind",
    file="src/longspan/methods/prefill/mminference.py",
)
def mminference(bench: Bench) -> Outcome:
    outcome = Outcome()
    for step in STEPS:
        for name, head in (
            (f"same place, stride {step}", same_place(step)),
            (f"columns, stride {step}", grid(step)),
        ):
            ours, density = kept(OURS, head, ALL)
            others = {
                "minference, lines": best_lines(head, density),
                "minference, tile means": f"minference(shape=block_sparse, blocks={density:.3f})",
                "window + sink": f"a_shape(sink=64, window={widest_window(1024, density, 64)}, tile=64)",
                "random tiles": f"random_tiles(budget={density:.3f}, tile=64)",
                "oracle tiles": f"oracle_tiles(budget={density:.3f}, tile=64)",
            }
            outcome.figures[f"{name}: mminference"] = f"{ours:.3f} at density {density:.3f}"
            found = {}
            for label, recipe in others.items():
                found[label], cost = kept(recipe, head)
                outcome.figures[f"{name}: {label}"] = f"{found[label]:.3f} at density {cost:.3f}"
            outcome.shows(f"{name}: it keeps 0.95", ours > 0.95)
            if name.startswith("same"):
                outcome.shows(
                    f"{name}: 0.2 more than anything in the text's order", ours > max(found.values()) + 0.2
                )
            else:  # columns are lines: minference sees them as well
                outcome.shows(f"{name}: no less than lines", ours > found["minference, lines"] - 0.02)
    images = image_tokens(512)
    spans, last = _spans(images), torch.arange(832, 1024)
    head, of_kind = two_kinds(512), {"text": last[~images[last]], "image": last[images[last]]}
    lines = {}
    for boundary in ("one", "key", "query", "both", "auto"):
        recipe = f"mminference(vertical=12, slash=4, grid=false, boundary={boundary})"
        for kind, rows in of_kind.items():
            lines[boundary, kind], density = kept(recipe, head, spans, rows)
            outcome.figures[f"two kinds of queries, {kind} rows: boundary {boundary}"] = (
                f"{lines[boundary, kind]:.3f} at density {density:.3f}"
            )
    worst = {b: min(lines[b, kind] for kind in of_kind) for b in ("one", "key", "query", "both", "auto")}
    outcome.shows(
        "lines of each kind's own keep 0.2 more of the worse kind than one choice",
        worst["both"] > worst["one"] + 0.2,
    )
    outcome.shows("each head finds its boundary", worst["auto"] > max(worst.values()) - 0.05)
    _permutation(outcome)
    _text_only(bench, outcome)
    return outcome


def kept(
    recipe: str,
    head: Head,
    spans: tuple[tuple[int, int], ...] | None = None,
    rows: slice | torch.Tensor = LATE,
) -> tuple[float, float]:
    """Share of a synthetic head's attention in `rows` that a pattern keeps, and its density."""
    mask = _mask(recipe, head, spans)
    mass = exact_rows(*head, head[0].shape[2] ** -0.5, 0) * mask.dense()
    return float(mass[:, rows].sum() / mass[:, rows].shape[1]), mask.density()


def best_lines(head: Head, density: float) -> str:
    """The vertical-slash recipe that keeps most of a head within 0.01 of a density."""
    recipes = [
        f"minference(vertical={vertical}, slash={slash})"
        for vertical in (30, 60, 90, 94, 100, 120)
        for slash in (100, 104, 112, 128, 160)
    ]
    found = {recipe: kept(recipe, head) for recipe in recipes}
    return max(
        (recipe for recipe in recipes if found[recipe][1] <= density + 0.01),
        key=lambda recipe: found[recipe][0],
    )


def _mask(recipe, head, spans):
    (pattern,) = parse(recipe).methods
    return pattern.tiles(HeadView(head[0].shape[1], head[0].shape[2], image_spans=spans), *head)


def _spans(images: torch.Tensor) -> tuple[tuple[int, int], ...]:
    edges = torch.cat((torch.zeros(1), images.float(), torch.zeros(1))).diff().nonzero().flatten().tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def _permutation(outcome: Outcome) -> None:
    """Exact properties of a permuted mask: causal by original place, its result that of the dense mask, the whole budget everything."""
    head = two_kinds(512)
    spans = _spans(image_tokens(512))
    mask = _mask(OURS, head, spans)
    dense = mask.dense()
    outcome.must("rows were put together", isinstance(mask, UnitMask) and len(mask.units) > 0)
    outcome.must("no query sees a later key", not bool(dense.triu(1).any()))
    outcome.must("every query sees itself", bool(dense[0].diagonal().all()))
    values = torch.randn(1, 1024, 64, generator=torch.Generator().manual_seed(9))
    ours = prefill(*head, values, mask, scale=0.125)[0]
    plain = attend(*head, values, scale=0.125, mask=dense)[0]
    difference = float((ours - plain).abs().max())
    outcome.figures["permuted against masked attention, largest difference"] = f"{difference:.1e}"
    outcome.must("put back in order, it is attention under the dense mask (1e-4)", difference < 1e-4)
    whole = _mask("mminference(slash=100000)", head, spans).dense()
    outcome.must(
        "every diagonal is dense attention", bool((whole[0] == torch.ones_like(whole[0]).tril()).all())
    )


def _text_only(bench: Bench, outcome: Outcome) -> None:
    lm, ids = bench.model(), bench.passage(700)
    ours = lm.session("mminference(vertical=0.1, slash=0.1)").read(ids[:690]).score(ids[690:])
    plain = lm.session("minference(vertical=0.1, slash=0.1)").read(ids[:690]).score(ids[690:])
    outcome.must("a text without images is read as by minference, to the bit", torch.equal(ours, plain))
