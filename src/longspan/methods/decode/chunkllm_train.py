"""ChunkLLM's adapters and their training: where sentences end, and which finished sentences a token attends to. The model's own weights stay as they are.

- Chunk adapter: p = sigmoid(w2 . gelu(W1 x + b1) + b2) of every token, x the un-rotated keys and the values of the second growing layer, which are linear in what
  the first layer put out; binary cross-entropy against a rule-based splitter's last tokens of sentences.
- QK adapters, one pair a layer: Q' = A_q q, K' = A_k k of un-rotated queries and keys, all heads side by side, to r dimensions. A chunk's key is that of its last
  token (or the mean). The teacher is the layer's own attention, averaged over heads, summed over the tokens of every finished chunk but the first,
  renormalised; the loss is KL(teacher || softmax(Q' . K' / sqrt r)), summed over layers.
- Age term, not in the paper's description: what is un-rotated knows no distance, the teacher does. Every layer learns a number for each doubling of the tokens that
  have passed since a chunk ended, and it is added to the chunk's score.

Dimension letters: L growing layers, Hq, Hk heads, D head dim, T tokens, C chunks, F features of the detector, r adapter dim, n rows drawn, A age classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, gelu

from longspan.engine.fitting import up_and_down
from longspan.engine.needs import Needs
from longspan.ops.tile_scores import exact_rows

ABBREVIATIONS = re.compile(r"(?:\b(?:e\.g|i\.e|etc|cf|vs|Mr|Mrs|Ms|Dr|St|No|Fig|Eq|pp?)|\b[A-Z])\.$")
ROWS = 128  # rows of a text drawn for one training step
HIDDEN = 64  # of the chunk adapter
AGES = 20  # classes of age: 1, 2-3, 4-7, ... tokens; the last one has no end
AGE_RATE = 10.0  # factor on the learning rate of the age term, whose numbers have to grow from 0


def split_sentences(text: str) -> list[str]:
    """Sentences that join to the text again: cut after . ! ? (and closing marks) before a capital or a digit, and after line breaks."""
    found, start = [], 0
    for match in re.finditer(r"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9])|\n+", text):
        piece = text[start : match.end()]
        if piece.strip() and (piece.endswith("\n") or not ABBREVIATIONS.search(piece.rstrip("\"')]"))):
            found.append(piece)
            start = match.end()
    return [*found, text[start:]] if text[start:].strip() else found


def labelled(lm: Any, text: str, tokens: int) -> tuple[Tensor, Tensor]:
    """Ids of a text, at most `tokens`, and which of them end a sentence, (T,) bool."""
    ids: list[int] = []
    ends: list[int] = []
    for sentence in split_sentences(text):
        ids += lm.encode(sentence, special=not ids)
        ends.append(len(ids) - 1)
        if len(ids) >= tokens:
            break
    label = torch.zeros(len(ids), dtype=torch.bool)
    label[ends] = True
    return torch.tensor(ids[:tokens]), label[:tokens]


def chunks_of(ends: Tensor, longest: int) -> Tensor:
    """Chunk number of every token (T,) from which of them end one, with chunks cut at `longest` tokens."""
    cuts, since = [], 0
    for end in ends.tolist():
        since += 1
        done = end or since >= longest
        cuts.append(done)
        since = 0 if done else since
    return torch.tensor([False, *cuts[:-1]], device=ends.device).long().cumsum(0)


@dataclass(frozen=True)
class Seen:
    """What one text teaches. q (L, T, Hq D), k (L, T, Hk D) un-rotated, features (T, F), ends (T,) bool, labels (T,) chunk numbers, teacher (L, T, C)
    attention by chunk, averaged over heads."""

    q: Tensor
    k: Tensor
    features: Tensor
    ends: Tensor
    labels: Tensor
    teacher: Tensor


def observe(lm: Any, ids: Tensor, ends: Tensor, longest: int) -> Seen:
    """Read a text densely and keep what the adapters learn from."""
    session = lm.session(None, collect=Needs(window_queries=len(ids))).feed(ids)
    labels = chunks_of(ends, longest).to(lm.device)
    members = torch.nn.functional.one_hot(labels).float()  # (T, C)
    queries, keys, teacher = [], [], []
    at = torch.arange(len(ids), device=lm.device)
    for layer in session.growing_layers():
        run = session.layers[layer]
        k, rope, frequencies = run.store.padded().k, run.geometry.rope, run.written_frequencies(len(ids))
        rows = torch.cat(
            [
                exact_rows(run.window_queries[:, i : i + 256], k, session.scale(layer), i).mean(0)
                for i in range(0, len(ids), 256)
            ]
        )
        teacher.append(rows @ members)
        queries.append(rope.unrotate(run.window_queries, at, frequencies).transpose(0, 1).flatten(1).float())
        keys.append(rope.unrotate(k, at, frequencies).transpose(0, 1).flatten(1).float())
    layer = detector_layer(session)
    values = session.layers[layer].store.padded().v.transpose(0, 1).flatten(1).float()
    features = torch.cat((keys[session.growing_layers().index(layer)], values), 1)
    return Seen(
        torch.stack(queries), torch.stack(keys), features, ends.to(lm.device), labels, torch.stack(teacher)
    )


def detector_layer(session: Any) -> int:
    """The growing layer whose keys and values tell where chunks end: the second, or the only one."""
    growing = session.growing_layers()
    return growing[min(1, len(growing) - 1)]


def chunk_logits(q: Tensor, keys: Tensor) -> Tensor:
    """Scores (..., n, C) of adapted queries (..., n, r) for chunk keys (..., C, r)."""
    return q @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5


def chunk_keys(keys: Tensor, labels: Tensor, summary: str) -> Tensor:
    """One key a chunk, (..., C, r), from adapted keys (..., T, r) and ascending labels (T,): the last token's or the mean."""
    counts = labels.bincount()
    if summary == "last":
        return keys[..., chunk_ends(labels), :]
    sums = keys.new_zeros(*keys.shape[:-2], len(counts), keys.shape[-1]).index_add(-2, labels, keys)
    return sums / counts.unsqueeze(-1)


