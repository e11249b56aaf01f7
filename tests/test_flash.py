"""FlashAttention: tiled reference, counted traffic, Triton kernels.

The Triton cases are those of `ops/flash/agreement.py`: in a process of their own under Triton's interpreter and, marked `gpu`, on a real device.
"""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.ops.attention import merge
from longspan.ops.flash.agreement import SHAPES, cases, gradients, interpreted, randn
from longspan.ops.flash.function import flash_attention
from longspan.ops.flash.naive import naive_attention
from longspan.ops.flash.tiled import Tiling, tiled_backward, tiled_forward
from longspan.ops.flash.traffic import Traffic, flash_traffic, standard_traffic, tile_sizes
from longspan.ops.tiles import TileMask


@pytest.fixture(scope="module")
def interpreted_errors():
    found = interpreted()
    if found is None:
        pytest.skip("triton is not installed")
    return found


@pytest.mark.parametrize("label", list(cases()))
def test_triton_interpreted(interpreted_errors, label):
    error = interpreted_errors[label]
    assert isinstance(error, float) and error < 1e-5, error


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("label", list(cases()))
def test_triton_on_gpu(label, dtype):
    assert cases()[label]("cuda", dtype) < (1e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_kernels_compile_for_hopper():
    """Compiles the kernels for compute capability 9.0 without a device: they use its matrix units and spill nothing to local memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from longspan.ops.flash import triton_backward, triton_block_sparse, triton_decode, triton_forward

    integers = dict.fromkeys(("Indptr", "Indices", "Whole", "ColumnPtr", "Columns", "Counts"), "*i32")
    types = (
        integers
        | {"Tiles": "*u8", "scale": "fp32", "softcap": "fp32"}
        | dict.fromkeys(("Lse", "Delta", "Part", "PartLse"), "*fp32")
    )
    common = {"D": 128, "BLOCK_D": 128, "SOFTCAP": False, "PRECISION": "ieee", "BLOCK_M": 64, "BLOCK_N": 64}
    dense = common | {"GROUP": 4, "CAUSAL": True}
    sparse = common | {
        "GROUP": 4,
        "MASK_GROUP": 4,
        "QUERY_TILE": 128,
        "KEY_TILE": 128,
        "HAS_COLUMNS": True,
        "BLOCK_M": 128,
    }
    for kernel, constants, warps in (
        (triton_forward._forward_kernel, dense | {"BLOCK_M": 128}, 8),
        (triton_backward._key_kernel, dense, 8),
        (triton_backward._query_kernel, dense, 8),
        (triton_block_sparse._block_sparse_kernel, sparse, 8),
        (triton_decode._split_kernel, common | {"KV_GROUP": 1, "PAGE": 16, "BLOCK_M": 16}, 4),
    ):
        names = kernel.arg_names
        default = {name: "*bf16" if name[0].isupper() else "i32" for name in names}
        signature = (
            default
            | {name: types[name] for name in names if name in types}
            | dict.fromkeys(constants, "constexpr")
        )
        aligned = [i for i, n in enumerate(names) if signature[n][0] == "*" or n.endswith(("_row", "_head"))]
        source = ASTSource(
            kernel,
            signature,
            {(names.index(name),): value for name, value in constants.items()},
            {(i,): [["tt.divisibility", 16]] for i in aligned},
        )
        ptx = triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": 2}
        ).asm["ptx"]
        assert "wgmma.mma_async" in ptx or "mma.sync" in ptx
        assert "cp.async" in ptx and "ld.local" not in ptx


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 50),
    st.none() | st.integers(-20, 60),
    st.sampled_from(["queries", "keys"]),
    st.integers(1, 20),
)
def test_tiled_forward_equals_the_formula(queries, keys, offset, order, tile):
    q, k, v = randn(4, queries, 8), randn(2, keys, 8, seed=1), randn(2, keys, 8, seed=2)
    got = tiled_forward(q, k, v, scale=0.4, tiling=Tiling(tile, tile + 3, offset, order=order))
    wanted = naive_attention(q, k, v, scale=0.4, offset=offset)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(SHAPES))
def test_tiled_gradients_equal_autograd(name):
    queries, keys, offset, dim, softcap = SHAPES[name]
    q, k, v = (
        randn(4, queries, dim).double(),
        randn(2, keys, dim, seed=1).double(),
        randn(2, keys, dim, seed=2).double(),
    )
    options = {"scale": dim**-0.5, "offset": offset, "softcap": softcap}
    got = gradients(lambda *x: flash_attention(*x, **options, use_triton=False), q, k, v)
    wanted = gradients(lambda *x: naive_attention(*x, **options), q, k, v)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)


def test_merging_any_partition_of_the_keys_equals_the_whole():
    q, k, v = randn(4, 9, 8), randn(2, 40, 8, seed=1), randn(2, 40, 8, seed=2)
    whole = tiled_forward(q, k, v, scale=0.4, tiling=Tiling())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    parts = [
        tiled_forward(q, k[:, part], v[:, part], scale=0.4, tiling=Tiling())
        for part in order.split([1, 13, 26])
    ]
    torch.testing.assert_close(merge(parts), whole, atol=1e-6, rtol=1e-6)


def test_block_sparse_form_skips_tiles():
    q, k, v = randn(2, 48, 8), randn(1, 64, 8, seed=1), randn(1, 64, 8, seed=2)
    tiles = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    mask = TileMask(tiles[None], 48, 64, 16, 16, 16)
    for order in ("queries", "keys"):
        got = tiled_forward(q, k, v, scale=0.4, tiling=Tiling(16, 16, 16, tiles, order))
        wanted = naive_attention(q, k, v, scale=0.4, mask=mask.dense())
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def counted(length, dim, fast_memory, order, tiles=None, backward=False):
    query_tile, key_tile = tile_sizes(fast_memory, dim)
    q, k, v = (randn(1, length, dim, seed=s) for s in range(3))
    tiling = Tiling(query_tile, key_tile, None, tiles, order)
    traffic = Traffic()
    out, lse = tiled_forward(q, k, v, scale=0.3, tiling=tiling, traffic=traffic)
    if backward:
        traffic = Traffic()
        tiled_backward(out, q, k, v, out, lse, scale=0.3, tiling=tiling, traffic=traffic)
    assert traffic.resident == 0
    return traffic, query_tile, key_tile


@pytest.mark.parametrize("order", ["queries", "keys"])
@pytest.mark.parametrize(
    ("length", "dim", "fast_memory"), [(128, 8, 256), (128, 8, 1024), (256, 16, 1024), (256, 16, 4096)]
)
def test_counted_traffic_is_the_formula(order, length, dim, fast_memory):
    traffic, query_tile, key_tile = counted(length, dim, fast_memory, order)
    assert traffic.moved == flash_traffic(length, length, dim, query_tile, key_tile, order)
    assert (
        traffic.peak < 1.6 * fast_memory
    )  # Q, K, V, O tiles fill M; the score tile and the statistics come on top
    assert traffic.peak < length * length


def test_traffic_falls_with_fast_memory_and_grows_with_the_square_of_the_length():
    """The paper's analysis, Theta(S^2 d^2 / M), on counts (key order): M x 4 -> traffic / 4, S x 2 -> x 4, as far as the S d terms are small."""
    base = counted(512, 8, 256, "keys")[0].moved
    assert base / counted(512, 8, 1024, "keys")[0].moved == pytest.approx(4, rel=0.25)
    assert counted(1024, 8, 256, "keys")[0].moved / base == pytest.approx(4, rel=0.05)
    backward = counted(512, 8, 256, "keys", backward=True)[0].moved
    assert backward / counted(512, 8, 1024, "keys", backward=True)[0].moved == pytest.approx(4, rel=0.25)


def test_traffic_beats_standard_attention_once_fast_memory_is_large_against_d_squared():
    """d^2 / M < 1 is where the paper's bound lies under S^2: small fast memory loses, large wins."""
    dim, length = 16, 512
    standard = standard_traffic(length, length, dim)
    assert counted(length, dim, 256, "keys")[0].moved > standard
    assert counted(length, dim, 4096, "keys")[0].moved < standard / 2
    # with the paper's B_r = d the other order moves 2 S^2 values whatever M is: its query tiles have to grow with M instead
    assert (
        counted(length, dim, 4096, "queries")[0].moved == 2 * length**2 + 2 * length * dim + length < standard
    )


@pytest.mark.parametrize("order", ["queries", "keys"])
def test_block_sparse_traffic_is_linear_in_the_share_of_tiles(order):
    length, dim, fast_memory = 256, 8, 512
    query_tile, key_tile = tile_sizes(fast_memory, dim)
    grid = (length // query_tile, length // key_tile)
    rank = torch.randperm(grid[0] * grid[1], generator=torch.Generator().manual_seed(0)).view(grid)
    for share in (0.25, 0.5, 1.0):
        traffic, *_ = counted(length, dim, fast_memory, order, rank < share * rank.numel())
        assert traffic.moved == flash_traffic(length, length, dim, query_tile, key_tile, order, share)
