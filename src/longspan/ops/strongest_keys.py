"""Attention over the few keys that a query's own logits put first: every row of every query head keeps its `keep` largest.

LM-Infinite's third branch reads the middle of a text so (arXiv 2308.16137). All logits are computed, rows in blocks so that they never take more than
`LOGITS` numbers at once, and only the kept values are gathered. Letters: Hq query heads, Hk KV heads, S query rows, T keys, D head dim, E value head dim.
"""

import torch
from torch import Tensor

from longspan.ops.attention import NEG_INF, grouped_scores, heads_of_queries

LOGITS = 1 << 24


def attend_strongest(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: int,
    *,
    scale: float,
    mask: Tensor,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of q (Hq, S, D) over the `keep` keys of k (Hk, T, D) with the largest logits, v (Hk, T, E).

    mask: bool (S, T) or (Hk, S, T), True = may be kept. bias: float (Hq, S, T) or (Hk, T). Returns out (Hq, S, E) and lse (Hq, S) fp32; -inf where nothing
    may be kept. Ties go to the earlier key.
    """
    rows = max(1, LOGITS // (q.shape[0] * k.shape[1]))
    keep = min(keep, k.shape[1])
    heads = (torch.arange(len(q), device=q.device) // (len(q) // len(k))).view(-1, 1, 1)
    outs, lses = [], []
    for at in range(0, q.shape[1], rows):
        part = slice(at, at + rows)
        logits = grouped_scores(q[:, part], k, scale)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if bias is not None:
            logits += bias[:, part] if bias.dim() == 3 else heads_of_queries(bias, len(q)).unsqueeze(1)
        seen = mask[..., part, :]
        logits.masked_fill_(~(seen if seen.dim() == 2 else heads_of_queries(seen, len(q))), NEG_INF)
        best, index = (x[..., :keep] for x in logits.sort(dim=-1, descending=True, stable=True))
        lse = best.logsumexp(-1)
        weights = torch.exp(best - torch.where(lse == NEG_INF, 0.0, lse).unsqueeze(-1))
        outs.append((weights.unsqueeze(-1) * v[heads, index].float()).sum(2).to(q.dtype))
        lses.append(lse)
    return torch.cat(outs, 1), torch.cat(lses, 1)
