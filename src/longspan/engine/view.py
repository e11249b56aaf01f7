"""What a method sees: one layer of one session. Everything here is computed on demand and only for the method that asks.

Letters: Hq query heads, Hk KV heads, G = Hq / Hk, T entries (heads padded to the longest), W window queries, D, E head dims.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longspan.engine.collect import MASS
from longspan.engine.layer import LayerRun
from longspan.engine.moments import QueryMoments
from longspan.engine.segments import BIAS, POSITION, Block, UniformSegment
from longspan.engine.store import Padded
from longspan.ops.attention import grouped_scores

if TYPE_CHECKING:
    from longspan.engine.method import Method
    from longspan.engine.state import SessionState


class LayerView:
    """Keys as attention sees them (rotated), values, positions, statistics, and the actions `keep`, `replace`."""

    def __init__(self, session: SessionState, run: LayerRun, method: Method):
        self.session = session
        self.run = run
        self.method = method

    # -- what there is ---------------------------------------------------------------------------------------------
    @property
    def layer(self) -> int:
        """Index of the layer in the model."""
        return self.run.geometry.index

    @property
    def order(self) -> int:
        """Rank of this layer among the growing ones, from 0."""
        return self.session.growing_layers().index(self.layer)

    @property
    def geometry(self):
        return self.run.geometry

    @property
    def seen(self) -> int:
        """Tokens the session has seen; the next token's position."""
        return self.session.length

    @property
    def entries(self) -> int:
        """Entries held, over all heads."""
        return self.run.store.entries

    @property
    def state(self) -> dict[str, Any]:
        """This method's run state for this layer. Replace values; never write into them."""
        return self.run.state.setdefault(self.method.name, {})

    @cached_property
    def padded(self) -> Padded:
        return self.run.store.padded()

    @property
    def valid(self) -> Tensor | None:
        """Which padded entries exist, (Hk, T) bool, or None when all do."""
        return self.padded.valid

    @property
    def positions(self) -> Tensor:
        """Original positions, (Hk, T) int32."""
        return self.padded.positions

    @cached_property
    def keys(self) -> Tensor:
        """Keys (Hk, T, D), rotated to their original positions."""
        if not self.run.rotates_on_read:
            return self.padded.k
        return self.geometry.rope.rotate(self.padded.k, self.positions, self._frequencies())

    @cached_property
    def unrotated_keys(self) -> Tensor:
        """Keys (Hk, T, D) before any rotation (exact inverse rotation where they are stored rotated)."""
        if self.run.rotates_on_read:
            return self.padded.k
        return self.geometry.rope.unrotate(self.padded.k, self.positions, self._frequencies())

    @property
    def values(self) -> Tensor:
        """Values (Hk, T, E)."""
        return self.padded.v

    def side(self, name: str) -> Tensor | None:
        """Side values (Hk, T, ...) that the store carries under `name`."""
        return self.padded.side.get(name)

    @property
    def bias(self) -> Tensor | None:
        """What is added to each entry's logits (Hk, T), or None."""
        return self.padded.side.get(BIAS)

    def newest(self, count: int) -> tuple[Tensor, Tensor]:
        """The newest `count` entries, just appended: un-rotated keys (Hk, n, D) and values (Hk, n, E), without touching the others."""
        tail = self.run.store.tail
        assert tail.k is not None and tail.v is not None and count <= tail.length
        k, v = (x[:, tail.length - count : tail.length] for x in (tail.k, tail.v))
        if not self.run.rotates_on_read:
            k = self.geometry.rope.unrotate(k, self.window_positions(count), self._frequencies())
        return k, v

    def write_newest(self, name: str, values: Tensor) -> None:
        """Set the side values (Hk, n, ...) that the newest n entries, just appended, carry under `name`."""
        tail = self.run.store.tail
        tail.side[name][:, tail.length - values.shape[1] : tail.length] = values

    # -- statistics ------------------------------------------------------------------------------------------------
    def window_queries(self, count: int | None = None) -> Tensor:
        """Rotated queries of the newest tokens, (Hq, W, D); `count` of them or all that were collected."""
        queries = self.run.window_queries
        assert queries is not None, f"{self.method.name} did not declare needs.window_queries"
        queries = queries if count is None else queries[:, -count:]
        if not self.run.rotates_on_read:
            return queries
        return self.geometry.rope.rotate(
            queries, self.window_positions(queries.shape[1]), self._frequencies()
        )

    def window_positions(self, count: int) -> Tensor:
        """Positions of the newest `count` tokens, (W,)."""
        return torch.arange(self.seen - count, self.seen, device=self.session.model.device)

    def unrotated_window_queries(self, count: int | None = None) -> Tensor:
        """The same queries before rotation, (Hq, W, D)."""
        if self.run.rotates_on_read:
            assert self.run.window_queries is not None
            return self.run.window_queries if count is None else self.run.window_queries[:, -count:]
        queries = self.window_queries(count)
        return self.geometry.rope.unrotate(
            queries, self.window_positions(queries.shape[1]), self._frequencies()
        )

    def attention_rows(self, queries: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Softmax rows (Hq, W, T) of `queries` (default: all window queries) over this layer's entries, causal, fp32."""
        queries = self.window_queries() if queries is None else queries
        positions = self.window_positions(queries.shape[1]) if positions is None else positions
        scores = self.logits(queries, self.keys)
        heads, rows, length = scores.shape
        scores = scores.view(self.keys.shape[0], -1, rows, length)
        if self.bias is not None:
            scores = scores + self.bias[:, None, None]
        seen_by_all = self.positions <= positions.min()
        if self.valid is not None:
            scores = scores.masked_fill(~self.valid[:, None, None, :], float("-inf"))
            seen_by_all &= self.valid
        late = slice(int(seen_by_all.sum(1).min()), None)  # a head's entries lie in order of position
        hidden = self.positions[:, None, None, late] > positions.view(1, 1, -1, 1)
        scores[..., late].masked_fill_(hidden, float("-inf"))
        return scores.softmax(-1).view(heads, rows, length)

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """`make()`, a small tensor that follows from the entries and the window queries alone, computed once for all forks of one context
        that still hold it whole. `name` tells such values apart, with every knob they depend on. Do not change the tensor."""
        store, queries = self.run.store, self.run.window_queries
        whole = len(store.segments) == 1 and not store.tail.length and self.run.map is None
        if not whole or not isinstance(store.segments[0], UniformSegment):
            return make()
        memo = store.segments[0].memo
        if name not in memo or memo[name][0] is not queries:
            memo[name] = queries, make()
        return memo[name][1]

    def logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        """What the layer's softmax is taken of, (Hq, W, T) fp32, for rotated queries (Hq, W, D) and keys (Hk, T, D): scale and soft cap."""
        scores = grouped_scores(queries, keys, self.session.scale(self.layer))
        softcap = self.session.softcap(self.layer)
        return scores if softcap is None else softcap * torch.tanh(scores / softcap)

    @property
    def column_mass(self) -> Tensor:
        """Attention each entry has received, per query head of its group: (Hk, T, G) fp32."""
        mass = self.padded.side.get(MASS)
        assert mass is not None, f"{self.method.name} did not declare needs.column_mass"
        return mass

    @property
    def query_moments(self) -> QueryMoments:
        """Mean and covariance of this layer's un-rotated queries over the text read."""
        moments = self.run.query_moments
        assert moments is not None, f"{self.method.name} did not declare needs.query_moments"
        return moments

    @property
    def hidden(self) -> Tensor:
        """Hidden states that entered this layer for the newest collected tokens, (n, hidden size)."""
        return self.session.hidden(self.layer)

    @property
    def token_logprobs(self) -> Tensor:
        """Log-probability of every token seen, (seen,) fp32; the first is 0."""
        return self.session.token_logprobs()

    def at_positions(self, values: Tensor) -> Tensor:
        """Spread per-token values (seen,) over the entries by their original position: (Hk, T)."""
        return values[self.positions.long()]

    # -- actions ---------------------------------------------------------------------------------------------------
    def keep(self, index: Tensor) -> None:
        """Keep only `index` ((Hk, n) integers, or a bool mask (Hk, T)); the rest is freed."""
        self.run.store.keep(index)
        self._changed()

    def replace(
        self,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        bias: Tensor | None = None,
        valid: Tensor | None = None,
        side: dict[str, Tensor] | None = None,
    ) -> None:
        """Put merged entries in place of all: rotated k (Hk, T, D), v (Hk, T, E), positions (Hk, T) ascending, bias and valid (Hk, T).

        side: what other side values (Hk, T, ...) the new entries carry, by name; those not given start anew.
        """
        if self.run.rotates_on_read:
            k = self.geometry.rope.unrotate(k, positions, self._frequencies())
        held: dict[str, Tensor] = {**(side or {}), POSITION: positions.to(torch.int32)}
        if bias is not None:
            held[BIAS] = bias
        self.run.store.replace(k, v, held, valid)
        self._changed()

    def rotated(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Un-rotated keys (Hk, T, D) as attention sees them at `positions` (Hk, T)."""
        return self.geometry.rope.rotate(keys, positions, self._frequencies())

    def set_values(self, v: Tensor) -> None:
        """Put new values (Hk, T, E) in place of the old; keys, positions and side values stay."""
        padded = self.padded
        self.run.store.replace(padded.k, v, padded.side, padded.valid)
        self._changed()

    def _changed(self) -> None:
        self.run.indexed = 0
        for name in ("padded", "keys", "unrotated_keys"):
            self.__dict__.pop(name, None)

    def prefix(self, count: int) -> tuple[Tensor, Tensor, list[Block], Tensor | None]:
        """The first `count` entries k (Hk, count, D), v, the blocks after them, and the bias (Hk, count) or None; no copy if it can be helped."""
        segments = self.run.store.all_segments()
        first = segments[0]
        if first.uniform and first.lengths[0] >= count:
            (block,) = first.blocks()
            rest = [b for segment in segments[1:] for b in segment.blocks()]
            if first.lengths[0] > count:
                cut = slice(count, None)
                later = Block(
                    block.heads, block.k[:, cut], block.v[:, cut], block.positions[:, cut],
                    None if block.bias is None else block.bias[:, cut],
                )  # fmt: skip
                rest = [later, *rest]
            return (
                block.k[:, :count],
                block.v[:, :count],
                rest,
                None if block.bias is None else block.bias[:, :count],
            )
        padded = self.padded
        rest = []
        for head, length in enumerate(self.run.store.lengths):
            if length > count:
                cut = (slice(head, head + 1), slice(count, length))
                bias = padded.side[BIAS][cut] if BIAS in padded.side else None
                rest.append(
                    Block(slice(head, head + 1), padded.k[cut], padded.v[cut], padded.positions[cut], bias)
                )
        bias = padded.side[BIAS][:, :count] if BIAS in padded.side else None
        return padded.k[:, :count], padded.v[:, :count], rest, bias

    def _frequencies(self):
        return self.run.written_frequencies(self.seen)
