"""MagicPIG's check: sampling with the right weights estimates flat attention better than the best few entries do, and peaked attention worse."""

import torch
from torch import Tensor

from longspan.bench.checks._recall import same_as_full
from longspan.bench.recall import DenseRows, dense_rows
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.recipe import parse
from longspan.methods.decode.magicpig import chance, codes
from longspan.ops.attention import attend
from longspan.ops.choose import top_entries
from longspan.ops.page_digest import PageDigest, top_pages
from longspan.ops.selection import Selection
from longspan.ops.sparse_decode import decode

OURS = "magicpig(bits=8, tables=75, every=0, budget=0.9)"
PLAIN = "magicpig(bits=8, tables=75, every=0, budget=0.9, correct=false)"
BITS, TABLES, SEEDS, PAGE = 8, 75, 200, 16


@check(
    "magicpig",
    claim="entries drawn by hashing and weighed by their chance estimate attention without bias",
    file="src/longspan/methods/decode/magicpig.py",
)
def magicpig(bench: Bench) -> Outcome:
    outcome = Outcome()
    _unbiased(outcome)
    flat, peaked = (_synthetic(outcome, name, spread) for name, spread in (("flat", 0.3), ("peaked", 2.5)))
    rows = dense_rows(bench)
    real = _real(rows, outcome)
    same_as_full(bench, outcome, "magicpig(budget=1.0)", "with the whole budget")
    outcome.shows(
        "flat attention: sampling errs less than as many best entries", flat["sampled"] < flat["best"]
    )
    outcome.shows("peaked attention: the best entries err less", peaked["best"] < peaked["sampled"])
    outcome.shows(
        "real heads: weights by chance err less than the same entries without", real[OURS] < real[PLAIN]
    )
    outcome.shows(
        "real heads: it errs less than Quest's pages of as many entries", real[OURS] < real["quest"]
    )
    outcome.shows("real heads: it errs less than sink and window", real[OURS] < real["window"])
    return outcome


def _unbiased(outcome: Outcome) -> None:
    """Means over hash seeds of the estimated numerator and denominator, against the exact sums."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 64, generator=generator) for n in (1, 500, 500))
    k = k + 0.5 * q
    weight = (q @ k.transpose(1, 2) / 8).exp()[0, 0]
    u = chance(torch.nn.functional.cosine_similarity(q, k, dim=-1)[0], BITS, TABLES)
    total, mixed = 0.0, torch.zeros(64)
    for seed in range(SEEDS):
        directions = torch.randn(64, BITS * TABLES, generator=torch.Generator().manual_seed(seed))
        drawn = ((codes(k, directions, BITS) == codes(q, directions, BITS)).sum(-1) >= 2)[0]
        part = (weight / u)[drawn]
        total, mixed = total + float(part.sum()) / SEEDS, mixed + part @ v[0, drawn] / SEEDS
    exact = weight @ v[0]
    error = abs(total / float(weight.sum()) - 1)
    outcome.figures[f"denominator, mean of {SEEDS} seeds: relative error"] = round(error, 4)
    outcome.figures[f"numerator, mean of {SEEDS} seeds: error over the output's length"] = round(
        float((mixed - exact).norm() / exact.norm()), 3
    )
    outcome.must("chances lie in (0, 1]", bool(((u > 0) & (u <= 1)).all()))
    outcome.must("the mean over seeds is the exact denominator (5%)", error < 0.05)


def _synthetic(outcome: Outcome, name: str, spread: float) -> dict[str, float]:
    """Error of the output of sampling and of as many best entries, in lengths of a value, on keys whose logits have a standard deviation of `spread`."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, n, 64, generator=generator) for n in (1, 2000, 2000))
    v = (
        k + 0.5 * v
    )  # values go with their keys, so that the entries a query likes best do not speak for the rest
    scale = spread / 8
    exact = attend(q, k, v, scale=scale)[0]
    errors, counts = {"sampled": 0.0, "best": 0.0}, 0.0
    cosine = torch.nn.functional.cosine_similarity(q, k, dim=-1)
    for seed in range(20):
        directions = torch.randn(64, BITS * TABLES, generator=torch.Generator().manual_seed(seed))
        drawn = (codes(k, directions, BITS) == codes(q, directions, BITS)).sum(-1) >= 2
        index = drawn.nonzero()[:, 1].unsqueeze(0)
        bias = -chance(cosine[:, index[0]], BITS, TABLES).log()
        sampled = decode(q, k, v, Selection(index, 2000, bias=bias), scale=scale)[0]
        logits = (q @ k.transpose(1, 2) * scale).squeeze(1)
        best = decode(q, k, v, top_entries(logits, index.shape[1]), scale=scale)[0]
        for how, out in (("sampled", sampled), ("best", best)):
            errors[how] += float((out - exact).norm() / v.norm(dim=-1).mean()) / 20
        counts += index.shape[1] / 2000 / 20
    outcome.figures[
        f"{name} attention, error over a value's length: sampled / best, share read {counts:.3f}"
    ] = f"{errors['sampled']:.3f} / {errors['best']:.3f}"
    return errors


def _real(rows: DenseRows, outcome: Outcome, every: int = 3, steps: int = 8) -> dict[str, float]:
    """Relative error of attention outputs over the text read, mean over layers, steps and query heads, at the same number of entries."""
    totals = dict.fromkeys((OURS, PLAIN, "oracle", "quest", "window"), 0.0)
    read, seen = 0.0, 0
    sessions = {recipe: rows.base.fork(parse(recipe)) for recipe in (OURS, PLAIN)}
    for session in sessions.values():
        session.finish_read()
    for number in range(0, len(rows.layers), every):
        layer = rows.layers[number]
        k = rows.k[number][:, : rows.cut]
        v = rows.whole.layers[layer].store.padded().v[:, : rows.cut]
        scale, group = rows.whole.scale(layer), rows.q[number].shape[0] // k.shape[0]
        digest = PageDigest(PAGE)
        digest.update(k)
        for step in range(0, rows.queries, rows.queries // steps):
            q = rows.q[number][:, rows.cut + step].unsqueeze(1)
            exact = attend(q, k, v, scale=scale)[0]
            for recipe, session in sessions.items():
                session.length = rows.cut + step
                (method,) = session.recipe.methods
                chosen = method.select(session.view(layer, method), q)
                totals[recipe] += _error(decode(q, k, v, chosen, scale=scale)[0], exact)
            count = round(chosen.mean_entries())
            logits = (q.unflatten(0, (-1, group)).squeeze(2) @ k.transpose(1, 2)).flatten(0, 1)
            totals["oracle"] += _error(decode(q, k, v, top_entries(logits, count), scale=scale)[0], exact)
            pages = top_pages(digest.scores(q, "max"), max(1, round(count / PAGE)), rows.cut, PAGE)
            totals["quest"] += _error(decode(q, k, v, pages, scale=scale)[0], exact)
            newest = torch.arange(rows.cut).expand(len(logits), -1).float().clone()
            newest[:, :4] = torch.inf
            totals["window"] += _error(decode(q, k, v, top_entries(newest, count), scale=scale)[0], exact)
            read, seen = read + count / rows.cut, seen + 1
    found = {name: total / seen for name, total in totals.items()}
    for name, error in found.items():
        outcome.figures[
            f"relative error of attention over {rows.cut} entries, {read / seen:.3f} of them read: {name}"
        ] = round(error, 4)
    return found


def _error(out: Tensor, exact: Tensor) -> float:
    return float(((out - exact).norm(dim=-1) / exact.norm(dim=-1)).mean())
