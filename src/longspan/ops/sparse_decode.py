"""Decode attention over selected entries: `decode(q, k, v, selection) -> out, lse`.

The selected entries are copied into one run of memory per head (whole pages where the selection is by page) and attended to with the query
group folded into rows: K and V are read once per KV head and never repeated. Copying costs one more pass over the selected bytes, so a
budget of 1/4 gains little and 1/16 gains several times.

Dimension letters: Hq query heads, Hk KV heads, H heads of the selection, G = Hq / H, R query rows, T entries, n gathered, D head dim.
"""

import math

import torch
from torch import Tensor

from longspan.errors import BadInput, nearest
from longspan.ops.attention import CPU_FLASH, NEG_INF, attend_plain
from longspan.ops.rows import gather_entries, gather_pages
from longspan.ops.selection import Selection

BACKENDS = ("reference", "gather", "triton")


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selection: Selection,
    *,
    scale: float | None = None,
    backend: str | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of the newest R queries, q (Hq, R, D), over the selected entries of k, v (Hk, T, D).

    Query row r sits at entry T - R + r and sees no later one. selection.heads is Hk (shared by the group) or Hq (then each query head
    reads its own copy). scale defaults to 1 / sqrt(D). Returns out (Hq, R, D) in q's dtype and lse (Hq, R) in fp32; a row with nothing
    selected gives 0 and -inf. A selection's bias is added to the logits of its entries.
    """
    check_shapes(q, k, selection)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    name = default_backend(q, softcap) if backend is None else backend
    if name == "triton" and selection.bias is not None:
        if backend is not None:
            raise BadInput("the triton backend knows no bias of single entries; use 'reference'.")
        name = "reference"
    if name == "triton":
        from longspan.ops.flash.triton_decode import split_decode

        return split_decode(q, k, v, selection, scale=scale, softcap=softcap)
    if name == "gather":
        if softcap is not None or not CPU_FLASH or q.device.type != "cpu" or k.shape[-1] != v.shape[-1]:
            raise BadInput(
                "the gather backend needs torch's CPU flash operator, equal K and V widths and no softcap; use 'reference'."
            )
        return decode_gather(q, k, v, selection, scale=scale)
    if name == "reference":
        mask = selection.dense()
        last = (
            torch.arange(k.shape[1], device=q.device)
            <= torch.arange(-q.shape[1], 0, device=q.device).unsqueeze(1) + k.shape[1]
        )
        visible = mask.unsqueeze(1) & last
        if visible.shape[0] < q.shape[0]:
            visible = visible.repeat_interleave(q.shape[0] // visible.shape[0], 0)
        return attend_plain(q, k, v, scale=scale, mask=visible, softcap=softcap, bias=selection.dense_bias())
    raise BadInput(f"there is no decode backend {name!r}; {nearest(name, BACKENDS)}")


def default_backend(q: Tensor, softcap: float | None = None) -> str:
    """triton on CUDA, gather on a CPU whose torch has the flash operator, else reference."""
    if q.device.type == "cuda":
        return "triton"
    return "gather" if CPU_FLASH and softcap is None else "reference"


def check_shapes(q: Tensor, k: Tensor, selection: Selection) -> None:
    if q.shape[0] % k.shape[0]:
        raise BadInput(f"{q.shape[0]} query heads do not divide into groups over {k.shape[0]} KV heads.")
    if selection.heads not in (k.shape[0], q.shape[0]):
        raise BadInput(
            f"the selection has {selection.heads} heads; this layer needs {k.shape[0]} (per KV head) or {q.shape[0]}."
        )
    if selection.entries != k.shape[1]:
        raise BadInput(
            f"the selection was made over {selection.entries} entries and the cache holds {k.shape[1]}."
        )
    if q.shape[1] > k.shape[1]:
        raise BadInput(f"{q.shape[1]} queries are more than the {k.shape[1]} cached entries.")


def decode_gather(
    q: Tensor, k: Tensor, v: Tensor, selection: Selection, *, scale: float
) -> tuple[Tensor, Tensor]:
    """Gather, then torch's CPU flash operator with the group as rows."""
    heads, rows, dim = selection.heads, q.shape[1], q.shape[-1]
    gathered = gather(k, v, selection)
    if gathered is None:
        return torch.zeros_like(q), q.new_full(q.shape[:2], NEG_INF, dtype=torch.float32)
    keys, values, numbers = gathered
    folded = q.reshape(1, heads, -1, dim)
    bias = None
    if numbers is not None or rows > 1 or selection.bias is not None:
        if numbers is None:  # what was gathered may end before the selection's last page does
            numbers = selection.entry_numbers()[0][:, : keys.shape[1]]
        hidden = numbers.unsqueeze(1) > torch.arange(k.shape[1] - rows, k.shape[1]).unsqueeze(1)  # (H, R, n)
        bias = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, NEG_INF)
        if selection.bias is not None:
            bias = bias + selection.bias.to(q.dtype).unsqueeze(1)
        bias = (
            bias.unsqueeze(1).expand(-1, q.shape[0] // heads, -1, -1).reshape(1, heads, folded.shape[2], -1)
        )
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        folded, keys.unsqueeze(0), values.unsqueeze(0), 0.0, False, attn_mask=bias, scale=scale
    )
    out, lse = out.reshape(q.shape), lse.reshape(q.shape[:2])
    if bias is not None:
        blind = torch.isinf(bias).all(-1).view(q.shape[:2])
        out, lse = out.masked_fill(blind.unsqueeze(-1), 0.0), lse.masked_fill(blind, NEG_INF)
    return out, lse


