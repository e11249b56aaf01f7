"""Exact properties of the baseline cache policies, on tiny random models. What every policy shares is in test_stage_properties.py."""

from types import SimpleNamespace

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model
from tests.tiny_models import tiny

from longspan.engine.batch import Work, forward
from longspan.engine.method import allocate
from longspan.engine.moments import QueryMoments
from longspan.engine.needs import Needs
from longspan.engine.quantised import QuantisedSegment
from longspan.engine.recipe import parse
from longspan.engine.segments import POSITION
from longspan.engine.thinned import ThinnedSegment
from longspan.errors import BadInput
from longspan.methods.cache.cam import CaM
from longspan.methods.cache.expected_attention import ExpectedAttention
from longspan.methods.cache.h2o import H2O
from longspan.methods.cache.keydiff import KeyDiff
from longspan.methods.cache.knorm import Knorm
from longspan.methods.cache.kvzip import KVzip, reconstruction_scores
from longspan.methods.cache.observed_attention import ObservedAttention
from longspan.methods.cache.think import ThinK
from longspan.ops.quantise import coded_bytes

ALL = Needs(window_queries=96, column_mass=True, decode_mass=True, query_moments=True)
ASKED = tuple(range(40, 46))


def read(recipe: str, chunk: int = 32, ids=IDS, arch: str = "llama"):
    return engine_model(arch).session(recipe, chunk=chunk).read(ids)


def window_read_with_sums():
    """The sums of attention are taken in the attention call, which rounds otherwise."""
    model = engine_model("llama")
    return model.session("window(budget=0.5)", collect=Needs(column_mass=True), chunk=32).read(IDS)


def dense(arch: str = "llama", chunk: int = 32):
    return engine_model(arch).session(None, collect=ALL, chunk=chunk).feed(IDS)


def step(session, tokens):
    for token in tokens:
        forward(session.model, [Work(session, token.view(1))])
    return session


def kept(session):
    found = []
    for layer in session.growing_layers():
        padded = session.layers[layer].store.padded()
        for head, row in enumerate(padded.positions):
            found.append(row.tolist() if padded.valid is None else row[padded.valid[head]].tolist())
    return found


def eager_attention(arch: str = "llama", ids=IDS):
    """Attention of the unmodified model, one (Hq, T, T) tensor a layer."""
    with torch.no_grad():
        out = tiny(arch)(input_ids=ids.unsqueeze(0), use_cache=False, output_attentions=True)
    return [attention[0].float() for attention in out.attentions]


# -- key-only scores -----------------------------------------------------------------------------------------------------
def test_keydiff_sees_directions_only_and_breaks_ties_by_position():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 20, 8, generator=generator)
    score = KeyDiff().score(SimpleNamespace(keys=keys, valid=None))
    longer = keys * (0.1 + torch.rand(2, 20, 1, generator=generator))
    assert torch.allclose(KeyDiff().score(SimpleNamespace(keys=longer, valid=None)), score, atol=1e-5)
    order = torch.randperm(20, generator=generator)
    assert torch.allclose(
        KeyDiff().score(SimpleNamespace(keys=keys[:, order], valid=None)), score[:, order], atol=1e-5
    )
    equal = KeyDiff().score(SimpleNamespace(keys=torch.ones(1, 6, 8), valid=None))
    assert allocate(equal, None, 3, "uniform", 0.0).tolist() == [[True, True, True, False, False, False]]


def test_keydiff_ignores_padding_of_shorter_heads():
    keys = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(1))
    padded = torch.cat((keys, torch.zeros(1, 3, 8)), 1)
    valid = torch.arange(12).unsqueeze(0) < 9
    alone = KeyDiff().score(SimpleNamespace(keys=keys, valid=None))
    assert torch.allclose(KeyDiff().score(SimpleNamespace(keys=padded, valid=valid))[:, :9], alone, atol=1e-6)


def test_keydiff_in_one_chunk_is_one_cut():
    assert kept(read("keydiff(budget=0.3, when=chunk)", 96)) == kept(read("keydiff(budget=0.3)", 96))


def test_knorm_does_not_depend_on_position_and_skips_layers():
    session = dense()
    view = session.view(1, Knorm())
    unrotated = Knorm().score(SimpleNamespace(keys=view.unrotated_keys))
    assert torch.allclose(unrotated, Knorm().score(view), atol=1e-5)
    skipped = read("knorm(budget=0.5, skip_layers=1)")
    assert [skipped.layers[i].store.longest for i in range(3)] == [96, 24, 24]
    with pytest.raises(BadInput, match="leaves nothing"):
        read("knorm(budget=0.3, skip_layers=1)")


