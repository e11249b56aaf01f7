"""GIRAFFE's check (vision-language): M-RoPE++ on a tiny random Qwen2-VL with an image's grid of positions, token counts of hybrid resolution, and its map on text."""

from typing import Any

import torch

from longspan.bench.checks._extension import (
    WINDOW,
    fixed,
    must_be_a_map,
    zero_shot,
)
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.model import Model
from longspan.engine.recipe import parse
from longspan.methods.positions.export import exported_config
from longspan.ops.frame_sizes import frame_tokens, hybrid_sizes, hybrid_tokens, snapped
from longspan.ops.frequency_maps import Rope, axis_mixed, default, ntk

VOCABULARY, TRAINED = 64, 64
RECIPE = "mrope_plus(factor=4)"


@check(
    "giraffe-vlm",
    system="giraffe-vlm",
    claim="time pairs keep their frequencies, height and width pairs stretch; on video, one frame of a group at high resolution",
    file="src/longspan/methods/positions/mrope_plus.py",
)
def giraffe_vlm(bench: Bench) -> Outcome:
    outcome = Outcome()
    _map(outcome)
    _vision(outcome)
    _frames(outcome)
    must_be_a_map(bench, outcome, RECIPE, "mrope_plus(factor=1)", "T = L")
    found = zero_shot(
        bench, outcome, {"mrope_plus": fixed("mrope_plus(factor={s})"), "ntk": fixed("ntk(factor={s})")}
    )
    mine, low, high = (
        found[name, 1024].beyond(WINDOW)
        for name in ("mrope_plus", *sorted(("ntk", "yarn"), key=lambda n: found[n, 1024].beyond(WINDOW)))
    )
    outcome.shows(
        "1024 tokens, zero-shot: loss beyond the window between NTK's and YaRN's (2%)",
        0.98 * low <= mine <= 1.02 * high,
    )
    outcome.shows(
        "1024 tokens, zero-shot: loss beyond the window below position interpolation's",
        mine < found["pi", 1024].beyond(WINDOW),
    )
    return outcome


def _map(outcome: Outcome) -> None:
    for dim, ranges in ((64, (8, 20)), (128, (16, 40))):
        rope = Rope(dim, 1e6, 16384)
        found = parse(RECIPE).methods[0].map(rope, 4).inv_freq
        changed = found != rope.frequencies
        outcome.must(
            f"head dim {dim}: the first {ranges[0]} pairs (time) are kept, all others slower",
            not bool(changed[: ranges[0]].any())
            and bool((found <= rope.frequencies).all() and changed[ranges[0] :].all()),
        )
        stretch = (4 * rope.window - 1) / (rope.window - 1)
        width = ntk(rope, stretch).inv_freq
        outcome.must(
            f"head dim {dim}: height (rho 1) and width are NTK by (T-1)/(L-1)",
            torch.allclose(found[ranges[0] :], width[ranges[0] :], rtol=1e-6),
        )
        half = parse("mrope_plus(factor=4, rho=0.5, scale=4)").methods[0].map(rope, 4).inv_freq
        rows = slice(*ranges)
        outcome.must(
            f"head dim {dim}: rho mixes height's linear and NTK frequencies",
            torch.allclose(half[rows], 0.5 * rope.frequencies[rows] / 4 + 0.5 * width[rows], rtol=1e-6),
        )
    rope = Rope(64, 1e5, 8192)
    everywhere = axis_mixed(rope, [(0, 32, lambda r: ntk(r, 4))]).inv_freq
    outcome.must("all ranges NTK equal static NTK to the bit", torch.equal(everywhere, ntk(rope, 4).inv_freq))
    outcome.must(
        "no range changes nothing",
        torch.equal(axis_mixed(rope, [(0, 32, default)]).inv_freq, rope.frequencies),
    )


