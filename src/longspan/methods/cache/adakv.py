"""AdaKV: heads of a layer compete for one budget, so a head that spreads its attention keeps more entries than one that does not.

Source: Ada-KV, Feng et al., 2024 (NeurIPS 2025), arXiv 2407.11550; code FFY0/AdaKV. The best `budget` scores over all heads of the layer
decide how many entries each head gets, with a floor of `floor` times the even share; each head then keeps its own best. The base's scores
must be comparable between heads: attention weights are, key norms and cosines are not.

Different counts per head are stored ragged, so memory really is freed; the reference stores them flat too, kvpress only masks. The
reference's rounding can change the total; here it is repaired to be exact. Authors: a floor of 0 is unstable.
"""

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor

from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.methods.cache.snapkv import SnapKV


@register("adakv")
@dataclass(frozen=True)
class AdaKV(CachePolicy):
    """base: the policy whose scores compete (not its budget and schedule); what it protects stays. floor: least share of an even split."""

    source = Source("https://arxiv.org/abs/2407.11550", 2024, "https://github.com/FFY0/AdaKV")

    allocator: str = "adaptive"
    base: CachePolicy = field(default=SnapKV(window=32, pool=7, pooling="max"))

    @property
    def aware(self) -> bool:  # type: ignore[override]
        return self.base.aware

    @property
    def needs(self) -> Needs:
        return self.base.needs

    def score(self, view: LayerView) -> Tensor:
        base = dataclasses.replace(self.base, budget=self.budget)
        return base.protected(view, base.score(view))
