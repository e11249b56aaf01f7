"""RetroLM's second stage: the model learns to go on with a long text of which every page reads only some, the ones its bookmarks retrieve.

Source: Luo et al., 2025, arXiv 2502.11444; no code. Next-token prediction on long prose with sparse reading: the tokens of a page read the first pages, the newest
ones with their own, and those with the highest logits to the bookmark query of the token before the page, so that nothing is retrieved by what comes later.
Bookmarks stay as the first stage left them. What is tuned is not published ("light"): here low-rank changes W + up . down of the linear layers inside attention.

The changes never touch the model they were trained beside: `post_trained` makes a model of its own with them added, whose own copy of the bookmarks
`longspan calibrate "retrolm(page=P, post=STEPS)"` has put beside the first.

Dimension letters: L growing layers, Hq, Hk heads, D, E head dims, S tokens, P pages, w tokens of a page, r rank of the changes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from longspan.engine import calibration
from longspan.engine.dispatch import LayerCall
from longspan.engine.fitting import fit, up_and_down
from longspan.engine.gradients import Answer, causal_mask, dense, logits, masked
from longspan.engine.model import Model
from longspan.errors import BadInput
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.methods.decode.retrolm_train import bookmark_keys, page_logits

NAME = "retrolm_post"  # under which the changes are kept


@dataclass(frozen=True)
class Post:
    """steps: one text each, of `tokens` tokens. budget: share of the pages before it that a page reads. sink_pages, recent_pages: of them, always (the page itself not
    counted). rank: of the changes. rate: learning rate."""

    steps: int
    tokens: int = 512
    budget: float = 0.25
    sink_pages: int = 1
    recent_pages: int = 1
    rank: int = 4
    rate: float = 1e-3
    clip: float = 1.0
    seed: int = 0


def post_train(
    lm: Model,
    bookmarks: dict[str, Tensor],
    page: int,
    plan: Post,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Low-rank changes {"NAME.up" (out, r), "NAME.down" (r, in)} of the weights they name, and the loss (nats a token) of every step."""
    free = new_changes(lm, plan.rank, plan.seed)
    answer = sparse_pages(lm, bookmarks, page, plan)

    def gradients(step: int) -> float:
        with torch.enable_grad():
            loss = prediction_loss(lm, free, long_text(lm, plan.tokens, step, plan.steps), answer)
            loss.backward()
        return float(loss.detach())

    for value in free.values():
        value.requires_grad_()
    losses = fit(
        NAME,
        lm,
        free,
        gradients,
        steps=plan.steps,
        rate=up_and_down(plan.steps, plan.rate, up=0.1, down=0.5),
        plan={**asdict(plan), "page": page},
        clip=plan.clip,
        folder=folder,
        progress=progress,
    )
    return {name: value.detach() for name, value in free.items()}, losses


def tuned_layers(lm: Model) -> dict[str, nn.Linear]:
    """The linear layers inside attention modules, by the name of their weight. BadInput where there are none."""
    found = {
        f"{name}.weight": module
        for name, module in lm.hf.named_modules()
        if isinstance(module, nn.Linear) and "attn" in name.rpartition(".")[0]
    }
    if not found:
        raise BadInput(
            "retrolm tunes the linear layers inside attention, and this model has none by that name."
        )
    return found


def new_changes(lm: Model, rank: int, seed: int = 0) -> dict[str, Tensor]:
    """Changes that change nothing yet: `up` is zero, `down` drawn."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for name, module in tuned_layers(lm).items():
        down = torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5
        made[f"{name}.up"] = torch.zeros(module.out_features, rank, device=lm.device)
        made[f"{name}.down"] = down.to(lm.device)
    return made


def changed_weights(lm: Model, changes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that differ, W + up . down, by name."""
    held = dict(lm.hf.named_parameters())
    names = [name.removesuffix(".up") for name in changes if name.endswith(".up")]
    return {
        name: held[name].as_subclass(Tensor)
        + (changes[f"{name}.up"] @ changes[f"{name}.down"]).to(held[name].dtype)
        for name in names
    }


