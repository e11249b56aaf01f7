"""KeyDiff: keys that point away from the average direction get high attention; keep those.

Source: KeyDiff, Park et al., 2025, arXiv 2504.15364; press of NVIDIA/kvpress. Score of an entry: minus the cosine between its key and the
mean of the normalised keys of its head. Needs no queries and no attention, so it suits eviction after every chunk (when="chunk").
Sinks survive by themselves: their keys differ strongly from the rest. A sentence among repeated filler is an outlier by construction, so
results on filler flatter it; look at prose too. The paper scores keys as cached (rotated); rope="none" scores them before rotation.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from longspan.engine.method import CachePolicy, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput


@register("keydiff")
@dataclass(frozen=True)
class KeyDiff(CachePolicy):
    """rope: "cached" (keys as attention sees them) or "none" (before rotation; not the paper's)."""

    source = Source("https://arxiv.org/abs/2504.15364", 2025, "https://github.com/NVIDIA/kvpress")

    rope: str = "cached"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rope not in ("cached", "none"):
            raise BadInput(f"rope={self.rope!r} of keydiff is not one of cached, none.")

    @property
    def pre_rope(self) -> bool:  # type: ignore[override]
        return self.rope == "none"

    def score(self, view: LayerView) -> Tensor:
        keys = view.keys if self.rope == "cached" else view.unrotated_keys
        directions = F.normalize(keys.float(), dim=-1)
        if view.valid is not None:
            directions = directions * view.valid.unsqueeze(-1)
        anchor = F.normalize(directions.sum(1, keepdim=True), dim=-1)
        return -(directions * anchor).sum(-1)
