"""Matrix products with few rows on a CPU: `h @ W.T` as `(W @ h.T).T`, with the big matrix on the left.

A decode step multiplies every weight matrix by as many rows as sessions step together: one, a handful, a few dozen. torch's linear leaves
these to kernels that are fast for hundreds of rows. Measured on two AVX2 cores in fp32, linear -> from the left, for 576 to 4096 inputs:
gigabytes of W a second with one row 11 to 19 -> 18 to 39 (as a pair of rows; from 3072 inputs on linear is faster), two to four rows 3 to 13
-> 13 to 39, eight rows 8 to 14 -> 9 to 21, 5 to 16 rows padded to 16 about a fifth more; 110 to 144 -> 145 to 175 GFLOP/s with 64 rows, 125 to
170 -> 155 to 180 with 128. With more rows linear is as fast. Letters: R rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_ROWS = 128
SINGLE_ROW_INPUTS = 2048  # most inputs at which one row is worth pairing
UNPADDED = ((1024, 8), (1 << 30, 4))  # (inputs below, rows): up to so many rows the kernel needs no padding
PADDED = 16


class Weight(nn.Parameter):
    """A matrix (O, I) of a linear layer that multiplies few rows from the left. In everything else a plain parameter."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is functional.linear and not kwargs and pays(args[0]):
                return from_the_left(*args)
            return func(*args, **(kwargs or {}))


def pays(x: Tensor) -> bool:
    """Whether `from_the_left` is the faster product for x (..., I)."""
    inputs = x.shape[-1]
    rows = x.numel() // inputs
    return 0 < rows <= MOST_ROWS and (rows > 1 or inputs <= SINGLE_ROW_INPUTS)


def from_the_left(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times weight (O, I) transposed, plus bias (O,) -> (..., O), as (W x^T)^T."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()  # other strides take a slow path
    count = rows.shape[0]
    missing = _padding(count, x.shape[-1])
    if missing:
        rows = torch.cat((rows, rows.new_zeros(missing, x.shape[-1])))
    found = torch.mm(weight, rows.t())[:, :count].t().contiguous().view(*x.shape[:-1], weight.shape[0])
    return found if bias is None else found + bias


def _padding(rows: int, inputs: int) -> int:
    if rows == 1:
        return 1
    unpadded = next(most for below, most in UNPADDED if inputs < below)
    return PADDED - rows if unpadded < rows < PADDED else 0
