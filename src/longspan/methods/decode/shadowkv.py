"""ShadowKV: keys before rotation are kept as a low-rank product, chunk means choose what is rebuilt, outlier chunks stay exact.

Source: ShadowKV, Sun et al., ICML 2025, arXiv 2410.21465; code bytedance/ShadowKV. After a text is read, per layer: K before rotation, all KV heads side
by side (T, Hk D), is replaced by its best approximation of rank `rank`. Chunks of `chunk` entries have a landmark, the mean of their rotated keys. The
chunks whose worst cosine between a key and the landmark is lowest are outliers: exact and always read, as are the last `local` chunks. A token reads
in addition the chunks with the largest softmax(q . landmark) of any query head in the group. Tokens generated since are exact and always read.

The rank-r basis comes from the eigenvectors of K^T K (Hk D squared), the same subspace as the original's full SVD at a fraction of the work. The
original divides scores by sqrt(128) literally; here by the layer's scale. `outliers` is a share of the budget (48 chunks of 8 beside a 2048 budget are
3/16); outliers and local chunks count towards the budget, which the original does not do.

This engine has one tier: rebuilt keys lie in the store where exact ones were, so that attention is what it would be, and no memory is freed here.
`tiers` counts what a fast tier holds when values go to a slower one: factors, landmarks, outliers and local chunks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from longspan.engine.budget import Budget
from longspan.engine.method import DecodeSelector, Source
from longspan.engine.registry import register
from longspan.engine.segments import BIAS, POSITION
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.decode.base import budget_entries
from longspan.ops.attention import grouped_scores
from longspan.ops.choose import fill_groups
from longspan.ops.selection import Selection


@register("shadowkv")
@dataclass(frozen=True)
class ShadowKV(DecodeSelector):
    """rank: of the keys of all KV heads together, a share of Hk D up to 1.0, or a number. chunk: entries. budget: share, entries a head, or bytes
    that a token reads. outliers: share of the budget. local: newest chunks of the text, always exact."""

    source = Source("https://arxiv.org/abs/2410.21465", 2024, "https://github.com/bytedance/ShadowKV")
    system = "shadowkv"
    pre_rope = True

    rank: float = 0.25
    chunk: int = 8
    budget: float | int | str = 0.25
    outliers: float = 0.1875
    local: int = 4

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if self.rank <= 0 or self.chunk < 1 or not 0 <= self.outliers <= 1 or self.local < 0:
            raise BadInput("shadowkv takes rank > 0, chunk >= 1, outliers from 0 to 1 and local >= 0.")

    def width(self, view: LayerView) -> int:
        """The rank in dimensions."""
        full = view.geometry.kv_heads * view.geometry.head_dim
        return min(full, max(1, round(self.rank * full) if self.rank <= 1.0 else int(self.rank)))

    def index(self, view: LayerView) -> None:
        if len(set(view.run.store.lengths)) > 1:
            raise BadInput(
                "shadowkv factors the keys of all KV heads together, and a cache policy left the heads unequal; use one of the two."
            )
        keys, done = view.keys, view.state.get("candidates", 0)
        count = keys.shape[1]
        budget = budget_entries(view, self.budget)
        candidates = max(0, count // self.chunk - self.local) * self.chunk
        chunked = keys[:, :candidates].unflatten(1, (-1, self.chunk)).float()
        landmarks = chunked.mean(2)
        worst = (normalize(chunked, dim=-1) * normalize(landmarks, dim=-1).unsqueeze(2)).sum(-1).amin(2)
        wanted = min(landmarks.shape[1], int(self.outliers * budget) // self.chunk)
        odd = torch.zeros(worst.shape, dtype=torch.bool, device=keys.device)
        odd.scatter_(1, worst.topk(wanted, dim=1, largest=False).indices, True)
        none = landmarks.shape[1]  # the label of entries that are read whatever the query says
        labels = torch.full((keys.shape[0], count), none, dtype=torch.long, device=keys.device)
        numbers = torch.arange(none, device=keys.device)
        labels[:, :candidates] = torch.where(odd, none, numbers).repeat_interleave(self.chunk, 1)
        view.state.update(landmarks=landmarks, labels=labels, budget=budget, candidates=candidates)
        if (
            not done
            and candidates
            and budget < count
            and self.width(view) < view.geometry.kv_heads * view.geometry.head_dim
        ):
            self._factor(view, labels < none)

    def _factor(self, view: LayerView, low: Tensor) -> None:
        """Put the low-rank keys in place where `low` (Hk, T)."""
        flat = view.unrotated_keys.transpose(0, 1).flatten(1).float()
        basis = low_rank_basis(flat, self.width(view))
        factors = flat @ basis
        heads, _, dim = view.keys.shape
        rebuilt = (factors @ basis.T).view(-1, heads, dim).transpose(0, 1).to(view.keys.dtype)
        keys = torch.where(low.unsqueeze(-1), view.rotated(rebuilt, view.positions), view.keys)
        view.state.update(factors=factors[: view.state["candidates"]], basis=basis)
        padded = view.padded
        side = {name: value for name, value in padded.side.items() if name not in (POSITION, BIAS)}
        view.replace(
            keys, padded.v, padded.positions, bias=padded.side.get(BIAS), valid=padded.valid, side=side
        )

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        if view.state["budget"] >= view.run.indexed or not view.state["landmarks"].shape[1]:
            return None
        landmarks = view.state["landmarks"]
        weights = grouped_scores(q, landmarks, view.session.scale(view.layer)).softmax(-1)
        scores = weights.view(landmarks.shape[0], -1, landmarks.shape[1]).amax(1)
        return fill_groups(scores, view.state["labels"], view.state["budget"])


def low_rank_basis(x: Tensor, rank: int) -> Tensor:
    """Orthonormal (W, rank) whose span holds most of the rows of x (T, W): the top right singular vectors."""
    return torch.linalg.eigh(x.T @ x).eigenvectors[:, -rank:]


def tiers(view: LayerView) -> tuple[int, int]:
    """Bytes of one layer in the fast tier and in the slow one (values of the candidates), as a two-tier placement would hold them."""
    state, size = view.state, view.values.element_size()
    heads, count = state["labels"].shape
    both = view.geometry.head_dim + view.geometry.value_dim
    exact = int((state["labels"] >= state["landmarks"].shape[1]).sum())
    small = sum(state[name].numel() for name in ("factors", "basis", "landmarks") if name in state)
    return (small + exact * both) * size, (heads * count - exact) * view.geometry.value_dim * size