def tiny_vision_model(config: Any = None) -> Any:
    """A random Qwen2-VL, 16 dimensions a head, pairs split 2 / 3 / 3 between time, height and width."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": TRAINED,
        "vocab_size": VOCABULARY,
        "initializer_range": 0.15,  # wide enough that attention is far from uniform
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    marks = {
        f"{name}_token_id": VOCABULARY - 1 - at
        for at, name in enumerate(("image", "video", "vision_start", "vision_end"))
    }
    config = config or Qwen2VLConfig(text_config=text, vision_config=vision, **marks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.float32)
    model.set_attn_implementation("eager")
    return model.eval().requires_grad_(False)


def grid_positions(before: int, frames: int, high: int, wide: int, after: int) -> torch.Tensor:
    """(3, 1, S): text, a video's grid of (time, height, width), text that goes on after its largest."""
    text = torch.arange(before).expand(3, -1)
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(n) for n in (frames, high, wide)), indexing="ij")
    ).flatten(1)
    rest = torch.arange(after).expand(3, -1) + before + max(frames, high, wide)
    return torch.cat((text, grid + before, rest), 1).unsqueeze(1)


@torch.no_grad()
def _vision(outcome: Outcome) -> None:
    plain = tiny_vision_model()
    method = parse(RECIPE).methods[0]
    positions = grid_positions(20, 2, 6, 6, 60)
    ids = (torch.arange(positions.shape[-1]) * 7 % (VOCABULARY - 8) + 2).unsqueeze(0)

    def logits(model: Any, where: torch.Tensor = positions) -> torch.Tensor:
        return model(input_ids=ids[:, : where.shape[-1]], position_ids=where, use_cache=False).logits

    own = logits(plain)
    same = tiny_vision_model(exported_config(plain.config, method, 1))
    outcome.must(
        "factor 1 leaves a sequence with a video's grid as it was, to the bit", torch.equal(logits(same), own)
    )
    stretched = tiny_vision_model(exported_config(plain.config, method))
    by_hand = tiny_vision_model()
    rope = Rope(16, 1e4, TRAINED)
    by_hand.model.language_model.rotary_emb.inv_freq.copy_(method.map(rope, 4).inv_freq)
    gap = float((logits(stretched) - logits(by_hand)).abs().max())
    outcome.figures[
        "exported to rope_parameters against frequencies set by hand, over a video's grid: logit difference"
    ] = f"{gap:.1e}"
    outcome.must("the exported config is the map, with the axes' ranges kept (1e-5)", gap < 1e-5)
    outcome.must("the map acts", float((logits(stretched) - own).abs().max()) > 1e-3)
    shifted = positions.clone()
    shifted[0] += 500
    rotary = stretched.model.language_model.rotary_emb
    x = torch.zeros(1, 1, 16)
    moved = (rotary(x, positions)[0] != rotary(x, shifted)[0]).reshape(-1, 2, 8).any(0).any(0)
    outcome.must("moving time turns the time pairs and no others", moved.tolist() == [True] * 2 + [False] * 6)
    text = grid_positions(90, 0, 0, 0, 0)
    engine = Model(tiny_vision_model(), None, name="tiny-qwen2-vl", trained_window=TRAINED)
    read = engine.session(RECIPE).read(ids[0, :90]).next_logits()
    gap = float((read - logits(stretched, text)[0, -1]).abs().max())
    outcome.figures[
        "engine against the exported model on text, 90 tokens of a window of 64: logit difference"
    ] = f"{gap:.1e}"
    outcome.must("the engine's session equals the exported model on text (1e-4)", gap < 1e-4)


def _frames(outcome: Outcome) -> None:
    high, low = 448 * 448, 224 * 224
    hi, lo = frame_tokens(720, 1280, high), frame_tokens(720, 1280, low)
    outcome.figures["720 x 1280 frame, tokens at high and low resolution"] = f"{hi}, {lo}"
    for group in (2, 4, 8):
        total = hybrid_tokens(64, 720, 1280, group, high, low)
        outcome.must(
            f"64 frames in groups of {group}: tokens are groups x (hi + (group - 1) lo)",
            total == 64 // group * (hi + (group - 1) * lo),
        )
    outcome.figures["64 frames: tokens all high, groups of 4, all low"] = ", ".join(
        str(n) for n in (64 * hi, hybrid_tokens(64, 720, 1280, 4, high, low), 64 * lo)
    )
    sizes = {snapped(h, w, high) for h in (100, 719, 1080) for w in (333, 1280, 1920)}
    outcome.must(
        "sides are multiples of 28 and no frame exceeds its pixels",
        all(h % 28 == 0 and w % 28 == 0 and h * w <= high for h, w in sizes),
    )
    outcome.must("group 0 is off", hybrid_sizes(5, 720, 1280, 0, high, low) == [snapped(720, 1280, high)] * 5)
