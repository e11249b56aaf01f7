"""ActQKV: the query that looks blocks up is a mixture in which unusual tokens weigh more, and flat layers get more of the budget than peaked ones.

Source: Activation-aware Probe-Query, Xiao et al., 2025, arXiv 2502.13542; no code. On InfLLM's blocks and representative keys: over the last `window` tokens
the queries before rotation are normalised per channel, a token's bias is the mean square of its z-scores, and the probe query is the mixture by softmax of the
bias. Blocks are ranked by probe . representatives, together with the present query's own score. Each layer's share of the total budget is
proportional to the entropy of its softmax over blocks, taken with the probe when the text has been read; the sum over layers stays within it.

The exact formulas are unverified (no code, a sheet at the level of the paper's names): `probe=mean` gives InfLLM's plain mean, `mix` is the weight of the probe
beside the present query, 0 turns it off, and `dynamic=false` the layer budgets. One choice a layer, as InfLLM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.engine.method import Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.decode.infllm import InfLLM
from longspan.ops.attention import grouped_scores
from longspan.ops.choose import fill_groups
from longspan.ops.selection import Selection


@register("actqkv")
@dataclass(frozen=True)
class ActQKV(InfLLM):
    """As infllm, and probe: "activation" (z-score weights) or "mean". mix: weight of the probe beside the present query, 0 to 1. dynamic: budgets by
    entropy. window: tokens that make the probe."""

    source = Source("https://arxiv.org/abs/2502.13542", 2025)
    system = "actqkv"

    probe: str = "activation"
    mix: float = 0.25
    dynamic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe not in ("activation", "mean") or not 0 <= self.mix <= 1:
            raise BadInput("actqkv takes probe=activation or mean, and mix from 0 to 1.")

    @property
    def pre_rope(self) -> bool:  # type: ignore[override]
        return self.probe == "activation"

    @property
    def needs(self) -> Needs:
        return Needs(window_queries=self.window) | super().needs

    def index(self, view: LayerView) -> None:
        super().index(view)
        queries = view.window_queries(self.window)
        if self.probe == "activation":
            weights = activation_weights(view.unrotated_window_queries(self.window))
        else:
            weights = torch.full(queries.shape[:2], 1 / queries.shape[1], device=queries.device)
        view.state["probe"] = (queries.float() * weights.unsqueeze(-1)).sum(1, keepdim=True)
        shares = view.session.run_state(self)
        if self.dynamic and "sums" in view.state:
            flatness = self._weights(view, view.state["probe"])
            entropy = -(flatness * flatness.clamp(min=1e-30).log()).sum()
            shares["entropy"] = {**shares.get("entropy", {}), view.order: float(entropy)}

    def _weights(self, view: LayerView, q: Tensor) -> Tensor:
        """Softmax over blocks of the mean score over all query heads, (C,)."""
        scores = grouped_scores(q, view.state["sums"] / self.representatives, view.session.scale(view.layer))
        return scores.mean((0, 1)).softmax(-1)

    def layer_budget(self, view: LayerView) -> int:
        """Entries this layer may read: its entropy's share of the total of all layers, which is never exceeded."""
        budget, entropy = view.state["budget"], view.session.run_state(self).get("entropy", {})
        total = sum(entropy.values())
        if not self.dynamic or not total:
            return budget
        return min(view.run.indexed, int(budget * len(entropy) * entropy[view.order] / total))

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        if view.state["budget"] >= view.run.indexed or "sums" not in view.state:
            return None
        query = (1 - self.mix) * q + self.mix * view.state["probe"]
        scores = self._weights(view, query)
        return fill_groups(
            scores.expand(q.shape[0] // view.geometry.group, -1),
            view.state["labels"],
            self.layer_budget(view),
        )


def activation_weights(queries: Tensor) -> Tensor:
    """Softmax over tokens of the mean squared z-score of their channels: queries (Hq, W, D) before rotation -> (Hq, W)."""
    queries = queries.float()
    spread = queries.std(1, keepdim=True, correction=0).clamp(min=1e-6)
    return ((queries - queries.mean(1, keepdim=True)) / spread).square().mean(-1).softmax(-1)
