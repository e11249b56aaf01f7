"""One attention layer of one session: its store, what it collects for methods, and how its attention call is answered.

Paths, in order: sliding window (banded), distance map (passes), sparse prefill (tiles), sparse decode (selection), dense. All end in the
same place: parts over disjoint key sets, merged by log-sum-exp. Letters: Hq query heads, Hk KV heads, S new tokens, T entries, D, E.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longspan.engine.collect import MASS, collect
from longspan.engine.crossover import DECODE, PREFILL
from longspan.engine.dispatch import LayerCall
from longspan.engine.geometry import LayerGeometry
from longspan.engine.mapped import attend_mapped
from longspan.engine.moments import QueryMoments
from longspan.engine.needs import Needs
from longspan.engine.newest_queries import NewestQueries
from longspan.engine.parts import Part, over
from longspan.engine.segments import BIAS, Block, RaggedSegment, SideSpec
from longspan.engine.store import LayerStore
from longspan.ops.attention import apply_sink, attend, attend_ragged_row, merge
from longspan.ops.attention_mass import attend_with_mass, sums_in_one_pass
from longspan.ops.frequency_maps import Frequencies
from longspan.ops.sparse_decode import decode
from longspan.ops.sparse_decode import default_backend as decode_backend
from longspan.ops.sparse_prefill import default_backend as prefill_backend
from longspan.ops.sparse_prefill import prefill

if TYPE_CHECKING:
    from longspan.engine.positions import PositionMap
    from longspan.engine.state import SessionState

SLACK = 64  # entries a sliding layer keeps beyond its window, so that a few tokens can be rolled back


@dataclass
class ReadCounters:
    """What attention touched: pairs a dense layer would compute and pairs computed (prefill); entries held and entries read (decode).

    sparse_calls: calls that a pattern or selector was to answer; dense_calls: of those, answered densely because this machine is faster so.
    share: what the newest selection read of the entries; 0 before there is one."""

    dense_pairs: int = 0
    pairs: float = 0.0
    held: int = 0
    read: int = 0
    sparse_calls: int = 0
    dense_calls: int = 0
    share: float = 0.0


@dataclass
class LayerRun:
    geometry: LayerGeometry
    needs: Needs
    side: dict[str, SideSpec] = field(default_factory=dict)
    map: PositionMap | None = None

    def __post_init__(self) -> None:
        side = dict(self.side)
        if self.grows and (self.needs.column_mass or self.needs.decode_mass):
            side[MASS] = SideSpec((self.geometry.group,))
        self.store = LayerStore(side)
        self.windows = NewestQueries()
        self.query_moments: QueryMoments | None = None
        self.state: dict[str, dict[str, Any]] = {}
        self.indexed = 0
        self.horizon = 0
        self.counters = ReadCounters()
        self.fresh_mass: Tensor | None = (
            None  # (Hq, T): summed by the attention call itself, until `collect` takes it
        )

    @property
    def grows(self) -> bool:
        return self.geometry.window is None

    @property
    def window_queries(self) -> Tensor | None:
        """(Hq, w, D), un-rotated when the map rotates on read."""
        return self.windows.tensor

    @window_queries.setter
    def window_queries(self, queries: Tensor | None) -> None:
        self.windows = NewestQueries(queries)

    @property
    def plain_tail(self) -> bool:
        """Whether a decode step over the whole cache reads the tail alone, with keys as they are stored."""
        return self.grows and self.map is None and not self.store.segments and self.store.tail.length > 0

    @property
    def tail_stands_alone(self) -> bool:
        """Whether a decode step may attend to the tail apart from the segments before it, with keys as they are stored."""
        return self.grows and self.map is None and bool(self.store.segments) and self.store.tail.length > 0

    @property
    def rotates_on_read(self) -> bool:
        return self.grows and self.map is not None and self.map.on_read

    def written_frequencies(self, length: int) -> Frequencies:
        """What queries and keys are rotated with at `length` tokens."""
        if self.map is None or not self.grows:
            return self.geometry.rope.frequencies
        return self.map.frequencies(self.geometry, length)

    def fork(self, needs: Needs, side: dict[str, SideSpec], map: PositionMap | None) -> LayerRun:
        twin = LayerRun(self.geometry, needs, side, map)
        specs = twin.store.side_specs
        twin.store = self.store.fork()
        twin.store.side_specs = specs
        twin.store.tail = type(twin.store.tail)(specs)
        twin.windows = NewestQueries(self.window_queries)
        twin.query_moments = self.query_moments
        twin.state = {name: dict(values) for name, values in self.state.items()}
        twin.indexed = self.indexed
        twin.counters.share = self.counters.share
        return twin

    # -- the attention call ----------------------------------------------------------------------------------------
    def attend(
        self,
        call: LayerCall,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        session: SessionState,
        reading: bool,
        shared: Part | None,
        end: Part | None = None,
    ) -> Tensor:
        """Answer one call for q (Hq, S, D), k (Hk, S, D), v (Hk, S, E): append, attend, collect -> (S, Hq, E).

        shared: the part over the first segment, where it was computed for several sessions. end: the part over the tail, likewise; the
        new entry is then in the tail already.
        """
        new = q.shape[1]
        positions = session.next_positions(new, q.device)
        if (
            self.grows
            and not self.store.tail.length
            and session.expected > new
            and session.holds_all_it_reads
        ):
            self.store.reserve(k, v, session.expected + SLACK)
        self.horizon = max(session.length + new, session.horizon)
        if self.map is not None:
            rope = self.geometry.rope
            q, k = rope.strip_scaling(q), rope.strip_scaling(k)
            if not self.rotates_on_read:
                frequencies = self.written_frequencies(self.horizon)
                q, k = rope.rotate(q, positions, frequencies), rope.rotate(k, positions, frequencies)
        if not self.grows:
            out, lse = self._sliding(call, q, k, v, positions)
        elif self.rotates_on_read:
            self.store.append(k, v, positions)
            out, lse = attend_mapped(self, call, q, positions)
        else:
            out, lse = self._growing(call, q, k, v, positions, session, reading, shared, end)
        if call.sinks is not None:
            out, lse = apply_sink(out, lse, call.sinks)
        if self.grows:
            collect(self, call, q, lse, positions, reading)
        silent = session.silent_heads.get(call.layer)
        if silent is not None:
            out = out.index_fill(0, torch.tensor(silent, device=out.device), 0.0)
        return out.transpose(0, 1)

    def _growing(
        self,
        call: LayerCall,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        session: SessionState,
        reading: bool,
        shared: Part | None,
        end: Part | None,
    ) -> Part:
        new = q.shape[1]
        pattern, selector = session.pattern, session.selector
        if reading and pattern is not None and new > 1:
            sparse = self._tiled(call, q, k, v, positions, session, pattern)
            if sparse is not None:
                return sparse
        if not reading and selector is not None and new == 1 and self.indexed:
            if end is None:
                self.store.append(k, v, positions)
            return self._selected(call, q, session, selector, end)
        options = {"scale": call.scale, "softcap": call.softcap}
        if new == 1:
            if end is None:
                self.store.append(k, v, positions)
            parts = [part for part in (end, shared) if part is not None]
            segments = self.store.segments if end is not None else self.store.all_segments()
            for segment in segments[0 if shared is None else 1 :]:
                if isinstance(segment, RaggedSegment):
                    bias = segment.side.get(BIAS)
                    parts.append(
                        attend_ragged_row(q, segment.k, segment.v, segment.lengths, bias=bias, **options)
                    )
                else:
                    parts += over(q, list(segment.blocks()), self.geometry.group, **options)
            self.note_step()
            return merge(parts)
        past = self.store.longest
        self.counters.dense_pairs += new * past + new * (new + 1) // 2
        self.counters.pairs += new * past + new * (new + 1) // 2
        tail = self.store.tail
        if reading and self._sums_in_one_pass(call, q, k):
            self.store.append(k, v, positions)
            assert tail.k is not None and tail.v is not None
            out, lse, self.fresh_mass = attend_with_mass(
                q, tail.k[:, : tail.length], tail.v[:, : tail.length], scale=call.scale
            )
            return out, lse
        parts = [shared] if shared is not None else []
        parts += over(q, self._blocks(skip_first=shared is not None), self.geometry.group, **options)
        parts.append(attend(q, k, v, causal=True, **options))
        self.store.append(k, v, positions)
        return merge(parts)

    def _sums_in_one_pass(self, call: LayerCall, q: Tensor, k: Tensor) -> bool:
        """Whether this call should sum the attention that entries receive while it attends."""
        wanted = self.needs.column_mass and call.sinks is None and not self.store.segments
        return wanted and sums_in_one_pass(q, k, call.softcap)

    def note_step(self) -> None:
        """Count one dense decode step."""
        held = self.store.longest
        self.counters.held += held
        self.counters.read += held

    def _blocks(self, skip_first: bool = False) -> list[Block]:
        segments = self.store.all_segments()
        return [block for segment in segments[1 if skip_first else 0 :] for block in segment.blocks()]

    def _sliding(self, call: LayerCall, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Part:
        window = self.geometry.window
        assert window is not None
        self.store.append(k, v, positions)
        padded = self.store.padded()
        columns = padded.positions[0]
        first = int(torch.searchsorted(columns.contiguous(), positions[:1] - window + 1))
        columns, keys, values = columns[first:], padded.k[:, first:], padded.v[:, first:]
        options = {"scale": call.scale, "softcap": call.softcap}
        if q.shape[1] == 1:
            part = attend(q, keys, values, **options)
        else:
            row = positions.unsqueeze(-1)
            part = attend(q, keys, values, mask=(columns <= row) & (columns > row - window), **options)
        if self.store.longest > 2 * (window + SLACK):
            self.forget_unseen()
        return part

    def forget_unseen(self) -> None:
        """Free what lies before the window of a sliding layer, but for a little to roll back to."""
        if self.geometry.window is not None:
            self.store.trim_front(self.geometry.window + SLACK)

    def _tiled(
        self,
        call: LayerCall,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        session: SessionState,
        pattern: Any,
    ) -> Part | None:
        if call.softcap is not None:
            return None
        view = session.view(self.geometry.index, pattern)
        segments = self.store.segments
        if segments and any(not segment.uniform for segment in segments):
            return None
        self.store.append(k, v, positions)
        padded = self.store.padded()
        tiles = pattern.tiles(view, q, padded.k)
        new, total = q.shape[1], padded.k.shape[1]
        if tiles is not None:
            self.counters.sparse_calls += 1
            if session.dense_is_faster(PREFILL, prefill_backend(q), total, tiles.density()):
                self.counters.dense_calls += 1
                tiles = None
        dense = new * (total - new) + new * (new + 1) // 2
        self.counters.dense_pairs += dense
        self.counters.pairs += dense * (1.0 if tiles is None else tiles.density())
        if tiles is not None:
            out, lse = prefill(q, padded.k, padded.v, tiles, scale=call.scale)
            assert lse is not None, "the backend chosen for reading returns no log-sum-exp"
            return out, lse
        past = total - new
        return merge(
            [
                attend(q, padded.k[:, :past], padded.v[:, :past], scale=call.scale),
                attend(q, padded.k[:, past:], padded.v[:, past:], causal=True, scale=call.scale),
            ]
        )

    def _selected(
        self, call: LayerCall, q: Tensor, session: SessionState, selector: Any, end: Part | None
    ) -> Part:
        view = session.view(self.geometry.index, selector)
        options = {"scale": call.scale, "softcap": call.softcap}
        held, share = self.store.longest, self.counters.share
        self.counters.held += held
        if share and session.dense_is_faster(DECODE, decode_backend(q, call.softcap), held, share):
            self.counters.sparse_calls += 1
            self.counters.dense_calls += 1
            self.counters.read += held
            return merge(over(q, self._blocks(), self.geometry.group, **options))
        selection = selector.select(view, q)
        if selection is None:
            self.counters.read += held
            return merge(over(q, self._blocks(), self.geometry.group, **options))
        k, v, rest, bias = view.prefix(self.indexed)
        if bias is None:
            part = decode(q, k, v, selection, **options)
        else:
            chosen = selection.dense_bias()
            if chosen is not None:
                bias = chosen + bias.repeat_interleave(chosen.shape[0] // bias.shape[0], 0)
            part = attend(q, k, v, mask=selection.dense().unsqueeze(1), bias=bias, **options)
        read = int(selection.mean_entries()) + held - self.indexed
        self.counters.read += read
        self.counters.sparse_calls += 1
        self.counters.share = read / held
        if end is not None and held - self.store.tail.length == self.indexed:  # the tail is the rest
            return merge([part, end])
        return merge([part, *over(q, rest, self.geometry.group, **options)])
