"""Distance maps: attention in which a query at m sees a key at n as if their distance were D'(m, n) and not m - n.

Each method is a few `Pass`es over disjoint sets of (query, key) pairs. In a pass the query turns by ``query(m)`` and the key by
``key(n)``, so D' = query(m) - key(n), and ordinary attention applies; the passes merge exactly by log-sum-exp (`distance_attention`). Keys must be stored un-rotated.

| map | D' with D = m - n | source |
|---|---|---|
| plain | D | |
| rerope | D below w, else w | Su, 2023 |
| leaky_rerope | D below w, else w + (D - w) / k | Su, 2023 |
| self_extend | D below w, else m//G - n//G + w - w//G | arXiv 2401.01325 |
| dual_chunk | exact inside a chunk, rising to c with the previous chunk, c beyond | arXiv 2402.17463 |
| dimension_groups (DPE) | self_extend with a G for each band of pairs | arXiv 2504.18857 |
| limited (LM-Infinite) | D below w; first tokens at a fixed distance; others unseen, or the strongest few at another | arXiv 2308.16137 |
| plain with a decay (xPos) | D, and each pair shrinks by a power of D | arXiv 2212.10554 |

Dual chunk attention: keys restart every c - l tokens (c chunk, l local window). The released code puts the previous chunk's queries at
min(m mod (c-l) + c-l, c) and older ones at c, with c = 3/4 window and l = window / 16; formulas in secondary sources that restart every c do not keep D' >= 0.

Letters: Hq query heads, Hk KV heads, S query rows, T keys, D head dim, P rotated pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """One set of (query, key) pairs and the positions both take inside it.

    query, key: map integer positions (any shape) to positions of the same shape, or with a trailing P when `per_pair`.
    region: bool of (m, n) broadcast together; causality is added by the caller.
    reach: (first query, last query) -> half-open range of key positions outside which the region is empty.
    turned: bool (Hq, P), the pairs of each head that take this pass's positions, the rest keep their true ones; None for all.
    keep: read only so many keys of the region, those with a query's largest logits; 0 for all of them.
    decay: fp32 (P,), at most 0: the part of a logit that pair i gives is multiplied by exp(decay_i D'); None for no decay.
    """

    query: Callable[[Tensor], Tensor]
    key: Callable[[Tensor], Tensor]
    region: Callable[[Tensor, Tensor], Tensor]
    reach: Callable[[int, int], tuple[int, int]]
    per_pair: bool = False
    turned: Tensor | None = None
    keep: int = 0
    decay: Tensor | None = None


Passes = tuple[Pass, ...]


def _same(positions: Tensor) -> Tensor:
    return positions


def _constant(value: int) -> Callable[[Tensor], Tensor]:
    return lambda positions: torch.full_like(positions, value)


def _near(window: int) -> Pass:
    return Pass(
        _same, _same, lambda m, n: m - n < window, lambda first, last: (max(0, first - window + 1), last + 1)
    )


def _far(window: int, query, key, **kwargs) -> Pass:
    return Pass(
        query, key, lambda m, n: m - n >= window, lambda first, last: (0, max(0, last - window + 1)), **kwargs
    )


def plain(decay: Tensor | None = None) -> Passes:
    """One pass with true distances; with `decay` (P,), pair i also shrinks by exp(decay_i D)."""
    return (Pass(_same, _same, lambda m, n: m >= n, lambda first, last: (0, last + 1), decay=decay),)


def xpos_decay(dim: int, base: int) -> Tensor:
    """xPos's ln zeta_i / base a token, fp32 (dim / 2,), with zeta_i = (2i + 0.4 d) / (1.4 d): the fastest pairs fade first. base in tokens."""
    zeta = (torch.arange(0, dim, 2, dtype=torch.float64) + 0.4 * dim) / (1.4 * dim)
    return (zeta.log() / base).float()


def rerope(window: int) -> Passes:
    """Distances stop growing at `window`."""
    return (_near(window), _far(window, _constant(window), _constant(0)))


def leaky_rerope(window: int, leak: float) -> Passes:
    """Distances beyond `window` grow `leak` times slower; an infinite leak is ReRoPE, leak 1 is plain."""
    return (_near(window), _far(window, lambda m: window + (m - window) / leak, lambda n: n / leak))


def self_extend(window: int, group: int) -> Passes:
    """Beyond `window`, positions count groups of `group` tokens, shifted to meet the exact part without a gap."""
    shift = window - window // group
    return (_near(window), _far(window, lambda m: m // group + shift, lambda n: n // group))


def dimension_groups(window: int, groups: Tensor, turned: Tensor | None = None) -> Passes:
    """DPE: Self-Extend with a group size for each pair.

    groups: int (P,), the divisor of each pair. turned: bool (Hq, P), pairs to scale in each head; the others stay exact. The reference's
    prefill shifts by w - w/s and its decode by w - w//s; here both use the floor, equal to the reference when s divides w.
    """
    groups = groups.long()
    shift = window - torch.div(window, groups, rounding_mode="floor")

    def grouped(positions: Tensor) -> Tensor:
        return torch.div(positions.unsqueeze(-1), groups.to(positions.device), rounding_mode="floor")

    return (
        _near(window),
        _far(
            window,
            lambda m: grouped(m) + shift.to(m.device),
            lambda n: grouped(n),
            per_pair=True,
            turned=turned,
        ),
    )


def dual_chunk(chunk: int, local: int) -> Passes:
    """Chunks of ``chunk - local`` tokens: exact inside, exact up to `local` across a border, at most `chunk` anywhere."""
    period = chunk - local
    ceiling = min(chunk, 2 * period - 1)

    def chunks_between(m: Tensor, n: Tensor) -> Tensor:
        return m // period - n // period

    def within(positions: Tensor) -> Tensor:
        return positions % period

    return (
        Pass(
            within,
            within,
            lambda m, n: chunks_between(m, n) == 0,
            lambda first, last: (first // period * period, last + 1),
        ),
        Pass(
            lambda m: (m % period + period).clamp(max=ceiling),
            within,
            lambda m, n: chunks_between(m, n) == 1,
            lambda first, last: (max(0, first // period - 1) * period, last // period * period),
        ),
        Pass(
            _constant(ceiling),
            within,
            lambda m, n: chunks_between(m, n) >= 2,
            lambda first, last: (0, max(0, last // period - 1) * period),
        ),
    )


def limited(window: int, first_tokens: int, limit: int, middle: int = 0, insert_at: int = 0) -> Passes:
    """LM-Infinite: exact inside `window`, the first tokens seen at distance `limit`, everything between unseen.

    middle: each query also reads so many of the tokens between, those with its largest logits at distance `insert_at`, at that distance.
    """
    passes = (
        _near(window),
        Pass(
            _constant(limit),
            _constant(0),
            lambda m, n: (n < first_tokens) & (m - n >= window),
            lambda first, last: (0, min(first_tokens, max(0, last - window + 1))),
        ),
    )
    if not middle:
        return passes
    between = Pass(
        _constant(insert_at),
        _constant(0),
        lambda m, n: (n >= first_tokens) & (m - n >= window),
        lambda first, last: (first_tokens, max(first_tokens, last - window + 1)),
        keep=middle,
    )
    return (*passes, between)


def effective_distance(passes: Passes, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Return (D', visible) for m and n that broadcast together; D' has a trailing P when a pass is `per_pair`.

    `turned` heads, `keep` and `decay` are ignored. Causality is included in `visible`.
    """
    m, n = torch.broadcast_tensors(m, n)
    per_pair = any(p.per_pair for p in passes)
    visible = torch.zeros_like(m, dtype=torch.bool)
    distance: Tensor | None = None
    for p in passes:
        inside = p.region(m, n) & (n <= m)
        value = (p.query(m) - p.key(n)).float()
        if per_pair:
            value = value if p.per_pair else value.unsqueeze(-1)
            distance = torch.zeros(()) if distance is None else distance
            distance = torch.where(inside.unsqueeze(-1), value, distance)
        else:
            distance = torch.where(inside, value, torch.zeros(()) if distance is None else distance)
        visible = visible | inside
    assert distance is not None
    return distance, visible


def group_sizes(scales: Sequence[int], pairs: int) -> Tensor:
    """Spread one divisor a band evenly over the pairs, int (P,); the last band takes the remainder."""
    width = max(1, pairs // len(scales))
    index = (torch.arange(pairs) // width).clamp(max=len(scales) - 1)
    return torch.tensor(list(scales))[index]
