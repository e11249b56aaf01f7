"""AdaKV: heads of a layer compete for one budget, so a head that spreads its attention keeps more entries than one that does not.

Source: Ada-KV, Feng et al., 2024 (NeurIPS 2025), arXiv 2407.11550; code FFY0/AdaKV. The best `budget` scores over all heads of the layer
decide how many entries each head gets, with a floor of `floor` times the even share; each head then keeps its own best. The base's scores
must be comparable between heads: attention weights are, key norms and cosines are not.

Different counts per head are stored ragged, so memory really is freed; the reference stores them flat too, kvpress only masks. The
reference's rounding can change the total; here it is repaired to be exact. Authors: a floor of 0 is unstable.
"""

from dataclasses import dataclass, field

from longspan.engine.method import CachePolicy, Source
from longspan.engine.registry import register
from longspan.methods.cache.over import OverPolicy
from longspan.methods.cache.snapkv import SnapKV


@register("adakv")
@dataclass(frozen=True)
class AdaKV(OverPolicy):
    """base: the policy whose scores compete. floor: least share of an even split."""

    source = Source("https://arxiv.org/abs/2407.11550", 2024, "https://github.com/FFY0/AdaKV")

    allocator: str = "adaptive"
    base: CachePolicy = field(default=SnapKV(window=32, pool=7, pooling="max"))
