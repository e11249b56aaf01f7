"""DuoAttention: who keeps what, streaming, the gates' training, the artefact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.models import IDS, MORE, eager_score, engine_model

from longspan.engine.batch import Work, forward
from longspan.engine.gradients import dense, last_hidden
from longspan.errors import BadInput
from longspan.methods.cache.duoattention import head_counts, window_of
from longspan.methods.cache.duoattention_gates import (
    Plan,
    attention_reach,
    distance,
    sample,
    streaming_mask,
    train_gates,
)


def lengths(session) -> list[int]:
    return [n for layer in session.growing_layers() for n in session.layers[layer].store.lengths]


def read(recipe, folder, chunk=32):
    return engine_model().session(f"duoattention({recipe}, folder='{folder}')", chunk=chunk).read(IDS)


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 400), st.floats(0, 1))
def test_counts_are_the_total_exactly(heads, window, more, share):
    length = window + more
    total = heads * window + round(share * heads * more)
    counts, (whole, rest) = head_counts(heads, total, length, window)
    assert sum(counts) == total and len(counts) == heads
    assert counts == sorted(counts, reverse=True) and set(counts) <= {length, window + rest, window}
    again, split = head_counts(heads, total + heads, length + 1, window, (whole, rest))
    assert split[0] <= whole and sum(again) <= total + heads and min(again) >= window


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=5), st.integers(0, 6))
def test_a_window_is_sinks_and_newest(heads, sink):
    held = torch.tensor([max(pair) for pair in heads])
    wanted = torch.tensor([min(pair) for pair in heads])
    for row, (has, keeps) in enumerate(zip(held.tolist(), wanted.tolist(), strict=True)):
        first = min(sink, keeps)
        expected = [*range(first), *range(has - (keeps - first), has)]
        assert window_of(held, wanted, sink)[row].nonzero().flatten().tolist() == expected


def test_retrieval_heads_keep_all_and_streaming_heads_their_window(folder):
    session = read("budget=0.5, sink=3, recent=9", folder)
    counts, _ = head_counts(6, 48 * 6, 96, 12)
    assert lengths(session) == counts == [96, 96, 60, 12, 12, 12]
    last = session.layers[2].store.padded()
    assert last.positions[1, :12].tolist() == [0, 1, 2, *range(87, 96)]


def test_the_score_without_training_ranks_otherwise(folder):
    assert lengths(read("budget=0.5, sink=3, recent=9, by=reach", folder)) == [12, 12, 12, 60, 96, 96]


def test_a_text_within_the_window_is_read_in_full(folder):
    method = f"duoattention(budget=80, sink=16, recent=64, when=chunk, folder='{folder}')"
    session = engine_model().session(method, chunk=7).read(IDS[:80])
    plain = engine_model().session(chunk=7).read(IDS[:80])
    torch.testing.assert_close(session.score(MORE), plain.score(MORE), atol=1e-4, rtol=1e-3)
    assert lengths(session) == [80] * 6


def test_a_budget_below_the_window_is_refused(folder):
    with pytest.raises(BadInput, match="48 entries a head, below the 80"):
        read("budget=0.5", folder)


def test_streaming_heads_stay_small_while_reading_and_writing(folder):
    lm, chunk = engine_model(), 8
    session = lm.session(
        f"duoattention(budget=0.4, sink=2, recent=6, when=chunk, every=4, folder='{folder}')", chunk=chunk
    )
    session.feed(IDS)
    final = lengths(session)
    session.finish_read()
    assert lengths(session) == final and sum(final) == round(0.4 * 96) * 6
    assert session.stats.peak_entries <= sum(final) + 6 * chunk
    before = session.fork()
    for token in MORE:
        forward(lm, [Work(session, token.view(1))])
    full, streaming = final.count(96), final.count(8)
    assert full == 2 and streaming == 3
    assert lengths(session)[0] == 106 and max(lengths(session)[-streaming:]) <= 8 + 4
    assert lengths(before) == final


def test_reading_in_chunks_shows_streaming_heads_their_window_and_the_chunk(folder):
    one = read("budget=0.4, sink=2, recent=6, when=chunk", folder, chunk=96)
    two = read("budget=0.4, sink=2, recent=6, when=chunk", folder, chunk=8)
    assert lengths(one) == lengths(two)
    assert not torch.allclose(one.score(MORE), two.score(MORE), atol=1e-4)
    whole = read("budget=1.0, when=chunk, sink=2, recent=6", folder, chunk=8)
    torch.testing.assert_close(whole.score(MORE), eager_score(), atol=3e-4, rtol=1e-3)


def test_a_head_that_was_cut_is_never_whole_again(folder):
    session = engine_model().session(
        f"duoattention(budget=0.4, sink=2, recent=6, folder='{folder}')", chunk=32
    )
    session.read(IDS)
    full = lengths(session).count(96)
    session.read(torch.cat((IDS, IDS, IDS)))
    assert lengths(session).count(384) == full
    assert sum(lengths(session)) <= round(0.4 * 384) * 6


def test_a_streaming_mask_is_what_it_says():
    found = streaming_mask(12, 2, 4, torch.zeros(1))
    for i in range(12):
        for j in range(12):
            assert bool(found[i, j]) == (j <= i and (j < 2 or i - j < 4))


def test_open_gates_change_nothing_and_closed_ones_do(reader):
    ids, first = sample(reader, Plan(shortest=60, longest=60, passkeys=2, words=2), 0)
    shape = (3, 2)
    with torch.no_grad():
        assert float(distance(reader, torch.ones(shape), ids, first, 4, 8)) == 0.0
        assert float(distance(reader, torch.zeros(shape), ids, first, 4, len(ids))) < 1e-9
        assert float(distance(reader, torch.zeros(shape), ids, first, 4, 8)) > 1e-4


def test_the_mixed_pass_is_the_paper_s_formula(reader):
    """Against the mix written out with repeated heads and plain softmax."""
    ids, gates, full = IDS[:40], torch.rand(3, 2, generator=torch.Generator().manual_seed(3)), {}
    mask = streaming_mask(40, 3, 7, torch.zeros(1))

    def plain(call, q, k, v, visible):
        k, v = k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)
        scores = (q @ k.transpose(1, 2) * call.scale).masked_fill(~visible, float("-inf"))
        return scores.softmax(-1) @ v

    def record(call, q, k, v):
        full[call.layer] = plain(call, q, k, v, torch.ones(40, 40).tril().bool())
        return full[call.layer]

    def mix(call, q, k, v):
        gate = gates[call.layer].repeat_interleave(2).view(-1, 1, 1)
        return (1 - gate) * plain(call, q, k, v, mask) + gate * full[call.layer]

    with torch.no_grad():
        wanted, found = last_hidden(reader, ids, record), last_hidden(reader, ids, mix)
        torch.testing.assert_close(last_hidden(reader, ids, dense), wanted, atol=1e-4, rtol=1e-4)
        by_hand = (found[25:] - wanted[25:]).square().mean()
        torch.testing.assert_close(distance(reader, gates, ids, 25, 3, 7), by_hand, atol=1e-5, rtol=1e-3)


def test_training_moves_the_gates_only_and_can_be_interrupted(reader, tmp_path):
    plan = Plan(steps=6, shortest=50, longest=70, passkeys=2, words=2, sink=2, recent=6, rate=0.02)
    once = train_gates(reader, plan, tmp_path / "once")
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_gates(reader, plan, tmp_path / "twice", stop)
    assert train_gates(reader, plan, tmp_path / "twice") == once and seen == [(1, 6), (2, 6), (3, 6)]
    gates = torch.tensor(once["gates"])
    assert gates.shape == (3, 2) and bool(((gates >= 0) & (gates <= 1)).all()) and float(gates.min()) < 1.0
    assert 0.0 < float(torch.tensor(once["mean_gates"]).max()) < 1.0
    assert all(parameter.grad is None for parameter in reader.hf.parameters())


def test_reach_is_high_for_a_head_that_looks_back(reader):
    reach = attention_reach(reader, texts=2, tokens=40, positions=50)
    assert reach.shape == (3, 2) and bool((reach > 0).all()) and bool((reach <= 1).all())


def test_a_missing_or_foreign_artefact_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="longspan calibrate duoattention"):
        engine_model().session("duoattention")
    other = engine_model("qwen2")
    name, other.name = other.name, engine_model().name
    held, other.model_hash = other.model_hash, "something else"
    try:
        with pytest.raises(BadInput, match="other weights"):
            other.session(f"duoattention(folder='{folder}')")
    finally:
        other.name, other.model_hash = name, held


@pytest.mark.parametrize("knobs", ["by=luck", "allocator=adaptive", "recent=0", "steps=0"])
def test_bad_knobs_are_refused(knobs):
    with pytest.raises(BadInput):
        engine_model().session(f"duoattention({knobs})")


def test_a_saved_session_goes_on_as_before(folder, tmp_path):
    lm = engine_model()
    session = lm.session(
        f"duoattention(budget=0.4, sink=2, recent=6, when=chunk, every=4, folder='{folder}')", chunk=16
    ).read(IDS)
    session.save(tmp_path / "session")
    again = lm.load_session(tmp_path / "session")
    for one in (session, again):
        one.read(torch.cat((MORE, IDS[:30])))
    assert torch.equal(session.score(MORE), again.score(MORE))
