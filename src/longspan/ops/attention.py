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
SPLIT_KEYS = 4096  # from here on, splitting one row's keys over the cores pays for merging the parts
MASS_BLOCK = (
    128  # torch's CPU kernel computes the hidden half of a causal square too: small squares waste less
)
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
    if softcap is not None or not _fast_path(q, k, v):
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
        blind = blind if blind.dim() == 1 else _heads_of_queries(blind, q.shape[0])
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
                _heads_of_queries(bias, heads).unsqueeze(1) if bias.dim() == 2 else bias[:, start:stop]
            )
        if causal:
            row = torch.arange(start, stop, device=q.device)
            scores = scores.masked_fill(
                torch.arange(k.shape[1], device=q.device) > row.unsqueeze(-1), NEG_INF
            )
        if mask is not None:
            part = mask[..., start:stop, :]
            part = part if part.dim() == 2 else _heads_of_queries(part, heads)
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

    One call serves all heads: the flat entries are cut into as many runs as there are cores, every query meets every run, and a bias hides
    what belongs to other heads. A decode step is bound by reading K and V, which happens once. bias: (N,). Returns out (Hq, 1, E) and lse
    (Hq, 1) in fp32; a head without entries gives 0 and -inf.
    """
    heads, entries, rows = len(lengths), k.shape[0], q.shape[0]
    parts = min(torch.get_num_threads() if k.device.type == "cpu" else 1, entries)
    step = entries // parts
    each = entries - step * (parts - 1)
    hidden = q.new_full((heads, entries), NEG_INF)
    start = 0
    for head, length in enumerate(lengths):
        hidden[head, start : start + length] = 0.0 if bias is None else bias[start : start + length]
        start += length
    hidden = hidden.as_strided((parts, heads, each), (step, entries, 1)).clone()
    hidden[:-1, :, step:] = NEG_INF  # where two runs overlap, the later one has the entries
    per_query = hidden.unsqueeze(2).expand(-1, -1, rows // heads, -1).reshape(parts * rows, 1, each)
    runs = (x.as_strided((parts, each, x.shape[1]), (step * x.stride(0), x.stride(0), 1)) for x in (k, v))
    queries = q.unsqueeze(0).expand(parts, -1, -1, -1).reshape(parts * rows, 1, -1)
    out, lse = attend(queries, *runs, scale=scale, bias=per_query, softcap=softcap)
    blind = torch.isinf(per_query).all(
        -1
    )  # heads without entries in a run: the fused kernels leave such rows undefined
    out = out.masked_fill(blind.unsqueeze(-1), 0.0).view(parts, rows, 1, -1)
    lse = lse.masked_fill(blind, NEG_INF).view(parts, rows, 1)
    return merge([(out[part], lse[part]) for part in range(parts)])


def grouped_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Logits (Hq, S, T) in fp32 of q (Hq, S, D) against k (Hk, T, D), the query group folded into rows."""
    heads, rows, dim = q.shape
    folded = q.reshape(k.shape[0], -1, dim).float()
    return (folded @ k.float().transpose(-1, -2)).mul_(scale).view(heads, rows, k.shape[1])


def grouped_mix(weights: Tensor, v: Tensor) -> Tensor:
    """Weights (Hq, S, T) times values (Hk, T, E) -> (Hq, S, E)."""
    heads, rows, keys = weights.shape
    return (weights.reshape(v.shape[0], -1, keys) @ v).view(heads, rows, v.shape[-1])


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
    fused = _fast_path(q, k, q) and softcap is None and bias is None
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
            scores = scores + _heads_of_queries(bias[:, past:seen], q.shape[0]).unsqueeze(1)
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
    _, total = _flash(wide, queries, queries, scale, causal, bias)
    return total.transpose(0, 1).reshape(heads, keys).float().exp()


def _heads_of_queries(x: Tensor, heads: int) -> Tensor:
    """Broadcast a per-KV-head tensor (Hk, ...) to query heads (Hq, ...); small side tensors only, never K or V."""
    return x if x.shape[0] == heads else x.repeat_interleave(heads // x.shape[0], 0)


def _float_mask(mask: Tensor | None, bias: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    if mask is None and bias is None:
        return None
    heads, rows, keys = q.shape[0], q.shape[1], k.shape[1]
    total = None
    if bias is not None:
        total = _heads_of_queries(bias, heads).unsqueeze(1) if bias.dim() == 2 else bias
        total = total.to(q.dtype)
    if mask is not None:
        mask = mask.unsqueeze(0) if mask.dim() == 2 else _heads_of_queries(mask, heads)
        hidden = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, NEG_INF)
        total = hidden if total is None else total + hidden
    assert total is not None
    return total.expand(heads, rows, keys)


def _fast_path(q: Tensor, k: Tensor, v: Tensor) -> bool:
    if q.shape[-1] != v.shape[-1] or k.dtype != q.dtype:
        return False
    if q.requires_grad or k.requires_grad:
        return False  # the raw operators carry no autograd formula worth relying on
    return CPU_FLASH if q.device.type == "cpu" else q.device.type == "cuda"


def _flash(
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
    long = rows == 1 and k.shape[1] >= SPLIT_KEYS and q.device.type == "cpu"
    if long and bias is None and k.shape[0] % threads:
        return _flash_split(q, k, v, scale, threads)
    folded = q.reshape(1, k.shape[0], -1, dim)
    if bias is not None:
        bias = bias.reshape(1, *folded.shape[1:3], -1)
    out, lse = _flash(folded, k.unsqueeze(0), v.unsqueeze(0), scale, False, bias)
    return out.reshape(heads, rows, -1), lse.reshape(heads, rows).float()


def _flash_split(q: Tensor, k: Tensor, v: Tensor, scale: float, parts: int) -> tuple[Tensor, Tensor]:
    """One query row over many keys, the keys cut into `parts` runs that become heads of the call, so that every core has work."""
    heads, _, dim = q.shape
    kv_heads, keys, _ = k.shape
    each = keys // parts
    runs = [x[:, : each * parts].unflatten(1, (parts, each)) for x in (k, v)]
    queries = q.view(kv_heads, 1, heads // kv_heads, dim).expand(-1, parts, -1, -1)
    out, lse = _flash(queries, runs[0], runs[1], scale, False, None)
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
    out, lse = _flash(queries, wide_k, wide_v, scale, causal, mask)
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
