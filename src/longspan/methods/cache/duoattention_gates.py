"""How DuoAttention learns which heads need the whole cache: one gate a KV head, a recall task, a frozen model.

Source: DuoAttention, Xiao et al., ICLR 2025; code mit-han-lab/duo-attention. A gate a mixes what its head says: a x full attention + (1 - a) x
streaming attention (sinks and a window). The full branch is that of an undisturbed pass F over the same text, the streaming branch that of the
mixed pass S itself. Loss = mean over the answer's positions and dimensions of (h_F - h_S)^2, h the last hidden state after the final norm, plus
penalty x mean |a|; gates start at 1 and are clamped to [0, 1] before every step. The text hides passkeys of random code words and then asks for each.

The original trains 2,000 steps on texts of up to 32K tokens with ten passkeys of 32 words; the defaults here are for a small model on one core.
The two passes share a batch there; here F runs first, without gradients, and its attention outputs are kept until S has used them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine.dispatch import LayerCall
from longspan.engine.fitting import fit, up_and_down
from longspan.engine.gradients import causal_mask, dense, last_hidden, masked
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.ops.attention import grouped_scores

WORDS = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey xray yankee zulu"
).split()
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Plan:
    """steps; shortest, longest: tokens of the text, drawn evenly; passkeys of `words` code words each; sink, recent: the streaming heads' window
    in tokens; rate: learning rate; penalty: weight of mean |gate|."""

    steps: int = 28
    shortest: int = 96
    longest: int = 192
    passkeys: int = 2
    words: int = 5
    sink: int = 8
    recent: int = 32
    rate: float = 0.1
    penalty: float = 0.05
    seed: int = 0


def sample(lm: Any, plan: Plan, step: int) -> tuple[Tensor, int]:
    """The text of one step, ids (S,), and where its questions begin: every token from there on is a label."""
    rng = random.Random(f"duoattention-{plan.seed}-{step}")
    paragraphs = reference_prose()
    wanted = rng.randint(plan.shortest, plan.longest)
    at, ids, text = rng.randrange(len(paragraphs)), [], ""
    while len(ids) < wanted:
        text += paragraphs[at % len(paragraphs)] + "\n\n"
        at += 1
        ids = lm.encode(text)
    keys = [" ".join(rng.choice(WORDS) for _ in range(plan.words)) for _ in range(plan.passkeys)]
    depths = sorted(rng.uniform(0.05, 0.95) for _ in keys)
    read, done = lm.encode((lm.chat.prefix if lm.chat else "") + "Here is a long book.\n\n", special=True), 0
    for depth, ordinal, key in zip(depths, ORDINALS, keys):
        cut = int(depth * wanted)
        read += ids[done:cut] + lm.encode(
            f"\n\nKeep these words in mind, they are the {ordinal} passkey: {key}\n\n"
        )
        done = cut
    read += ids[done:wanted]
    asked = "".join(
        f"\n\nWhat is the {ordinal} passkey in the book?\nPasskey: {key}"
        for ordinal, key in zip(ORDINALS, keys)
    )
    return torch.tensor(read + lm.encode(asked)), len(read)


def streaming_mask(length: int, sink: int, recent: int, like: Tensor) -> Tensor:
    """(S, S) bool: key j is visible to query i if j <= i and (j < sink or i - j < recent)."""
    causal = causal_mask(length, length, like)
    mask = causal & ~causal.tril(-recent)
    mask[:, :sink] = causal[:, :sink]
    return mask


def distance(lm: Any, gates: Tensor, ids: Tensor, first_label: int, sink: int, recent: int) -> Tensor:
    """Mean squared distance of the mixed pass's last hidden states from the full pass's over ids[first_label:]; gates (growing layers, Hk)."""
    order = {layer: number for number, layer in enumerate(lm.geometry.growing)}
    full: dict[int, Tensor] = {}

    def record(call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        full[call.layer] = dense(call, q, k, v)
        return full[call.layer]

    with torch.no_grad():
        wanted = last_hidden(lm, ids, record)
    window = streaming_mask(len(ids), sink, recent, wanted)

    def mix(call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if call.layer not in order:
            return dense(call, q, k, v)
        gate = gates[order[call.layer]].to(q.dtype).repeat_interleave(q.shape[0] // k.shape[0]).view(-1, 1, 1)
        return (1 - gate) * masked(call, q, k, v, window) + gate * full.pop(call.layer)

    found = last_hidden(lm, ids, mix)
    return (found[first_label:].float() - wanted[first_label:].float()).square().mean()


def train_gates(
    lm: Any, plan: Plan, folder: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Run the optimisation; gates and their mean over the steps (growing layers, Hk) as lists, and the losses of the first and last steps."""
    shape = (len(lm.geometry.growing), lm.geometry.kv_heads)
    gates = torch.ones(shape, device=lm.device, requires_grad=True)
    total = torch.zeros(shape, device=lm.device)

    def gradients(step: int) -> float:
        with torch.no_grad():
            gates.clamp_(0.0, 1.0)
            total.add_(gates)
        ids, first_label = sample(lm, plan, step)
        loss = distance(lm, gates, ids, first_label, plan.sink, plan.recent)
        (loss + plan.penalty * gates.abs().mean()).backward()
        return float(loss.detach())

    losses = fit(
        "duoattention",
        lm,
        {"gates": gates},
        gradients,
        beside={"total": total},
        steps=plan.steps,
        rate=up_and_down(plan.steps, plan.rate, 0.2, 0.2, least=0.1),
        plan=asdict(plan),
        folder=folder,
        progress=progress,
    )
    return {
        "gates": _rounded(gates.detach().clamp(0.0, 1.0)),
        "mean_gates": _rounded(total / plan.steps),
        "distance_last_steps": [round(loss, 4) for loss in losses[-10:]],
    }


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 5) for value in row] for row in values.tolist()]


