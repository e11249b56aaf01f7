"""RetroLM's check: what one key a page finds, before any bookmark is learned and after, on real prose and on records whose page is known."""

import torch

from longspan.bench.checks._recall import decode_figures, same_as_full
from longspan.bench.recall import dense_rows
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine import calibration
from longspan.engine.needs import Needs
from longspan.methods.decode.retrolm_train import (
    Records,
    bookmark_keys,
    found_in,
    new_bookmarks,
    observe,
    page_logits,
    record_text,
)

MEAN = "retrolm(budget=0.25, page=32)"
LAST = "retrolm(budget=0.25, page=32, summary=last)"
BOOKMARK = "retrolm(budget=0.25, page=32, summary=bookmark)"
PAGE, TOP, TOKENS, EARLIEST = 32, 4, 768, 2
UNSEEN = (1000, 1001, 1002)  # seeds of texts that training has not drawn


@check(
    "retrolm",
    system="retrolm",
    claim="pages retrieved by one key each keep more than random or recent entries, and trained bookmarks find the page of an answer that mean keys miss",
    file="src/longspan/methods/decode/retrolm.py",
)
def retrolm(bench: Bench) -> Outcome:
    outcome = Outcome()
    rows = dense_rows(bench)
    found, floor = decode_figures(rows, outcome, [MEAN, LAST, BOOKMARK])
    trained, untrained, mean = page_recall(bench, outcome)
    nats = answers(bench, outcome)
    same_as_full(bench, outcome, "retrolm(budget=1.0)", "with the whole budget")
    same_as_full(
        bench,
        outcome,
        "retrolm(budget=1.0, page=32, summary=bookmark)",
        "with bookmarks and the whole budget",
    )
    outcome.shows("mean keys beat last keys", found[MEAN].mean > found[LAST].mean)
    outcome.shows("it beats window + sink", found[MEAN].mean > floor["window"].mean)
    outcome.shows("it beats random entries by 0.1", found[MEAN].mean > floor["random"].mean + 0.1)
    outcome.shows("bookmarks find the page of a record more often than mean keys do", trained > mean)
    outcome.shows("and more often than untrained ones", trained > untrained)
    outcome.shows(
        "answers from a quarter of the pages are likelier with bookmarks than with mean keys",
        nats[BOOKMARK] < nats[MEAN],
    )
    outcome.shows("and than from a window", nats[BOOKMARK] < nats["window(budget=0.25)"])
    return outcome


def page_recall(bench: Bench, outcome: Outcome) -> tuple[float, float, float]:
    """How often the page of the asked record is among the best four, mean over layers: trained, untrained bookmarks, mean keys."""
    lm = bench.model()
    made = calibration.load("retrolm", lm)
    trained = {name: value.float() for name, value in made.tensors.items()}
    for name in ("loss_first", "loss_last"):
        outcome.figures[f"training, nats a query: {name}"] = round(made.facts[name], 3)
    rates: dict[str, list[torch.Tensor]] = {"trained": [], "untrained": [], "mean keys": []}
    for seed in UNSEEN:
        seen = observe(lm, record_text(lm, TOKENS, seed), PAGE)
        for name, bookmark in (("trained", trained), ("untrained", new_bookmarks(seen, 16))):
            scores = page_logits(seen.q @ bookmark["q"], bookmark_keys(bookmark, seen.k, seen.v, PAGE))
            rates[name].append(found_in(scores, seen.page, TOP))
        heads, tokens, dim = seen.k.shape[1:]
        pages = tokens // PAGE
        means = seen.k[:, :, : pages * PAGE].unflatten(2, (pages, PAGE)).mean(3)  # (L, Hk, P, D)
        asked = seen.q.unflatten(2, (heads, -1, dim))  # (L, n, Hk, G, D)
        weights = torch.einsum("lnhgd,lhpd->lnhgp", asked, means).mul(dim**-0.5).softmax(-1).sum((2, 3))
        rates["mean keys"].append(found_in(weights, seen.page.clamp(max=pages - 1), TOP))
    outcome.figures["page of the record among the best 4, by chance"] = round(
        TOP / (seen.k.shape[2] / PAGE), 3
    )
    mean = {}
    for name, found in rates.items():
        by_layer = torch.stack(found).mean(0)
        mean[name] = float(by_layer.mean())
        outcome.figures[f"page of the record among the best 4 of each layer, mean (best layer): {name}"] = (
            f"{mean[name]:.3f} ({float(by_layer.max()):.3f})"
        )
    outcome.must("training lowered its loss", made.facts["loss_last"] < made.facts["loss_first"])
    return mean["trained"], mean["untrained"], mean["mean keys"]


def answers(bench: Bench, outcome: Outcome) -> dict[str, float]:
    """Nats a token of the answers about the earliest records of unseen texts when a quarter of the pages is read for them."""
    lm, recipes = bench.model(), ("full", BOOKMARK, MEAN, LAST, "window(budget=0.25)", "oracle(budget=0.25)")
    total = dict.fromkeys(recipes, 0.0)
    for seed in UNSEEN:
        text = record_text(lm, TOKENS, seed)
        dense = lm.session(None, collect=Needs(column_mass=True)).feed(text.ids[: text.read])
        branches = {recipe: dense.fork(recipe) for recipe in recipes}
        for branch in branches.values():
            branch.finish_read()
        for question, answer in earliest(text):
            for recipe, branch in branches.items():
                asked = branch.fork().feed(question[:-1], reading=False)
                nats = asked.score(torch.cat((question[-1:], answer)))[1:]
                total[recipe] -= float(nats.mean()) / len(UNSEEN) / EARLIEST
    for recipe, nats in total.items():
        outcome.figures[f"records, nats a token of the answer: {recipe}"] = round(nats, 3)
    return total


def earliest(text: Records) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Question and answer of the records that lie furthest back, which a window loses."""
    groups: dict[int, list[int]] = {}
    for row, token in text.asked:
        groups.setdefault(token, []).append(row)
    found, start = [], text.read
    for token, rows in groups.items():
        found.append((token, text.ids[start : rows[0] + 1], text.ids[rows[0] + 1 : rows[-1] + 2]))
        start = rows[-1] + 2
    return [(question, answer) for _, question, answer in sorted(found, key=lambda one: one[0])[:EARLIEST]]
