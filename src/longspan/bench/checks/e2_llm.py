"""E2-LLM's check: one short tuning with random scales and offsets serves 2, 4 and 8 times the window; a fixed scale serves its own.

Loss is compared among models whose positions are divided, recall among all. A model tuned without scaling fails beyond its window in recall alone: what the tiny model
foretells of prose, letter by letter, comes from the last few dozen characters, so its loss hardly rises there and no divided model comes below it (a figure).
"""

import torch

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import (
    LENGTHS,
    WINDOW,
    fixed,
    must_be_a_map,
    zero_shot,
)
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.ops.sampled_positions import scale_and_offset_positions
from longspan.train.tiny_model import load_tiny

STEPS, LARGEST, FIXED = 300, 8, 4


@check(
    "e2-llm",
    system="e2-llm",
    claim="one tuning on short texts with random scales and offsets, any window at test time by setting the scale",
    file="src/longspan/methods/positions/e2_llm.py",
)
def e2_llm(bench: Bench) -> Outcome:
    outcome = Outcome()
    must_be_a_map(bench, outcome, "e2_llm(factor=3)", "e2_llm(factor=1)", "g = 1")
    _offsets(outcome)
    scaled = fixed("e2_llm(factor={s})")
    names = {
        "mine": f"e2-llm, g up to {LARGEST}",
        "one": f"g fixed at {FIXED}",
        "plain": "g = 1, read without scaling",
    }
    found = zero_shot(
        bench,
        outcome,
        {},
        more={
            names["mine"]: (
                tiny_trained.tuned(None, WINDOW, STEPS, positions="scaled", largest_scale=LARGEST),
                scaled,
            ),
            names["one"]: (
                tiny_trained.tuned(None, WINDOW, STEPS, positions="interpolated", largest_scale=FIXED),
                scaled,
            ),
            names["plain"]: (tiny_trained.tuned(None, WINDOW, STEPS), fixed("full")),
        },
    )
    for length in LENGTHS:
        mine, at = found[names["mine"], length], f"{length} tokens, g = {length // WINDOW}"
        rivals = ["pi"] + ([names["one"]] if length // WINDOW != FIXED else [])
        for rival in rivals:
            outcome.shows(
                f"{at}: loss beyond the window below that of: {rival}",
                mine.beyond(WINDOW) < found[rival, length].beyond(WINDOW),
            )
        for rival in [*rivals, names["plain"]]:
            outcome.shows(f"{at}: recalls more than: {rival}", mine.accuracy > found[rival, length].accuracy)
    return outcome


@torch.no_grad()
def _offsets(outcome: Outcome) -> None:
    """What the offset does to real logits: nothing, unless the first tokens stay where they are."""
    hf, ids = load_tiny(tiny_trained.base()), (torch.arange(64) % 200 + 5).unsqueeze(0)
    plain = hf(input_ids=ids, use_cache=False).logits
    draw = next(
        found
        for seed in range(100)
        if (found := scale_and_offset_positions(64, 4, torch.Generator().manual_seed(seed), sink=0))[2] > 20
        and found[1] > 1
    )
    positions, scale, offset = draw
    outcome.must(
        "positions are (n + t) / g",
        torch.equal(positions, (torch.arange(64, dtype=torch.float32) + offset) / scale),
    )
    unmoved = torch.arange(64, dtype=torch.float32) / scale
    sink = positions.clone()
    sink[:4] = unmoved[:4]

    def logits(where: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(ids)  # or transformers takes such positions for several packed sequences
        return hf(input_ids=ids, attention_mask=mask, position_ids=where.unsqueeze(0), use_cache=False).logits

    still = float((logits(positions) - logits(unmoved)).abs().max())
    moved = float((logits(sink) - logits(unmoved)).abs().max())
    outcome.figures["the offset's effect on logits, without and with the first four tokens unmoved"] = (
        f"{still:.1e}, {moved:.2f}"
    )
    outcome.must("without the exception the offset is invisible (1e-3)", still < 1e-3)
    outcome.must("with it, it is seen", moved > 0.01)
    same = scale_and_offset_positions(64, 1, torch.Generator().manual_seed(0))[0]
    outcome.must("g = 1 and t = 0 leave the logits equal to the bit", torch.equal(logits(same), plain))