def chunk_ends(labels: Tensor) -> Tensor:
    """The last token of every chunk, (C,), of ascending labels (T,)."""
    return labels.bincount().cumsum(0) - 1


def age_terms(age: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
    """What age (..., A) adds to the scores of chunks that ended at `ends` (C,), for tokens at rows (n,): (..., n, C)."""
    passed = (rows.unsqueeze(1) - ends).clamp(min=1)
    return age[..., passed.float().log2().floor().long().clamp(max=age.shape[-1] - 1)]


def divergence(
    seen: Seen, q: Tensor, k: Tensor, rows: Tensor, summary: str, age: Tensor | None = None
) -> Tensor:
    """KL from teacher to adapters, summed over layers, mean over rows (n,): finished chunks but the first. q (L, n, r), k (L, T, r) are adapted,
    age (L, A)."""
    scores = chunk_logits(q, chunk_keys(k, seen.labels, summary))
    if age is not None:
        scores = scores + age_terms(age, rows, chunk_ends(seen.labels))
    number = torch.arange(scores.shape[-1], device=rows.device)
    hidden = (number >= seen.labels[rows].unsqueeze(1)) | (number == 0)  # (n, C)
    target = seen.teacher[:, rows].masked_fill(hidden, 0.0)
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-30)
    logs = scores.masked_fill(hidden, float("-inf")).log_softmax(-1).masked_fill(hidden, 0.0)
    return torch.special.xlogy(target, target).sub(target * logs).sum(-1).mean(-1).sum()


def teachable(seen: Seen) -> Tensor:
    """Rows with at least two finished chunks after the first to choose between, (n,)."""
    return (seen.labels >= 3).nonzero().flatten()


