"""Sparse prefill whose query tiles are not runs of neighbours: rows are put together by what they read, and keys are any list.

A `UnitMask` is a base `TileMask` in the text's own order (sinks, a local window, whole columns) and units: rows of one head and the keys that all of them may read, a
permutation of both sides cut into blocks. A pair is kept when the base keeps it, or a unit holds both its row and its key; always causal by original position.
Rows i and keys j with i = j modulo a frame, spread over the whole text, become small dense blocks this way (MMInference, 2025), as do rows of one modality.
Base and units cover disjoint pairs and their results are merged by log-sum-exp, so the outcome does not depend on where the permutation puts a row.

Dimension letters: H heads of the mask (KV or query heads), Hq query heads, S queries, T keys, r rows of a unit, n keys of a unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from longspan.errors import BadInput
from longspan.ops.attention import NEG_INF, attend, merge
from longspan.ops.tiles import TileMask


class Unit(NamedTuple):
    """Rows (r,) of the queries and keys (n,), both ascending, of one head."""

    head: int
    rows: Tensor
    keys: Tensor


@dataclass(frozen=True)
class UnitMask:
    """base: a TileMask over the same queries and keys. units: no row of a head in two of them."""

    base: TileMask
    units: tuple[Unit, ...]

    def __post_init__(self) -> None:
        seen = torch.zeros(self.base.heads, self.base.queries, dtype=torch.long)
        for head, rows, _ in self.units:
            seen[head, rows] += 1
        if self.units and int(seen.max()) > 1:
            raise BadInput("a row of a head may stand in one unit only.")

    @property
    def heads(self) -> int:
        return self.base.heads

    @property
    def queries(self) -> int:
        return self.base.queries

    @property
    def keys(self) -> int:
        return self.base.keys

    def visible(self, unit: Unit) -> Tensor:
        """(r, n): pairs of a unit that are causal and not the base's."""
        base = self.base
        kept = base.tiles[unit.head][unit.rows // base.query_tile][:, unit.keys // base.key_tile]
        if base.columns is not None:
            kept = kept | base.columns[unit.head][unit.keys]
        return ~kept & (unit.keys <= unit.rows.unsqueeze(1) + base.offset)

    @cached_property
    def _pairs(self) -> Tensor:
        counts = torch.zeros(self.heads, dtype=torch.int64)
        for unit in self.units:
            counts[unit.head] += self.visible(unit).sum().cpu()
        return counts

    def kept_pairs(self) -> Tensor:
        """(H,) int64: kept causal pairs of each head, exact."""
        return self.base.kept_pairs() + self._pairs.to(self.base.tiles.device)

    def density(self) -> float:
        """Kept causal pairs over all causal pairs, mean over heads."""
        return float(self.kept_pairs().double().mean() / self.base.pair_counts().sum())

    def dense(self) -> Tensor:
        """bool (H, S, T). For tests: S x T memory."""
        kept = self.base.dense()
        for unit in self.units:
            kept[unit.head, unit.rows.unsqueeze(1), unit.keys] |= self.visible(unit)
        return kept


def cut(head: int, rows: Tensor, keys: Tensor, offset: int, tile: int) -> Iterator[Unit]:
    """Units of at most `tile` rows, all reading `keys`, without keys that lie after all their rows."""
    for part in rows.split(tile):
        seen = keys[keys <= part[-1] + offset]
        if len(seen):
            yield Unit(head, part, seen)


def attend_units(
    q: Tensor, k: Tensor, v: Tensor, mask: UnitMask, base: tuple[Tensor, Tensor], *, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of q (Hq, S, D) over k, v (Hk, T, D): `base`, the result over the base mask, merged with that of the units. out (Hq, S, D), lse (Hq, S)."""
    if not mask.units:
        return base
    out = torch.zeros_like(base[0])
    lse = torch.full_like(base[1], NEG_INF)
    group, per_kv = q.shape[0] // mask.heads, mask.heads // k.shape[0]
    for unit in mask.units:
        heads, kv = slice(unit.head * group, (unit.head + 1) * group), unit.head // per_kv
        part_out, part_lse = attend(
            q[heads][:, unit.rows],
            k[kv : kv + 1, unit.keys],
            v[kv : kv + 1, unit.keys],
            scale=scale,
            mask=mask.visible(unit),
        )
        out[heads.start : heads.stop, unit.rows] = part_out
        lse[heads.start : heads.stop, unit.rows] = part_lse.to(lse.dtype)
    return merge([base, (out, lse)])
