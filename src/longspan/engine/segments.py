"""What a layer's cache is made of: immutable segments of entries and one growable tail.

A segment holds K and V of some entries of every KV head, with each entry's original position and named side values. Uniform segments
have the same number of entries in every head; ragged ones do not, and really are smaller (flat tensor and offsets). Segments are never
written after they are made, so forks share them. Dimension letters: Hk KV heads, T entries, N entries of all heads together, D, E.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from longspan.engine.joint import Joint

POSITION = "position"
BIAS = "bias"  # added to an entry's logit: the log of how many tokens were merged into it


@dataclass(frozen=True)
class Block:
    """Entries that one attention call can read: KV heads `heads`, k (h, T, D), v (h, T, E), positions (h or 1, T), bias (h, T) or None."""

    heads: slice
    k: Tensor
    v: Tensor
    positions: Tensor
    bias: Tensor | None = None


def whole_heads(blocks: list[Block]) -> list[Block]:
    """The same entries with all of a head's in one block, for what compares the entries of a head with each other."""
    if len({(block.heads.start, block.heads.stop) for block in blocks}) > 1:
        blocks = [one for block in blocks for one in _by_head(block)]
    together: dict[int, list[Block]] = {}
    for block in blocks:
        together.setdefault(block.heads.start, []).append(block)
    return [_concatenated(parts) for _, parts in sorted(together.items())]


def _by_head(block: Block) -> Iterator[Block]:
    for at, head in enumerate(range(block.heads.start, block.heads.stop)):
        one = slice(at, at + 1)
        positions = block.positions if block.positions.shape[0] == 1 else block.positions[one]
        bias = None if block.bias is None else block.bias[one if block.bias.shape[0] > 1 else slice(1)]
        yield Block(slice(head, head + 1), block.k[one], block.v[one], positions, bias)


def _concatenated(parts: list[Block]) -> Block:
    """Blocks of the same heads as one; a bias that only some have is 0 in the others."""
    if len(parts) == 1:
        return parts[0]
    heads = parts[0].k.shape[0]
    rows = max(part.positions.shape[0] for part in parts)
    positions = torch.cat([part.positions.expand(rows, -1) for part in parts], 1)
    bias = None
    if any(part.bias is not None for part in parts):
        bias = torch.cat(
            [
                part.k.new_zeros(heads, part.k.shape[1], dtype=torch.float32)
                if part.bias is None
                else part.bias.expand(heads, -1).float()
                for part in parts
            ],
            1,
        )
    k, v = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("k", "v"))
    return Block(parts[0].heads, k, v, positions, bias)