# -- attention scores ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma2"])
def test_column_mass_is_that_of_eager_attention(arch):
    session = dense(arch)
    attention = eager_attention(arch)
    for layer in session.growing_layers():
        view = session.view(layer, H2O())
        heads = view.keys.shape[0]
        expected = attention[layer].sum(1).view(heads, -1, len(IDS)).transpose(1, 2)
        torch.testing.assert_close(view.column_mass, expected, atol=1e-4, rtol=1e-4)
        observed = attention[layer].sum(1).view(heads, -1, len(IDS)).mean(1) / torch.arange(len(IDS), 0, -1)
        torch.testing.assert_close(ObservedAttention().score(view), observed, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(
            ObservedAttention().score(view)[:, -1],
            attention[layer][:, -1, -1].view(heads, -1).mean(1),
            atol=1e-5,
            rtol=1e-4,
        )


def test_h2o_goes_on_adding_rows_while_decoding():
    session = engine_model().session("h2o(budget=1.0, when=steps)", chunk=32).read(IDS)
    step(session, MORE)
    attention = eager_attention(ids=torch.cat((IDS, MORE)))
    for layer in session.growing_layers():
        mass = session.view(layer, session.recipe.methods[0]).column_mass.sum(-1)
        torch.testing.assert_close(mass, attention[layer].sum(1).view(2, 2, -1).sum(1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            mass.sum(1), torch.full((2,), 2.0 * (len(IDS) + len(MORE))), rtol=1e-4, atol=1e-2
        )


def test_h2o_keeps_the_newest_half():
    for row in kept(read("h2o(budget=0.25)")):
        assert row[-12:] == list(range(84, 96)) and len(row) == 24


def test_tova_keeps_one_set_a_layer_and_drops_one_a_step():
    session = read("tova(budget=20, when=steps, every=1)")
    for token in MORE:
        rows = kept(step(session, token.view(1)))
        assert all(rows[i] == rows[i - i % 2] and len(rows[i]) == 20 for i in range(len(rows)))
        assert all(row[-1] == session.length - 1 for row in rows)


def test_snapkv_of_one_query_without_pooling_is_tova_per_head():
    base = dense().fork("snapkv(budget=0.3, window=1, pool=1)")
    view = base.view(0, base.recipe.methods[0])
    rows = eager_attention()[0][:, -1].view(2, 2, -1).mean(1)
    score = base.recipe.methods[0].score(view)
    torch.testing.assert_close(score[:, :-1], rows[:, :-1], atol=1e-5, rtol=1e-4)


# -- allocation ----------------------------------------------------------------------------------------------------------
def test_adakv_with_an_even_floor_is_its_base():
    assert kept(read("adakv(budget=0.3, floor=1.0, base=snapkv(window=8))")) == kept(
        read("snapkv(budget=0.3, window=8)")
    )


def test_adakv_keeps_what_its_base_protects():
    for head in kept(read("adakv(budget=0.2, floor=0.0, base=expected_attention)")):
        assert head[:4] == [0, 1, 2, 3]
    for head in kept(read("adakv(budget=0.2, floor=0.0, base=tova)")):
        assert head[-1] == len(IDS) - 1


@pytest.mark.parametrize("outer", ["adakv", "cam"])
def test_a_base_may_be_a_policy_that_looks_at_the_whole_session(outer):
    alone = "kvzip({}, allocator=adaptive, prompt='', prompt_next='')"
    session = read(
        f"{outer}(budget=0.3, sink=4, allocator=adaptive, floor=0.0, base={alone.format('budget=0.9')})"
    )
    assert kept(session) == kept(read(alone.format("budget=0.3")))
    assert "scores" not in session.view(0, session.recipe.methods[0]).state


@pytest.mark.parametrize("base", ["lacache", "sirllm", "kivi", "quest"])
def test_a_base_that_does_not_only_score_is_refused(base):
    with pytest.raises(BadInput, match=f"{base} .*; give one such as snapkv"):
        read(f"adakv(budget=0.3, base={base})")


@pytest.mark.parametrize(
    "recipe",
    [
        "adakv(budget=0.4, base=h2o(recent_share=0))",
        "knorm(budget=0.4, allocator=overall)",
        "adakv(budget=0.4, base=snapkv(window=8)) + think(channels=0.5, window=8, recent=4)",
    ],
)
def test_ragged_heads_are_attention_with_removed_entries_masked(recipe):
    """A ragged store against a dense one whose removed entries carry a bias of -inf (and zeroed channels)."""
    whole, session = dense(), dense().fork(recipe)
    session.finish_read()
    assert len({len(row) for row in kept(session)}) > 1
    for layer in whole.growing_layers():
        view, short = whole.view(layer, H2O()), session.layers[layer].store.padded()
        bias, keys = torch.full(view.positions.shape, float("-inf")), view.keys.clone()
        for head in range(2):
            count = session.layers[layer].store.lengths[head]
            at = short.positions[head, :count].long()
            bias[head, at], keys[head, at] = 0.0, short.k[head, :count]
        view.replace(keys, view.values, view.positions, bias)
    torch.testing.assert_close(session.score(MORE), whole.fork("full").score(MORE), atol=1e-4, rtol=1e-4)


def test_a_global_budget_is_exact_and_takes_the_best_anywhere():
    session = read("knorm(budget=0.25, allocator=overall)")
    assert session.growing_entries() == 24 * 2 * 3
    base = dense()
    scores = torch.cat([Knorm().score(base.view(i, Knorm())).flatten() for i in range(3)])
    best = set(scores.topk(144).indices.tolist())
    flat = {
        (layer * 2 + head) * 96 + p
        for layer in range(3)
        for head in range(2)
        for p in kept(session)[layer * 2 + head]
    }
    assert flat == best


def test_pyramid_budgets_fall_and_add_up():
    session = read("pyramidkv(budget=0.25, window=8, beta=8)")
    held = [session.layers[i].store.longest for i in range(3)]
    assert held == [38, 24, 10] and session.growing_entries() == 24 * 2 * 3
    inverted = read("pyramidkv(budget=0.25, window=8, beta=8, shape=inverted)")
    assert [inverted.layers[i].store.longest for i in range(3)] == held[::-1]
    same = "window=8, pool=7, pooling=max"
    assert kept(read("pyramidkv(budget=0.25, beta=1)")) == kept(read(f"snapkv(budget=0.25, {same})"))
    nearly_all = read("pyramidkv(budget=0.9, window=8)")
    assert (
        max(nearly_all.layers[i].store.longest for i in range(3)) <= 96
        and nearly_all.growing_entries() == 86 * 2 * 3
    )


# -- window --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["original", "cache", "capped"])
def test_a_stream_keeps_the_same_entries_at_any_chunk(mode):
    wanted = list(range(4)) + list(range(96 - 28, 96))
    for chunk in (1, 7, 32):
        session = read(f"window(budget=32, when=chunk, positions={mode}, limit=64)", chunk)
        assert all(row == wanted for row in kept(session))
        assert session.stats.peak_entries <= (32 + chunk) * 6


def test_positions_in_the_cache_agree_until_the_first_drop():
    short = IDS[:30]
    plain = read("full", ids=short).score(MORE[:2])
    for mode in ("original", "cache", "capped"):
        torch.testing.assert_close(
            read(f"window(budget=64, when=chunk, positions={mode})", ids=short).score(MORE[:2]),
            plain,
            atol=1e-4,
            rtol=1e-4,
        )
    dropped = [
        read(f"window(budget=32, when=chunk, positions={mode})").score(MORE) for mode in ("original", "cache")
    ]
    assert not torch.allclose(*dropped, atol=1e-3)


# -- precision and channels ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kivi_bytes_are_the_formula_and_decoding_codes_like_reading(bits):
    session = read(f"kivi(bits={bits}, group=8, residual=16)")
    for layer in session.growing_layers():
        (segment,) = (s for s in session.layers[layer].store.segments if isinstance(s, QuantisedSegment))
        held = sum(t.numel() * t.element_size() for name, t in segment.tensors().items() if name[0] in "kv")
        assert segment.lengths == (80, 80) and held == 2 * coded_bytes(2, 80, 16, bits, 8)
    early = step(read(f"kivi(bits={bits}, group=8, residual=16)", ids=IDS[:40]), IDS[40:48])
    late = read(f"kivi(bits={bits}, group=8, residual=16)", ids=IDS[:40])
    late.feed(IDS[40:48], reading=False)
    for layer in early.growing_layers():
        one, two = (s.layers[layer].store.segments[0] for s in (early, late))
        assert one.lengths == two.lengths == (32, 32)


def test_kivi_leaves_a_short_text_alone():
    torch.testing.assert_close(
        read("kivi(group=8, residual=128)").score(MORE), read("full").score(MORE), atol=0, rtol=0
    )


def test_think_stores_thin_and_reads_zeros():
    session, whole = read("think(channels=0.5, window=8, recent=16)"), dense()
    for layer in session.growing_layers():
        (segment,) = (s for s in session.layers[layer].store.segments if isinstance(s, ThinnedSegment))
        held = sum(t.numel() * t.element_size() for name, t in segment.tensors().items() if name[0] in "kv")
        assert held == 2 * 80 * (8 + 16) * 4
        view = whole.view(layer, H2O())
        mask = torch.zeros(2, 1, 16).scatter_(2, segment.channels.unsqueeze(1), 1.0)
        keys = torch.cat((view.keys[:, :80] * mask, view.keys[:, 80:]), 1)
        view.replace(keys, view.values, view.positions)
    torch.testing.assert_close(session.score(MORE), whole.fork("full").score(MORE), atol=1e-5, rtol=1e-5)


def test_think_thins_new_tokens_only_when_they_leave_the_tail():
    session = read("think(channels=0.5, window=8, recent=16)")
    store = session.layers[0].store
    assert store.longest_outside(ThinnedSegment) == 16
    first = store.segments[0].channels
    more = torch.randint(5, 90, (64,), generator=torch.Generator().manual_seed(3))
    step(session, more[:63])
    assert store.longest_outside(ThinnedSegment) == 79
    step(session, more[63:])
    assert store.longest_outside(ThinnedSegment) == 16 and torch.equal(store.segments[0].channels, first)
    assert len(store.segments) == 1 and store.longest == 160


def test_think_choice_ignores_the_size_of_queries_and_refuses_turning_keys():
    session = dense()
    view, method = session.view(1, ThinK(window=8)), ThinK(window=8)
    first = method.chosen(view)
    session.layers[1].window_queries = session.layers[1].window_queries * 3.0
    assert torch.equal(method.chosen(view), first)
    for other in ("window(positions=cache)", "dynamic_ntk", "kivi(keys=token)", "kivi(residual=64)"):
        with pytest.raises(BadInput, match="cannot be combined"):
            parse(f"think + {other}")


@pytest.mark.parametrize(
    "first",
    [
        "think(channels=0.6, window=8, recent=16)",
        "adakv(base=snapkv(window=8)) + think(channels=0.6, window=8, recent=8)",
    ],
)
def test_coding_thinned_keys_codes_only_what_is_left(first):
    thin, both = read(first), read(f"{first} + kivi(bits=8, group=8, residual=16)")
    numbers = 0
    for layer in both.growing_layers():
        (segment,) = (s for s in both.layers[layer].store.segments if isinstance(s, QuantisedSegment))
        assert segment.channels.shape == (2, 10)
        for part in segment.parts:
            assert part.k.packed.shape[2] == 10 and part.v.packed.shape[2] == 16
            numbers += part.k.packed.numel()
    assert numbers > 0
    torch.testing.assert_close(both.score(MORE), thin.score(MORE), atol=0.15, rtol=0.05)
    for _ in range(3):  # tokens that leave the tail are thinned, then coded
        step(both, MORE)
    for layer in both.growing_layers():
        assert all(
            part.channels is not None
            for s in both.layers[layer].store.segments
            if isinstance(s, QuantisedSegment)
            for part in s.parts
        )


# -- expected attention ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_query_moments_are_those_of_the_queries_at_any_chunk(arch):
    for chunk in (96, 13):
        session = dense(arch, chunk)
        for layer in session.growing_layers():
            view = session.view(layer, ExpectedAttention())
            queries = view.unrotated_window_queries()[:, 4:]
            moments = view.query_moments
            assert moments.count == len(IDS) - 4
            torch.testing.assert_close(moments.mean, queries.mean(1), atol=1e-4, rtol=1e-4)
            expected = torch.stack([torch.cov(head.T, correction=0) for head in queries])
            torch.testing.assert_close(moments.covariance, expected, atol=1e-3, rtol=1e-3)


def test_moments_join_like_one_set():
    q = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0)) * 5 + 100
    at = torch.arange(10, 60)
    one = QueryMoments.of(q, at)
    two = QueryMoments.of(q[:, :7], at[:7]).joined(QueryMoments.of(q[:, 7:], at[7:]))
    assert two.count == one.count and torch.allclose(two.mean, one.mean, atol=1e-4)
    assert torch.allclose(two.covariance, one.covariance, atol=1e-2)
    assert QueryMoments.of(q[:, :2], torch.arange(2)) is None


