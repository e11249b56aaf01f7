"""FlashAttention's check: exact by tiles, forward and backward; traffic as the paper's analysis says; the Triton kernels equal to the formula.

What it cannot measure without a GPU is time: speed-ups of the paper are not claimed by it.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.needs import Needs
from longspan.ops.attention import merge
from longspan.ops.flash.agreement import SHAPES, errors, gradients, interpreted, randn, relative_error
from longspan.ops.flash.function import flash_attention
from longspan.ops.flash.naive import naive_attention
from longspan.ops.flash.tiled import Tiling, tiled_backward, tiled_forward
from longspan.ops.flash.traffic import Traffic, flash_traffic, standard_traffic, tile_sizes

LENGTH, DIM = 512, 16  # of the traffic runs
ROWS = 384  # tokens of real text


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.untyped_storage().nbytes() // one.element_size())
        return result


@check(
    "flashattention",
    system="flashattention",
    claim="exact attention by tiles that never holds the S x T matrix and moves Theta(S T d^2 / M) elements between the two memories, forward and backward",
    file="src/longspan/ops/flash/tiled.py",
)
def flashattention(bench: Bench) -> Outcome:
    outcome = Outcome()
    _exactness(outcome)
    _real_heads(bench, outcome)
    _memory(outcome)
    _traffic(outcome)
    _kernels(outcome)
    return outcome


def _exactness(outcome: Outcome) -> None:
    forward = backward = 0.0
    for queries, keys, offset, dim, softcap in SHAPES.values():
        q, k, v = randn(4, queries, dim), randn(2, keys, dim, seed=1), randn(2, keys, dim, seed=2)
        options = {"scale": dim**-0.5, "offset": offset, "softcap": softcap}
        wanted = naive_attention(q, k, v, **options)
        for order in ("queries", "keys"):
            tiling = Tiling(16, 24, offset, order=order, softcap=softcap)
            got = tiled_forward(q, k, v, scale=dim**-0.5, tiling=tiling)
            forward = max(forward, *(relative_error(a, b) for a, b in zip(got, wanted, strict=True)))
        got = gradients(partial(flash_attention, **options, use_triton=False), q, k, v)
        wanted = gradients(partial(naive_attention, **options), q, k, v)
        backward = max(backward, *(relative_error(a, b) for a, b in zip(got, wanted, strict=True)))
    outcome.figures["largest relative error of tiled out and log-sum-exp"] = f"{forward:.1e}"
    outcome.figures["largest relative error of tiled gradients"] = f"{backward:.1e}"
    outcome.must("the tiled forward is exact in both loop orders (1e-5)", forward < 1e-5)
    outcome.must("the tiled gradients are autograd's (1e-5)", backward < 1e-5)
    q, k, v = randn(4, 9, 8), randn(2, 60, 8, seed=1), randn(2, 60, 8, seed=2)
    whole = tiled_forward(q, k, v, scale=0.4, tiling=Tiling())
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shuffled = tiled_forward(q, k[:, order], v[:, order], scale=0.4, tiling=Tiling(key_tile=7))
    parts = [
        tiled_forward(q, k[:, part], v[:, part], scale=0.4, tiling=Tiling())
        for part in order.split([1, 19, 40])
    ]
    for name, got in (("any order of the keys", shuffled), ("any partition merged", merge(parts))):
        worst = max(relative_error(a, b) for a, b in zip(got, whole, strict=True))
        outcome.must(f"{name} gives the whole (1e-5)", worst < 1e-5)
    blind = tiled_forward(q, k, v, scale=0.4, tiling=Tiling(offset=-5))
    outcome.must(
        "rows that see nothing are 0 with log-sum-exp -inf",
        bool((blind[0][:, :5] == 0).all()) and bool((blind[1][:, :5] == -math.inf).all()),
    )


def _real_heads(bench: Bench, outcome: Outcome) -> None:
    session = bench.model().session(None, collect=Needs(window_queries=ROWS)).feed(bench.passage(ROWS))
    layers = session.growing_layers()
    worst = 0.0
    for layer in (layers[0], layers[len(layers) // 2], layers[-1]):
        store, scale = session.layers[layer].store.padded(), session.scale(layer)
        q = session.layers[layer].window_queries
        got, _ = tiled_forward(q, store.k, store.v, scale=scale, tiling=Tiling(128, 128, 0))
        wanted = scaled_dot_product_attention(
            q[None], store.k[None], store.v[None], is_causal=True, enable_gqa=True, scale=scale
        )[0]
        worst = max(worst, relative_error(got, wanted))
    outcome.figures[f"against torch's attention, three layers of {ROWS} real tokens"] = f"{worst:.1e}"
    outcome.must("on a real model's heads it equals torch's attention (1e-5)", worst < 1e-5)


def _memory(outcome: Outcome) -> None:
    length, dim, heads = 1024, 16, 2
    inputs = [randn(heads, length, dim, seed=seed).requires_grad_() for seed in range(3)]
    with LargestTensor() as seen:
        out, lse = flash_attention(*inputs, offset=0, use_triton=False)
        (out.sum() + lse.sum()).backward()
    outcome.figures[f"largest tensor, forward and backward at {length}"] = (
        f"{seen.elements} elements; S x T is {length * length} a head"
    )
    outcome.must(
        "no tensor made forward or backward is larger than its input", seen.elements <= heads * length * dim
    )


def _counted(
    length: int, fast_memory: int, order: str, tiles: Tensor | None = None
) -> tuple[Traffic, Traffic, int, int]:
    """Traffic of the forward and of the backward pass of one head, and the tile sizes that the fast memory gives."""
    query_tile, key_tile = tile_sizes(fast_memory, DIM)
    q, k, v = (randn(1, length, DIM, seed=seed) for seed in range(3))
    tiling = Tiling(query_tile, key_tile, None, tiles, order)
    forward, backward = Traffic(), Traffic()
    out, lse = tiled_forward(q, k, v, scale=0.3, tiling=tiling, traffic=forward)
    tiled_backward(out, q, k, v, out, lse, scale=0.3, tiling=tiling, traffic=backward)
    return forward, backward, query_tile, key_tile


def _traffic(outcome: Outcome) -> None:
    standard = standard_traffic(LENGTH, LENGTH, DIM)
    equal, fits = True, True
    moved: dict[tuple[int, str], int] = {}
    backward_moved: dict[int, int] = {}
    for fast_memory in (256, 1024, 4096):
        for order in ("keys", "queries"):
            forward, backward, query_tile, key_tile = _counted(LENGTH, fast_memory, order)
            equal &= forward.moved == flash_traffic(LENGTH, LENGTH, DIM, query_tile, key_tile, order)
            fits &= forward.peak < 1.6 * fast_memory
            moved[fast_memory, order] = forward.moved
            backward_moved[fast_memory] = backward.moved
        bound = LENGTH * LENGTH * DIM * DIM / fast_memory
        outcome.figures[f"elements moved, M = {fast_memory}"] = (
            f"{moved[fast_memory, 'keys']} forward ({moved[fast_memory, 'keys'] / bound:.1f} S T d^2 / M), "
            f"{backward_moved[fast_memory]} backward ({backward_moved[fast_memory] / bound:.1f}); "
            f"{standard} with the matrix written"
        )
    outcome.must("the counted traffic is the formula's, in both loop orders", equal)
    outcome.must("tiles, accumulators and scores stay within 1.6 of the fast memory", fits)
    quarter = [moved[m, "keys"] / moved[4 * m, "keys"] for m in (256, 1024)]
    quarter.append(backward_moved[256] / backward_moved[1024])
    outcome.figures["traffic at M over traffic at 4 M (forward, forward, backward)"] = ", ".join(
        f"{one:.2f}" for one in quarter
    )
    outcome.shows(
        "four times the fast memory moves a quarter (within 25%), forward and backward",
        all(abs(one - 4) < 1 for one in quarter),
    )
    double = _counted(2 * LENGTH, 256, "keys")[0].moved / moved[256, "keys"]
    outcome.figures["traffic at 2 S over traffic at S"] = f"{double:.2f}"
    outcome.shows("twice the length moves four times as much (within 5%)", abs(double - 4) < 0.2)
    outcome.shows("with d^2 / M < 1 it moves less than half of standard", moved[4096, "keys"] < standard / 2)
    query_tile, key_tile = tile_sizes(1024, DIM)
    grid = (LENGTH // query_tile, LENGTH // key_tile)
    rank = torch.randperm(math.prod(grid), generator=torch.Generator().manual_seed(0)).view(grid)
    linear = all(
        _counted(LENGTH, 1024, order, rank < share * rank.numel())[0].moved
        == flash_traffic(LENGTH, LENGTH, DIM, query_tile, key_tile, order, share)
        for share in (0.25, 0.5)
        for order in ("keys", "queries")
    )
    outcome.must("block-sparse traffic is linear in the share of tiles", linear)


def _kernels(outcome: Outcome) -> None:
    runs = {"interpreted, fp32": (interpreted(), 1e-5)}
    if torch.cuda.is_available():
        runs["on the GPU, fp32"] = errors("cuda", torch.float32), 1e-4
        runs["on the GPU, bf16"] = errors("cuda", torch.bfloat16), 2e-2
    else:
        outcome.figures["Triton kernels on a GPU"] = "not run: no CUDA device here"
    for place, (found, tolerance) in runs.items():
        if found is None:
            outcome.not_run("the Triton kernels", "triton is not installed; pip install triton.")
            continue
        for kernel in ("dense", "block-sparse", "decode"):
            mine = [error for name, error in found.items() if name.startswith(kernel)]
            broken = [error for error in mine if not isinstance(error, float)]
            worst = broken[0] if broken else f"{max(mine, default=math.inf):.1e} over {len(mine)} cases"
            outcome.figures[f"Triton {kernel} kernel, {place}: largest relative error"] = worst
            outcome.must(
                f"the Triton {kernel} kernel equals the formula {place} ({tolerance:.0e})",
                bool(mine) and not broken and max(mine) < tolerance,
            )
