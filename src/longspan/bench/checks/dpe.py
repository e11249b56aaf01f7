"""DPE's check: one scale for all bands is Self-Extend, scales of 1 are plain attention; detection on held-out prompts finds a list at least as good as Self-Extend."""

import numpy as np
import torch

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import (
    WINDOW,
    fixed,
    incremental_gap,
    last_logits_gap,
    must_decode_as_read,
    zero_shot,
)
from longspan.bench.extension import needle_recall, prose_nll
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.methods.positions.dpe import DPE, detect_scales
from longspan.ops.distance_attention import attend_in_passes
from longspan.ops.distance_maps import dimension_groups, group_sizes
from longspan.ops.frequency_maps import Frequencies, Rope

TARGET, BANDS, CANDIDATES = 1024, 4, (1, 2, 4, 8)
OTHERS = 2 * TARGET // WINDOW
NEAR = WINDOW // 4
KEY_PAIRS = 12  # of 16, the published share of 48 of 64
HELD_OUT = 1  # the draw of prompts that detection sees; the test's is 0


@check(
    "dpe",
    system="dpe",
    claim="a divisor for each band of pairs, found by a needle probe, is at least as good as one for all (Self-Extend)",
    file="src/longspan/methods/positions/dpe.py",
)
def dpe(bench: Bench) -> Outcome:
    outcome = Outcome()
    _exact(bench, outcome)
    must_decode_as_read(bench, outcome, f"dpe(neighbours={NEAR}, scales=(1, 4, 8, 2))")
    model = bench.model(str(tiny_trained.base()))
    DPE().calibrate(model)
    chosen = f"dpe(neighbours={NEAR}, scales=(1, 4, 8, 2), key_pairs={KEY_PAIRS})"
    gap = incremental_gap(model, chosen, torch.arange(600) % 200 + 5, 24)
    outcome.must(
        "scaling a head's strongest pairs alone, decoding equals one-shot reading (1e-4)", gap < 1e-4
    )

    def probe(scales: tuple[int, ...]) -> float:
        recipe = f"dpe(neighbours={NEAR}, scales={scales})"
        found = needle_recall(model, recipe, TARGET, 3, draw=HELD_OUT)
        nll = prose_nll(model, recipe, TARGET, 3, bins=TARGET // WINDOW, draw=HELD_OUT)
        return -float(np.mean([one.gold_nats for one in found.values()])) - float(np.mean(nll[1:]))

    best, scores = detect_scales(probe, BANDS, CANDIDATES, OTHERS)
    outcome.figures[f"detected at {TARGET} tokens in {len(scores)} probes"] = str(best)
    outcome.figures["probe, least and most negative"] = (
        f"{max(scores.values()):.2f}, {min(scores.values()):.2f}"
    )
    found = zero_shot(
        bench,
        outcome,
        {
            "dpe, detected": fixed(f"dpe(neighbours={NEAR}, scales={best})"),
            f"dpe, detected, on {KEY_PAIRS} of 16 pairs a head": fixed(
                f"dpe(neighbours={NEAR}, scales={best}, key_pairs={KEY_PAIRS})"
            ),
            "self_extend": fixed(f"self_extend(neighbours={NEAR}, group={OTHERS})"),
            "ntk": fixed("ntk(factor={s})"),
        },
    )
    mine, other = found["dpe, detected", TARGET], found["self_extend", TARGET]
    outcome.shows(
        f"at {TARGET} tokens it recalls at least as much as Self-Extend, the number it was detected for",
        mine.accuracy >= other.accuracy,
    )
    outcome.shows(
        f"at {TARGET} tokens its loss beyond the window is at most Self-Extend's",
        mine.beyond(WINDOW) <= other.beyond(WINDOW),
    )
    outcome.shows(
        f"at {TARGET} tokens it recalls more than no extension and than position interpolation",
        mine.accuracy > max(found["none", TARGET].accuracy, found["pi", TARGET].accuracy),
    )
    return outcome


def _exact(bench: Bench, outcome: Outcome) -> None:
    tiny = str(tiny_trained.base())
    for one, other, sentence in (
        ("dpe(neighbours=64, scales=(1, 1, 1, 1))", "full", "all scales 1 equal plain attention"),
        ("dpe(neighbours=4096, scales=(8, 4, 2, 1))", "full", "a window longer than the text too"),
        (
            "dpe(neighbours=64, scales=(8, 8, 8, 8))",
            "self_extend(neighbours=64, group=8)",
            "equal scales equal Self-Extend",
        ),
    ):
        gaps = {name: last_logits_gap(bench, name, one, other) for name in (tiny, "smollm2-135m")}
        outcome.figures[f"{sentence}: largest logit difference, tiny and smollm2-135m"] = (
            "{:.1e}, {:.1e}".format(*gaps.values())
        )
        outcome.must(f"{sentence} (1e-4 on the tiny model)", gaps[tiny] < 1e-4)
    rope = Rope(32, 1e4, 256)
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(heads, 300, 32, generator=draw) for heads in (4, 2, 2))
    at = torch.arange(300)
    groups = group_sizes((1, 2, 4, 8), 16)
    attended = [
        attend_in_passes(
            q,
            k,
            v,
            at,
            at,
            dimension_groups(32, groups, turned),
            Frequencies(rope.frequencies),
            scale=32**-0.5,
        )[0]
        for turned in (None, torch.ones(4, 16, dtype=torch.bool))
    ]
    outcome.must(
        "choosing all pairs of every head equals choosing none away (1e-5)",
        float((attended[0] - attended[1]).abs().max()) < 1e-5,
    )
