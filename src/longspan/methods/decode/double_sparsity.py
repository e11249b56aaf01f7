"""Double Sparsity: logits estimated from a few heavy channels of the keys choose the tokens; exact attention reads only those.

Source: Post-Training Sparse Attention with Double Sparsity, Yang et al., 2024, arXiv 2408.07092; code andy-yang-1/DoubleSparse. Per KV head the `channels`
channels with the largest mean |q_c k_c| (after rotation) are copied into a small label cache; a token costs T x channels to score, and the best `budget`
tokens are read. The first two layers stay dense. Labels may be rounded to 4 bits.

The original ranks channels offline on 256 samples (its accumulator keeps only the last block by mistake). By default here the text itself ranks them:
mean |q_c| over its last `window` queries times mean |k_c| over all its keys, which is the mean of |q_c k_c| over all those pairs. calibration="artefact"
reads an offline ranking (`longspan calibrate double_sparsity`), whose pairs are a token with itself, as published. ranking="k" ignores the queries;
"random" and "first" are ablations. heads=kv adds the estimated weights over a query group, which then reads one set of tokens.

offload=true is the variant with keys and values in a slow tier and labels in the fast one: while a layer works, what the next one will read is predicted and fetched,
and it reads just that. The original predicts from the hidden state, which hardly changes between layers; a query in its place is turned into the next layer's by a linear map,
ridge regression on the text's last `window` queries. This engine has one tier: nothing moves, `tiers` counts what each would hold, and
`hits` of `wanted` in the state are the tokens that were predicted of those that would have been chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.budget import Budget
from longspan.engine.method import DecodeSelector, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.decode.base import budget_entries
from longspan.methods.prefill.base import calibration_text, dense_heads
from longspan.ops.attention import grouped_scores
from longspan.ops.choose import top_entries
from longspan.ops.quantise import Codes, dequantise, quantise
from longspan.ops.selection import Selection


@register("double_sparsity")
@dataclass(frozen=True)
class DoubleSparsity(DecodeSelector):
    """channels: of a key that are kept as labels. budget: share, entries a head, or bytes that a token reads. bits: of the labels, 16 (as the
    keys) or 4 or 8. ranking: "qk", "k", "random" or "first". calibration: "text" or "artefact". window: queries (tokens) that rank. heads: "kv"
    or "query". offload: read what the layer before predicted; give it a window of a few hundred queries."""

    source = Source("https://arxiv.org/abs/2408.07092", 2024, "https://github.com/andy-yang-1/DoubleSparse")
    system = "double-sparsity"

    dense_layers: int = 2
    channels: int = 16
    budget: float | int | str = 0.25
    bits: int = 16
    ranking: str = "qk"
    calibration: str = "text"
    window: int = 64
    heads: str = "kv"
    offload: bool = False

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if self.channels < 1 or self.window < 1 or self.bits not in (4, 8, 16):
            raise BadInput("double_sparsity takes channels >= 1, window >= 1 and bits=4, 8 or 16.")
        if self.ranking not in ("qk", "k", "random", "first") or self.heads not in ("kv", "query"):
            raise BadInput("double_sparsity takes ranking=qk, k, random or first, and heads=kv or query.")
        if self.calibration not in ("text", "artefact"):
            raise BadInput("double_sparsity takes calibration=text or artefact.")

    @property
    def needs(self) -> Needs:
        ranks = self.ranking == "qk" and self.calibration == "text"
        return Needs(window_queries=self.window) if ranks or self.offload else Needs()

    @property
    def pre_rope(self) -> bool:  # type: ignore[override]
        return self.offload  # the next layer's queries are predicted before rotation

    def check(self, model: Any) -> None:
        if self.calibration == "artefact":
            self._heat(model)

    def _heat(self, model: Any) -> Tensor:
        heat = calibration.load("double_sparsity", model).tensors["heat"]
        geometry = model.geometry
        wanted = (len(geometry.growing), geometry.kv_heads, geometry.head_dim)
        if tuple(heat.shape) != wanted:
            raise BadInput(
                f"the channels of double_sparsity are for {tuple(heat.shape)} (layers, KV heads, channels), not {wanted}."
            )
        return heat

    def heat(self, view: LayerView, keys: Tensor) -> Tensor:
        """How much each channel matters, (Hk, D)."""
        heads, _, dim = keys.shape
        if self.ranking == "first":
            return -torch.arange(dim, device=keys.device).float().expand(heads, -1)
        if self.ranking == "random":
            return torch.rand(heads, dim, generator=torch.Generator().manual_seed(view.layer)).to(keys.device)
        if self.calibration == "artefact":
            return self._heat(view.session.model)[view.order].to(keys.device)
        of_keys = keys.float().abs().mean(1)
        if self.ranking == "k":
            return of_keys
        return of_keys * view.window_queries(self.window).float().abs().mean(1).view(heads, -1, dim).sum(1)

    def index(self, view: LayerView) -> None:
        keys = view.prefix(min(view.run.store.lengths))[0]
        if "channels" not in view.state:  # later entries keep the channels that the text chose
            count = min(self.channels, keys.shape[2])
            view.state["channels"] = self.heat(view, keys).topk(count, dim=1).indices.sort(1).values
        chosen = view.state["channels"].unsqueeze(1)
        labels = keys.gather(2, chosen.expand(-1, keys.shape[1], -1))
        view.state["labels"] = (
            labels if self.bits == 16 else Labels(quantise(labels, self.bits, labels.shape[2], False))
        )
        view.state["budget"] = budget_entries(view, self.budget)
        if self.offload and "onward" not in view.state:
            view.state["onward"] = self.onward(view)

    def onward(self, view: LayerView) -> Tensor | None:
        """The map (Hq D, Hq D) from this layer's un-rotated queries to the next one's; None for the last layer."""
        layers = view.session.growing_layers()
        if view.order + 1 == len(layers):
            return None
        later = view.session.view(layers[view.order + 1], self)
        x, y = (
            one.unrotated_window_queries(self.window).transpose(0, 1).flatten(1).float()
            for one in (view, later)
        )
        return ridge(x, y)

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        wanted = view.state["budget"]
        if wanted >= view.run.indexed:
            return None
        if not self.offload:
            return top_entries(self.scores(view, q), wanted)
        fetched = view.session.run_state(self).pop((view.order, view.seen), None)
        self._predict_next(view, q)
        chosen = top_entries(self.scores(view, q), wanted)
        if fetched is None or fetched.entries != chosen.entries:  # nothing came before the first sparse layer
            return chosen
        held = fetched.dense().gather(1, chosen.indices)
        state = view.state
        state.update(
            hits=state.get("hits", 0) + int(held.sum()), wanted=state.get("wanted", 0) + held.numel()
        )
        return fetched

    def _predict_next(self, view: LayerView, q: Tensor) -> None:
        """Choose the next layer's entries by the query that it is expected to have, and keep them for it."""
        if view.state["onward"] is None:
            return
        later = view.session.view(view.session.growing_layers()[view.order + 1], self)
        if "labels" not in later.state or later.run.indexed != view.run.indexed:
            return
        at = torch.tensor([view.seen], device=q.device)
        plain = view.geometry.rope.unrotate(q, at, view.run.written_frequencies(view.seen))
        expected = (plain.transpose(0, 1).flatten(1).float() @ view.state["onward"]).view(1, *q.shape[::2])
        turned = later.geometry.rope.rotate(
            expected.transpose(0, 1), at, later.run.written_frequencies(view.seen)
        )
        held = view.session.run_state(self)
        held[view.order + 1, view.seen] = top_entries(
            self.scores(later, turned.to(q.dtype)), later.state["budget"]
        )

    def scores(self, view: LayerView, q: Tensor) -> Tensor:
        """Estimated worth of every entry to one query (Hq, 1, D), (Hk or Hq, T)."""
        labels = view.state["labels"]
        labels = labels if isinstance(labels, Tensor) else dequantise(labels.codes, q.dtype)
        group = q.shape[0] // labels.shape[0]
        chosen = view.state["channels"].repeat_interleave(group, 0).unsqueeze(1)
        scores = grouped_scores(q.gather(2, chosen), labels, view.session.scale(view.layer)).squeeze(1)
        return scores.softmax(-1).unflatten(0, (-1, group)).sum(1) if self.heads == "kv" else scores

    def calibrate(
        self,
        lm: Any,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        tokens: int = 2048,
    ) -> Path:
        """Rank channels by mean |q_tc k_tc| of every token with itself over a key-value text, and keep the means as an artefact."""
        found = []
        layers = dense_heads(lm, calibration_text(tokens, lm))
        for number, (_, q, k) in enumerate(layers):
            found.append((q.unflatten(0, (k.shape[0], -1)).abs().sum(1) * k.abs()).float().mean(1))
            if progress is not None:
                progress(number + 1, len(layers))
        return calibration.save(
            "double_sparsity",
            lm,
            tensors={"heat": torch.stack(found)},
            facts={"tokens": tokens},
            folder=folder,
        )


@dataclass(frozen=True)
class Labels:
    """Rounded labels; it says its own size for the session's accounting."""

    codes: Codes

    def bytes(self) -> int:
        return sum(
            x.numel() * x.element_size() for x in (self.codes.packed, self.codes.scale, self.codes.zero)
        )


def ridge(x: Tensor, y: Tensor, strength: float = 0.1) -> Tensor:
    """The linear map (D, E) that takes rows of x (N, D) to those of y (N, E), with a penalty of `strength` of the mean squared length of x."""
    gram = x @ x.T
    gram.diagonal().add_(strength * gram.diagonal().mean())
    return x.T @ torch.linalg.solve(gram, y)


def tiers(view: LayerView) -> tuple[int, int]:
    """Bytes of one layer in the fast tier (labels, and K and V of two fetched budgets) and in the slow one (K and V of all entries)."""
    state, size = view.state, view.values.element_size()
    labels = state["labels"]
    small = labels.numel() * labels.element_size() if isinstance(labels, Tensor) else labels.bytes()
    heads, both = view.geometry.kv_heads, view.geometry.head_dim + view.geometry.value_dim
    return small + 2 * heads * state["budget"] * both * size, heads * view.run.indexed * both * size
