"""What positions mean in a session: one map built from the recipe, asked by every layer.

No map: the model rotates, keys are stored post-RoPE. A map that does not rotate on read rotates once, when an entry is written. A map that
rotates on read keeps keys un-rotated and turns them to where they belong for the current length, so the map may change as the text grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from longspan.engine.geometry import LayerGeometry
from longspan.engine.method import PositionMethod
from longspan.engine.recipe import Recipe
from longspan.engine.terms import check_positions, check_rotation
from longspan.errors import BadInput
from longspan.ops.frequency_maps import Frequencies


@dataclass(frozen=True)
class PositionMap:
    """method: the recipe's position method, if any. policy: a cache policy with a position rule of its own, if any.

    cache_index: an entry's position is its index in the cache. on_read: keys are stored un-rotated.
    """

    method: PositionMethod | None
    policy: Any | None
    cache_index: bool
    on_read: bool

    def frequencies(self, layer: LayerGeometry, length: int) -> Frequencies:
        if self.method is None or not layer.rope.rotates:
            return layer.rope.frequencies
        return self.method.frequencies(layer.rope, length)

    def passes(self, layer: LayerGeometry) -> Any | None:
        if not layer.rope.rotates:
            return None
        if self.method is not None:
            return self.method.layer_passes(layer)
        passes = getattr(self.policy, "passes", None)  # it may have a rule on positions without distance maps
        return passes(layer.rope) if passes is not None else None

    def bias(
        self, query_positions: Tensor, key_positions: Tensor, layer: LayerGeometry, rows: slice
    ) -> Tensor | None:
        if self.method is None:
            return None
        bias = self.method.bias(query_positions, key_positions, layer.q_heads)
        return None if bias is None else bias[rows]


def position_map(
    recipe: Recipe, layers: dict[int, LayerGeometry], force_on_read: bool = False
) -> PositionMap | None:
    """Build the map of a recipe, or None when the model itself rotates. BadInput for a model the engine cannot rotate."""
    method = recipe.one("positions")
    policy = next(
        (m for m in recipe.of("cache") if getattr(m, "position_mode", "original") != "original"), None
    )
    if method is None and policy is None and not force_on_read:
        return None
    owner = method if method is not None else policy
    who = owner.name if owner is not None else "un-rotated storage"
    if method is None:
        check_rotation(who, layers.values())
    check_positions(who, layers.values())
    mode = getattr(policy, "position_mode", "original")
    on_read = force_on_read or policy is not None or bool(method and method.rotate_on_read)
    if on_read:
        _refuse_on_read(recipe, who)
    return PositionMap(method, policy, mode == "cache", on_read)


def _refuse_on_read(recipe: Recipe, who: str) -> None:
    """Name what cannot work on keys that are stored un-rotated."""
    for method in (*recipe.of("prefill"), *recipe.of("decode")):
        raise BadInput(
            f"{who} keeps keys un-rotated and {method.name} chooses from rotated ones; "
            f"use {method.name} with a fixed frequency map such as yarn or ntk."
        )
    for method in recipe.of("cache"):
        if method.needs.column_mass:
            raise BadInput(
                f"{method.name} sums attention while the text is read, which {who} computes in several passes or at changing "
                "positions; use a policy that scores window queries or keys, such as snapkv or keydiff."
            )