def attention_reach(lm: Any, texts: int = 6, tokens: int = 256, positions: int = 500) -> Tensor:
    """A score of every KV head without training, (growing layers, Hk): how early in the text its average query looks.

    Source: NVIDIA/kvpress, on-the-fly DuoAttention. The mean un-rotated query and key of a head over plain text are put at the last and at all of
    `positions` places; the score is the mean over places of the cumulative attention. High: far back; low: near, so streaming.
    """
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    places = torch.arange(positions)

    def record(call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if call.layer in lm.geometry.growing:
            rope, at = lm.geometry.layers[call.layer].rope, torch.arange(q.shape[1], device=q.device)
            means = rope.unrotate(q, at).float().mean(1), rope.unrotate(k, at).float().mean(1)
            before = sums.get(call.layer, (0.0, 0.0))
            sums[call.layer] = means[0] + before[0], means[1] + before[1]
            scales[call.layer] = call.scale
        return dense(call, q, k, v)

    scales: dict[int, float] = {}
    paragraphs = "\n\n".join(reference_prose())
    for number in range(texts):
        text = paragraphs[number * len(paragraphs) // texts :][: 8 * tokens]
        with torch.no_grad():
            last_hidden(lm, torch.tensor(lm.encode(text, special=True)[:tokens]), record)
    scores = []
    for layer in lm.geometry.growing:
        rope = lm.geometry.layers[layer].rope
        q, k = (mean.unsqueeze(1) / texts for mean in sums[layer])
        q = rope.rotate(q, places[-1:].to(q.device))
        k = rope.rotate(k.expand(-1, positions, -1), places.to(k.device))
        rows = grouped_scores(q, k, scales[layer]).softmax(-1)[:, 0]
        scores.append(rows.cumsum(-1).mean(-1).view(k.shape[0], -1).mean(1))
    return torch.stack(scores)
