"""Attention over blocks that may hold some KV heads only, as parts over all heads that `ops.attention.merge` combines.

Letters: Hq query heads, G query heads of a KV head, S query rows, E value head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from longspan.engine.segments import Block
from longspan.ops.attention import attend

Part = tuple[Tensor, Tensor]  # out (Hq, S, E), lse (Hq, S)


def over(
    q: Tensor, blocks: Sequence[Block], group: int, *, scale: float, softcap: float | None
) -> list[Part]:
    """Partial attention of q (Hq, S, D), group query heads to a KV head, over each run of blocks that together cover all heads."""

    def one(block: Block, queries: Tensor, rows: slice) -> Part:
        return attend(queries, block.k, block.v, bias=block.bias, scale=scale, softcap=softcap)

    return by_block(q, blocks, group, one)


def by_block(
    q: Tensor, blocks: Sequence[Block], group: int, answer: Callable[[Block, Tensor, slice], Part]
) -> list[Part]:
    """`answer(block, its query heads' q, those rows)` for every block, those of single heads put together."""
    parts: list[Part] = []
    pending: list[tuple[slice, Part]] = []
    for block in blocks:
        rows = slice(block.heads.start * group, block.heads.stop * group)
        part = answer(block, q[rows], rows)
        if part[0].shape[0] == q.shape[0]:
            parts.append(part)
        else:
            pending.append((rows, part))
    if pending:
        parts += _together(pending, q, blocks[0].v.shape[-1])
    return parts


def _together(pending: list[tuple[slice, Part]], q: Tensor, value_dim: int) -> list[Part]:
    """Per-head results as full ones: heads without any entry contribute nothing."""
    rounds: list[tuple[Part, set[int]]] = []
    for rows, (out, lse) in pending:
        found = next((one for one in rounds if rows.start not in one[1]), None)
        if found is None:
            whole = q.new_zeros(q.shape[0], q.shape[1], value_dim)
            found = ((whole, q.new_full(q.shape[:2], float("-inf"), dtype=torch.float32)), set())
            rounds.append(found)
        found[0][0][rows], found[0][1][rows] = out, lse
        found[1].add(rows.start)
    return [part for part, _ in rounds]
