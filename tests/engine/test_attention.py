"""Dense attention with log-sum-exp: the fast paths against the formula, exact merging, sinks, column mass."""

import pytest
import torch

from longspan.ops.attention import apply_sink, attend, attend_plain, attend_ragged_row, merge
from longspan.ops.attention_mass import attend_with_mass, column_mass

SCALE = 0.25


def tensors(rows, keys, heads=6, kv=2, dim=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, t, dim, generator=g) for n, t in ((heads, rows), (kv, keys), (kv, keys)))


def close(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows,keys", [(1, 1), (1, 37), (5, 37), (37, 37)])
def test_unmasked_and_causal_equal_the_formula(rows, keys):
    q, k, v = tensors(rows, keys)
    close(attend(q, k, v, scale=SCALE), attend_plain(q, k, v, scale=SCALE))
    if rows == keys:
        close(attend(q, k, v, scale=SCALE, causal=True), attend_plain(q, k, v, scale=SCALE, causal=True))


@pytest.mark.parametrize("shape", [(5, 37), (2, 5, 37), (6, 5, 37)])
def test_masks_of_every_shape_and_blind_rows(shape):
    q, k, v = tensors(5, 37)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.5
    mask[..., 2, :] = False
    out, lse = attend(q, k, v, scale=SCALE, mask=mask)
    close((out, lse), attend_plain(q, k, v, scale=SCALE, mask=mask))
    assert (out[:, 2] == 0).all() and (lse[:, 2] == float("-inf")).all()


def test_bias_per_entry_and_soft_cap():
    q, k, v = tensors(5, 37)
    bias = torch.randn(2, 37, generator=torch.Generator().manual_seed(2))
    close(attend(q, k, v, scale=SCALE, bias=bias), attend_plain(q, k, v, scale=SCALE, bias=bias))
    scores = (q.view(2, 3, 5, 16) @ k.transpose(1, 2).unsqueeze(1)) * SCALE + bias[:, None, None]
    expected = (scores.softmax(-1) @ v.unsqueeze(1)).view(6, 5, 16)
    torch.testing.assert_close(attend(q, k, v, scale=SCALE, bias=bias)[0], expected, atol=1e-5, rtol=1e-4)
    capped = 2.0 * torch.tanh((q.view(2, 3, 5, 16) @ k.transpose(1, 2).unsqueeze(1)) * SCALE / 2.0)
    expected = (capped.softmax(-1) @ v.unsqueeze(1)).view(6, 5, 16)
    torch.testing.assert_close(attend(q, k, v, scale=SCALE, softcap=2.0)[0], expected, atol=1e-5, rtol=1e-4)


def test_merging_parts_is_exact_also_with_an_empty_part():
    q, k, v = tensors(5, 37)
    parts = [attend(q, k[:, a:b], v[:, a:b], scale=SCALE) for a, b in ((0, 9), (9, 9), (9, 37))]
    close(merge(parts), attend(q, k, v, scale=SCALE))
    nothing = merge([parts[1], parts[1]])
    assert (nothing[0] == 0).all() and (nothing[1] == float("-inf")).all()


def test_a_sink_takes_probability_and_gives_no_value():
    q, k, v = tensors(3, 10)
    sink = torch.randn(6, generator=torch.Generator().manual_seed(3))
    scores = (q.view(2, 3, 3, 16) @ k.transpose(1, 2).unsqueeze(1)).view(6, 3, 10) * SCALE
    weights = torch.cat((scores, sink.view(6, 1, 1).expand(-1, 3, 1)), -1).softmax(-1)[..., :-1]
    expected = (weights.view(2, 3, 3, 10) @ v.unsqueeze(1)).view(6, 3, 16)
    out, _ = apply_sink(*attend(q, k, v, scale=SCALE), sink)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_column_mass_equals_the_sum_of_eager_rows():
    q, k, v = tensors(40, 50)
    offset = 10
    scores = (q.view(2, 3, 40, 16) @ k.transpose(1, 2).unsqueeze(1)).view(6, 40, 50) * SCALE
    hidden = torch.arange(50) > torch.arange(40).unsqueeze(1) + offset
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    _, lse = attend(q, k, v, scale=SCALE, mask=~hidden)
    mass = column_mass(q, k, lse, scale=SCALE, causal_offset=offset, block=16)
    torch.testing.assert_close(mass, weights.sum(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mass.sum(1), torch.full((6,), 40.0))


@pytest.mark.parametrize(("rows", "past"), [(2, 0), (31, 5), (70, 0), (64, 300)])
def test_attention_and_its_mass_in_one_pass_equal_two_passes(rows, past):
    q, k, v = tensors(rows, past + rows)
    visible = torch.arange(past + rows) <= torch.arange(rows).unsqueeze(1) + past
    expected, expected_lse = attend(q, k, v, scale=SCALE, mask=visible)
    out, lse, mass = attend_with_mass(q, k, v, scale=SCALE)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lse, expected_lse, atol=1e-5, rtol=1e-5)
    twice = column_mass(q, k, expected_lse, scale=SCALE, causal_offset=past)
    torch.testing.assert_close(mass, twice, atol=1e-4, rtol=1e-4)


def test_one_pass_gives_finite_sums_where_a_key_takes_everything():
    q, k, v = tensors(40, 40)
    out, lse, mass = attend_with_mass(q * 100, k, v, scale=SCALE)
    assert torch.isfinite(out).all() and torch.isfinite(lse).all()
    torch.testing.assert_close(mass.sum(1), torch.full((6,), 40.0))


@pytest.mark.parametrize("rows", [1, 127, 128, 300])
def test_column_mass_over_several_squares_equals_the_plain_formula(rows):
    q, k, v = tensors(rows, rows + 20)
    visible = torch.arange(rows + 20) <= torch.arange(rows).unsqueeze(1) + 20
    _, lse = attend(q, k, v, scale=SCALE, mask=visible)
    plain = column_mass(q, k, lse, scale=SCALE, causal_offset=20, bias=torch.zeros(2, rows + 20))
    fused = column_mass(q, k, lse, scale=SCALE, causal_offset=20)
    torch.testing.assert_close(fused, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(30, 7, 63), (5, 0, 3), (1, 1, 1)])
