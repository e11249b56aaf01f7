"""How far the Triton kernels are from the formula: one case a kernel and shape, largest relative errors.

    TRITON_INTERPRET=1 python -m longspan.ops.flash.agreement      # prints {case: error} as JSON

Interpretation is decided when Triton is first imported, so it needs a process of its own (`interpreted`); on a device the cases run in any.
Dense cases compare out, LSE and all gradients, block-sparse ones out and LSE under three causal offsets, decode ones three numbers of splits.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from longspan.ops.flash.function import flash_attention
from longspan.ops.flash.naive import naive_attention
from longspan.ops.selection import Selection
from longspan.ops.tiles import TileMask, tile_count

Case = Callable[[str, torch.dtype], float]

SHAPES = {  # queries, keys, offset (None: not causal), head dim, softcap
    "square": (37, 37, 0, 16, None),
    "chunk after a past": (20, 45, 25, 24, None),
    "blind rows": (33, 20, -13, 16, None),
    "not causal": (20, 45, None, 16, None),
    "softcap": (20, 45, 25, 16, 5.0),
    "one query": (1, 40, 39, 16, None),
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values, the same on every machine."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest wanted value; infinite where infinities sit in other places."""
    if not torch.equal(torch.isinf(got), torch.isinf(wanted)):
        return float("inf")
    finite = torch.isfinite(wanted)
    if not finite.any():
        return 0.0
    difference = (got[finite].float() - wanted[finite].float()).abs().max()
    return float(difference / wanted[finite].abs().max().clamp(min=1e-6))


def gradients(
    run: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor
) -> list[Tensor]:
    """out, LSE and the gradients of q, k, v under fixed random gradients of both results."""
    inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out, lse = run(*inputs)
    seen = torch.isfinite(lse)
    loss = (out.float() * randn(*out.shape, seed=3).to(out.device)).sum() + (
        lse * randn(*lse.shape, seed=4).to(out.device)
    )[seen].sum()
    loss.backward()
    grads = [x.grad for x in inputs if x.grad is not None]
    return [out.detach(), lse.detach(), *grads]


def dense_case(name: str, device: str, dtype: torch.dtype) -> float:
    """Error of out, lse, dq, dk, dv against autograd through the formula in fp32."""
    queries, keys, offset, dim, softcap = SHAPES[name]
    q, k, v = (
        x.to(device, dtype)
        for x in (randn(4, queries, dim), randn(2, keys, dim, seed=1), randn(2, keys, dim, seed=2))
    )
    given = {"scale": dim**-0.5, "offset": offset, "softcap": softcap}
    got = gradients(partial(flash_attention, **given, use_triton=True), q, k, v)
    wanted = gradients(partial(naive_attention, **given), q.float(), k.float(), v.float())
    return max(relative_error(a, b) for a, b in zip(got, wanted, strict=True))


def block_sparse_case(
    heads: int, columns: bool, tile: tuple[int, int], device: str, dtype: torch.dtype
) -> float:
    """Error of the block-sparse kernel under masks of 40% random tiles, with or without free columns."""
    from longspan.ops.flash.triton_block_sparse import block_sparse_forward

    queries, keys = 41, 70
    q, k, v = (
        x.to(device, dtype)
        for x in (randn(4, queries, 16), randn(2, keys, 16, seed=1), randn(2, keys, 16, seed=2))
    )
    generator = torch.Generator().manual_seed(7)
    worst = 0.0
    for offset in (29, 40, -12):
        grid = (heads, tile_count(queries, tile[0]), tile_count(keys, tile[1]))
        tiles = torch.rand(grid, generator=generator) < 0.4
        lines = torch.rand(heads, keys, generator=generator) < 0.1 if columns else None
        mask = TileMask(tiles, queries, keys, *tile, offset, lines)
        got = block_sparse_forward(q, k, v, mask.to(device), scale=0.3)
        dense = mask.for_heads(4).dense().to(device)
        wanted = naive_attention(q.float(), k.float(), v.float(), scale=0.3, mask=dense)
        worst = max(worst, *(relative_error(a, b) for a, b in zip(got, wanted, strict=True)))
    return worst


def decode_case(heads: int, page_size: int, rows: int, device: str, dtype: torch.dtype) -> float:
    """Error of split-KV decoding over ragged selections; the first head reads nothing."""
    from longspan.ops.flash.triton_decode import split_decode

    entries = 150
    buffers = randn(2, 2, 170, 16, seed=1).to(device, dtype)
    k, v = buffers[0, :, :entries], buffers[1, :, :entries]
    q = randn(6, rows, 16).to(device, dtype)
    generator = torch.Generator().manual_seed(page_size)
    pages = -(-entries // page_size)
    chosen = [torch.randperm(pages, generator=generator)[: pages * h // heads] for h in range(heads)]
    selection = Selection.from_lists(chosen, entries, page_size)
    visible = selection.dense().repeat_interleave(6 // heads, 0).unsqueeze(1)
    visible = visible & (torch.arange(entries) <= torch.arange(rows).unsqueeze(1) + entries - rows)
    wanted = naive_attention(q.float(), k.float(), v.float(), scale=0.3, mask=visible.to(device))
    results = [split_decode(q, k, v, selection, scale=0.3, splits=splits) for splits in (None, 1, 3)]
    return max(relative_error(a, b) for got in results for a, b in zip(got, wanted, strict=True))


def cases() -> dict[str, Case]:
    """Every case by name: (device, dtype) -> error."""
    found: dict[str, Case] = {f"dense, {name}": partial(dense_case, name) for name in SHAPES}
    for heads in (2, 4):
        for columns in (False, True):
            for tile in ((16, 16), (32, 48)):
                label = f"block-sparse, {heads} heads, {'with' if columns else 'no'} columns, tile {tile[0]}x{tile[1]}"
                found[label] = partial(block_sparse_case, heads, columns, tile)
    for heads in (2, 6):
        for page_size, rows in ((1, 1), (16, 1), (16, 3)):
            label = f"decode, {heads} heads, pages of {page_size}, {rows} rows"
            found[label] = partial(decode_case, heads, page_size, rows)
    return found


def errors(device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, float | str]:
    """Error of every case, or what it raised: one broken kernel must not hide the others."""
    found: dict[str, float | str] = {}
    for label, case in cases().items():
        try:
            found[label] = case(device, dtype)
        except Exception as problem:
            found[label] = f"{type(problem).__name__}: {problem}"
    return found


def interpreted() -> dict[str, float | str] | None:
    """`errors` in fp32 under Triton's interpreter, in a process of its own; None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    done = subprocess.run(
        [sys.executable, "-m", "longspan.ops.flash.agreement"],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        return {"process": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output"}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(errors()))
