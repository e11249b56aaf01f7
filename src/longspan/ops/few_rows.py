"""Matrix products with few rows on a CPU, faster than torch's linear: `h @ W.T` with W in blocks, or as `(W @ h.T).T`.

A decode step multiplies every weight matrix by as many rows as sessions step together: one, a handful, a few dozen. torch's linear leaves
these to kernels that are fast for hundreds of rows. Two other ways round are faster. In blocks: W is cut into a few blocks of outputs, which
a batched product works on one to a core. From the left: W is the left factor, which suits two to four rows (one row is paired with
an empty one). Measured on two AVX2 cores in fp32, all matrices of a 135M-parameter model, milliseconds of linear / from the left / in
blocks: 1 row 33 / 17 / 20, 4 rows 51 / 18 / 28, 8 rows 47 / 35 / 33, 17 rows 60 / 66 / 48, 32 rows 79 / 70 / 66, 128 rows 206 / 208 / 196; with
2,048 to 8,192 inputs: 1 row 14 / 11 / 9, 4 rows 27 / 20 / 13, 17 rows 33 / 35 / 24, 128 rows 122 / 109 / 104. With more rows linear is as fast.
Letters: R rows, I inputs, O outputs, B blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_ROWS = 128
BLOCKS_A_THREAD = 2
LEFT = ((1024, 5), (2049, 3))  # (inputs below, rows): up to so many rows are multiplied from the left


class Weight(nn.Parameter):
    """A matrix (O, I) of a linear layer that multiplies few rows in the faster way. In everything else a plain parameter."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is functional.linear and not kwargs and pays(args[0]):
                return product(*args)
            return func(*args, **(kwargs or {}))


def pays(x: Tensor) -> bool:
    """Whether `product` is faster than linear for x (..., I). On a single core blocks gain nothing."""
    most = MOST_ROWS if torch.get_num_threads() > 1 else _most_from_the_left(x.shape[-1])
    return 0 < x.numel() <= most * x.shape[-1]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times weight (O, I) transposed, plus bias (O,) -> (..., O)."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()  # other strides take a slow path
    few = rows.shape[0] <= _most_from_the_left(rows.shape[1])
    blocks = 0 if few else _blocks(weight)
    found = in_blocks(rows, weight, blocks) if blocks else from_the_left(rows, weight)
    found = found.view(*x.shape[:-1], weight.shape[0])
    return found if bias is None else found + bias


def in_blocks(rows: Tensor, weight: Tensor, blocks: int) -> Tensor:
    """rows (R, I) times weight (O, I) transposed -> (R, O), O in `blocks` equal parts."""
    count, inputs = rows.shape
    cut = weight.view(blocks, -1, inputs).transpose(1, 2)
    return torch.bmm(rows.expand(blocks, count, inputs), cut).transpose(0, 1).reshape(count, -1)


def from_the_left(rows: Tensor, weight: Tensor) -> Tensor:
    """rows (R, I) times weight (O, I) transposed -> (R, O), as (W rows^T)^T; a single row as a pair."""
    count = rows.shape[0]
    if count == 1:
        rows = torch.cat((rows, torch.zeros_like(rows)))
    return torch.mm(weight, rows.t())[:, :count].t().contiguous()


def _most_from_the_left(inputs: int) -> int:
    return next((most for below, most in LEFT if inputs < below), 0)


def _blocks(weight: Tensor) -> int:
    """Into how many equal parts the outputs are cut; 0 where the layout of the weight does not allow it."""
    wanted = BLOCKS_A_THREAD * torch.get_num_threads()
    if not weight.is_contiguous():
        return 0
    return next((n for n in range(wanted, 0, -1) if weight.shape[0] % n == 0), 0)
