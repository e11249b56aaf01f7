"""MagicPIG: entries are drawn by locality-sensitive hashing and weighed by the chance with which they were drawn, which estimates attention instead of cutting it off.

Source: MagicPIG: LSH Sampling for Efficient LLM Generation, Chen et al., ICLR 2025, arXiv 2410.16179; code Infini-AI-Lab/MagicPIG. Keys of the middle of the text,
minus their mean, have `tables` codes of `bits` signs of random projections. A query reads the entries that share at least two codes with it; with an angle
theta between them and p = 1 - theta / pi, that happens with probability

    u = 1 - (1 - p^K)^L - L p^K (1 - p^K)^(L - 1)

so the logits of the entries drawn get -log u, which makes numerator and denominator of the softmax unbiased. First entries, the newest of the text
and all generated ones are read without hashing; every sixteenth layer, from the first, reads all (the code's rule).

How many are drawn is left to chance, by head and by token; beyond `budget` a uniform part of them is kept, weighed accordingly. Query heads draw on
their own, from the tables of their KV head. The original keeps tables and the middle's attention on the CPU; here there is one tier.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from longspan.engine.budget import Budget
from longspan.engine.method import DecodeSelector, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.decode.base import budget_entries
from longspan.ops.choose import from_mask
from longspan.ops.rows import gather_entries
from longspan.ops.selection import Selection

LEAST_CHANCE = 1e-6  # u is not taken smaller: one lucky draw must not outweigh the text


@register("magicpig")
@dataclass(frozen=True)
class MagicPIG(DecodeSelector):
    """bits: signs a code. tables: codes an entry. sink, local: first entries, and newest ones of the text, that are always read. budget: share, entries a head, or bytes that a token
    may read at most. every: of these layers the first reads all (0: none). correct: weigh by the chance of a draw; false is plain LSH selection. seed: of the projections."""

    source = Source("https://arxiv.org/abs/2410.16179", 2024, "https://github.com/Infini-AI-Lab/MagicPIG")

    bits: int = 10
    tables: int = 150
    sink: int = 4
    local: int = 64
    budget: float | int | str = 0.25
    every: int = 16
    correct: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if not 1 <= self.bits <= 15 or self.tables < 2 or min(self.sink, self.local, self.every) < 0:
            raise BadInput("magicpig takes bits from 1 to 15, tables >= 2, and sink, local and every >= 0.")

    def index(self, view: LayerView) -> None:
        keys = view.prefix(min(view.run.store.lengths))[0].float()
        total = keys.shape[1]
        sink = min(self.sink, total)
        stop = max(sink, total - self.local)
        view.state.update(middle=(sink, stop), budget=budget_entries(view, self.budget))
        if (self.every and view.order % self.every == 0) or stop == sink:
            return
        if "directions" not in view.state:  # later entries are hashed as the text was
            view.state["directions"] = self.directions(keys.shape[2], view.layer).to(keys.device)
            view.state["mean"] = keys[:, sink:stop].mean(1, keepdim=True)
        view.state["codes"] = codes(
            keys[:, sink:stop] - view.state["mean"], view.state["directions"], self.bits
        )

    def directions(self, dim: int, layer: int) -> Tensor:
        """Random projections (D, tables x bits)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + layer)
        return torch.randn(dim, self.tables * self.bits, generator=generator)

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        if view.state["budget"] >= view.run.indexed or "codes" not in view.state:
            return None
        (sink, stop), count = view.state["middle"], view.run.indexed
        known = view.state["codes"]
        group = q.shape[0] // known.shape[0]
        asked = codes(q.float(), view.state["directions"], self.bits).unflatten(
            0, (-1, group)
        )  # (Hk, G, 1, L)
        drawn = torch.stack([(known == asked[:, head]).sum(-1) >= 2 for head in range(group)], 1).flatten(
            0, 1
        )
        room = max(0, view.state["budget"] - sink - (count - stop))
        found = drawn.sum(1, keepdim=True)
        if int(found.max()) > room:
            drawn = drawn & self._some(view, drawn, room)
        kept = torch.ones(q.shape[0], count, dtype=torch.bool, device=q.device)
        kept[:, sink:stop] = drawn
        chosen = from_mask(kept)
        if not self.correct:
            return chosen
        inside = (chosen.indices >= sink) & (chosen.indices < stop) & chosen.valid()
        kv = torch.arange(q.shape[0], device=q.device) // group
        keys = gather_entries(view.prefix(count)[0], kv, chosen.indices).float() - view.state["mean"][kv]
        cosine = torch.nn.functional.cosine_similarity(q.float(), keys, dim=-1)
        bias = -chance(cosine, self.bits, self.tables).clamp(min=LEAST_CHANCE).log()
        bias += (found / found.clamp(max=max(1, room)).clamp(min=1)).clamp(min=1.0).log()
        return Selection(chosen.indices, count, 1, chosen.counts, bias.masked_fill(~inside, 0.0))

    def _some(self, view: LayerView, drawn: Tensor, room: int) -> Tensor:
        """A uniform part of `room` of the entries drawn (Hq, n), the same for the same token."""
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + view.layer) * 1_000_003 + view.seen
        )
        luck = torch.rand(drawn.shape, generator=generator).to(drawn.device).masked_fill(~drawn, -1.0)
        some = torch.zeros_like(drawn)
        return some.scatter_(1, luck.topk(min(room, drawn.shape[1]), 1).indices, True) if room else some


def codes(x: Tensor, directions: Tensor, bits: int) -> Tensor:
    """Signs of x (H, n, D) along directions (D, L x bits), `bits` of them packed into one number: (H, n, L) int16."""
    signs = (x @ directions > 0).unflatten(-1, (-1, bits))
    weights = 2 ** torch.arange(bits, device=x.device, dtype=torch.float32)
    return (signs.float() @ weights).to(torch.int16)


def chance(cosine: Tensor, bits: int, tables: int) -> Tensor:
    """Probability that a pair with this cosine shares at least two of `tables` codes of `bits` signs."""
    p = (1 - cosine.clamp(-1, 1).acos() / pi) ** bits
    return 1 - (1 - p) ** tables - tables * p * (1 - p) ** (tables - 1)
