"""Dense attention with its log-sum-exp, and exact merging of partial results.

Attention over a key set that is split in parts (a shared prefix, a private tail, the chunk itself) is exact when every part also
returns its log-sum-exp: L = logaddexp(L1, L2), O = exp(L1 - L) O1 + exp(L2 - L) O2 (online softmax; FlashAttention, Dao et al. 2022).
K and V are never repeated to query heads: the query group is folded into the rows of a KV head, or broadcast with stride zero.

Dimension letters: Hq query heads, Hk KV heads, G = Hq / Hk, S query rows, T keys, D head dim, E value head dim.
Backends: torch's CPU flash operator (returns the log-sum-exp at full speed; a private operator, so it is checked once at import),
torch's memory-efficient CUDA operator, and the plain formula, which is the oracle and the only one that knows `softcap`.
"""

import torch
from torch import Tensor

NEG_INF = float("-inf")
NOTHING = -1e30  # a logit in place of -inf where a whole row would be hidden
SPLIT_KEYS = 2048  # from here on, splitting one row's keys over the cores pays for merging the parts
PLAIN_BLOCK_ELEMENTS = 1 << 24  # the plain path never holds a score block larger than this (64 MiB in fp32)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = False,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of `q` (Hq, S, D) over `k` (Hk, T, D), `v` (Hk, T, E).

    causal: row i sees keys 0..i (needs S == T). mask: bool (S, T), (Hk, S, T) or (Hq, S, T), True = visible. bias: float added to the
    logits, (Hk, T) (a per-entry bias such as the log of a merged count) or (Hq, S, T). softcap: logits become c tanh(x / c).
    Returns out (Hq, S, E) in q's dtype and lse (Hq, S) in fp32; a row that sees nothing gives 0 and -inf.
    """
    if k.shape[1] == 0:
        return q.new_zeros(q.shape[0], q.shape[1], v.shape[-1]), q.new_full(
            q.shape[:2], NEG_INF, dtype=torch.float32
        )
    if softcap is not None or not fast_path(q, k, v):
        return attend_plain(q, k, v, scale=scale, causal=causal, mask=mask, bias=bias, softcap=softcap)
    float_mask = _float_mask(mask, bias, q, k)
    if causal:
        return _flash_broadcast(q, k, v, scale, True, None)
    if float_mask is None:
        return _flash_folded(q, k, v, scale)
    if q.shape[1] == 1 and mask is None:
        return _flash_folded(q, k, v, scale, float_mask)
    out, lse = _flash_broadcast(q, k, v, scale, False, float_mask)
    if mask is not None:  # the fused kernels leave such rows undefined
        blind = ~mask.any(-1)
        blind = blind if blind.dim() == 1 else heads_of_queries(blind, q.shape[0])
        out = out.masked_fill(blind.unsqueeze(-1), 0.0)
        lse = lse.masked_fill(blind, NEG_INF)
    return out, lse


def merge(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Combine partial results over disjoint key sets: each (out (..., E), lse (...)) -> the result over the union."""
    out, lse = parts[0]
    if len(parts) == 1:
        return out, lse
    if len(parts) == 2:
        other, other_lse = parts[1]
        share = torch.sigmoid(torch.nan_to_num(other_lse - lse, nan=0.0)).unsqueeze(
            -1
        )  # nan: neither part saw a key
        return torch.lerp(out.float(), other.float(), share).to(out.dtype), torch.logaddexp(lse, other_lse)
    total = torch.logsumexp(torch.stack([part[1] for part in parts]), dim=0)
    safe = torch.where(total == NEG_INF, torch.zeros_like(total), total)
    mixed = torch.zeros_like(out, dtype=torch.float32)
    for part_out, part_lse in parts:
        mixed += torch.exp(part_lse - safe).unsqueeze(-1) * part_out
    return mixed.to(out.dtype), total


