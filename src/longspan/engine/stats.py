"""What a session has cost so far: tokens, entries, bytes, seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longspan.engine.prompt import Compressed


@dataclass(frozen=True)
class Stats:
    """A snapshot of a session's costs.

    tokens_read: tokens of texts and questions in its context. prefilled_tokens: of those, computed by this session itself (a fork starts at 0).
    entries: over layers and KV heads. cache_bytes: K and V. side_bytes: positions, scores, counts. peak_entries: the most entries ever held.
    prefill_density, decode_density: share of the causal pairs, and of the held entries, that attention really read. seconds: by phase.
    dense_fallback: of the attention calls that a sparse method was to answer, the share answered densely, below the crossover length of
    `longspan calibrate kernels`.
    by_chunk: methods that took every chunk of a text for itself, so that the session's chunk size is part of what they did.
    shortened: what prompt methods made of each text read, with its manifest of kept source spans; empty without such methods.
    """

    tokens_read: int
    prefilled_tokens: int
    generated_tokens: int
    entries: int
    cache_bytes: int
    side_bytes: int
    peak_entries: int
    prefill_density: float
    decode_density: float
    seconds: dict[str, float]
    dense_fallback: float = 0.0
    by_chunk: tuple[str, ...] = ()
    shortened: tuple[Compressed, ...] = ()


@dataclass
class Meter:
    """The running counters behind `Stats`."""

    prefilled_tokens: int = 0
    generated_tokens: int = 0
    peak_entries: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to phase `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
