"""Locret's retaining heads: how a small network a layer learns, from q, k and v of a token alone, how important its entry will ever be.

Source: Locret, Huang et al., 2024; code huangyuxiang03/Locret. Network: score = fc2(silu(fc1([q; k; v]))), q, k, v of all heads before rotation, no
biases, one score a KV head. Label of a token of the text: the largest attention logit (before softmax) that any token of the answer gives it through
any query head of the group. Loss: SmoothL1 of score and label, plus `smooth` x mean squared difference of neighbouring tokens' scores.

The original trains width 1024 on 3,000 LongAlpaca samples. Here texts are Python's language reference with invented facts in it, half of the answers
state one of the facts, half repeat a sentence. Scores are only ever compared inside a head, so labels are standardised per head and text: a narrow
network need not learn each head's level first. Inputs are divided by their spread on the first text, folded into the start of fc1.
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
from longspan.engine.gradients import dense, last_hidden
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.ops.attention import grouped_scores

NAMES = "Alba Bruno Carla Dmitri Elena Farid Greta Hugo Irina Jonas Kenji Lucia Marek Nadia Otto Paula Ravi Selma Tomas Ursula".split()
THINGS = (
    ("the telephone number of {}", lambda rng: f"{rng.randrange(200, 999)}-{rng.randrange(1000, 9999)}"),
    ("the locker of {}", lambda rng: f"{rng.choice('ABCDEFGH')}{rng.randrange(10, 99)}"),
    ("the year in which {} was born", lambda rng: str(rng.randrange(1900, 2010))),
    ("the favourite colour of {}", lambda rng: rng.choice("red green blue brown purple orange white black".split())),
    ("the password of {}", lambda rng: "".join(rng.choice("bcdfgklmnprst") + rng.choice("aeiou") for _ in range(3))),
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """steps: texts, one a step, of shortest to longest tokens. width: of the network. rate: learning rate. smooth: weight of the smoothness."""

    steps: int = 60
    shortest: int = 128
    longest: int = 256
    width: int = 16
    rate: float = 0.01
    smooth: float = 0.0025
    clip: float = 0.5
    seed: int = 0


def sample(lm: Any, plan: Plan, step: int) -> tuple[Tensor, int, int]:
    """The text of one step, ids (S,), the length of what is read, and where the answer begins."""
    rng = random.Random(f"locret-{plan.seed}-{step}")
    paragraphs, wanted = reference_prose(), rng.randint(plan.shortest, plan.longest)
    at = rng.randrange(len(paragraphs))
    sentences: list[str] = []
    while len(lm.encode(" ".join(sentences))) < wanted:
        sentences += [part.strip() + "." for part in paragraphs[at % len(paragraphs)].split(". ")]
        at += 1
    facts = [
        (what.format(name), make(rng))
        for name, (what, make) in zip(rng.sample(NAMES, 3), rng.sample(THINGS, 3))
    ]
    quoted = rng.choice([one for one in sentences if len(one.split()) > 7] or sentences)
    for what, value in facts:
        sentences.insert(rng.randrange(len(sentences) + 1), f"{what[0].upper()}{what[1:]} is {value}.")
    read = lm.encode((lm.chat.prefix if lm.chat else "") + " ".join(sentences), special=True)
    if step % 2:
        what, value = rng.choice(facts)
        asked, answer = f"\n\nWhat is {what}?", f" {what[0].upper()}{what[1:]} is {value}."
    else:
        head = " ".join(quoted.split()[:4])
        asked, answer = f'\n\nRepeat the sentence that begins with "{head}".', f" {quoted}"
    before = read + lm.encode(asked + (lm.chat.reply if lm.chat else ""))
    return torch.tensor(before + lm.encode(answer)), len(read), len(before)


def observe(lm: Any, ids: Tensor, read: int, answer: int) -> tuple[Tensor, Tensor]:
    """Of every token of ids[:read]: inputs (growing layers, read, (Hq + 2 Hk) D) and labels (growing layers, Hk, read), attention logits."""
    inputs, labels = {}, {}

    def record(call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if call.layer in lm.geometry.growing:
            rope, at = lm.geometry.layers[call.layer].rope, torch.arange(read, device=q.device)
            inputs[call.layer] = features(
                rope.unrotate(q[:, :read], at), rope.unrotate(k[:, :read], at), v[:, :read]
            )
            scores = grouped_scores(q[:, answer:], k[:, :read], call.scale)
            labels[call.layer] = scores.reshape(k.shape[0], -1, read).amax(1)
        return dense(call, q, k, v)

    with torch.no_grad():
        last_hidden(lm, ids, record)
    layers = lm.geometry.growing
    return torch.stack([inputs[i] for i in layers]), torch.stack([labels[i] for i in layers])


def features(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What a retaining head reads of n tokens, (n, (Hq + 2 Hk) D), from un-rotated q (Hq, n, D), k (Hk, n, D) and v (Hk, n, E)."""
    return torch.cat([x.transpose(0, 1).flatten(1) for x in (q, k, v)], 1).float()