def apply_sink(out: Tensor, lse: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """Add a learned sink logit per query head (gpt-oss `s_aux`, shape (Hq,)): it takes probability and gives no value."""
    total = torch.logaddexp(lse, sink.float().unsqueeze(-1))
    return (out * torch.exp(lse - total).unsqueeze(-1)).to(out.dtype), total


def attend_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = False,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The formula itself, in fp32, in row blocks of bounded size. Arguments as for `attend`."""
    heads, rows, _ = q.shape
    block = max(1, PLAIN_BLOCK_ELEMENTS // max(1, heads * k.shape[1]))
    outs, lses = [], []
    for start in range(0, rows, block):
        stop = min(rows, start + block)
        scores = grouped_scores(q[:, start:stop], k, scale)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + (
                heads_of_queries(bias, heads).unsqueeze(1) if bias.dim() == 2 else bias[:, start:stop]
            )
        if causal:
            row = torch.arange(start, stop, device=q.device)
            scores = scores.masked_fill(
                torch.arange(k.shape[1], device=q.device) > row.unsqueeze(-1), NEG_INF
            )
        if mask is not None:
            part = mask[..., start:stop, :]
            part = part if part.dim() == 2 else heads_of_queries(part, heads)
            scores = scores.masked_fill(~part, NEG_INF)
        lse = torch.logsumexp(scores, dim=-1)
        safe = torch.where(lse == NEG_INF, torch.zeros_like(lse), lse)
        weights = torch.exp(scores - safe.unsqueeze(-1))
        outs.append(grouped_mix(weights, v.float()).to(q.dtype))
        lses.append(lse)
    return torch.cat(outs, 1), torch.cat(lses, 1)


def attend_ragged_row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    *,
    scale: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One query row, q (Hq, 1, D), over heads that hold different numbers of entries: k (N, D), v (N, E), head after head.

    One product serves all heads: every query meets every entry, and a bias hides what belongs to other heads. A decode step is bound by
    reading K and V, which happens once. bias: (N,). Returns out (Hq, 1, E) and lse (Hq, 1) in fp32; a head without entries gives 0 and -inf.
    """
    heads, rows = len(lengths), q.shape[0]
    hidden = torch.full((heads, k.shape[0]), NEG_INF, device=q.device)
    start = 0
    for head, length in enumerate(lengths):
        hidden[head, start : start + length] = 0.0 if bias is None else bias[start : start + length]
        start += length
    if 0 in lengths:
        hidden[[head for head, length in enumerate(lengths) if not length]] = NOTHING
    scores = (
        torch.mm(k.float(), (q[:, 0].float() * scale).t()).t().contiguous()
    )  # few columns: faster this way round
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores.view(heads, -1, k.shape[0]).add_(hidden.unsqueeze(1))
    weights = torch.softmax(scores, -1)
    lse = scores.amax(-1) - weights.amax(-1).log()
    out = torch.mm(weights.to(v.dtype), v).to(q.dtype)
    if 0 in lengths:
        empty = torch.tensor([length == 0 for length in lengths], device=q.device)
        empty = empty.repeat_interleave(rows // heads).unsqueeze(-1)
        out, lse = out.masked_fill(empty, 0.0), lse.masked_fill(empty.squeeze(-1), NEG_INF)
    return out.unsqueeze(1), lse.unsqueeze(1)


def grouped_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Logits (Hq, S, T) in fp32 of q (Hq, S, D) against k (Hk, T, D), the query group folded into rows."""
    heads, rows, dim = q.shape
    folded = q.reshape(k.shape[0], -1, dim).float()
    return (folded @ k.float().transpose(-1, -2)).mul_(scale).view(heads, rows, k.shape[1])


def grouped_mix(weights: Tensor, v: Tensor) -> Tensor:
    """Weights (Hq, S, T) times values (Hk, T, E) -> (Hq, S, E)."""
    heads, rows, keys = weights.shape
    return (weights.reshape(v.shape[0], -1, keys) @ v).view(heads, rows, v.shape[-1])


def heads_of_queries(x: Tensor, heads: int) -> Tensor:
    """Broadcast a per-KV-head tensor (Hk, ...) to query heads (Hq, ...); small side tensors only, never K or V."""
    return x if x.shape[0] == heads else x.repeat_interleave(heads // x.shape[0], 0)


def _float_mask(mask: Tensor | None, bias: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    if mask is None and bias is None:
        return None
    heads, rows, keys = q.shape[0], q.shape[1], k.shape[1]
    total = None
    if bias is not None:
        total = heads_of_queries(bias, heads).unsqueeze(1) if bias.dim() == 2 else bias
        total = total.to(q.dtype)
    if mask is not None:
        mask = mask.unsqueeze(0) if mask.dim() == 2 else heads_of_queries(mask, heads)
        hidden = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, NEG_INF)
        total = hidden if total is None else total + hidden
    assert total is not None
    return total.expand(heads, rows, keys)


def fast_path(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether torch's fused operators serve these tensors: q (Hq, S, D), k (Hk, T, D), v (Hk, T, E)."""
    if q.shape[-1] != v.shape[-1] or k.dtype != q.dtype:
        return False
    if q.requires_grad or k.requires_grad:
        return False  # the raw operators carry no autograd formula worth relying on
    return CPU_FLASH if q.device.type == "cpu" else q.device.type == "cuda"


def flash(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=scale
        )
    rows = q.shape[2]
    if mask is not None and mask.shape[-1] % 8:  # the CUDA operator wants mask rows aligned to 16 bytes
        mask = torch.nn.functional.pad(mask, (0, 8 - mask.shape[-1] % 8))[..., : mask.shape[-1]]
    out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, mask, True, 0.0, causal, scale=scale
    )[:2]
    return out, lse[..., :rows]


def _flash_folded(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The query group folded into the rows of its KV head, so that K and V are read once. bias: (Hq, S, T)."""
    heads, rows, dim = q.shape
    threads = torch.get_num_threads()
    if rows == 1 and bias is None and q.device.type == "cpu":
        if k.shape[1] >= SPLIT_KEYS and k.shape[0] % threads:
            return _flash_split(q, k, v, scale, threads)
        if k.shape[0] > threads and q.dtype == torch.float32:
            return _row_of_products(q, k, v, scale)
    folded = q.reshape(1, k.shape[0], -1, dim)
    if bias is not None:
        bias = bias.reshape(1, *folded.shape[1:3], -1)
    out, lse = flash(folded, k.unsqueeze(0), v.unsqueeze(0), scale, False, bias)
    return out.reshape(heads, rows, -1), lse.reshape(heads, rows).float()


def _row_of_products(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """One query row as two batched products: with enough heads to go round, a tenth to a third faster than the fused operator on a CPU."""
    scores = torch.bmm((q * scale).view(k.shape[0], -1, q.shape[-1]), k.transpose(1, 2))
    weights = torch.softmax(scores, -1)
    lse = scores.amax(-1) - weights.amax(-1).log()  # the largest weight is at least 1 / T
    return torch.bmm(weights, v).view(q.shape[0], 1, -1), lse.view(q.shape[0], 1)


def _flash_split(q: Tensor, k: Tensor, v: Tensor, scale: float, parts: int) -> tuple[Tensor, Tensor]:
    """One query row over many keys, the keys cut into `parts` runs that become heads of the call, so that every core has work."""
    heads, _, dim = q.shape
    kv_heads, keys, _ = k.shape
    each = keys // parts
    runs = [x[:, : each * parts].unflatten(1, (parts, each)) for x in (k, v)]
    queries = q.view(kv_heads, 1, heads // kv_heads, dim).expand(-1, parts, -1, -1)
    out, lse = flash(queries, runs[0], runs[1], scale, False, None)
    found = [(out[:, i].reshape(heads, 1, -1), lse[:, i].reshape(heads, 1).float()) for i in range(parts)]
    if each * parts < keys:
        rest = slice(each * parts, keys)
        found.append(attend_plain(q, k[:, rest], v[:, rest], scale=scale))
    return merge(found)


def _flash_broadcast(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    heads, rows, dim = q.shape
    kv_heads, keys, _ = k.shape
    group = heads // kv_heads
    queries = q.view(kv_heads, group, rows, dim).transpose(0, 1)
    wide_k, wide_v = (x.unsqueeze(0).expand(group, *x.shape) for x in (k, v))
    if mask is not None:
        mask = mask.reshape(kv_heads, group, rows, keys).transpose(0, 1)
    out, lse = flash(queries, wide_k, wide_v, scale, causal, mask)
    return out.transpose(0, 1).reshape(heads, rows, -1), lse.transpose(0, 1).reshape(heads, rows).float()


def _cpu_flash_works() -> bool:
    """Whether this torch's private CPU operator still has the shape and meaning that this file relies on."""
    try:
        q = torch.linspace(-1, 1, 3 * 2 * 8).view(1, 3, 2, 8)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, q, q, 0.0, True, attn_mask=None, scale=1.0
        )
        return tuple(out.shape) == (1, 3, 2, 8) and tuple(lse.shape) == (1, 3, 2)
    except (RuntimeError, AttributeError, TypeError):
        return False


CPU_FLASH = _cpu_flash_works()
