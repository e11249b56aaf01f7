"""MInference: every head has one of three mask shapes, found once and offline; a cheap probe of the text fills in which columns, diagonals or tiles.

Source: MInference 1.0, Jiang et al., NeurIPS 2024, arXiv 2407.02490; code microsoft/MInference.
- a_shape: the first `a` and the newest `b` tokens.
- vertical_slash: exact rows of the last 64 queries; their sums by key choose `a` columns (the first 30 always), their sums by distance choose `b`
  diagonals (the nearest 100 always). Columns stay exact, diagonals are rounded out to the tiles they cross.
- block_sparse: mean query times mean key of a tile; the best `a` (a share) of a row's causal tiles.
Head search (`longspan calibrate minference`): the shape and budget whose mask keeps most true attention per head on a key-value text, among candidates
whose cost is at most `density`; the released search compares fixed token counts at one length of 30K instead.

The original probes the end of the whole prompt. Reading in chunks, the probe is the end of each chunk, so the question at the end of a text steers
only the last chunk. The original also stores block-sparse winners as vertical-slash with a budget of its own; here they stay what they are.
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
from longspan.methods.prefill.base import calibration_text, dense_heads, keep_share
from longspan.ops.tile_patterns import from_vertical_slash, from_window_sink
from longspan.ops.tile_scores import exact_mass, over_group, pooled, probe_rows, slash_sums
from longspan.ops.tiles import TileMask

SHAPES = ("a_shape", "vertical_slash", "block_sparse")
FORCED_COLUMNS, FORCED_DISTANCES = 30, 100
Choice = tuple[str, float, float]  # shape, a, b: token counts above 1, shares of the keys up to 1
CANDIDATES: tuple[Choice, ...] = (
    *(("a_shape", 0.03, share) for share in (0.05, 0.1, 0.2)),
    *(("vertical_slash", a, b) for a, b in ((0.02, 0.1), (0.05, 0.05), (0.1, 0.1), (0.2, 0.02), (0.3, 0.02))),
    *(("block_sparse", share, 0.0) for share in (0.125, 0.25, 0.4)),
)


@register("minference")
@dataclass(frozen=True)
class MInference(PrefillPattern):
    """shape: of every head, or "calibrated" (an artefact's, per head). vertical, slash: columns and diagonals of vertical_slash, in tokens, or as a
    share of the keys when at most 1.0. window, sink: of a_shape. blocks: share of the tiles of block_sparse. probe: queries (tokens) that are
    computed exactly. tile: tokens. heads: "query" or "kv" (one choice a query group)."""

    source = Source("https://arxiv.org/abs/2407.02490", 2024, "https://github.com/microsoft/MInference")
    system = "minference"

    shape: str = "vertical_slash"
    vertical: float = 1000.0
    slash: float = 6096.0
    sink: float = 100.0
    window: float = 800.0
    blocks: float = 0.25
    probe: int = 64
    tile: int = 64
    heads: str = "query"

    def __post_init__(self) -> None:
        if self.shape not in (*SHAPES, "calibrated") or self.heads not in ("query", "kv"):
            raise BadInput(
                f"minference takes shape={', '.join(SHAPES)} or calibrated, and heads=query or kv."
            )
        if min(self.vertical, self.slash, self.sink, self.window) < 0 or not 0 < self.blocks <= 1:
            raise BadInput(
                "minference counts tokens from 0 up (or shares up to 1), and blocks is a share above 0."
            )
        if self.probe < 1 or self.tile < 1:
            raise BadInput("minference takes probe >= 1 and tile >= 1.")
        if self.shape == "calibrated" and self.heads == "kv":
            raise BadInput("the calibrated shapes of minference are per query head; use heads=query.")

    @property
    def reads(self) -> str:  # type: ignore[override]
        fixed = self.shape == "block_sparse" or (self.shape == "a_shape" and min(self.sink, self.window) > 1)
        return "any" if fixed else "by_chunk"

    @property
    def chunk_step(self) -> int:  # type: ignore[override]
        return self.tile if self.chunk_safe else 1

    def check(self, model: Any) -> None:
        if self.shape == "calibrated":
            self._plan(model)

    def _plan(self, model: Any) -> list[list[Choice]]:
        plan = calibration.load("minference", model).facts["heads"]
        wanted = (len(model.geometry.growing), model.geometry.q_heads)
        if len(plan) != wanted[0] or any(len(row) != wanted[1] for row in plan):
            raise BadInput(
                f"the head shapes of minference are not for {wanted[0]} layers of {wanted[1]} heads."
            )
        return plan

    def choice(self) -> Choice:
        """The shape of every head when it is not calibrated."""
        return {
            "a_shape": ("a_shape", self.sink, self.window),
            "vertical_slash": ("vertical_slash", self.vertical, self.slash),
            "block_sparse": ("block_sparse", self.blocks, 0.0),
        }[self.shape]

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        scale, heads = view.session.scale(view.layer), q.shape[0]
        if self.shape != "calibrated":
            return self.mask(self.choice(), q, k, scale, k.shape[0] if self.heads == "kv" else heads)
        held = view.session.run_state(self)
        if "plan" not in held:
            held["plan"] = self._plan(view.session.model)
        return self.mixed(held["plan"][view.order], q, k, scale)

    def mixed(self, plan: list[Choice], q: Tensor, k: Tensor, scale: float) -> TileMask:
        """One mask in which head h has the shape plan[h]."""
        masks = {
            tuple(one): self.mask(tuple(one), q, k, scale, q.shape[0]) for one in {tuple(one) for one in plan}
        }
        parts = [masks[tuple(one)] for one in plan]
        first = parts[0]
        tiles = torch.stack([part.tiles[head] for head, part in enumerate(parts)])
        columns = None
        if any(part.columns is not None for part in parts):
            none = torch.zeros(first.keys, dtype=torch.bool, device=q.device)
            columns = torch.stack(
                [none if part.columns is None else part.columns[head] for head, part in enumerate(parts)]
            )
        return TileMask(tiles, first.queries, first.keys, self.tile, self.tile, first.offset, columns)

    def mask(self, choice: Choice, q: Tensor, k: Tensor, scale: float, heads: int) -> TileMask:
        """The mask of one shape for all `heads` (Hq or Hk) heads."""
        shape, a, b = choice
        queries, keys = q.shape[1], k.shape[1]
        grid = {"query_tile": self.tile, "key_tile": self.tile}
        if shape == "a_shape":
            sizes = {"sink": _tokens(a, keys), "window": max(1, _tokens(b, keys))}
            return from_window_sink(heads, queries, keys, **sizes, **grid, device=q.device)
        if shape == "block_sparse":
            scores = pooled(q, k, scale, self.tile, self.tile)
            return keep_share(
                _for(scores.softmax(-1) if heads < q.shape[0] else scores, heads),
                a,
                q,
                k,
                self.tile,
                self.tile,
            )
        rows = _for(probe_rows(q, k, scale, self.probe), heads)
        return self.vertical_slash(rows, _tokens(a, keys), _tokens(b, keys), queries, keys)

    def vertical_slash(self, rows: Tensor, vertical: int, slash: int, queries: int, keys: int) -> TileMask:
        """The mask of `vertical` columns and `slash` diagonals chosen from attention rows (H, R, T)."""
        columns, distances = rows.sum(1), slash_sums(rows)
        columns[:, :FORCED_COLUMNS] = torch.inf
        distances[:, :FORCED_DISTANCES] = torch.inf
        vertical, slash = min(keys, max(vertical, FORCED_COLUMNS)), min(keys, max(slash, 1))
        return from_vertical_slash(
            columns.topk(vertical, -1).indices,
            distances.topk(slash, -1).indices,
            queries,
            keys,
            query_tile=self.tile,
            key_tile=self.tile,
        )

    def calibrate(
        self,
        lm: Any,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        tokens: int = 2048,
        density: float = 0.4,
    ) -> Path:
        """Search every head's shape on a key-value text and keep them as an artefact. density: the most a candidate may cost."""
        layers = dense_heads(lm, calibration_text(tokens, lm))
        plan = []
        for number, (layer, q, k) in enumerate(layers):
            plan.append(self.search(q, k, lm.calls[layer][0], density))
            if progress is not None:
                progress(number + 1, len(layers))
        return calibration.save(
            "minference", lm, facts={"heads": plan, "tokens": tokens, "density": density}, folder=folder
        )

    def search(
        self, q: Tensor, k: Tensor, scale: float, density: float, candidates: tuple[Choice, ...] = CANDIDATES
    ) -> list[Choice]:
        """The candidate that keeps most true attention, per query head, among those within `density` (the cheapest if none is)."""
        recalls, costs = zip(*(self.recall(one, q, k, scale) for one in candidates), strict=True)
        recall, cost = torch.stack(recalls), torch.stack(costs)
        recall = recall.masked_fill((cost > density) & (cost > cost.amin(0)), -1.0)
        return [candidates[i] for i in recall.argmax(0).tolist()]

    def recall(self, choice: Choice, q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """True attention kept by a shape and its density, per query head: two (Hq,). Columns outside the tiles count token by token."""
        mask = self.mask(choice, q, k, scale, q.shape[0])
        mass = exact_mass(q, k, scale, self.tile, 1 if mask.columns is not None else self.tile)
        kept = mask.tiles
        if mask.columns is not None:
            kept = kept.repeat_interleave(self.tile, -1)[..., : mask.keys] | mask.columns.unsqueeze(1)
        return (mass * kept).sum((1, 2)) / q.shape[1], mask.kept_pairs() / mask.pair_counts().sum()


def _tokens(amount: float, keys: int) -> int:
    """A share of the keys up to 1.0, else a number of tokens."""
    return min(
        keys,
        round(amount * keys) if amount <= 1.0 else int(amount),
    )


def _for(scores: Tensor, heads: int) -> Tensor:
    return over_group(scores, heads)