def prediction_loss(lm: Model, changes: dict[str, Tensor], ids: Tensor, answer: Answer) -> Tensor:
    """Mean nats of every next token of ids (S,) under the changes, attention answered by `answer`."""
    rows = logits(lm, ids, answer, weights=changed_weights(lm, changes))[:-1]
    return cross_entropy(rows, ids[1:].to(rows.device))


def sparse_pages(lm: Model, bookmarks: dict[str, Tensor], page: int, plan: Post) -> Answer:
    """Attention in which a page reads the first, the newest and the retrieved pages; sliding layers attend as they do."""
    order = {layer: number for number, layer in enumerate(lm.geometry.growing)}

    def answer(call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if call.layer not in order or q.shape[1] <= page:
            return dense(call, q, k, v)
        own = {name: value[order[call.layer]] for name, value in bookmarks.items()}
        with torch.no_grad():
            rope, at = lm.geometry.layers[call.layer].rope, torch.arange(q.shape[1], device=q.device)
            plain_q, plain_k = rope.unrotate(q, at), rope.unrotate(k, at)
            read = pages_read(own, plain_q, plain_k, v, page, plan)
        length = q.shape[1]
        wide = read.repeat_interleave(page, 0)[:length].repeat_interleave(page, 1)[:, :length]
        return masked(call, q, k, v, wide & causal_mask(length, length, q))

    return answer


def pages_read(bookmark: dict[str, Tensor], q: Tensor, k: Tensor, v: Tensor, page: int, plan: Post) -> Tensor:
    """Which pages every page reads, (P, P) bool, its own included, from un-rotated q (Hq, S, D), k (Hk, S, D) and v (Hk, S, E) of one layer."""
    keys = bookmark_keys(bookmark, k.float(), v.float(), page)
    count = keys.shape[0]
    asks = (torch.arange(count, device=q.device) * page - 1).clamp(min=0)  # the token before each page
    scores = page_logits(q[:, asks].transpose(0, 1).flatten(1).float() @ bookmark["q"], keys)  # (P, P)
    reader, number = torch.arange(count, device=q.device).view(-1, 1), torch.arange(count, device=q.device)
    before = number < reader
    always = before & ((number < plan.sink_pages) | (number >= reader - plan.recent_pages))
    rank = scores.masked_fill(always, float("inf")).masked_fill(~before, float("-inf"))
    place = rank.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    wanted = (reader * plan.budget).ceil()
    return (before & (place < wanted)) | always | (number == reader)


def long_text(lm: Model, tokens: int, number: int, of: int) -> Tensor:
    """Running prose of the language reference's second half, `tokens` tokens from the `number`-th of `of` places."""
    paragraphs = reference_prose()
    paragraphs = paragraphs[len(paragraphs) // 2 :]
    at, ids = number * len(paragraphs) // max(1, of), []
    while len(ids) < tokens:
        ids += lm.encode(paragraphs[at % len(paragraphs)] + "\n\n", special=not ids)
        at += 1
    return torch.tensor(ids[:tokens])


def with_changes(lm: Model, changes: dict[str, Tensor]) -> Model:
    """A model of its own with the changes added; `lm` stays as it is, and twice its weights are held."""
    hf = copy.deepcopy(lm.hf)
    weights = changed_weights(lm, {name: value.float().to(lm.device) for name, value in changes.items()})
    held = dict(hf.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            held[name].copy_(value)
    digest = hashlib.sha256(lm.model_hash.encode())
    for name in sorted(changes):
        digest.update(name.encode() + changes[name].half().cpu().numpy().tobytes())
    return Model(
        hf,
        lm.tokenizer,
        name=f"{Path(lm.name.rstrip('/')).name or 'model'}-retrolm",
        source=lm.source,
        model_hash=digest.hexdigest(),
        template_hash=lm.template_hash,
        trained_window=lm.geometry.trained_window,
    )


def post_trained(lm: Model, folder: str | Path | None = None) -> Model:
    """`lm` after the second stage, from the artefact of `longspan calibrate "retrolm(post=STEPS)"`. BadInput when that was not run."""
    return with_changes(lm, calibration.load(NAME, lm, folder).tensors)
