"""LoCoCo's fusion of a cache into fewer entries, and how its convolutions are trained.

Source: LoCoCo, Cai et al., ICML 2024; code VITA-Group/LoCoCo. Of T entries a head, `copied` stay as they are: those that received most attention. A 1-D
convolution over the sequence [K; V] of the others gives one row of logits a new entry; softmax of its ReLU over that sequence gives W_conv. W_res has a
row for each of the next most attended entries, all on that one. New keys and values are W K and W V with W = (1 - mix) W_res + mix W_conv; mix, a number
a layer, is trained from 0.5, and at 0 this is plain heavy-hitter selection. One set of filters a layer serves all heads.

Training is language modelling in chunks: before a chunk the memory is fused, the chunk attends to it and to itself, and its loss reaches the filters
through that one fusion; memory is carried on without gradients. The filters start N(0, 1) in the code, which makes W_conv almost one-hot and random; here
at 1 / sqrt(2 D x kernel) of that. The code trains 1,000 steps of 128 samples, the filters at 0.05 and the mix at 0.00025; here the steps are tens, so the
mix moves faster: it falls while the filters are still noise and rises again in the layers where they help. Nothing keeps it within [0, 1].
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.engine.dispatch import LayerCall
from longspan.engine.fitting import fit, up_and_down
from longspan.engine.gradients import causal_mask, logits, masked
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.ops.attention import attend
from longspan.ops.attention_mass import column_mass


@dataclass(frozen=True)
class Plan:
    """chunks of `block` tokens a step; memory of `size` entries, `fused` of them made by the convolution, once it holds more than size + buffer.
    kernel: width of the filters. rate, mix_rate: learning rates of filters and mix."""

    steps: int = 40
    chunks: int = 4
    block: int = 64
    size: int = 64
    fused: int = 32
    buffer: int = 16
    kernel: int = 7
    rate: float = 0.05
    mix_rate: float = 0.03
    seed: int = 0


def fuse(
    k: Tensor, v: Tensor, mass: Tensor, positions: Tensor, filters: Tensor, mix: Tensor | float, size: int,
    *, relu: bool = True, newest: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Fuse T > size entries of every head into `size`: k (Hk, size, D), v (Hk, size, E), positions (Hk, size), and W (Hk, fused, rest).

    mass (Hk, T): attention received. filters (fused, D + E, kernel), kernel odd. newest: entries at the end that are copied whatever their mass.
    A new entry has the position of its W_res entry; all come back in order of position.
    """
    length, fused = k.shape[1], filters.shape[0]
    if newest:
        mass = mass.float().masked_fill(torch.arange(length, device=k.device) >= length - newest, torch.inf)
    order = mass.sort(dim=1, descending=True, stable=True).indices
    copied, rest, best = (
        part.sort(dim=1).values
        for part in (order[:, : size - fused], order[:, size - fused :], order[:, size - fused : size])
    )
    k_rest, v_rest = _at(k, rest), _at(v, rest)
    sequence = torch.cat((k_rest, v_rest), -1).transpose(1, 2).float()
    found = F.conv1d(sequence, filters, padding=filters.shape[-1] // 2)
    weights = mix * (F.relu(found) if relu else found).softmax(-1)
    weights = weights.scatter_add(
        2, torch.searchsorted(rest, best).unsqueeze(-1), (1 - mix) * torch.ones_like(weights[..., :1])
    )
    slots = torch.cat((copied, best), 1)
    slots, index = slots.sort(dim=1)
    parts = [
        _at(torch.cat((_at(x, copied), (weights @ x_rest.float()).to(x.dtype)), 1), index)
        for x, x_rest in ((k, k_rest), (v, v_rest))
    ]
    return *parts, positions.gather(1, slots), weights


def _at(values: Tensor, index: Tensor) -> Tensor:
    """Entries index (Hk, n) of values (Hk, T, D)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


@dataclass
class Memory:
    """Of one layer: k (Hk, T, D), v (Hk, T, E), positions and mass (Hk, T), all without gradients."""

    k: Tensor
    v: Tensor
    positions: Tensor
    mass: Tensor


class Reader:
    """Reads a text chunk by chunk with fused memories, as training does; a sliding layer keeps its window."""

    def __init__(self, lm: Any, filters: Tensor, mix: Tensor, size: int, buffer: int):
        self.lm, self.filters, self.mix, self.size, self.buffer = lm, filters, mix, size, buffer
        self.order = {layer: number for number, layer in enumerate(lm.geometry.growing)}
        self.memories: dict[int, Memory] = {}
        self.read = 0

    @property
    def fuses(self) -> bool:
        """Whether the memory will be fused before the next chunk."""
        return any(
            self.memories[i].k.shape[1] > self.size + self.buffer for i in self.memories if i in self.order
        )

    def chunk(self, ids: Tensor) -> Tensor:
        """Read the next chunk, ids (S,): logits (S, vocab)."""
        found = logits(self.lm, ids, self._answer, self.read)
        self.read += len(ids)
        return found

    def _answer(self, call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, order = q.shape[1], self.order.get(call.layer)
        positions = torch.arange(self.read, self.read + rows, device=q.device).expand(k.shape[0], -1)
        held = self.memories.get(call.layer)
        if held is not None:
            past = held.k, held.v, held.positions
            if order is not None and held.k.shape[1] > self.size + self.buffer:
                filters, mix = self.filters[order], self.mix[order]
                past = fuse(held.k, held.v, held.mass, held.positions, filters, mix, self.size)[:3]
            k, v, positions = (torch.cat(pair, 1) for pair in zip(past, (k, v, positions), strict=True))
        mask = causal_mask(rows, k.shape[1], q)
        window = call.sliding_window
        if order is None and window is not None:
            mask = mask & ~mask.tril(k.shape[1] - rows - window)
        out = masked(call, q, k, v, mask)
        self._remember(call, q.detach(), k.detach(), v.detach(), positions, mask)
        return out

    def _remember(
        self, call: LayerCall, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, mask: Tensor
    ) -> None:
        rows, length = mask.shape
        if call.layer not in self.order:
            cut = slice(max(0, length - (call.sliding_window or length)), None)
            self.memories[call.layer] = Memory(k[:, cut], v[:, cut], positions[:, cut], positions[:, cut])
            return
        with torch.no_grad():
            _, lse = attend(q, k, v, scale=call.scale, mask=mask, softcap=call.softcap)
            mass = column_mass(q, k, lse, scale=call.scale, causal_offset=length - rows, softcap=call.softcap)
        mass = mass.view(k.shape[0], -1, length).sum(1)
        self.memories[call.layer] = Memory(k, v, positions, mass)


def text(lm: Any, tokens: int, seed: str) -> Tensor:
    """`tokens` tokens of Python's language reference from a place that the seed chooses."""
    paragraphs = reference_prose()
    at, ids, chosen = random.Random(seed).randrange(len(paragraphs)), [], ""
    while len(ids) < tokens:
        chosen += paragraphs[at % len(paragraphs)] + "\n\n"
        at += 1
        ids = lm.encode(chosen, special=True)
    return torch.tensor(ids[:tokens])


def train_fusion(
    lm: Any, plan: Plan, folder: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor, list[float]]:
    """Train filters (growing layers, fused, 2 D, kernel) and mix (growing layers,); and the loss of every step, nats a token after a fusion."""
    first = lm.geometry.layers[lm.geometry.growing[0]]
    width, layers = first.head_dim + first.value_dim, len(lm.geometry.growing)
    generator = torch.Generator().manual_seed(plan.seed)
    filters = (
        torch.randn(layers, plan.fused, width, plan.kernel, generator=generator)
        / (width * plan.kernel) ** 0.5
    )
    filters = filters.to(lm.device).requires_grad_()
    mix = torch.full((layers,), 0.5, device=lm.device, requires_grad=True)

    def gradients(step: int) -> float:
        reader = Reader(lm, filters, mix, plan.size, plan.buffer)
        ids = text(lm, plan.chunks * plan.block + 1, f"lococo-{plan.seed}-{step}").to(lm.device)
        total, count = 0.0, 0
        for start in range(0, plan.chunks * plan.block, plan.block):
            part = ids[start : start + plan.block]
            with torch.set_grad_enabled(reader.fuses):
                loss = F.cross_entropy(reader.chunk(part), ids[start + 1 : start + plan.block + 1])
            if loss.requires_grad:
                loss.backward()
                total, count = total + float(loss.detach()), count + 1
        return total / max(1, count)

    losses = fit(
        "lococo",
        lm,
        {"filters": filters, "mix": mix},
        gradients,
        steps=plan.steps,
        rate=up_and_down(plan.steps, plan.rate, 0.1, 0.5),
        rates={"mix": plan.mix_rate / plan.rate},
        plan=asdict(plan),
        folder=folder,
        progress=progress,
    )
    return filters.detach(), mix.detach(), losses