@pytest.mark.parametrize("biased", [False, True])
def test_one_row_over_ragged_heads_equals_each_head_alone(lengths, biased):
    generator = torch.Generator().manual_seed(5)
    total = sum(lengths)
    q, k, v = (torch.randn(*shape, generator=generator) for shape in ((6, 1, 16), (total, 16), (total, 16)))
    bias = torch.randn(total, generator=generator) if biased else None
    threads, start, parts = torch.get_num_threads(), 0, []
    for head, length in enumerate(lengths):
        span = slice(start, start + length)
        one = None if bias is None else bias[span].unsqueeze(0)
        parts.append(
            attend_plain(
                q[2 * head : 2 * head + 2], k[span].unsqueeze(0), v[span].unsqueeze(0), scale=SCALE, bias=one
            )
            if length
            else attend(q[2 * head : 2 * head + 2], k[span].unsqueeze(0), v[span].unsqueeze(0), scale=SCALE)
        )
        start += length
    expected = (torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts]))
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for softcap in (None, 1e6):
                close(attend_ragged_row(q, k, v, lengths, scale=SCALE, bias=bias, softcap=softcap), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("keys", [4096, 4099])
def test_one_row_over_many_keys_equals_the_formula_however_many_cores(keys):
    q, k, v = tensors(1, keys, heads=9, kv=3)
    threads = torch.get_num_threads()
    expected = attend_plain(q, k, v, scale=SCALE)
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            close(attend(q, k, v, scale=SCALE), expected)
    finally:
        torch.set_num_threads(threads)
