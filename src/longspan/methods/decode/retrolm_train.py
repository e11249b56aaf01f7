"""RetroLM's bookmarks and the first stage of their training: contrast the page that holds an answer with all others. The model's own weights stay as they are.

Of every layer: look (Hk, D), the bookmark's query; it gathers the page's un-rotated keys and values by softmax(look . k / sqrt D) in each KV head. k (Hk (D + E), r)
turns what it gathered into the page's key, q (Hq D, r) the un-rotated queries of a token into its query, and a page's logit is their product over sqrt r.
InfoNCE: cross-entropy of the page that holds the record over all pages before the question, for every token from which an answer is written, summed
over layers.

Texts: records ("Anna's number is 52713.") among sentences of prose, then questions about some of them with their answers, the same for every seed.

Dimension letters: L growing layers, Hq, Hk heads, D, E head dims, T tokens, P pages, w tokens of a page, n queries, r bookmark dim.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from longspan.engine.fitting import up_and_down
from longspan.engine.needs import Needs
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.ops.attention import NEG_INF

NAMES = (
    "Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Henry", "Irene", "Jonas", "Karin", "Louis", "Maria", "Nils", "Olga", "Peter",
    "Quinn", "Rosa", "Simon", "Tessa", "Ulrich", "Vera", "Walter", "Xenia", "Yusuf", "Zora",
)  # fmt: skip
RECORDS, QUESTIONS = 20, 8


@dataclass(frozen=True)
class Records:
    """ids of a text with its questions and answers. read: tokens before the first question. asked: (row, token): the rows from which an answer is written, and the
    first token of the number it repeats."""

    ids: Tensor
    read: int
    asked: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Seen:
    """Un-rotated queries of the asking rows (L, n, Hq D), keys (L, Hk, T, D) and values (L, Hk, T, E) of the text, and the page of each answer (n,)."""

    q: Tensor
    k: Tensor
    v: Tensor
    page: Tensor


def record_text(
    lm: Any, tokens: int, seed: int, records: int = RECORDS, questions: int = QUESTIONS
) -> Records:
    """About `tokens` tokens, questions included."""
    rng = random.Random(f"retrolm-{seed}")
    names = rng.sample(NAMES, min(records, len(NAMES)))
    numbers = ["".join(rng.choice("123456789") for _ in range(5)) for _ in names]
    asked = rng.sample(range(len(names)), min(questions, len(names)))
    tails = [
        (lm.encode(f"\n\nWhat is {names[i]}'s number? {names[i]}'s number is"), lm.encode(f" {numbers[i]}"))
        for i in asked
    ]
    lines = [
        (lm.encode(f" {name}'s number is"), lm.encode(f" {number}"), lm.encode("."))
        for name, number in zip(names, numbers, strict=True)
    ]
    room = tokens - sum(len(a) + len(b) for a, b in tails) - sum(sum(map(len, parts)) for parts in lines)
    prose, paragraphs = [], reference_prose()
    start = rng.randrange(len(paragraphs))
    while len(prose) < max(0, room):
        prose += lm.encode(" " + paragraphs[start % len(paragraphs)])
        start += 1
    prose = prose[: max(0, room)]
    cuts = sorted(rng.randrange(len(prose) + 1) for _ in lines)
    ids, where, before = lm.encode("Notes.", special=True), [], 0
    for (opening, number, stop), cut in zip(lines, cuts, strict=True):
        ids += prose[before:cut] + opening
        where.append(len(ids))
        ids += number + stop
        before = cut
    ids += prose[before:]
    read, rows = len(ids), []
    for index, (question, answer) in zip(asked, tails, strict=True):
        ids += question
        rows += [(len(ids) - 1 + i, where[index]) for i in range(len(answer))]
        ids += answer
    return Records(torch.tensor(ids), read, tuple(rows))


def observe(lm: Any, text: Records, page: int) -> Seen:
    """Read a text densely and keep what bookmarks learn from."""
    session = lm.session(None, collect=Needs(window_queries=len(text.ids))).feed(text.ids)
    rows = torch.tensor([row for row, _ in text.asked], device=lm.device)
    queries, keys, values = [], [], []
    for layer in session.growing_layers():
        run = session.layers[layer]
        padded, rope, frequencies = (
            run.store.padded(),
            run.geometry.rope,
            run.written_frequencies(len(text.ids)),
        )
        positions = torch.arange(len(text.ids), device=lm.device)
        queries.append(
            rope.unrotate(run.window_queries[:, rows], rows, frequencies).transpose(0, 1).flatten(1).float()
        )
        keys.append(rope.unrotate(padded.k, positions, frequencies)[:, : text.read].float())
        values.append(padded.v[:, : text.read].float())
    answers = torch.tensor([token for _, token in text.asked], device=lm.device)
    return Seen(torch.stack(queries), torch.stack(keys), torch.stack(values), answers // page)


def bookmark_keys(bookmark: dict[str, Tensor], k: Tensor, v: Tensor, page: int) -> Tensor:
    """Keys of the pages, (..., P, r), from un-rotated keys (..., Hk, T, D) and values (..., Hk, T, E); the last page may be partial."""
    missing = -k.shape[-2] % page
    valid = torch.arange(k.shape[-2] + missing, device=k.device).view(-1, page) < k.shape[-2]  # (P, w)
    paged = [pad(x, (0, 0, 0, missing)).unflatten(-2, (-1, page)) for x in (k, v)]  # (..., Hk, P, w, D)
    logits = (paged[0] @ bookmark["look"].unsqueeze(-2).unsqueeze(-1)).squeeze(-1) / k.shape[-1] ** 0.5
    weights = logits.masked_fill(~valid, NEG_INF).softmax(-1).unsqueeze(-2)
    gathered = torch.cat([(weights @ x).squeeze(-2) for x in paged], -1)  # (..., Hk, P, D + E)
    return gathered.transpose(-3, -2).flatten(-2) @ bookmark["k"]


def page_logits(q: Tensor, keys: Tensor) -> Tensor:
    """Logits (..., n, P) of queries (..., n, r) for page keys (..., P, r)."""
    return q @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5


def new_bookmarks(seen: Seen, rank: int, seed: int = 0) -> dict[str, Tensor]:
    """Untrained bookmarks of all layers: they look at all of a page alike and project at random."""
    generator = torch.Generator().manual_seed(seed)
    layers, heads, _, dim = seen.k.shape
    spread = {
        "q": seen.q.std((1, 2), keepdim=True).clamp(min=1e-6),
        "k": torch.cat((seen.k.flatten(1), seen.v.flatten(1)), 1).std(1).clamp(min=1e-6).view(-1, 1, 1),
    }
    widths = {"q": seen.q.shape[2], "k": heads * (dim + seen.v.shape[3])}
    made = {
        name: torch.randn(layers, width, rank, generator=generator).to(seen.q.device)
        / width**0.5
        / spread[name]
        for name, width in widths.items()
    }
    return {"look": torch.zeros(layers, heads, dim, device=seen.q.device), **made}


def train_bookmarks(
    texts: Sequence[Seen],
    page: int,
    rank: int,
    *,
    steps: int,
    rate: float = 0.02,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Bookmarks of all layers {"look", "k", "q"} and the loss (nats a layer and query) at every step. One text a step; Adam, each parameter at `rate` of its own size."""
    start = new_bookmarks(texts[0], rank, seed)
    size = {name: start[name].std((1, 2), keepdim=True).clamp(min=1e-6) for name in ("q", "k")}
    size["look"] = 1 / texts[0].k.std((1, 2, 3)).clamp(min=1e-6).view(-1, 1, 1)
    free = {name: (value / size[name]).clone() for name, value in start.items()}
    history = []
    with torch.enable_grad():
        for value in free.values():
            value.requires_grad_()
        optimizer = torch.optim.AdamW(free.values(), lr=rate, weight_decay=0.01)
        rates = up_and_down(steps, rate, up=0.0, down=0.5)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rates(step)
            seen = texts[step % len(texts)]
            loss = contrast({name: value * size[name] for name, value in free.items()}, seen, page)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            history.append(float(loss.detach()) / len(seen.q))
            if progress is not None:
                progress(step)
    return {name: (value * size[name]).detach() for name, value in free.items()}, history


def contrast(bookmark: dict[str, Tensor], seen: Seen, page: int) -> Tensor:
    """InfoNCE of the right page over all pages, mean over queries, summed over layers."""
    logits = page_logits(seen.q @ bookmark["q"], bookmark_keys(bookmark, seen.k, seen.v, page))
    return sum((cross_entropy(one, seen.page) for one in logits), start=logits.new_zeros(()))


def found_in(scores: Tensor, page: Tensor, count: int) -> Tensor:
    """Share of queries whose page (n,) is among the best `count` of scores (L, n, P), by layer (L,)."""
    best = scores.topk(min(count, scores.shape[-1]), -1).indices
    return (best == page.view(1, -1, 1)).any(-1).float().mean(1)
