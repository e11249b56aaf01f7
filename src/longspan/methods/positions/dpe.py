"""DPE: Self-Extend with a group size for each band of pairs, and if asked only on the pairs that a head uses most.

Source: Effective Length Extrapolation via Dimension-Wise Positional Embeddings Manipulation, 2025, arXiv 2504.18857; code LuLuLuyi/DPE. Pairs are cut into equal bands with divisors `scales`; band g sees
D' = m//s - n//s + w - w//s beyond w. Detection sweeps one band's divisor while the others stay at 2 T / window and keeps the one that finds needles best (`detect_scales`).
With `key_pairs`, each query head of each layer scales only the k pairs with the largest mean ||q_j|| ||k_j||, the others keep true distances (paper: 48 of 64); the means come from an
offline pass (`longspan calibrate dpe`) over key-value texts of a quarter, a half and the whole of the trained window, where the reference takes 10 samples at each of 2048, 4096, ... tokens. What a
pair contributes does not depend on its rotation, so it is measured on rotated queries and keys. Lists of the reference [code]: Llama-3-8B (2,8,2,8,32,32,32,4), Llama-3.1-8B (2,32,32,2,2,2,2,1), Mistral-7B-v0.2
(4,16,2,16,32,16,16,2), Qwen2.5-7B (2,16,8,8,32,8,2,4), all with w 1024. Its prefill shifts by w/s and its decode by w//s; the floor is used for both here.

On a tiny model the detected list recalled as much as Self-Extend with the largest divisor and lost 0.01 nats of prose to it at four times the window (evidence/dpe.json).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.positions.base import DistanceMethod, check_exact, check_sizes, numbers
from longspan.methods.prefill.base import calibration_text, dense_heads
from longspan.ops.distance_maps import Passes, dimension_groups, group_sizes


@register("dpe")
@dataclass(frozen=True)
class DPE(DistanceMethod):
    """neighbours: w in tokens. scales: divisors of equal bands of pairs, fastest first; powers of two that divide w. key_pairs: pairs a query head scales, 0 for all of them."""

    source = Source("https://arxiv.org/abs/2504.18857", 2025, "https://github.com/LuLuLuyi/DPE")
    system = "dpe"

    neighbours: int = 1024
    scales: tuple[int, ...] = (2, 8, 2, 8, 32, 32, 32, 4)
    key_pairs: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", numbers(self.name, "scales", self.scales))
        check_sizes(self.name, neighbours=self.neighbours)
        if not self.scales or any(
            isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in self.scales
        ):
            raise BadInput(
                f"scales={self.scales!r} of dpe must be whole numbers of at least 1, as in scales=(2, 8, 32)."
            )
        if self.key_pairs < 0:
            raise BadInput(
                f"key_pairs={self.key_pairs} of dpe counts pairs of a head; give 0 for all of them."
            )

    def check(self, model: Any) -> None:
        pairs = min(
            layer.rope.trained.dim // 2 for layer in model.geometry.layers.values() if layer.rope.rotates
        )
        if len(self.scales) > pairs:
            raise BadInput(f"dpe got {len(self.scales)} scales for {pairs} pairs; give at most one a pair.")

        if self.key_pairs > pairs:
            raise BadInput(
                f"key_pairs={self.key_pairs} of dpe is more than the {pairs} pairs of a head; give fewer."
            )
        if self.key_pairs:
            tensors = calibration.load("dpe", model).tensors
            chosen = [
                (layer.rope, strongest_pairs(tensors[f"layer{index}"], self.key_pairs))
                for index, layer in model.geometry.layers.items()
                if f"layer{index}" in tensors
            ]
            known = getattr(self, "_chosen", {})
            object.__setattr__(self, "_chosen", {**known, **{id(rope): (rope, one) for rope, one in chosen}})

    def check_trained(self, trained_window: int) -> None:
        check_exact(self.name, "neighbours", self.neighbours, trained_window)

    def passes(self, rope: Any) -> Passes:
        groups = group_sizes(self.scales, rope.trained.dim // 2)
        turned = self._chosen[id(rope)][1] if self.key_pairs else None
        return dimension_groups(self.neighbours, groups, turned)

    def reach(self, trained_window: int) -> float:
        return (trained_window - self.neighbours) * max(self.scales) + self.neighbours

    def calibrate(
        self,
        lm: Any,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        samples: int = 3,
        longest: int = 2048,
    ) -> Path:
        """Mean ||q_j|| ||k_j|| of every pair j of every query head over `samples` key-value texts at each of three lengths, kept as an artefact."""
        whole = min(longest, lm.geometry.trained_window)
        lengths = [max(64, whole // part) for part in (4, 2, 1)]
        means: dict[str, Tensor] = {}
        for number, (length, seed) in enumerate((n, s) for n in lengths for s in range(samples)):
            for layer, q, k in dense_heads(lm, calibration_text(length, lm, seed)):
                rope = lm.geometry.layers[layer].rope
                if not rope.rotates:
                    continue
                strength = pair_norms(q, rope) * pair_norms(k, rope).repeat_interleave(len(q) // len(k), 0)
                share = strength.mean(1) / (len(lengths) * samples)
                means[f"layer{layer}"] = means.get(f"layer{layer}", 0) + share
            if progress is not None:
                progress(number + 1, len(lengths) * samples)
        if not means:
            raise BadInput(
                "dpe ranks rotated pairs, and this model has none that the engine knows; nothing to calibrate."
            )
        facts = {"lengths": lengths, "samples": samples}
        return calibration.save("dpe", lm, tensors=means, facts=facts, folder=folder)


def pair_norms(x: Tensor, rope: Any) -> Tensor:
    """2-norm of every pair of x (H, T, D), fp32 (H, T, P)."""
    turning = x[..., rope.start : rope.start + rope.trained.dim].float()
    pairs = turning.unflatten(-1, (2, -1) if rope.layout == "half" else (-1, 2))
    return pairs.norm(dim=-2 if rope.layout == "half" else -1)


def strongest_pairs(means: Tensor, count: int) -> Tensor:
    """bool (Hq, P): the `count` pairs of each head with the largest means (Hq, P); ties go to the faster pair."""
    order = means.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(means, dtype=torch.bool).scatter(1, order, True)


def detect_scales(
    probe: Callable[[tuple[int, ...]], float], bands: int, candidates: Sequence[int], others: int
) -> tuple[tuple[int, ...], dict[tuple[int, int], float]]:
    """Sweep one band's divisor at a time, the others fixed at `others` (2 T / window); keep the best of each, ties to the smaller.

    probe: score (larger is better) of a list of divisors, such as needle accuracy at the target length. Returns the list and every (band, divisor) score.
    """
    scores = {}
    best = []
    for band in range(bands):
        for divisor in candidates:
            scales = [others] * bands
            scales[band] = divisor
            scores[band, divisor] = probe(tuple(scales))
        best.append(max(candidates, key=lambda divisor, band=band: (scores[band, divisor], -divisor)))
    return tuple(best), scores
