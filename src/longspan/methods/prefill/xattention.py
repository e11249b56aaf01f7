"""XAttention: score each tile by its strided antidiagonals, keep the fewest tiles that hold a given share of the estimated attention.

Source: XAttention, Xu et al., ICML 2025, arXiv 2503.16428; code mit-han-lab/x-attention. Every stride x stride cell is scored by the sum of its
antidiagonal (one product over reshaped queries and keys, 1 / stride of the dense cost); softmax over a row of cells, summed by tile, estimates the
tile's mass. Sink and diagonal tiles are always read and their mass counts; then the largest others until `threshold` of the row's mass is reached.

Per-head thresholds come from `longspan calibrate xattention`: heads start at `threshold` and are lowered by 10% where the least attention is lost per
tile saved, until the lost mass reaches `loss` on average; the paper's dynamic programme searches the same moves (steps by head) for the best table
of a given number of steps. heads=kv shares one choice in a query group (the estimates add up), which the original, written for repeated keys, does not do.
An antidiagonal of an even stride holds odd distances only: a slash exactly one token wide at an even distance is invisible to it.
A cell on the diagonal admits up to stride - 1 future tokens to the estimate, harmless as diagonal tiles are forced. Decoding stays dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.method import PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.prefill.base import calibration_text, dense_heads, keep_mass, keep_share
from longspan.ops.tile_scores import antidiagonal, exact_mass, over_group
from longspan.ops.tiles import TileMask


@register("xattention")
@dataclass(frozen=True)
class XAttention(PrefillPattern):
    """threshold: share of the estimated mass a row must reach (1 reads all). table: "flat" (one threshold) or "calibrated" (an artefact's, per
    head). budget: instead of a threshold, a fixed share of each row's tiles. stride, tile: tokens; tile is a multiple of stride. norm: temperature
    of the estimate. heads: "query" or "kv"."""

    source = Source("https://arxiv.org/abs/2503.16428", 2025, "https://github.com/mit-han-lab/x-attention")
    system = "xattention"

    threshold: float = 0.9
    table: str = "flat"
    budget: float | None = None
    stride: int = 8
    tile: int = 128
    norm: float = 1.0
    heads: str = "query"

    def __post_init__(self) -> None:
        if self.stride < 1 or self.tile < 1 or self.tile % self.stride:
            raise BadInput(f"tile={self.tile} of xattention must be a multiple of its stride={self.stride}.")
        if self.threshold < 0 or self.norm <= 0 or (self.budget is not None and not 0 < self.budget <= 1):
            raise BadInput("xattention takes threshold >= 0, norm > 0 and a budget above 0 and at most 1.")
        if self.table not in ("flat", "calibrated") or self.heads not in ("query", "kv"):
            raise BadInput("xattention takes table=flat or calibrated, and heads=query or kv.")
        if self.table == "calibrated" and self.heads == "kv":
            raise BadInput("the calibrated thresholds of xattention are per query head; use heads=query.")

    @property
    def chunk_step(self) -> int:  # type: ignore[override]
        return self.tile

    def check(self, model: Any) -> None:
        if self.table == "calibrated":
            self._thresholds(model)

    def _thresholds(self, model: Any) -> Tensor:
        table = calibration.load("xattention", model).tensors["thresholds"]
        wanted = (len(model.geometry.growing), model.geometry.q_heads)
        if tuple(table.shape) != wanted:
            raise BadInput(
                f"the thresholds of xattention are for {tuple(table.shape)} (layers, heads) and the model has {wanted}."
            )
        return table

    def estimate(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Estimated mass of every tile, (Hq or Hk, I, J)."""
        mass = antidiagonal(q, k, scale, self.tile, self.tile, stride=self.stride, temperature=self.norm)
        return over_group(mass, k.shape[0]) if self.heads == "kv" else mass

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        mass = self.estimate(q, k, view.session.scale(view.layer))
        if self.budget is not None:
            return keep_share(mass, self.budget, q, k, self.tile, self.tile)
        if self.table == "flat":
            return keep_mass(mass, float(self.threshold), q, k, self.tile, self.tile)
        held = view.session.run_state(self)
        if "thresholds" not in held:
            held["thresholds"] = self._thresholds(view.session.model)
        return keep_mass(mass, held["thresholds"][view.order].view(-1, 1), q, k, self.tile, self.tile)

    def calibrate(
        self,
        lm: Any,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        tokens: int = 2048,
        loss: float = 0.05,
    ) -> Path:
        """Search per-head thresholds on a key-value text and keep them as an artefact. loss: attention mass lost, mean over heads."""
        layers = dense_heads(lm, calibration_text(tokens, lm))
        kept, cost = [], []
        for number, (layer, q, k) in enumerate(layers):
            scale = lm.calls[layer][0]
            one = self.sweep(q, k, scale)
            kept.append(one[0])
            cost.append(one[1])
            if progress is not None:
                progress(number + 1, len(layers))
        steps = lower_thresholds(torch.cat(kept), torch.cat(cost), loss)
        table = (self.threshold * 0.9 ** steps.float()).view(len(layers), -1)
        table[steps.view_as(table) == STEPS] = 0.0
        facts = {
            "tokens": tokens,
            "loss": loss,
            "stride": self.stride,
            "tile": self.tile,
            "start": self.threshold,
        }
        return calibration.save("xattention", lm, tensors={"thresholds": table}, facts=facts, folder=folder)

    def sweep(self, q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """True mass kept and density of every head after 0 .. STEPS reductions of the threshold, each (Hq, STEPS + 1); the last step is 0."""
        estimate = self.estimate(q, k, scale)
        true = exact_mass(q, k, scale, self.tile, self.tile)
        kept, cost = [], []
        for step in range(STEPS + 1):
            tiles = keep_mass(
                estimate, self.threshold * 0.9**step if step < STEPS else 0.0, q, k, self.tile, self.tile
            )
            kept.append((true * tiles.tiles).sum((1, 2)) / q.shape[1])
            cost.append(tiles.kept_pairs() / tiles.pair_counts().sum())
        return torch.stack(kept, 1), torch.stack(cost, 1)


STEPS = 12  # threshold reductions tried per head; the last one means sink and diagonal only


def lower_thresholds(kept: Tensor, cost: Tensor, loss: float) -> Tensor:
    """Reductions per head, (H,) integers, from kept mass and cost after each number of reductions, (H, STEPS + 1) each.

    Every move lowers one head to a later step; the one that loses least mass per cost saved goes first, while the mean loss stays within `loss`.
    """
    heads, count = kept.shape
    steps = torch.zeros(heads, dtype=torch.long)
    spent, allowed = 0.0, loss * heads
    columns = torch.arange(count)
    while True:
        lost = kept.gather(1, steps.unsqueeze(1)) - kept
        saved = cost.gather(1, steps.unsqueeze(1)) - cost
        later = (columns > steps.unsqueeze(1)) & (saved > 1e-9) & (lost.clamp(min=0) <= allowed - spent)
        if not bool(later.any()):
            return steps
        price = (lost.clamp(min=0) / saved.clamp(min=1e-9)).masked_fill(~later, torch.inf)
        head, step = divmod(int(price.argmin()), count)
        spent += max(0.0, float(lost[head, step]))
        steps[head] = step
