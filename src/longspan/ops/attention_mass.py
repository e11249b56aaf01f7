"""The attention every cached entry receives, summed over query rows: what heavy-hitter policies (H2O and its kin) score by.

Two ways, neither with an S x T tensor. `attend_with_mass` answers the attention call and sums its weights in the same pass: one product of
queries and keys instead of two. `column_mass` takes the row log-sum-exps of a call answered before and recomputes the weights.
Dimension letters: Hq query heads, Hk KV heads, G = Hq / Hk, S query rows, T keys, D head dim, E value head dim.
"""

import torch
from torch import Tensor

from longspan.ops.attention import (
    NEG_INF,
    PLAIN_BLOCK_ELEMENTS,
    fast_path,
    flash,
    grouped_scores,
    heads_of_queries,
)

MASS_BLOCK = (
    128  # torch's CPU kernel computes the hidden half of a causal square too: small squares waste less
)
WEIGHT_ROWS = (
    32  # rows of weights held at once by `attend_with_mass`: the block should stay in the cores' caches
)


def sums_in_one_pass(q: Tensor, k: Tensor, softcap: float | None) -> bool:
    """Whether `attend_with_mass` is the faster way: fp32 on a CPU, several rows. Measured on two AVX2 cores, 9 query and 3 KV heads, 512
    rows: 1.5 times faster than the fused call and a second pass at 2,048 keys, 1.2 times at 8,192."""
    plain = q.device.type == "cpu" and q.dtype == k.dtype == torch.float32 and softcap is None
    return plain and q.shape[1] > 1 and not (q.requires_grad or k.requires_grad)


def attend_with_mass(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention of the newest rows q (Hq, S, D) over k (Hk, T, D), v (Hk, T, E) that ends with the rows' own entries: row i sees keys
    0 .. T - S + i. Returns out (Hq, S, E), lse (Hq, S) in fp32, and mass (Hq, T) in fp32: the weights summed over the rows."""
    heads, rows, dim = q.shape
    kv_heads, total, _ = k.shape
    group, past = heads // kv_heads, total - rows
    queries, keys = (q * scale).view(kv_heads, group, rows, dim), k.transpose(1, 2)
    out = q.new_empty(kv_heads, group, rows, v.shape[-1])
    lse = q.new_empty(kv_heads, group, rows, dtype=torch.float32)
    mass = q.new_zeros(heads, total, dtype=torch.float32)
    block = max(1, min(WEIGHT_ROWS, PLAIN_BLOCK_ELEMENTS // (heads * total)))
    later = q.new_full((block, block), NEG_INF).triu(1)
    for start in range(0, rows, block):
        stop = min(rows, start + block)
        count, seen = stop - start, past + stop
        scores = torch.bmm(queries[:, :, start:stop].reshape(kv_heads, -1, dim), keys[:, :, :seen])
        scores.view(kv_heads, group, count, seen)[..., past + start :] += later[:count, :count]
        weights = torch.softmax(scores, -1)
        # the largest weight is exp(largest logit - lse), and at least 1 / T
        lse[:, :, start:stop] = (scores.amax(-1) - weights.amax(-1).log()).view(kv_heads, group, count)
        out[:, :, start:stop] = torch.bmm(weights, v[:, :seen]).view(kv_heads, group, count, -1)
        mass[:, :seen] += weights.view(heads, count, seen).sum(1)
    return out.view(heads, rows, -1), lse.view(heads, rows), mass


def column_mass(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    *,
    scale: float,
    causal_offset: int,
    softcap: float | None = None,
    bias: Tensor | None = None,
    block: int = 256,
) -> Tensor:
    """Attention received by every key, summed over the rows of `q`: (Hq, T) in fp32, without an S x T tensor.

    lse (Hq, S) is that of the full row. Row i sees keys 0 .. causal_offset + i. softcap and bias (Hk, T) as for `attend`.

    sum_i exp(q_i . k_j - lse_i) is the exponential of a log-sum-exp over the rows, so with keys and queries in exchanged roles and -lse as
    a bias the fused kernels compute it (`row_mass`). The keys of the rows themselves are seen by later rows only: with both sequences
    reversed that is the causal triangle, which the CPU kernel takes together with the bias; elsewhere the plain formula serves.
    """
    total = k.shape[1]
    fused = fast_path(q, k, q) and softcap is None and bias is None
    past = min(causal_offset, total) if fused else 0
    mass = torch.zeros(q.shape[0], total, dtype=torch.float32, device=q.device)
    if past:
        mass[:, :past] = row_mass(q, k[:, :past], lse, scale=scale)
    if fused and q.device.type == "cpu" and total == causal_offset + q.shape[1]:
        for start in range(0, q.shape[1], MASS_BLOCK):
            stop = min(q.shape[1], start + MASS_BLOCK)
            rows, keys = slice(start, stop), k[:, past + start : past + stop]
            own = row_mass(
                q[:, rows].flip(1), keys.flip(1), lse[:, rows].flip(1), scale=scale, causal=True
            ).flip(1)
            if stop < q.shape[1]:
                own = own + row_mass(q[:, stop:], keys, lse[:, stop:], scale=scale)
            mass[:, past + start : past + stop] = own
        return mass
    columns = torch.arange(past, k.shape[1], device=q.device)
    for start in range(0, q.shape[1], block):
        stop = min(q.shape[1], start + block)
        seen = causal_offset + stop
        if seen <= past:
            continue
        scores = grouped_scores(q[:, start:stop], k[:, past:seen], scale)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + heads_of_queries(bias[:, past:seen], q.shape[0]).unsqueeze(1)
        weights = torch.exp(scores - lse[:, start:stop].unsqueeze(-1))
        row = torch.arange(start, stop, device=q.device) + causal_offset
        mass[:, past:seen] += weights.masked_fill_(columns[: seen - past] > row.unsqueeze(-1), 0.0).sum(1)
    return mass


def row_mass(q: Tensor, k: Tensor, lse: Tensor, *, scale: float, causal: bool = False) -> Tensor:
    """Attention that keys k (Hk, T, D) receive from rows q (Hq, S, D) with row log-sum-exps lse (Hq, S): (Hq, T).

    Every key is seen by every row; causal (needs S == T, CPU): key j by rows 0 .. j.
    """
    heads, rows, dim = q.shape
    kv_heads, keys, _ = k.shape
    group = heads // kv_heads
    queries = q.view(kv_heads, group, rows, dim).transpose(0, 1)
    wide = k.unsqueeze(0).expand(group, kv_heads, keys, dim)
    bias = (-lse).to(q.dtype).view(kv_heads, group, 1, rows).transpose(0, 1).expand(-1, -1, keys, -1)
    _, total = flash(wide, queries, queries, scale, causal, bias)
    return total.transpose(0, 1).reshape(heads, keys).float().exp()