def test_expected_attention_is_the_mean_over_draws():
    """z is the log of the mean of exp(logit) over Gaussian queries at one future position; the covariance term is half its variance."""
    session = dense()
    method = ExpectedAttention(future=1, value_norm=False)
    view = session.view(0, method)
    keys = view.keys * 0.15  # logits small enough for draws to settle
    z = method.expected_logits(view, keys)
    moments, scale = view.query_moments, session.scale(0)
    root = torch.linalg.cholesky(moments.covariance + 1e-6 * torch.eye(16))
    draws = moments.mean.unsqueeze(1) + torch.randn(
        4, 40_000, 16, generator=torch.Generator().manual_seed(0)
    ) @ root.transpose(1, 2)
    turned = view.geometry.rope.rotate(draws, torch.full((draws.shape[1],), len(IDS)))
    logits = scale * turned.view(2, 2, -1, 16) @ keys.unsqueeze(1).transpose(2, 3)
    estimate = logits.exp().mean(2).log()
    small = (logits.var(2) < 1.5) & (logits.var(2) > 0.1)  # heavy tails need more draws
    assert int(small.sum()) > 20
    assert float((z - estimate)[small].abs().max()) < 0.1


def test_expected_attention_without_spread_needs_no_covariance():
    session = dense()
    run = session.layers[0]
    run.query_moments = QueryMoments(9, run.query_moments.mean, torch.zeros_like(run.query_moments.scatter))
    view = session.view(0, ExpectedAttention())
    on, off = (ExpectedAttention(covariance=c).score(view) for c in (True, False))
    assert torch.equal(on, off)


