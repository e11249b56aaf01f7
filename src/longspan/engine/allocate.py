"""Allocators: which entries a budget buys, from their scores. Parts that any scorer can use; the total is always exact.

Letters: Hk KV heads, T entries.
"""

import torch
from torch import Tensor


def allocate(scores: Tensor, valid: Tensor | None, budget: int, allocator: str, floor: float) -> Tensor:
    """Choose exactly `budget` entries of one layer: bool (Hk, T).

    scores (Hk, T); +inf is forced in, and ties go to the earlier position. uniform: each head budget / Hk (the remainder to the first
    heads). adaptive (AdaKV, Feng et al. 2024): forced entries are outside the competition; each head gets what it wins among the best of
    the rest, but at least `floor` x an even share of it; the total is repaired to be exact.
    """
    heads, length = scores.shape
    scores = scores.float()
    if valid is not None:
        scores = scores.masked_fill(~valid, float("-inf"))
    available = torch.full((heads,), length) if valid is None else valid.sum(1).cpu()
    budget = min(budget, int(available.sum()))
    forced = (scores == float("inf")).sum(1).cpu()
    free = budget - int(forced.sum())
    if allocator == "uniform" or free < 0:
        counts = torch.full((heads,), budget // heads)
        counts[: budget % heads] += 1
    else:
        won = best(scores.view(1, -1), [budget]).view(heads, length).sum(1).cpu() - forced
        counts = forced + ((1 - floor) * won + floor * free / heads).floor().long()
    counts = _repair(torch.minimum(counts, available), available, budget)
    return best(scores, counts.tolist())


def best(scores: Tensor, counts: list[int]) -> Tensor:
    """The counts[h] largest of each row of scores (H, T): bool (H, T). Of equal scores the earlier ones are taken."""
    wanted = torch.tensor(counts, device=scores.device).unsqueeze(1)
    if len(set(counts)) == 1 and counts[0]:
        lowest = scores.topk(counts[0], dim=1, sorted=False).values.amin(1, keepdim=True)
    else:
        parts = [
            row.topk(n, sorted=False).values.amin() if n else row.new_tensor(torch.inf)
            for row, n in zip(scores, counts, strict=True)
        ]
        lowest = torch.stack(parts).unsqueeze(1)
    above = scores > lowest
    tied = scores == lowest
    return above | (tied & (tied.cumsum(1) <= wanted - above.sum(1, keepdim=True)))


def sensitivity_shares(sensitivity: list[float], sharpness: float, floor: float) -> list[float]:
    """Share of the budget for every layer from how alike its keys stay under eviction (EpiCache, Kim et al. 2025); the shares sum to 1.

    sensitivity: larger for a layer whose keys change less. Scaled to [0, 1] as s, a layer weighs (1 - s)^sharpness, and none gets less than
    `floor` of an even share: what the floor takes is taken from the others in proportion.
    """
    low, high = min(sensitivity), max(sensitivity)
    weights = [(1 - (s - low) / (high - low)) ** sharpness if high > low else 1.0 for s in sensitivity]
    least, fixed = floor / len(weights), set[int]()
    while True:
        free = [i for i in range(len(weights)) if i not in fixed]
        total = sum(weights[i] for i in free)
        if total <= 0:  # a floor of a whole even share, up to rounding
            return [1 / len(weights)] * len(weights)
        scale = (1 - least * len(fixed)) / total
        low_ones = {i for i in free if weights[i] * scale < least}
        if not low_ones:
            return [least if i in fixed else weights[i] * scale for i in range(len(weights))]
        fixed |= low_ones


def by_score(scores: Tensor) -> Tensor:
    return torch.sort(scores, dim=1, descending=True, stable=True).indices


def _repair(counts: Tensor, available: Tensor, budget: int) -> Tensor:
    """Add what rounding or a full head left over, to the heads with room, evenly and in order."""
    while (missing := budget - int(counts.sum())) > 0:
        room = (available - counts).clamp(min=0)
        open_heads = (room > 0).nonzero().flatten()
        share = max(1, missing // len(open_heads))
        for head in open_heads.tolist():
            give = min(share, int(room[head]), budget - int(counts.sum()))
            counts[head] += give
    return counts
