"""LM-Infinite: read the first tokens and a recent window; the first ones always seen at the trained distance.

Source: Han et al., LM-Infinite, 2023 (NAACL 2024), arXiv 2308.16137; code Glaciohound/LM-Infinite. Local branch: D < w, true distances. Global branch: the first tokens, once they have left the
window, at the fixed distance `limit` (the trained length). All else is unseen, so text stays fluent at any length and facts in the middle are lost: fluency is not recall.
Unlike StreamingLLM, positions are not renumbered inside the cache.

Optional third branch, for recall: in layers `from_layer` to `to_layer` a query also reads the `middle` tokens between the two branches whose logits at the fixed distance `insert_at` are
its largest, at that distance (paper: 5 tokens, the upper half of the layers, about half the trained length). The released code does it for the last query of a prompt alone; here every
query does, or a decoded token would see what the same token, read, does not. On a tiny model with four layers, a record in the middle of 1024 tokens (window 256) was recalled never without it, in half the prompts with it in the
upper half of the layers, always with it in all.
"""

from dataclasses import dataclass
from typing import Any

from longspan.engine.geometry import LayerGeometry
from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.positions.base import DistanceMethod, check_exact, check_window
from longspan.ops.distance_maps import Passes, limited


@register("lm_infinite")
@dataclass(frozen=True)
class LMInfinite(DistanceMethod):
    """window: w in tokens, 0 for the trained window. first: starting tokens always seen. limit: their distance, 0 for the window's. middle: tokens between that a query
    reads as well, 0 for none. insert_at: their distance, 0 for half the limit. from_layer, to_layer: the layers [from, to) that do so; to_layer 0 for the last."""

    source = Source("https://arxiv.org/abs/2308.16137", 2023, "https://github.com/Glaciohound/LM-Infinite")
    system = "lm-infinite"

    window: int = 0
    first: int = 10
    limit: int = 0
    middle: int = 0
    insert_at: int = 0
    from_layer: int = 0
    to_layer: int = 0

    def __post_init__(self) -> None:
        check_window(self.name, self.window)
        counts = (
            self.window,
            self.first,
            self.limit,
            self.middle,
            self.insert_at,
            self.from_layer,
            self.to_layer,
        )
        if min(counts) < 0:
            raise BadInput("lm_infinite counts tokens and layers; none of its knobs may be negative.")
        if self.to_layer and self.from_layer >= self.to_layer:
            raise BadInput(
                f"lm_infinite re-attends in layers from_layer={self.from_layer} up to to_layer={self.to_layer}, which are none; "
                "give to_layer above from_layer, or 0 for the last."
            )

    def check(self, model: Any) -> None:
        layers = model.geometry.layers
        if self.middle and self.from_layer > max(layers):
            raise BadInput(
                f"from_layer={self.from_layer} of lm_infinite is beyond this model's last layer, {max(layers)}; give a lower one."
            )

    def check_trained(self, trained_window: int) -> None:
        check_exact(self.name, "window", self.window, trained_window)
        check_exact(self.name, "limit", self.limit, trained_window)

    def passes(self, rope: Any) -> Passes:
        return self._passes(rope, 0)

    def layer_passes(self, layer: LayerGeometry) -> Passes:
        inside = self.from_layer <= layer.index < (self.to_layer or layer.index + 1)
        return self._passes(layer.rope, self.middle if inside else 0)

    def _passes(self, rope: Any, middle: int) -> Passes:
        window = self.window or rope.trained.window
        limit = self.limit or window
        return limited(window, self.first, limit, middle, self.insert_at or limit // 2)
