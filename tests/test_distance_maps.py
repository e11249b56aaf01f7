"""Distance maps: passes merged by log-sum-exp equal the softmax over the full matrix of mapped distances."""

import pytest
import torch

from longspan.ops import distance_maps as maps
from longspan.ops.distance_attention import attend_in_passes, distance_attention_reference
from longspan.ops.frequency_maps import Frequencies, Rope, default, yarn
from longspan.ops.score_biases import alibi_bias, alibi_slopes, frame_ids, temporal_decay_bias

S, HQ, HK, D = 100, 4, 2, 16
ROPE = Rope(dim=D, base=1e3, window=64)
SCALES = [2, 1, 8, 4]


@pytest.fixture
def qkv():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(HQ, S, D, generator=generator),
        torch.randn(HK, S, D, generator=generator),
        torch.randn(HK, S, D, generator=generator),
    )


def _grid():
    positions = torch.arange(S)
    return positions.unsqueeze(1), positions.unsqueeze(0)


def _where_near(window, far):
    m, n = _grid()
    return torch.where(m - n < window, (m - n).double(), far.double())


def _closed_forms():
    """D' and visibility written from the papers' formulas, not from the passes."""
    m, n = _grid()
    distance, causal = m - n, m >= n
    groups = maps.group_sizes(SCALES, D // 2)
    dpe = torch.where(
        (distance < 16).unsqueeze(-1),
        distance.unsqueeze(-1),
        m.unsqueeze(-1) // groups - n.unsqueeze(-1) // groups + 16 - 16 // groups,
    )
    period = 24 - 6
    behind = m // period - n // period
    dca = torch.where(
        behind == 0,
        distance,
        torch.where(behind == 1, (m % period + period).clamp(max=24) - n % period, 24 - n % period),
    )
    seen = causal & ((distance < 16) | (n < 4))
    return {
        "plain": (maps.plain(), distance, causal),
        "rerope": (maps.rerope(16), distance.clamp(max=16), causal),
        "leaky": (maps.leaky_rerope(16, 8), _where_near(16, 16 + (distance - 16) / 8), causal),
        "self_extend": (maps.self_extend(16, 4), _where_near(16, m // 4 - n // 4 + 16 - 4), causal),
        "dpe": (maps.dimension_groups(16, groups), dpe, causal),
        "dual_chunk": (maps.dual_chunk(24, 6), dca, causal),
        "limited": (maps.limited(16, 4, 50), torch.where(distance < 16, distance, 50), seen),
    }


@pytest.mark.parametrize("name", list(_closed_forms()))
def test_passes_equal_the_full_score_matrix(name, qkv):
    passes, distance, visible = _closed_forms()[name]
    positions = torch.arange(S)
    for frequencies in (default(ROPE), yarn(ROPE, 4)):
        out, _ = attend_in_passes(*qkv, positions, positions, passes, frequencies, scale=D**-0.5)
        expected = distance_attention_reference(*qkv, distance, visible, frequencies, scale=D**-0.5)
        assert (out - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", list(_closed_forms()))
def test_effective_distance_agrees_and_is_never_negative(name):
    passes, distance, visible = _closed_forms()[name]
    found, seen = maps.effective_distance(passes, *_grid())
    assert torch.equal(seen, visible)
    assert torch.equal(found[seen].double(), distance[visible].double())
    assert (found[seen] >= 0).all()


@pytest.mark.parametrize("name", list(_closed_forms()))
def test_one_row_at_a_time_equals_one_shot(name, qkv):
    passes, _, _ = _closed_forms()[name]
    q, k, v = qkv
    positions = torch.arange(S)
    frequencies = default(ROPE)
    whole, lse = attend_in_passes(q, k, v, positions, positions, passes, frequencies, scale=0.25)
    for row in (0, 15, 16, 17, 18, 35, 36, 54, 99):
        seen = slice(0, row + 1)
        out, row_lse = attend_in_passes(
            q[:, row : row + 1],
            k[:, seen],
            v[:, seen],
            positions[row : row + 1],
            positions[seen],
            passes,
            frequencies,
            scale=0.25,
        )
        assert (out[:, 0] - whole[:, row]).abs().max() < 1e-5
        assert (row_lse[:, 0] - lse[:, row]).abs().max() < 1e-5


@pytest.mark.parametrize(
    "passes",
    [
        maps.self_extend(16, 1),
        maps.self_extend(S, 4),
        maps.leaky_rerope(16, 1),
        maps.rerope(S),
        maps.dimension_groups(16, torch.ones(D // 2)),
        maps.dual_chunk(2 * S, 16),
        maps.limited(S, 0, S),
    ],
)
def test_the_neutral_setting_is_plain_attention(passes, qkv):
    positions = torch.arange(S)
    frequencies = default(ROPE)
    out, _ = attend_in_passes(*qkv, positions, positions, passes, frequencies, scale=0.25)
    plain, _ = attend_in_passes(*qkv, positions, positions, maps.plain(), frequencies, scale=0.25)
    assert (out - plain).abs().max() < 1e-5


def test_equal_groups_are_self_extend(qkv):
    positions = torch.arange(S)
    frequencies = default(ROPE)
    dpe = maps.dimension_groups(16, torch.full((D // 2,), 4))
    results = [
        attend_in_passes(*qkv, positions, positions, p, frequencies, scale=0.25)[0]
        for p in (dpe, maps.self_extend(16, 4))
    ]
    assert (results[0] - results[1]).abs().max() < 1e-5


def test_selected_pairs_of_each_head(qkv):
    """DPE's per-head choice: turned pairs take the grouped distance, the others the true one."""
    turned = torch.rand(HQ, D // 2, generator=torch.Generator().manual_seed(1)) < 0.5
    groups = torch.full((D // 2,), 4)
    m, n = _grid()
    grouped = _where_near(16, m // 4 - n // 4 + 16 - 4).unsqueeze(-1)
    distance = torch.where(turned.view(HQ, 1, 1, -1), grouped, (m - n).unsqueeze(-1).double())
    positions = torch.arange(S)
    frequencies = default(ROPE)
    out, _ = attend_in_passes(
        *qkv, positions, positions, maps.dimension_groups(16, groups, turned), frequencies, scale=0.25
    )
    expected = distance_attention_reference(*qkv, distance, m >= n, frequencies, scale=0.25)
    assert (out - expected).abs().max() < 1e-5
    everything = torch.ones(HQ, D // 2, dtype=torch.bool)
    same = [
        attend_in_passes(
            *qkv, positions, positions, maps.dimension_groups(16, groups, t), frequencies, scale=0.25
        )[0]
        for t in (everything, None)
    ]
    assert (same[0] - same[1]).abs().max() < 1e-5


def test_a_thinned_cache_keeps_true_positions(qkv):
    """Heads that keep different entries give n of (Hk, T); equal to masking the dropped keys."""
    q, k, v = qkv
    generator = torch.Generator().manual_seed(2)
    kept = torch.stack([torch.randperm(S - 1, generator=generator)[:40].sort().values for _ in range(HK)])
    index = kept.unsqueeze(-1).expand(-1, -1, D)
    m = torch.tensor([S - 1])
    frequencies = default(ROPE)
    for passes in (maps.self_extend(16, 4), maps.dual_chunk(24, 6)):
        out, _ = attend_in_passes(
            q[:, -1:], k.gather(1, index), v.gather(1, index), m, kept, passes, frequencies, scale=0.25
        )
        for head in range(HK):
            rows = slice(head * HQ // HK, (head + 1) * HQ // HK)
            n = kept[head]
            single, _ = attend_in_passes(
                q[rows, -1:],
                k[head : head + 1, n],
                v[head : head + 1, n],
                m,
                n,
                passes,
                frequencies,
                scale=0.25,
            )
            assert (out[rows] - single).abs().max() < 1e-5


def test_limited_branches_meet_at_the_limit():
    """A first token exactly `limit` away gets the same logit from both branches."""
    passes = maps.limited(16, 4, 16)
    near, far = passes
    m, n = torch.tensor([18]), torch.tensor([2])
    assert (near.query(m) - near.key(n)).item() == (far.query(m) - far.key(n)).item() == 16


def test_attention_factor_enters_squared(qkv):
    positions = torch.arange(S)
    f = ROPE.frequencies
    scaled, _ = attend_in_passes(
        *qkv, positions, positions, maps.self_extend(16, 4), Frequencies(f, 1.2), scale=0.25
    )
    by_hand, _ = attend_in_passes(
        *qkv, positions, positions, maps.self_extend(16, 4), Frequencies(f), scale=0.25 * 1.44
    )
    assert (scaled - by_hand).abs().max() < 1e-5


def test_score_biases():
    m = n = torch.arange(10)
    slopes = alibi_slopes(8)
    assert slopes.tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6).tolist() == pytest.approx([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    bias = alibi_bias(m, n, slopes)
    assert bias.shape == (8, 10, 10) and bias[0, 9, 4] == -2.5
    assert alibi_bias(m, n, slopes, furthest=3)[0, 9].min() == -1.5
    frames = frame_ids(m, 4)
    decay = temporal_decay_bias(frames, frames, 0.5)
    assert decay[9].tolist() == [-1.0] * 4 + [-0.5] * 4 + [0.0] * 2
    assert torch.equal(decay, temporal_decay_bias(frames + 7, frames + 7, 0.5))
    assert torch.equal(temporal_decay_bias(frames, frames, 0.0), torch.zeros(10, 10))


def test_biased_passes_match_plain_attention_with_the_same_bias(qkv):
    positions = torch.arange(S)
    frames = frame_ids(positions, 8)
    bias = temporal_decay_bias(frames, frames, 0.1).expand(HQ, S, S)
    frequencies = default(ROPE)
    split = maps.self_extend(16, 1)
    out, _ = attend_in_passes(*qkv, positions, positions, split, frequencies, scale=0.25, bias=bias)
    plain, _ = attend_in_passes(*qkv, positions, positions, maps.plain(), frequencies, scale=0.25, bias=bias)
    assert (out - plain).abs().max() < 1e-5