def retain(inputs: Tensor, fc1: Tensor, fc2: Tensor) -> Tensor:
    """Scores (..., Hk, n) of inputs (..., n, in) by fc1 (..., width, in) and fc2 (..., Hk, width)."""
    return (F.silu(inputs @ fc1.transpose(-1, -2)) @ fc2.transpose(-1, -2)).transpose(-1, -2)


def standardised(labels: Tensor) -> Tensor:
    """Labels (..., n) with mean 0 and deviation 1 over the tokens."""
    return (labels - labels.mean(-1, keepdim=True)) / (labels.std(-1, keepdim=True) + 1e-4)


def overlap(scores: Tensor, labels: Tensor, share: float = 0.1) -> float:
    """Share of the tokens with the highest labels that are among those with the highest scores; means over heads. Both (..., n)."""
    count = max(1, round(share * labels.shape[-1]))
    chosen = torch.zeros_like(labels).scatter_(-1, scores.topk(count, -1).indices, 1.0)
    return float(chosen.gather(-1, labels.topk(count, -1).indices).mean())


def train_heads(
    lm: Any, plan: Plan, folder: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train all layers' heads together; fc1 (growing layers, width, in), fc2 (growing layers, Hk, width) and figures of the run.

    The overlap reported is on texts the training has not seen, beside that of the keys' norms.
    """
    inputs, labels = observe(lm, *sample(lm, plan, 0))
    generator = torch.Generator().manual_seed(plan.seed)
    layers, size = inputs.shape[0], inputs.shape[-1]
    spread = inputs.pow(2).mean(1, keepdim=True).sqrt().cpu() + 1e-3
    fc1 = torch.randn(layers, plan.width, size, generator=generator) / size**0.5 / spread
    fc2 = torch.randn(layers, labels.shape[1], plan.width, generator=generator) / plan.width**0.5
    held = {"fc1": fc1.to(lm.device).requires_grad_(), "fc2": fc2.to(lm.device).requires_grad_()}

    def gradients(step: int) -> float:
        inputs, labels = observe(lm, *sample(lm, plan, step))
        scores = retain(inputs, held["fc1"], held["fc2"])
        loss = F.smooth_l1_loss(scores, standardised(labels))
        smooth = (scores[..., 1:] - scores[..., :-1]).square().mean((1, 2)).sum()
        (loss + plan.smooth * smooth).backward()
        return float(loss.detach())

    losses = fit(
        "locret",
        lm,
        held,
        gradients,
        steps=plan.steps,
        rate=up_and_down(plan.steps, plan.rate, 0.1, 0.5),
        betas=(0.9, 0.95),
        clip=plan.clip,
        plan=asdict(plan),
        folder=folder,
        progress=progress,
        every=10,
    )
    tensors = {name: value.detach().half() for name, value in held.items()}
    found = evaluate(lm, tensors, [sample(lm, plan, -1 - number) for number in range(6)])
    return tensors, {"losses_last_steps": [round(loss, 4) for loss in losses[-10:]], **found}


def evaluate(lm: Any, tensors: dict[str, Tensor], samples: list[tuple[Tensor, int, int]]) -> dict[str, float]:
    """Mean overlap of the best tenth by label with the best tenth by score, by small key norm, and by chance."""
    rows = []
    for ids, read, answer in samples:
        inputs, labels = observe(lm, ids, read, answer)
        heads, dim = labels.shape[1], lm.geometry.head_dim
        first = inputs.shape[-1] - heads * (dim + lm.geometry.layers[lm.geometry.growing[0]].value_dim)
        keys = inputs[..., first : first + heads * dim].unflatten(-1, (heads, dim))
        norms = -keys.norm(dim=-1).transpose(-1, -2)
        chance = torch.rand(labels.shape, generator=torch.Generator().manual_seed(len(rows))).to(labels)
        scores = retain(inputs, tensors["fc1"].float(), tensors["fc2"].float())
        rows.append([overlap(one, labels) for one in (scores, norms, chance)])
    means = torch.tensor(rows).mean(0).tolist()
    return {
        f"overlap_{name}": round(value, 3)
        for name, value in zip(("heads", "knorm", "random"), means, strict=True)
    }
