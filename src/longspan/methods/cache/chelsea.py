"""Chelsea: inside short runs of the cache, entries with similar keys are fused into one that counts for all of them.

Source: Chelsea (later CentroidKV), "Efficient Long-Context LLM Inference via KV Cache Clustering", 2025; no public code was found, so what the
abstract does not say is a knob. Per KV head, the middle of the cache (behind `sink`, before the newest `recent`) is cut in chunks of `chunk`.
Inside a chunk, even and odd entries form the two sides A and B; every a finds its most similar b by cosine of the keys, and the strongest
edges are fused, many a into one b if so they choose. A cluster holds the degree-weighted mean key and value, the sum of degrees n and the
position of its b. A round at most halves a chunk, so lower budgets take several; the total removed is exact, spread evenly over the chunks.

Attention reads a cluster's logit plus log n: n equal entries then weigh what they did before. Without it (degree_bias=false) the merged mass
is under-counted. Unverified against the paper: degree bias, weighted mean, position, key space (post-rotary here), chunk, recent.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.engine.budget import split_exactly
from longspan.engine.method import CachePolicy, Source
from longspan.engine.registry import register
from longspan.engine.segments import SideSpec
from longspan.engine.view import LayerView
from longspan.errors import BadInput

DEGREE = "degree"  # side value: tokens fused into an entry


@register("chelsea")
@dataclass(frozen=True)
class Chelsea(CachePolicy):
    """chunk: entries that are matched among themselves. step: largest share of a chunk fused in one round (at most 0.5). degree_bias: add
    log n to a cluster's logits. space: "post_rope" or "pre_rope", where keys are compared and averaged. restore_norm: give a mean key the
    weighted mean length of its members."""

    source = Source("https://arxiv.org/abs/2506.11418", 2025)
    action = "merge"

    sink: int = 4
    recent: int = 64
    chunk: int = 64
    step: float = 0.5
    degree_bias: bool = True
    space: str = "post_rope"
    restore_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk < 2 or not 0.0 < self.step <= 0.5:
            raise BadInput("chelsea needs chunk >= 2 and a step above 0 and at most 0.5.")
        if self.space not in ("post_rope", "pre_rope"):
            raise BadInput(f"space={self.space!r} of chelsea is not one of post_rope, pre_rope.")
        if self.allocator != "uniform":
            raise BadInput("chelsea merges inside a head down to its even share; use allocator=uniform.")

    @property
    def pre_rope(self) -> bool:  # type: ignore[override]
        return self.space == "pre_rope"

    def side_specs(self, model: Any) -> dict[str, SideSpec]:
        return {DEGREE: SideSpec(fill=1.0)}

    def compress(self, view: LayerView, budget: int) -> None:
        keys = view.unrotated_keys if self.space == "pre_rope" else view.keys
        degree = view.side(DEGREE)
        entries = Entries(
            keys.float(),
            view.values.float(),
            torch.ones_like(view.positions, dtype=torch.float32) if degree is None else degree,
            view.positions,
        )
        if view.valid is None:
            heads = [self._shrink(entries, budget // len(keys))]
        else:
            counts = view.valid.sum(1).tolist()
            targets = split_exactly(budget, counts, len(counts), max(counts))
            heads = [
                self._shrink(entries.head(head, count), min(count, target))
                for head, (count, target) in enumerate(zip(counts, targets, strict=True))
            ]
        merged, valid = joined(heads)
        keys = merged.k.to(view.values.dtype)
        view.replace(
            view.rotated(keys, merged.positions) if self.space == "pre_rope" else keys,
            merged.v.to(view.values.dtype),
            merged.positions,
            bias=merged.degree.log() if self.degree_bias else None,
            valid=valid,
            side={DEGREE: merged.degree},
        )

    def _shrink(self, entries: "Entries", target: int) -> "Entries":
        while (need := entries.length - target) > 0:
            middle = slice(self.sink, entries.length - self.recent)
            fused = fuse_round(entries, middle, need, self.chunk, self.step, self.restore_norm)
            if fused.length == entries.length:
                raise BadInput(
                    f"chelsea cannot fuse {entries.length} entries a head to {target} beside sink={self.sink} and recent={self.recent}."
                )
            entries = fused
        return entries


@dataclass(frozen=True)
class Entries:
    """k (H, T, D), v (H, T, E), degree (H, T), positions (H, T) of heads with equally many entries."""

    k: Tensor
    v: Tensor
    degree: Tensor
    positions: Tensor

    @property
    def length(self) -> int:
        return self.k.shape[1]

    def head(self, head: int, count: int) -> "Entries":
        row = slice(head, head + 1)
        return Entries(
            self.k[row, :count], self.v[row, :count], self.degree[row, :count], self.positions[row, :count]
        )


def joined(parts: list[Entries]) -> tuple[Entries, Tensor | None]:
    """Parts of one or more heads each as one, padded to the longest, with what is valid (H, T) or None when all is."""
    if len(parts) == 1:
        return parts[0], None
    longest = max(part.length for part in parts)

    def pad(value: Tensor, fill: float = 0.0) -> Tensor:
        room = [0, longest - value.shape[1]]
        return F.pad(value, room if value.dim() == 2 else [0, 0, *room], value=fill)

    lengths = torch.tensor([part.length for part in parts]).unsqueeze(1)
    whole = Entries(
        torch.cat([pad(part.k) for part in parts]),
        torch.cat([pad(part.v) for part in parts]),
        torch.cat([pad(part.degree, 1.0) for part in parts]),
        torch.cat([pad(part.positions) for part in parts]),
    )
    return whole, (torch.arange(longest).unsqueeze(0) < lengths).to(whole.k.device)


def fuse_round(
    entries: Entries, middle: slice, need: int, chunk: int, step: float = 0.5, restore_norm: bool = False
) -> Entries:
    """One round of chunked bipartite soft matching over entries middle.start .. middle.stop: at most `need` fewer entries a head.

    Ties go to the earlier entry. Each chunk gives up its even share of `need`, at most int(step * its length). Heads are independent.
    """
    heads, dim = entries.k.shape[0], entries.k.shape[2]
    start, length = middle.start, max(0, middle.stop - middle.start)
    sizes = [min(chunk, length - at) for at in range(0, length, chunk)]
    most = [int(step * size) for size in sizes]
    need = min(need, sum(most))
    if not need:
        return entries
    removed = _shares(need, most)
    count = len(sizes)
    keys = F.pad(entries.k[:, start : start + length], (0, 0, 0, count * chunk - length))
    unit = F.normalize(keys.view(heads, count, chunk, dim), dim=-1)
    exists = (torch.arange(count * chunk) < length).view(count, chunk).to(keys.device)
    cosine = unit[:, :, 0::2] @ unit[:, :, 1::2].transpose(-1, -2)  # (H, chunks, A, B)
    cosine = cosine.masked_fill(~exists[:, 1::2].unsqueeze(1), -2.0)
    best, partner = cosine.max(-1)
    best = best.masked_fill(~exists[:, 0::2], -3.0)
    rank = best.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    leaves = rank < torch.tensor(removed, device=keys.device).view(1, count, 1)  # (H, chunks, A)
    offset = start + torch.arange(count, device=keys.device).view(1, count, 1) * chunk
    source = offset + 2 * torch.arange(leaves.shape[-1], device=keys.device).expand_as(leaves)
    target = offset + 2 * partner + 1
    goes = torch.arange(entries.length, device=keys.device).repeat(heads, 1)
    goes.view(-1)[
        (torch.arange(heads, device=keys.device).view(-1, 1, 1) * entries.length + source)[leaves]
    ] = target[leaves]
    return _fused(entries, goes, restore_norm)


def _fused(entries: Entries, goes: Tensor, restore_norm: bool) -> Entries:
    """Fuse every entry into the entry `goes` (H, T) names; equally many must remain in every head."""
    heads, length = goes.shape
    stays = goes == torch.arange(length, device=goes.device)
    slot = (stays.cumsum(1) - 1).gather(1, goes)
    left = int(stays[0].sum())

    def total(value: Tensor) -> Tensor:
        weighted = (
            value * entries.degree.unsqueeze(-1) if value.dim() == 3 else value * entries.degree
        ).double()
        index = slot.unsqueeze(-1).expand_as(weighted) if value.dim() == 3 else slot
        return weighted.new_zeros(heads, left, *value.shape[2:]).scatter_add_(1, index, weighted)

    degree = total(torch.ones_like(entries.degree))
    k, v = total(entries.k) / degree.unsqueeze(-1), total(entries.v) / degree.unsqueeze(-1)
    if restore_norm:
        k = F.normalize(k, dim=-1) * (total(entries.k.norm(dim=-1)) / degree).unsqueeze(-1)
    positions = entries.positions[stays].view(heads, left)
    return Entries(k.to(entries.k.dtype), v.to(entries.v.dtype), degree.float(), positions)


def _shares(need: int, most: list[int]) -> list[int]:
    """Split `need` over chunks in proportion to what each can give, exactly; none above its most."""
    total = sum(most)
    ends = [need * sum(most[: i + 1]) // total for i in range(len(most))]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
