import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longspan.errors import BadInput
from longspan.ops import tile_patterns as patterns
from longspan.ops.flash.naive import naive_attention
from longspan.ops.sparse_prefill import prefill
from longspan.ops.tile_gather import plan
from longspan.ops.tiles import TileMask, tile_count

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def random_qkv(queries, keys, dim=8, heads=6, kv_heads=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, queries, dim), (kv_heads, keys, dim), (kv_heads, keys, dim))
    return [torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype) for shape in shapes]


def random_mask(heads, queries, keys, query_tile, key_tile, offset, density, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (heads, tile_count(queries, query_tile), tile_count(keys, key_tile))
    tiles = torch.rand(shape, generator=generator) < density
    lines = torch.rand(heads, keys, generator=generator) < 0.1 if columns else None
    return TileMask(tiles, queries, keys, query_tile, key_tile, offset, lines)


def assert_equals_dense_mask(result, q, k, v, mask, tolerance=1e-5, softcap=None):
    out, lse = result
    wide = mask.for_heads(q.shape[0]).dense()
    expected, expected_lse = naive_attention(
        q.float(), k.float(), v.float(), scale=q.shape[-1] ** -0.5, mask=wide, softcap=softcap
    )
    blind = ~wide.any(-1)
    torch.testing.assert_close(out.float(), expected, atol=tolerance, rtol=tolerance)
    assert (out[blind] == 0).all()
    if lse is not None:
        assert torch.equal(torch.isneginf(lse), blind)
        torch.testing.assert_close(lse[~blind], expected_lse[~blind], atol=tolerance, rtol=tolerance)


@torch.inference_mode()
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["reference", "gather"]),
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(-12, 50),
    st.sampled_from([(4, 4), (16, 16), (16, 8), (8, 16), (1, 1), (60, 1)]),
    st.sampled_from([2, 6]),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.booleans(),
    st.integers(0, 99),
)
@example(
    backend="gather", queries=1, keys=1, offset=-2, tile=(4, 4), heads=2, density=0.0, columns=True, seed=0
)  # a query before every key
def test_backends_equal_the_dense_mask(backend, queries, keys, offset, tile, heads, density, columns, seed):
    q, k, v = random_qkv(queries, keys, seed=seed)
    mask = random_mask(heads, queries, keys, *tile, offset, density, columns, seed)
    assert_equals_dense_mask(prefill(q, k, v, mask, backend=backend), q, k, v, mask)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    q, k, v = random_qkv(50, 70, dtype=dtype)
    mask = random_mask(2, 50, 70, 16, 16, 20, 0.5, False)
    for backend in ("reference", "gather"):
        assert_equals_dense_mask(prefill(q, k, v, mask, backend=backend), q, k, v, mask, tolerance=2e-2)


@torch.inference_mode()
def test_strided_stores_are_read_in_place():
    q, k, v = random_qkv(40, 64)
    mask = random_mask(2, 40, 40, 8, 8, 0, 0.6, True)
    room = prefill(q, k[:, :40], v[:, :40], mask, backend="gather")
    packed = prefill(q, k[:, :40].contiguous(), v[:, :40].contiguous(), mask, backend="gather")
    by_token = [x[:, :40].transpose(0, 1).contiguous().transpose(0, 1) for x in (k, v)]
    assert torch.equal(room[0], packed[0])
    assert torch.equal(prefill(q, *by_token, mask, backend="gather")[0], packed[0])


@torch.inference_mode()
def test_entries_outside_the_mask_are_never_read():
    q, k, v = random_qkv(48, 64)
    mask = random_mask(2, 48, 64, 16, 16, 16, 0.4, True, seed=3)
    unread = ~mask.dense().any(1)
    tile_read = (mask.tiles & mask.causal_tiles()).any(1).repeat_interleave(16, 1)
    poison = unread & ~tile_read
    assert poison.any()
    k, v = (x.masked_fill(poison.unsqueeze(-1), torch.nan) for x in (k, v))
    for backend in ("reference", "gather"):
        out, lse = prefill(q, k, v, mask, backend=backend)
        assert not out.isnan().any() and not lse.isnan().any()


@torch.inference_mode()
def test_full_mask_is_dense_and_chunks_equal_one_pass():
    q, k, v = random_qkv(50, 50)
    full = patterns.from_full(2, 50, 50, query_tile=16, key_tile=16)
    out, lse = prefill(q, k, v, full)
    dense = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True, enable_gqa=True
    )[0]
    torch.testing.assert_close(out, dense, atol=1e-5, rtol=1e-5)
    for start, stop in ((0, 17), (17, 18), (18, 50)):
        part = patterns.from_full(2, stop - start, stop, query_tile=16, key_tile=16)
        chunk, chunk_lse = prefill(q[:, start:stop], k[:, :stop], v[:, :stop], part)
        torch.testing.assert_close(chunk, out[:, start:stop], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(chunk_lse, lse[:, start:stop], atol=1e-5, rtol=1e-5)


def test_alike_units_share_a_call():
    """A mask of equal budgets per row runs in few batched calls, one per number of gathered keys."""
    scores = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = patterns.from_blocks(scores, 4, 512, 512, query_tile=16, key_tile=16)
    calls = list(plan(mask))
    assert len(calls) == 4
    assert sum(len(units.heads) for units in calls) == 96
    assert sum(units.entries.numel() for units in calls) == int(mask.entries_read().sum())


def test_reference_is_differentiable():
    q, k, v = (x.double().requires_grad_() for x in random_qkv(9, 12, dim=4, heads=2, kv_heads=1))
    mask = random_mask(1, 9, 12, 4, 4, 3, 0.6, True, seed=2)
    expected = naive_attention(q, k, v, scale=0.5, mask=mask.for_heads(2).dense())[0]
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    out = prefill(q, k, v, mask, scale=0.5, backend="reference")[0]
    for a, b in zip(torch.autograd.grad((out * weight).sum(), (q, k, v)), wanted):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_softcap_only_where_it_is_known():
    q, k, v = random_qkv(20, 20)
    mask = patterns.from_full(2, 20, 20, query_tile=8, key_tile=8)
    assert_equals_dense_mask(prefill(q, k, v, mask, softcap=2.0), q, k, v, mask, softcap=2.0)
    with pytest.raises(BadInput, match="softcap"):
        prefill(q, k, v, mask, softcap=2.0, backend="gather")


def test_bad_input_is_one_sentence():
    q, k, v = random_qkv(20, 20)
    mask = patterns.from_full(2, 20, 20, query_tile=8, key_tile=8)
    with pytest.raises(BadInput, match="did you mean gather"):
        prefill(q, k, v, mask, backend="gathr")
    with pytest.raises(BadInput, match="20 queries"):
        prefill(q[:, :10], k, v, mask)
    with pytest.raises(BadInput, match="4 heads"):
        prefill(q, k, v, mask.for_heads(4))


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("columns", [False, True])
def test_flex_equals_the_dense_mask(columns):
    """Compiles C++ (about 10 s): needs a compiler."""
    for queries, keys, heads in ((96, 96, 2), (50, 90, 6)):
        q, k, v = random_qkv(queries, keys, dim=16)
        mask = random_mask(heads, queries, keys, 32, 32, keys - queries, 0.5, columns)
        out, lse = prefill(q, k, v, mask, backend="flex")
        assert lse is None
        assert_equals_dense_mask((out, None), q, k, v, mask)
