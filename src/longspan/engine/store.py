"""One layer's KV cache of one session: shared immutable segments, then a private tail.

`append, keep, replace, fork, truncate, bytes`: every cache policy is made of these. Forking freezes the tail and shares it, so it copies
nothing. Entries stay sorted by position within a head. Dimension letters: Hk KV heads, T entries (padded to the longest head), D, E.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.engine.segments import BIAS, POSITION, RaggedSegment, Segment, SideSpec, Tail, UniformSegment
from longspan.ops.rows import gather_entries

MAX_SEGMENTS = 4  # more are merged into one: every segment costs an attention call


@dataclass(frozen=True)
class Padded:
    """All entries of a layer, heads padded to equal length: k (Hk, T, D), v (Hk, T, E), side (Hk, T, ...), valid (Hk, T) or None if all are."""

    k: Tensor
    v: Tensor
    side: dict[str, Tensor]
    valid: Tensor | None

    @property
    def positions(self) -> Tensor:
        return self.side[POSITION]


class LayerStore:
    def __init__(self, side: dict[str, SideSpec] | None = None):
        self.side_specs = dict(side or {})
        self.segments = []
        self.tail = Tail(self.side_specs)

    @property
    def segments(self) -> list[Segment]:
        """The shared segments, oldest first. Assign a new list; never change one in place."""
        return self._segments

    @segments.setter
    def segments(self, segments: list[Segment]) -> None:
        self._segments = segments
        parts = [segment.lengths for segment in segments]
        self._frozen = tuple(sum(column) for column in zip(*parts, strict=True)) if parts else ()

    # -- reading -------------------------------------------------------------------------------------------------
    def all_segments(self) -> list[Segment]:
        tail = self.tail.segment()
        return [*self._segments, tail] if tail is not None else list(self._segments)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Entries of each KV head, () before the first append."""
        new = self.tail.length
        if self._frozen:
            return tuple(length + new for length in self._frozen) if new else self._frozen
        return (new,) * self.tail.heads if new else ()

    @property
    def entries(self) -> int:
        return sum(self._frozen) + self.tail.length * self.tail.heads

    @property
    def longest(self) -> int:
        return max(self._frozen, default=0) + self.tail.length

    def padded(self) -> Padded:
        """All entries in one tensor. A single uniform segment is returned without a copy."""
        segments = self.all_segments()
        names = [POSITION, *self.side_specs]
        if any(self._has(segment, BIAS) for segment in segments):
            names.append(BIAS)
        if len(segments) == 1 and isinstance(segments[0], UniformSegment):
            only = segments[0]
            heads = only.k.shape[0]
            side = {
                name: value.expand(heads, *value.shape[1:])
                for name, value in only.side.items()
                if self._carries(name)
            }
            return Padded(only.k, only.v, side, None)
        lengths = self.lengths
        longest, heads = max(lengths), len(lengths)
        first = next(segments[0].blocks())
        k = first.k.new_zeros(heads, longest, first.k.shape[-1])
        v = first.v.new_zeros(heads, longest, first.v.shape[-1])
        side = {name: self._empty_side(name, heads, longest, k) for name in dict.fromkeys(names)}
        filled = [0] * heads
        for segment in segments:
            for block in segment.blocks():
                count = block.k.shape[1]
                for row, head in enumerate(range(block.heads.start, block.heads.stop)):
                    span = slice(filled[head], filled[head] + count)
                    k[head, span], v[head, span] = block.k[row], block.v[row]
                    for name, target in side.items():
                        value = segment.head_side(name, head)
                        if value is not None:
                            target[head, span] = value
                    filled[head] += count
        if len(set(lengths)) == 1:
            return Padded(k, v, side, None)
        limit = torch.tensor(lengths, device=k.device).unsqueeze(1)
        return Padded(k, v, side, torch.arange(longest, device=k.device).unsqueeze(0) < limit)

    def _carries(self, name: str) -> bool:
        """Whether this store keeps a side value; shared segments may hold statistics that only their origin asked for."""
        return name in (POSITION, BIAS) or name in self.side_specs

    @staticmethod
    def _has(segment: Segment, name: str) -> bool:
        return segment.entries > 0 and segment.head_side(name, 0) is not None

    def _empty_side(self, name: str, heads: int, length: int, like: Tensor) -> Tensor:
        if name == POSITION:
            return torch.zeros(heads, length, dtype=torch.int32, device=like.device)
        spec = self.side_specs.get(name, SideSpec())
        return torch.full((heads, length, *spec.shape), spec.fill, dtype=spec.dtype, device=like.device)

    # -- writing -------------------------------------------------------------------------------------------------
    def reserve(self, k: Tensor, v: Tensor, extra: int) -> None:
        """Make room for `extra` more entries a head, so that reading a long text allocates once."""
        self.tail.reserve(k, v, self.tail.length + extra)

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        """Add entries to every head: k (Hk, S, D), v (Hk, S, E), positions (S,)."""
        self.tail.append(k, v, positions)

    def keep(self, index: Tensor) -> None:
        """Keep only the entries at `index`: (Hk, n) integer, any order, or a bool mask (Hk, T). The rest is freed.

        Different counts per head (a mask) give a ragged segment, whose memory is the entries it holds.
        """
        padded = self.padded()
        if index.dtype == torch.bool:
            counts = index.sum(1).tolist()
            if len(set(counts)) > 1:
                side = {name: value[index] for name, value in padded.side.items()}
                head, entry = index.nonzero(as_tuple=True)
                k, v = (gather_entries(x, head, entry.unsqueeze(1)).squeeze(1) for x in (padded.k, padded.v))
                self._set([RaggedSegment(k, v, tuple(counts), side)])
                return
            index = index.nonzero()[:, 1].view(index.shape[0], counts[0])
        index = index.sort(dim=1).values
        side = {name: _gather(value, index) for name, value in padded.side.items()}
        k, v = _gather(padded.k, index), _gather(padded.v, index)
        if BIAS in side or not k.shape[1]:
            self._set([UniformSegment(k, v, side)])
        else:  # private entries that later tokens can be appended to: one attention call instead of two
            self._set([])
            self.tail.adopt(k, v, side)

    def replace(self, k: Tensor, v: Tensor, side: dict[str, Tensor], valid: Tensor | None = None) -> None:
        """Put new entries in place of all: k (Hk, T, D), v (Hk, T, E), side incl. `position` (Hk, T, ...), valid (Hk, T) or None."""
        if valid is not None and not bool(valid.all()):
            flat = {name: value[valid] for name, value in side.items()}
            self._set([RaggedSegment(k[valid], v[valid], tuple(valid.sum(1).tolist()), flat)])
        else:
            self._set([UniformSegment(k, v, side)])

    def settle(
        self,
        kind: type[Segment] | tuple[type[Segment], ...],
        newest: int,
        multiple: int,
        make: Callable[[list[tuple[slice, Padded]]], Segment],
    ) -> None:
        """Store the oldest entries that are not yet of `kind` as the segment that `make` returns; the newest `newest` of every head stay plain.

        make gets (KV heads, their entries) in counts that `multiple` divides: one part for all heads when they hold equally many, else
        one a head. It is not called when no head has enough entries.
        """
        settled = [segment for segment in self.segments if isinstance(segment, kind)]
        plain = LayerStore(self.side_specs)
        plain.segments = [segment for segment in self.segments if not isinstance(segment, kind)]
        plain.tail = self.tail
        if not plain.lengths or plain.longest < newest + multiple:
            return
        padded = plain.padded()
        counts = [max(0, length - newest) // multiple * multiple for length in plain.lengths]
        if padded.valid is None:
            parts = [(slice(0, len(counts)), _part(padded, slice(0, len(counts)), counts[0]))]
        else:
            parts = [
                (slice(head, head + 1), _part(padded, slice(head, head + 1), count))
                for head, count in enumerate(counts)
            ]
        made = make(parts)
        if settled and type(settled[-1]) is type(made) and len(settled[-1].parts) == len(made.parts):  # type: ignore[attr-defined]
            settled[-1], made = settled[-1].extended(made), None  # type: ignore[attr-defined]
        rest = LayerStore(self.side_specs)
        if padded.valid is None:
            rest._set_plain(_after(padded, counts[0]))
        else:
            columns = torch.arange(padded.k.shape[1], device=padded.k.device).unsqueeze(0)
            young = columns >= columns.new_tensor(counts).unsqueeze(1)
            rest.replace(padded.k, padded.v, dict(padded.side), young & padded.valid)
        self.segments = [*settled, *([made] if made is not None else []), *rest.segments]
        self.tail = rest.tail

    def longest_outside(self, kind: type[Segment] | tuple[type[Segment], ...]) -> int:
        """Entries of the longest head that are not in a segment of `kind`."""
        kept = [segment.lengths for segment in self.segments if not isinstance(segment, kind)]
        return max((sum(column) for column in zip(*kept, strict=True)), default=0) + self.tail.length

    def _set_plain(self, padded: Padded) -> None:
        """Hold the given entries in the tail, or in a segment where heads hold different ones."""
        self._set([])
        if not padded.k.shape[1]:
            return
        if BIAS in padded.side or bool((padded.positions != padded.positions[:1]).any()):
            self._set(
                [
                    UniformSegment(
                        padded.k.clone(),
                        padded.v.clone(),
                        {name: value.clone() for name, value in padded.side.items()},
                    )
                ]
            )
            return
        self.append(padded.k, padded.v, padded.positions[0])
        for name in self.side_specs:
            self.tail.side[name][:, : self.tail.length] = padded.side[name]

    def trim_front(self, keep_last: int) -> None:
        """Drop all but the newest `keep_last` entries (sliding-window layers)."""
        if self.longest > keep_last:
            length = self.longest
            index = torch.arange(length - keep_last, length, device=self._device()).expand(
                len(self.lengths), -1
            )
            padded = self.padded()
            k, v = _gather(padded.k, index), _gather(padded.v, index)
            positions = padded.positions[0, length - keep_last :].clone()
            self._set([])
            self.tail.reserve(k, v, keep_last + max(64, keep_last))
            self.append(k, v, positions)

    def truncate(self, position: int) -> None:
        """Forget every entry whose position is `position` or later."""
        tail, uneven = self.tail, False
        if tail.length and tail.positions is not None:
            newer = (tail.positions[:, : tail.length] >= position).sum(1).tolist()
            uneven = len(set(newer)) > 1  # heads that kept different entries
            tail.length -= 0 if uneven else newer[0]
        last = self.segments[-1] if self.segments else None
        if uneven or (last is not None and last.entries and self._newest(last) >= position):
            padded = self.padded()
            keep = padded.positions < position
            self.keep(keep if padded.valid is None else keep & padded.valid)

    @staticmethod
    def _newest(segment: Segment) -> int:
        return max(int(block.positions.max()) for block in segment.blocks())

    def _set(self, segments: list[Segment]) -> None:
        self.segments = [segment for segment in segments if segment.entries]
        self.tail = Tail(self.side_specs)

    def _device(self) -> torch.device:
        return next(iter(self.all_segments()[0].tensors().values())).device

    # -- snapshots and accounting --------------------------------------------------------------------------------
    def freeze(self) -> None:
        """Turn the tail into a shared segment; later tokens go to a new tail."""
        frozen = self.tail.segment()
        if frozen is not None:
            self.segments = [*self.segments, frozen]
            self.tail = Tail(self.side_specs)

    def fork(self) -> "LayerStore":
        """A store with the same entries that shares all K/V bytes until either side rewrites them."""
        self.freeze()
        if len(self.segments) > MAX_SEGMENTS and all(
            isinstance(s, UniformSegment | RaggedSegment) for s in self.segments
        ):
            padded = self.padded()
            self.replace(padded.k, padded.v, padded.side, padded.valid)
        twin = LayerStore(self.side_specs)
        twin.segments = list(self.segments)
        return twin

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Every stored tensor with its name, spare room of the tail included."""
        found = [
            (name, tensor)
            for segment in self.segments
            for name, tensor in segment.tensors().items()
            if name not in getattr(segment, "side", {}) or self._carries(name)
        ]
        if self.tail.k is not None and self.tail.v is not None and self.tail.positions is not None:
            found += [
                ("k", self.tail.k),
                ("v", self.tail.v),
                (POSITION, self.tail.positions),
                *self.tail.side.items(),
            ]
        return found

    def bytes(self) -> tuple[int, int]:
        """(K and V bytes, side-data bytes) held for this layer. Spare room counts; memory that a larger shared buffer holds counts as viewed."""
        cache = side = 0
        for name, tensor in self.tensors():
            size = _distinct_elements(tensor) * tensor.element_size()
            if name[0] in "kv":
                cache += size
            else:
                side += size
        return cache, side


def _distinct_elements(tensor: Tensor) -> int:
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


def _gather(value: Tensor, index: Tensor) -> Tensor:
    """Pick entries `index` (Hk, n) of `value` (Hk, T, ...) -> (Hk, n, ...)."""
    if value.dim() == 2:
        return value.gather(1, index)
    heads = torch.arange(index.shape[0], device=index.device)
    if value.dim() == 3:
        return gather_entries(value, heads, index)
    return value[heads.unsqueeze(1), index]


def _part(padded: Padded, heads: slice, count: int) -> Padded:
    """The first `count` entries of `heads`."""
    side = {name: value[heads, :count] for name, value in padded.side.items()}
    return Padded(padded.k[heads, :count], padded.v[heads, :count], side, None)


def _after(padded: Padded, count: int) -> Padded:
    """The entries from `count` on."""
    side = {name: value[:, count:] for name, value in padded.side.items()}
    return Padded(padded.k[:, count:], padded.v[:, count:], side, None)
