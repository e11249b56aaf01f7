"""CaM: when an entry is dropped, its value is added in equal parts to the next entries that stay, with a probability set by its attention.

Source: CaM, Zhang et al., ICML 2024; press of NVIDIA/kvpress (the authors' code was not read). A base policy picks the victims. With a the attention
received so far and a_ref its mean over the m kept entries after victim i: p = clip(a_i / a_ref, 0, 1), M ~ Bernoulli(p), v_j += M v_i / m for
each of the m targets; fewer targets near the end share by their true number. Keys never change.

The paper evicts one entry a step; here, as in kvpress, many go at once every `every` steps, and only the `most` best-scored victims are merged
(ties to later ones), since hundreds of values on one target would drown it. The two are not equivalent: chains of merges differ. kvpress sums
attention over generated steps only, here over the text read too. expected=true multiplies by p and draws nothing. KVCache-Factory's variant
(reference = maximum, in prefill) is another method.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.engine.allocate import allocate
from longspan.engine.method import Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.over import OverPolicy


@register("cam")
@dataclass(frozen=True)
class CaM(OverPolicy):
    """base: the policy that picks victims. targets: m. most: victims merged at a time, a head.
    expected: p itself in place of a draw. seed: of the draws."""

    source = Source("https://openreview.net/forum?id=LCTmppB165", 2024, "https://github.com/NVIDIA/kvpress")

    when: str = "steps"
    sink: int = 4
    targets: int = 32
    most: int = 512
    expected: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1 or self.most < 0:
            raise BadInput("cam needs targets >= 1 and most >= 0.")
        if self.allocator == "overall":
            raise BadInput(
                "cam merges inside a head, so its budget cannot be overall; use allocator=uniform or adaptive."
            )

    @property
    def needs(self) -> Needs:
        return super().needs | Needs(column_mass=True, decode_mass=self.when == "steps")

    def compress(self, view: LayerView, budget: int) -> None:
        scores = self.protected(view, self.score(view))
        kept = allocate(scores, view.valid, budget, self.allocator, self.floor)
        values, mass = view.values.float().clone(), view.column_mass.sum(-1)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + view.layer * 131_071 + view.seen)
        for head, keep in enumerate(kept):
            count = keep.numel() if view.valid is None else int(view.valid[head].sum())
            self._merge(
                values[head, :count],
                mass[head, :count],
                scores[head, :count].float(),
                keep[:count],
                generator,
            )
        view.set_values(values.to(view.values.dtype))
        view.keep(kept)

    def _merge(
        self, values: Tensor, mass: Tensor, scores: Tensor, keep: Tensor, generator: torch.Generator
    ) -> None:
        """Add the victims of one head into its kept values (T, E), in place. A victim of rank r goes to kept entries r .. r + m."""
        kept = keep.nonzero().flatten()
        victims = (~keep).nonzero().flatten()
        victims = victims[
            torch.sort(scores[victims].flip(0), descending=True, stable=True).indices.neg() - 1
        ][: self.most]
        rank = torch.searchsorted(kept, victims)
        last = (rank + self.targets).clamp(max=len(kept))
        has_target = last > rank
        victims, rank, last = victims[has_target], rank[has_target], last[has_target]
        if not len(victims):
            return
        room = (last - rank).double()
        before = torch.cat((mass.new_zeros(1, dtype=torch.float64), mass[kept].double().cumsum(0)))
        share = (
            (mass[victims].double() / ((before[last] - before[rank]) / room))
            .nan_to_num(0.0, posinf=1.0)
            .clamp(0.0, 1.0)
        )
        if not self.expected:
            share = (torch.rand(len(victims), generator=generator).to(share) < share).to(share)
        parts = values[victims].double() * (share / room).unsqueeze(1)
        steps = parts.new_zeros(len(kept) + 1, values.shape[1])
        steps.index_add_(0, rank, parts).index_add_(0, last, -parts)
        values[kept] += steps.cumsum(0)[:-1].to(values.dtype)
