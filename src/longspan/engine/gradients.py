"""A forward through a frozen model in which gradients flow: for methods that train a few numbers of their own beside it.

The model is called as `batch.forward` calls it, under the attention function `longspan`, but a span made here answers the attention calls: it
hands each to `answer(call, q, k, v)`, whatever a method wants attention to be. No session, no cache, no hook; the weights ask for no gradient,
so memory is one forward's activations at most, and nothing at all is kept where `answer` brings no gradient in. Letters: Hq query heads, Hk KV
heads, S tokens, T keys, D head dim, E value head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from longspan.engine.dispatch import LayerCall, current_span
from longspan.ops.attention import apply_sink, attend, attend_plain

if TYPE_CHECKING:
    from longspan.engine.model import Model

Answer = Callable[
    [LayerCall, Tensor, Tensor, Tensor], Tensor
]  # q (Hq, S, D), k, v (Hk, S, ...) -> (Hq, S, E)


class AnsweredSpan:
    """A span whose attention calls a function answers."""

    def __init__(self, answer: Answer):
        self.answer = answer

    def attend(self, call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.answer(call, q, k, v).transpose(0, 1)


def last_hidden(model: Model, ids: Tensor, answer: Answer, first: int = 0) -> Tensor:
    """Last hidden states (S, hidden) of ids (S,) at positions first .. first + S, after the final norm."""
    return _run(model, model.hf.get_decoder(), ids, answer, first).last_hidden_state[0]


def logits(
    model: Model, ids: Tensor, answer: Answer, first: int = 0, weights: dict[str, Tensor] | None = None
) -> Tensor:
    """Logits (S, vocab) fp32 of ids (S,) at positions first .. first + S. weights: by parameter name, in place of the model's own."""
    module = model.hf
    if weights:
        module = partial(_with_weights, model.hf, weights)
    return _run(model, module, ids, answer, first).logits[0].float()


def _with_weights(module, weights: dict[str, Tensor], **inputs):
    return functional_call(module, weights, args=(), kwargs=inputs)


def _run(model: Model, module, ids: Tensor, answer: Answer, first: int):
    span = AnsweredSpan(answer)
    ids = ids.to(model.device).unsqueeze(0)
    positions = first + ids.new_ones(ids.shape).cumsum(1) - 1
    reset = current_span.set(span)
    try:
        return module(input_ids=ids, position_ids=positions, use_cache=False, span=span)
    finally:
        current_span.reset(reset)


def dense(call: LayerCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the model itself computes over a text of S tokens: causal, within the layer's window if it slides."""
    rows = q.shape[1]
    if call.sliding_window is None or call.sliding_window >= rows:
        if q.requires_grad or k.requires_grad:
            return masked(call, q, k, v, causal_mask(rows, rows, q))
        out, lse = attend(q, k, v, scale=call.scale, causal=True, softcap=call.softcap)
        return out if call.sinks is None else apply_sink(out, lse, call.sinks)[0]
    mask = causal_mask(rows, rows, q)
    return masked(call, q, k, v, mask & ~mask.tril(-call.sliding_window))


def causal_mask(rows: int, keys: int, like: Tensor) -> Tensor:
    """(rows, keys) bool, True = visible: the rows are the newest of the keys."""
    return like.new_ones(rows, keys).tril(keys - rows).bool()


def masked(call: LayerCall, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention (Hq, S, E) of q (Hq, S, D) over k (Hk, T, D), v (Hk, T, E) where mask (S, T) is true, with gradients; every row sees a key.

    torch's fused operator has an autograd formula but knows neither soft cap nor sinks; models that have them take the plain formula.
    """
    if call.softcap is not None or call.sinks is not None:
        out, lse = attend_plain(q, k, v, scale=call.scale, mask=mask, softcap=call.softcap)
        return out if call.sinks is None else apply_sink(out, lse, call.sinks)[0]
    heads, rows, dim = q.shape
    kv_heads = k.shape[0]
    group = heads // kv_heads
    queries = q.view(kv_heads, group, rows, dim).transpose(0, 1)
    wide_k, wide_v = (x.unsqueeze(0).expand(group, *x.shape) for x in (k, v))
    out = F.scaled_dot_product_attention(queries, wide_k, wide_v, attn_mask=mask, scale=call.scale)
    return out.transpose(0, 1).reshape(heads, rows, -1)