# -- policies that ask the model ------------------------------------------------------------------------------------------------
def test_kvzip_scores_leave_the_session_untouched():
    session = engine_model().session("kvzip(budget=0.25)", chunk=32).feed(IDS)
    before = session.score(MORE)
    method = KVzip(prompt="", prompt_next="", chunk=96)
    scores = reconstruction_scores(method, session)
    assert torch.equal(session.score(MORE), before) and session.length == 96
    assert all(float(s.min()) >= 0 and float(s.max()) <= 1 + 1e-6 for s in scores.values())
    one_block = engine_model().session(None, chunk=96).feed(IDS)
    for layer, score in reconstruction_scores(KVzip(prompt="", prompt_next="", chunk=500), one_block).items():
        torch.testing.assert_close(score, scores[layer], atol=1e-5, rtol=1e-4)


def test_kvzip_scores_are_the_largest_attention_of_the_repeat_pass():
    """Against the whole attention matrix of [context, context] by the unmodified model: with one chunk nothing is left out of the softmax."""
    session = engine_model().session(None, chunk=32).feed(IDS)
    scores = reconstruction_scores(KVzip(prompt="", prompt_next="", chunk=96), session)
    attention = eager_attention(ids=torch.cat((IDS, IDS)))
    for layer, score in scores.items():
        expected = attention[layer][:, 96:, :96].amax(1).view(2, 2, -1).amax(1)
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-3)