def train_adapters(
    texts: Sequence[Seen],
    rank: int,
    summary: str,
    *,
    steps: int,
    rate: float = 3e-3,
    seed: int = 0,
    aged: bool = True,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """QK adapters {"q": (L, Hq D, r), "k": (L, Hk D, r)}, with "age" (L, A) where `aged`, and the KL (nats a layer) at every step.

    One text and some of its rows a step, Adam."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"q": texts[0].q, "k": texts[0].k}
    spread = {name: x.std((1, 2), keepdim=True).clamp(min=1e-6) for name, x in sizes.items()}
    maps = {
        name: (torch.randn(x.shape[0], x.shape[2], rank, generator=generator) / x.shape[2] ** 0.5).to(
            x.device
        )
        for name, x in sizes.items()
    }
    age = torch.zeros(len(sizes["q"]), AGES, device=sizes["q"].device) if aged else None
    history = []
    with torch.enable_grad():
        free = list(maps.values())
        groups = [{"params": free, "factor": 1.0}]
        if age is not None:
            groups.append({"params": [age], "factor": AGE_RATE})
        for value in [*free, *([age] if age is not None else [])]:
            value.requires_grad_()
        optimizer = torch.optim.Adam(groups, lr=rate)
        rates = up_and_down(steps, rate, up=0.0, down=0.5)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rates(step) * group["factor"]
            seen = texts[step % len(texts)]
            rows = teachable(seen)
            rows = rows[torch.randperm(len(rows), generator=generator)[:ROWS].to(rows.device)]
            q = (seen.q[:, rows] / spread["q"]) @ maps["q"]
            k = (seen.k / spread["k"]) @ maps["k"]
            loss = divergence(seen, q, k, rows, summary, age)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            history.append(float(loss.detach()) / len(seen.q))
            if progress is not None:
                progress(step)
    made = {name: value.detach() / spread[name] for name, value in maps.items()}
    if age is None:
        return made, history
    age = age.detach()
    oldest = (max(len(seen.labels) for seen in texts) - 1).bit_length() - 1
    age[:, oldest + 1 :] = age[:, oldest : oldest + 1]  # ages that no text was long enough for
    return {**made, "age": age}, history


def train_detector(
    texts: Sequence[Seen], *, steps: int, rate: float = 1e-2, seed: int = 0
) -> tuple[dict[str, Tensor], list[float]]:
    """The chunk adapter {"mean", "std" (F,), "w1" (F, h), "b1" (h,), "w2" (h,), "b2" ()} and its loss at every step (nats a token)."""
    features, ends = torch.cat([seen.features for seen in texts]), torch.cat([seen.ends for seen in texts])
    generator = torch.Generator().manual_seed(seed)
    width = features.shape[1]
    weights = {
        "w1": torch.randn(width, HIDDEN, generator=generator) / width**0.5,
        "b1": torch.zeros(HIDDEN),
        "w2": torch.randn(HIDDEN, generator=generator) / HIDDEN**0.5,
        "b2": torch.zeros(()),
    }
    weights = {name: value.to(features.device) for name, value in weights.items()}
    fixed = {"mean": features.mean(0), "std": features.std(0).clamp(min=1e-6)}
    history = []
    with torch.enable_grad():
        for value in weights.values():
            value.requires_grad_()
        optimizer = torch.optim.AdamW(weights.values(), lr=rate, weight_decay=0.1)
        rates = up_and_down(steps, rate, up=0.0, down=0.5)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rates(step)
            loss = binary_cross_entropy_with_logits(
                boundary_logits({**weights, **fixed}, features), ends.float()
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            history.append(float(loss.detach()))
    return {**{name: value.detach() for name, value in weights.items()}, **fixed}, history


def boundary_logits(detector: dict[str, Tensor], features: Tensor) -> Tensor:
    """log(p / (1 - p)) that a token ends a chunk, (T,), from features (T, F)."""
    hidden = gelu((features - detector["mean"]) / detector["std"] @ detector["w1"] + detector["b1"])
    return hidden @ detector["w2"] + detector["b2"]


def agreement(found: Tensor, wanted: Tensor) -> float:
    """F1 of found ends against wanted ones, (T,) bool each."""
    hits = float((found & wanted).sum())
    return 2 * hits / max(1.0, float(found.sum() + wanted.sum()))
