"""MoA's profile: what the loss of a model's own answers loses when a head may no longer look `d` blocks back.

For a text and the dense model's own greedy continuation of it, the influence of every attention entry on the loss of that continuation (`ops.influence`)
is summed over blocks at the same distance. The first block of keys is always read and not counted. Summed with its sign: what is negative is better gone.

Dimension letters: L growing layers, Hk KV heads, Hq query heads, I blocks of the text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longspan.engine.batch import Work, forward
from longspan.engine.dispatch import LayerCall, current_span
from longspan.engine.needs import Needs
from longspan.errors import BadInput
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.methods.prefill.base import calibration_text
from longspan.ops.attention import apply_sink, attend_plain
from longspan.ops.influence import attend_with_influence


def profile_text(number: int, tokens: int, lm: Any) -> Tensor:
    """Ids of calibration text `number`: key-value lists with a question and running prose take turns."""
    if number % 2 == 0:
        return calibration_text(tokens, lm, seed=number)
    paragraphs = reference_prose()
    start, text, ids = (number * 97) % len(paragraphs), "", []
    while len(ids) < tokens:
        text += paragraphs[start % len(paragraphs)] + "\n\n"
        start += 1
        ids = lm.encode(text, special=True)
    return torch.tensor(ids[:tokens])


def with_own_answer(lm: Any, prompt: Tensor, answer: int) -> Tensor:
    """The prompt and the dense model's greedy continuation of it by `answer` tokens."""
    session = lm.session(None, collect=Needs()).feed(prompt)
    logits, found = session.next_logits(), []
    for _ in range(answer):
        token = logits.argmax().view(1).cpu()
        found.append(token)
        (logits,) = forward(lm, [Work(session, token)])
    return torch.cat([prompt, *found])


class InfluenceSpan:
    """Answers the attention calls of one differentiable forward over one text and holds what its backward pass finds, (Hq, I, I) by layer."""

    def __init__(self, block: int):
        self.block = block
        self.found: dict[int, Tensor] = {}

    def attend(self, call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if call.softcap is not None:
            raise BadInput("moa does not run on models that cap their attention logits (Gemma-2 type).")
        tokens = q.shape[1]
        if call.sliding_window is not None:
            near = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
            near = near.triu(1 - call.sliding_window)
            out, lse = attend_plain(q, k, v, scale=call.scale, mask=near)
            if call.sinks is not None:
                out, _ = apply_sink(out, lse, call.sinks)
            return out.transpose(0, 1)
        blocks = -(-tokens // self.block)
        found = self.found[call.layer] = torch.zeros(q.shape[0], blocks, blocks, device=q.device)
        out = attend_with_influence(q, k, v, found, scale=call.scale, block=self.block, sinks=call.sinks)
        return out.transpose(0, 1)


def influence(lm: Any, ids: Tensor, answer: int, block: int) -> tuple[float, Tensor]:
    """Loss of the last `answer` of ids (nats a token) and the influence of every block of keys on it: (L, Hq, I, I).

    The weights take no gradient; it starts at the embeddings.
    """
    if lm.geometry.recurrent:
        raise BadInput(
            "moa profiles attention layers in one pass, and this model has recurrent layers between them."
        )
    ids = ids.to(lm.device)
    span = InfluenceSpan(block)
    rows = torch.arange(len(ids) - answer - 1, len(ids) - 1, device=ids.device)
    reset = current_span.set(span)
    try:
        with torch.enable_grad():
            embedded = lm.hf.get_input_embeddings()(ids.unsqueeze(0)).detach().requires_grad_()
            out = lm.hf(
                inputs_embeds=embedded,
                position_ids=torch.arange(len(ids), device=ids.device).unsqueeze(0),
                use_cache=False,
                span=span,
                logits_to_keep=rows,
            )
            loss = torch.nn.functional.cross_entropy(out.logits[0].float(), ids[-answer:])
            torch.autograd.grad(loss, embedded)
    finally:
        current_span.reset(reset)
    return float(loss.detach()), torch.stack([span.found[layer] for layer in lm.geometry.growing])


def by_distance(blocks: Tensor, kv_heads: int) -> Tensor:
    """Influence (L, Hq, I, I) summed over query blocks and query groups by distance in blocks, the first key block left out: (L, Hk, I)."""
    count = blocks.shape[-1]
    kept = blocks.clone()
    kept[..., 0] = 0.0
    sums = torch.stack([kept.diagonal(-d, dim1=-2, dim2=-1).sum(-1) for d in range(count)], -1)
    return sums.unflatten(1, (kv_heads, -1)).sum(2)