def test_finch_asks_after_every_chunk_and_forgets_the_question():
    session = engine_model().session(f"finch(budget=0.25, when=chunk, question={ASKED})", chunk=16).read(IDS)
    assert session.length == 96 and session.ids == IDS.tolist()
    assert session.stats.peak_entries <= (20 + 16) * 6
    assert session.growing_entries() == 24 * 6
    once = engine_model().session(f"finch(budget=0.25, question={ASKED})", chunk=96).read(IDS)
    chunked = engine_model().session(f"finch(budget=0.25, when=chunk, question={ASKED})", chunk=96).read(IDS)
    assert kept(once) == kept(chunked)
    other = engine_model().session(f"finch(budget=0.25, question={ASKED[::-1]})", chunk=96).read(IDS)
    assert kept(other) != kept(once)
    with pytest.raises(BadInput, match="question"):
        parse("finch(when=chunk)")


def test_finch_keeps_the_question_it_was_read_with():
    for mode in ("cache", "original"):
        for row in kept(read(f"finch(budget=0.25, window=6, positions={mode})")):
            assert row[-6:] == list(range(90, 96))


def test_finch_numbers_what_is_left_contiguously():
    """Kept keys behave as if the model had rotated them at positions 0, 1, ...: the engine's decode step against attention by hand."""
    session = read("finch(budget=0.25, window=6)")
    run, view = session.layers[0], session.view(0, session.recipe.methods[0])
    rope = run.geometry.rope
    fresh = rope.rotate(view.unrotated_keys, torch.arange(24))
    moved = rope.rotate(rope.unrotate(view.keys, view.positions), torch.arange(24))
    torch.testing.assert_close(fresh, moved, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(fresh, view.keys, atol=1e-3)


def test_quest_with_the_whole_budget_reads_a_page_that_is_not_full():
    ids = IDS[:94]
    torch.testing.assert_close(
        read("quest(page=4, budget=1.0, dense_layers=0)", ids=ids).score(MORE),
        read("full", ids=ids).score(MORE),
        atol=1e-4,
        rtol=1e-4,
    )


# -- merging -----------------------------------------------------------------------------------------------------------------
def merge(keep, mass, targets, values, expected=True, most=512):
    out = values.clone()
    CaM(targets=targets, expected=expected, most=most)._merge(
        out,
        torch.tensor(mass),
        torch.arange(len(keep), dtype=torch.float32),
        torch.tensor(keep),
        torch.Generator().manual_seed(0),
    )
    return out


def test_cam_moves_a_whole_value_to_the_next_kept_entry():
    values = torch.eye(5)
    out = merge([True, False, False, True, True], [1.0, 9.0, 9.0, 1.0, 1.0], 1, values)
    assert torch.equal(out[0], values[0]) and torch.equal(out[4], values[4])
    assert torch.equal(out[3], values[1] + values[2] + values[3])


def test_cam_shares_by_the_targets_there_are_and_conserves_the_sum():
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(50, 6, generator=generator)
    keep = (torch.rand(50, generator=generator) < 0.4).tolist()
    keep[-1] = True
    out = merge(keep, [0.1 if k else 1.0 for k in keep], 4, values)
    torch.testing.assert_close(out[torch.tensor(keep)].sum(0), values.sum(0), atol=1e-4, rtol=1e-4)
    slow = values.clone()  # the rule, one victim at a time
    kept_at = [i for i, k in enumerate(keep) if k]
    for i, k in enumerate(keep):
        if not k:
            targets = [j for j in kept_at if j > i][:4]
            for j in targets:
                slow[j] += values[i] / len(targets)
    torch.testing.assert_close(out[torch.tensor(keep)], slow[torch.tensor(keep)], atol=1e-4, rtol=1e-4)


def test_cam_without_attention_or_victims_is_its_base():
    values = torch.eye(4)
    assert torch.equal(merge([True, False, True, True], [1.0, 0.0, 1.0, 1.0], 2, values), values)
    assert torch.equal(merge([True, False, True, True], [1.0, 5.0, 1.0, 1.0], 2, values, most=0), values)
    plain = window_read_with_sums()
    merged = read("cam(budget=0.5, when=prefill, most=0)")
    torch.testing.assert_close(merged.score(MORE), plain.score(MORE), atol=0, rtol=0)


def test_cam_draws_are_seeded_and_keys_stay():
    one, two, other = (read(f"cam(budget=0.5, when=prefill, seed={seed})") for seed in (0, 0, 1))
    base = window_read_with_sums()
    stores = [[s.layers[i].store.padded() for i in range(3)] for s in (one, two, other, base)]
    assert all(torch.equal(a.v, b.v) for a, b in zip(stores[0], stores[1], strict=True))
    assert any(not torch.equal(a.v, b.v) for a, b in zip(stores[0], stores[2], strict=True))
    assert all(
        torch.equal(a.k, b.k) and torch.equal(a.side[POSITION], b.side[POSITION])
        for a, b in zip(stores[0], stores[3], strict=True)
    )


@pytest.mark.parametrize(
    "recipe",
    [
        "kvzip(when=chunk)",
        "cam(targets=0)",
        "cam(allocator=overall)",
        "pyramidkv(beta=0.5)",
        "think(channels=0)",
        "finch(positions=best)",
        "expected_attention(future=0)",
    ],
)
def test_wrong_knobs_are_refused(recipe):
    with pytest.raises(BadInput):
        parse(recipe)
