"""LM-Infinite's check: dense inside the window, one logit where its branches meet, flat loss to eight times the window in constant memory, and no middle."""

import numpy as np
import torch

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import (
    WINDOW,
    fixed,
    last_logits_gap,
    must_decode_as_read,
    zero_shot,
)
from longspan.bench.extension import needle_recall, prose_nll
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.model import Model
from longspan.engine.needs import Needs
from longspan.ops.distance_attention import attend_in_passes
from longspan.ops.distance_maps import effective_distance, limited, plain
from longspan.ops.frequency_maps import Frequencies, Rope
from longspan.train.tiny_tasks import sample

FIRST = 10
RECIPE = f"lm_infinite(window={WINDOW}, first={FIRST})"
BOUNDED = f"{RECIPE} + window(budget={WINDOW + FIRST}, sink={FIRST}, when=chunk)"
MIDDLE = f"lm_infinite(window={WINDOW}, first={FIRST}, middle=5)"
UPPER = MIDDLE.replace("middle=5", "middle=5, from_layer=2")  # the paper's half of the layers
CHUNK = 64


@check(
    "lm-infinite",
    system="lm-infinite",
    claim="a lambda-shaped mask and a cap on the distance keep text fluent at any length in constant memory; the middle is unseen",
    file="src/longspan/methods/positions/lm_infinite.py",
)
def lm_infinite(bench: Bench) -> Outcome:
    outcome = Outcome()
    _exact(bench, outcome)
    must_decode_as_read(bench, outcome, RECIPE)
    must_decode_as_read(bench, outcome, MIDDLE)
    _memory(bench, outcome)
    found = zero_shot(bench, outcome, {"lm_infinite": fixed(RECIPE)})
    model = bench.model(str(tiny_trained.base()))
    for length in (1024, 2048):
        streaming = prose_nll(
            model, f"window(budget={WINDOW}, sink=4, positions=cache, when=chunk)", length, 4, chunk=CHUNK
        )
        mine, dense = found["lm_infinite", length], found["none", length]
        width = length // len(mine.nll)
        beyond = slice(WINDOW // width, None)
        stream = sum(streaming[beyond]) / len(streaming[beyond])
        outcome.figures[f"{length} tokens, NLL beyond the window: lm_infinite, window + sinks, none"] = (
            f"{mine.beyond(WINDOW):.3f}, {stream:.3f}, {dense.beyond(WINDOW):.3f}"
        )
        outcome.shows(
            f"{length} tokens: loss beyond the window below the unextended model's",
            mine.beyond(WINDOW) < dense.beyond(WINDOW),
        )
        outcome.shows(
            f"{length} tokens: within 3% of window and sinks with renumbered positions",
            abs(mine.beyond(WINDOW) / stream - 1) < 0.03,
        )
    last = found["lm_infinite", 2048].nll
    flat, short = sum(last[8:]) / len(last[8:]), dense_within_window(model, 2048, 1024, 4)
    outcome.figures["tokens 1024 to 2048: lm_infinite, and read densely from within the window"] = (
        f"{flat:.3f}, {short:.3f} ({flat / short - 1:+.1%})"
    )
    outcome.shows(
        "its loss at four to eight times the window is within 5% of a dense read's inside the window",
        flat < 1.05 * short,
    )
    middle = needle_recall(model, RECIPE, 2048, 4, depths=(0.5,))[0.5]
    near = needle_recall(model, RECIPE, 2048, 4, depths=(0.95,))[0.95]
    outcome.figures["2048 tokens, recall in the middle and in the window"] = (
        f"{middle.accuracy:.2f}, {near.accuracy:.2f}"
    )
    outcome.shows(
        "fluency is not recall: the window answers, the middle does not",
        near.accuracy > 0.5 > middle.accuracy,
    )
    again = needle_recall(model, MIDDLE, 2048, 4, depths=(0.5,))[0.5]
    outcome.figures["2048 tokens, record in the middle, without and with re-attention: recall, gold nats"] = (
        f"{middle.accuracy:.2f}, {again.accuracy:.2f}; {middle.gold_nats:.2f}, {again.gold_nats:.2f}"
    )
    upper = needle_recall(model, UPPER, 2048, 4, depths=(0.5,))[0.5]
    outcome.figures["2048 tokens, re-attention in the upper half of the layers alone: recall, gold nats"] = (
        f"{upper.accuracy:.2f}; {upper.gold_nats:.2f}"
    )
    outcome.shows("re-attention to a few middle tokens finds the middle", again.accuracy > middle.accuracy)
    return outcome


def dense_within_window(model: Model, length: int, start: int, samples: int) -> float:
    """Nats a token of tokens `start` to `length` of the stretches `prose_nll` draws, each read densely after half a window to a window of its own text."""
    rng = np.random.default_rng(length)
    half, nats = WINDOW // 2, []
    for _ in range(samples):
        ids = torch.from_numpy(sample("text", length, rng, held_out=True).ids)
        for at in range(start, length, half):
            part = ids[at - half : at + half]
            session = model.session(None, collect=Needs(token_logprobs=True)).read(part)
            nats.append(-float(session.token_logprobs()[half:].mean()))
    return float(np.mean(nats))


def _exact(bench: Bench, outcome: Outcome) -> None:
    tiny = str(tiny_trained.base())
    for recipe, sentence in (
        ("lm_infinite(window=300)", "a text within the window is read densely"),
        ("lm_infinite(window=300, first=0)", "without first tokens too"),
    ):
        gaps = {name: last_logits_gap(bench, name, recipe, "full") for name in (tiny, "smollm2-135m")}
        outcome.figures[f"{sentence}: largest logit difference, tiny and smollm2-135m"] = (
            "{:.1e}, {:.1e}".format(*gaps.values())
        )
        outcome.must(f"{sentence} (1e-4 on the tiny model)", gaps[tiny] < 1e-4)
    n = torch.arange(FIRST)
    distance, visible = effective_distance(limited(WINDOW, FIRST, WINDOW), n + WINDOW, n)
    outcome.must(
        "at the cap itself the distance is the true one", bool((distance == WINDOW).all() and visible.all())
    )
    rope = Rope(32, 1e4, WINDOW)
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, rows, 32, generator=draw) for rows in (1, 1, 1))
    at = torch.tensor([WINDOW])
    frequencies = Frequencies(rope.frequencies)
    logits = [
        attend_in_passes(q, k, v, at, torch.tensor([0]), passes, frequencies, scale=1.0)[1]
        for passes in (plain(), limited(WINDOW, FIRST, WINDOW))
    ]
    outcome.must("there both branches give the same logit (1e-4)", torch.allclose(*logits, atol=1e-4))


def _memory(bench: Bench, outcome: Outcome) -> None:
    """Dropping what the mask never shows changes nothing and bounds the cache."""
    model = bench.model(str(tiny_trained.base()))
    ids = bench.passage(1500, model=str(tiny_trained.base()))
    sessions = [
        model.session(recipe, collect=Needs(token_logprobs=True), chunk=CHUNK, beyond_window=True).read(ids)
        for recipe in (RECIPE, BOUNDED)
    ]
    gap = float((sessions[0].token_logprobs() - sessions[1].token_logprobs())[1:].abs().max())
    heads = model.geometry.kv_heads * len(model.geometry.growing)
    peak = sessions[1].stats.peak_entries
    outcome.figures["entries a head held at most, of 1500 read"] = f"{peak / heads:.0f}"
    outcome.figures["largest change of a token's log-probability by dropping the unseen"] = f"{gap:.1e}"
    outcome.must("dropping what the mask never shows changes nothing (1e-4)", gap < 1e-4)
    outcome.must("never more than window + first + one chunk", peak <= (WINDOW + FIRST + CHUNK) * heads)