class Segment:
    """The interface of a stored run of entries. `lengths` holds the entries of each KV head."""

    lengths: tuple[int, ...]

    @property
    def entries(self) -> int:
        return sum(self.lengths)

    @property
    def uniform(self) -> bool:
        return len(set(self.lengths)) <= 1

    def blocks(self) -> Iterator[Block]:
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor it owns by name; names `k*` and `v*` are cache bytes, the others side data."""
        raise NotImplementedError

    def head_side(self, name: str, head: int) -> Tensor | None:
        """The side values `name` of one head, (T_head, ...)."""
        raise NotImplementedError


@dataclass(frozen=True)
class UniformSegment(Segment):
    """k (Hk, T, D), v (Hk, T, E), side values (Hk or 1, T, ...); views into larger buffers are welcome."""

    k: Tensor
    v: Tensor
    side: dict[str, Tensor] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # see `LayerView.once`

    @property
    def lengths(self) -> tuple[int, ...]:
        return (self.k.shape[1],) * self.k.shape[0]

    def blocks(self) -> Iterator[Block]:
        if self.k.shape[1]:
            yield Block(slice(0, self.k.shape[0]), self.k, self.v, self.side[POSITION], self.side.get(BIAS))

    def tensors(self) -> dict[str, Tensor]:
        return {"k": self.k, "v": self.v, **self.side}

    def head_side(self, name: str, head: int) -> Tensor | None:
        value = self.side.get(name)
        return None if value is None else value[head if value.shape[0] > 1 else 0]


@dataclass(frozen=True)
class RaggedSegment(Segment):
    """Flat k (N, D), v (N, E) and side values (N, ...), head after head; `lengths` gives the entries of each."""

    k: Tensor
    v: Tensor
    lengths: tuple[int, ...]
    side: dict[str, Tensor] = field(default_factory=dict)

    def _span(self, head: int) -> slice:
        start = sum(self.lengths[:head])
        return slice(start, start + self.lengths[head])

    def blocks(self) -> Iterator[Block]:
        for head, length in enumerate(self.lengths):
            if length:
                span = self._span(head)
                bias = self.side[BIAS][span].unsqueeze(0) if BIAS in self.side else None
                positions = self.side[POSITION][span].unsqueeze(0)
                yield Block(
                    slice(head, head + 1),
                    self.k[span].unsqueeze(0),
                    self.v[span].unsqueeze(0),
                    positions,
                    bias,
                )

    def tensors(self) -> dict[str, Tensor]:
        return {"k": self.k, "v": self.v, **self.side}

    def head_side(self, name: str, head: int) -> Tensor | None:
        value = self.side.get(name)
        return None if value is None else value[self._span(head)]


@dataclass(frozen=True)
class SideSpec:
    """A per-entry side value: trailing shape, dtype, and what a new entry starts with."""

    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    fill: float = 0.0


def room_for(held: int, needed: int) -> int:
    """Entries to allocate for a cache of `held` that must grow to `needed`: some spare, so that few steps copy it."""
    return max(needed, held + max(64, held // 8))


class Tail:
    """The private growable end of a layer's cache: spare room, so that appending a token copies nothing.

    Positions are (1, capacity) while all heads hold the same tokens, (Hk, capacity) otherwise. `extra` names further side values,
    (Hk, capacity, ...). joint and row: the buffer shared with other sessions' tails that its K and V are a row of, if any.
    """

    def __init__(self, extra: dict[str, SideSpec] | None = None):
        self.length = 0
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self.positions: Tensor | None = None
        self.extra = dict(extra or {})
        self.side: dict[str, Tensor] = {}
        self.joint: Joint | None = None
        self.row = 0

    @property
    def position_rows(self) -> int:
        return 1 if self.positions is None else self.positions.shape[0]

    @property
    def capacity(self) -> int:
        return 0 if self.k is None else self.k.shape[1]

    @property
    def heads(self) -> int:
        return 0 if self.k is None else self.k.shape[0]

    def reserve(self, k: Tensor, v: Tensor, total: int) -> None:
        """Make room for `total` entries of the shape of k (Hk, S, D) and v (Hk, S, E)."""
        if total <= self.capacity:
            return
        heads = k.shape[0]
        old_k, old_v, old_positions = self.k, self.v, self.positions
        fresh_k, fresh_v = k.new_empty(heads, total, k.shape[2]), v.new_empty(heads, total, v.shape[2])
        positions = torch.empty(self.position_rows, total, dtype=torch.int32, device=k.device)
        if self.length:
            assert old_k is not None and old_v is not None and old_positions is not None
            fresh_k[:, : self.length] = old_k[:, : self.length]
            fresh_v[:, : self.length] = old_v[:, : self.length]
            positions[:, : self.length] = old_positions[:, : self.length]
        self.move(fresh_k, fresh_v, positions)

    def move(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        """Live in these buffers from now on, (Hk, room, ...) and (rows, room), whose first `length` entries are this tail's already."""
        self.k, self.v, self.positions, self.joint = k, v, positions, None
        heads, room = k.shape[:2]
        old = self.side
        self.side = {
            name: torch.full((heads, room, *spec.shape), spec.fill, dtype=spec.dtype, device=k.device)
            for name, spec in self.extra.items()
        }
        if self.length:
            for name, value in old.items():
                self.side[name][:, : self.length] = value[:, : self.length]

    def grow(self) -> None:
        """Count one entry that was written into the buffers; its side values start at their fill."""
        for name, spec in self.extra.items():
            self.side[name][:, self.length] = spec.fill
        self.length += 1

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        new = self.length + k.shape[1]
        if new > self.capacity:
            self.reserve(k, v, room_for(self.length, new))
        assert self.k is not None and self.v is not None and self.positions is not None
        self.k[:, self.length : new] = k
        self.v[:, self.length : new] = v
        self.positions[:, self.length : new] = positions
        for name, spec in self.extra.items():
            self.side[name][:, self.length : new] = spec.fill
        self.length = new

    def adopt(self, k: Tensor, v: Tensor, side: dict[str, Tensor]) -> None:
        """Take over entries that nobody else holds, without a copy: k (Hk, T, D), v (Hk, T, E), side incl. `position` (Hk, T, ...)."""
        self.k, self.v, self.positions, self.joint = k, v, side[POSITION], None
        self.side = {name: side[name] for name in self.extra}
        self.length = k.shape[1]

    def segment(self) -> UniformSegment | None:
        """The entries so far as a view (no copy), or None when there are none."""
        if not self.length:
            return None
        assert self.k is not None and self.v is not None and self.positions is not None
        side = {POSITION: self.positions[:, : self.length]}
        side.update({name: value[:, : self.length] for name, value in self.side.items()})
        return UniformSegment(self.k[:, : self.length], self.v[:, : self.length], side)
