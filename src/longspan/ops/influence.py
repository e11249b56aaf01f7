"""Causal attention that also says, in its backward pass, what removing each of its entries would do to the loss.

With A a row of softmax weights and G = dL/dA, taking entry j out and renormalising the row changes the loss, to first order, by

    E_j = A_j (sum_n A_n G_n - G_j) / (1 - A_j)                                       (MoA, Fu et al., 2024, section 4)

which is the softmax's own gradient dS_j = A_j (G_j - sum_n A_n G_n), negated and divided by 1 - A_j. So the influence costs one division in a backward pass
that recomputes the weights from the log-sum-exp, a block of rows at a time, and no S x S tensor is kept.

Dimension letters: Hq query heads, Hk KV heads, S tokens, R rows of a block, D head dim, E value head dim, I blocks of the text.
"""

from typing import Any

import torch
from torch import Tensor

from longspan.ops.attention import apply_sink, attend, grouped_mix, grouped_scores
from longspan.ops.tile_scores import sum_tiles

ROWS = 256  # rows recomputed at once
LEAST_REST = 1e-4  # 1 - A is not taken smaller: an entry with all the attention has nothing to renormalise


class _Influence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        sinks: Tensor | None,
        block: int,
        found: Tensor,
    ) -> Tensor:
        with torch.no_grad():
            out, lse = attend(q.detach(), k.detach(), v.detach(), scale=scale, causal=True)
            if sinks is not None:
                out, lse = apply_sink(out, lse, sinks)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scale, ctx.block, ctx.found = scale, block, found
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grads
        dtypes, lse = [x.dtype for x in ctx.saved_tensors[:3]], ctx.saved_tensors[4]
        q, k, v, out = (x.float() for x in ctx.saved_tensors[:4])
        gradient = gradient.float()
        group, block, scale = q.shape[0] // k.shape[0], ctx.block, ctx.scale
        mean = (gradient * out).sum(-1, keepdim=True)  # sum_n A_n G_n
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        step = max(block, ROWS // block * block)
        for start in range(0, q.shape[1], step):
            rows = slice(start, min(q.shape[1], start + step))
            stop = rows.stop
            scores = grouped_scores(q[:, rows], k[:, :stop], scale)
            future = torch.arange(stop, device=q.device) > torch.arange(
                start, stop, device=q.device
            ).unsqueeze(1)
            weights = (scores - lse[:, rows].unsqueeze(-1)).exp_().masked_fill_(future, 0.0)  # (Hq, R, stop)
            to_weights = grouped_scores(gradient[:, rows], v[:, :stop], 1.0)
            to_scores = weights * (to_weights - mean[:, rows])
            removed = to_scores / (weights - 1.0).clamp(max=-LEAST_REST)
            by_key = sum_tiles(removed, block)
            blocks = sum_tiles(by_key.transpose(1, 2), block).transpose(1, 2)
            first = start // block
            ctx.found[:, first : first + blocks.shape[1], : blocks.shape[2]] += blocks
            dq[:, rows] = grouped_mix(to_scores, k[:, :stop]) * scale
            folded = to_scores.unflatten(0, (-1, group)).flatten(1, 2)
            dk[:, :stop] += (
                folded.transpose(1, 2) @ q[:, rows].unflatten(0, (-1, group)).flatten(1, 2)
            ) * scale
            mixed = weights.unflatten(0, (-1, group)).flatten(1, 2)
            dv[:, :stop] += mixed.transpose(1, 2) @ gradient[:, rows].unflatten(0, (-1, group)).flatten(1, 2)
        return (*(x.to(d) for x, d in zip((dq, dk, dv), dtypes, strict=True)), None, None, None, None)


def attend_with_influence(
    q: Tensor, k: Tensor, v: Tensor, found: Tensor, *, scale: float, block: int, sinks: Tensor | None = None
) -> Tensor:
    """Causal attention of q (Hq, S, D) over k (Hk, S, D), v (Hk, S, E) -> (Hq, S, E), differentiable.

    found: (Hq, I, I) with I = ceil(S / block); the backward pass adds to it the change of the loss, in its units, that removing the entries of each
    block one by one would make. Row 0 has nothing left without its only entry and counts 0 / LEAST_REST = 0.
    """
    return _Influence.apply(q, k, v, scale, sinks, block, found)  # type: ignore[return-value]