def gather(k: Tensor, v: Tensor, selection: Selection) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Selected K and V as (H, n, D) each; with them entry numbers (H, n) where some gathered rows are padding (numbered T, beyond every
    query), else None. None for an empty selection."""
    heads = torch.arange(selection.heads) // (selection.heads // k.shape[0])
    indices = selection.indices
    if not indices.numel():
        return None
    ragged = selection.counts is not None
    partial_page = k.shape[1] % selection.page_size != 0 and bool(
        (indices == k.shape[1] // selection.page_size).any()
    )
    if not ragged and not partial_page:
        if selection.page_size > 1:
            pages = [gather_pages(x, heads, indices, selection.page_size) for x in (k, v)]
            if pages[0] is not None and pages[1] is not None:
                return pages[0], pages[1], None
        numbers = selection.entry_numbers()[0]
        return gather_entries(k, heads, numbers), gather_entries(v, heads, numbers), None
    if not ragged and selection.page_size > 1 and k.shape[1] >= selection.page_size:
        return _gather_with_tail(k, v, selection, heads)
    numbers, real = selection.entry_numbers()
    safe = numbers.masked_fill(~real, 0)
    return (
        gather_entries(k, heads, safe),
        gather_entries(v, heads, safe),
        numbers.masked_fill(~real, k.shape[1]),
    )


def _gather_with_tail(
    k: Tensor, v: Tensor, selection: Selection, heads: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Complete pages by page copies; the partial last page, where a head chose it, is cut to its entries."""
    page_size, total = selection.page_size, k.shape[1]
    complete = total // page_size
    is_tail = selection.indices == complete
    pages = selection.indices.masked_fill(is_tail, 0)
    tail = total - complete * page_size
    everywhere = bool(is_tail[:, -1].all()) and int(is_tail.sum()) == selection.heads
    copies = []
    for x in (k, v):
        paged = gather_pages(x, heads, pages, page_size)
        if paged is None:
            entries = (pages.unsqueeze(-1) * page_size + torch.arange(page_size)).flatten(1)
            paged = gather_entries(x, heads, entries)
        head, slot = is_tail.nonzero(as_tuple=True)
        paged.view(selection.heads, -1, page_size, x.shape[-1])[head, slot, :tail] = x[
            heads[head], complete * page_size :
        ]
        copies.append(paged)
    if everywhere:  # the usual case: the newest page is read by all heads and sits last
        length = copies[0].shape[1] - page_size + tail
        return copies[0][:, :length], copies[1][:, :length], None
    numbers, real = selection.entry_numbers()
    return copies[0], copies[1], numbers.masked_fill(~real, total)
