"""LaCache's ladder: exact sizes, which entries stay, and the closed form of one large compaction against many small ones."""

from itertools import pairwise

import pytest
import torch
from tests.engine.models import IDS, engine_model

from longspan.engine.recipe import parse
from longspan.errors import BadInput
from longspan.methods.cache.lacache import LaCache, ladder_plan


def kept(held, budget, layers, span, overlap=0, sink=4, cursor=None, **knobs):
    """Indices each layer keeps of `held` entries, and the cursor."""
    method = LaCache(span=span, overlap=overlap, **knobs)
    slots, stays = method.ladder(layers)
    plan, cursor = ladder_plan(
        held, budget, slots, stays, sink if cursor is None else cursor, sink, layers, method.whole
    )
    return [method._mask(plan, held, order, layers).nonzero().flatten() for order in range(layers)], cursor


def test_ladder_shapes_of_the_reference():
    assert LaCache(span=16).ladder(32) == (2, 1)
    assert LaCache(span=9, overlap=3).ladder(32) == (5, 2)
    assert LaCache(span=8).ladder(30) == (4, 1)


@pytest.mark.parametrize("held", [65, 66, 80, 129, 500, 3000])
@pytest.mark.parametrize(
    ("layers", "span", "overlap"), [(30, 15, 0), (30, 8, 0), (30, 29, 0), (12, 5, 2), (32, 9, 3)]
)
@pytest.mark.parametrize("contiguous", [False, True])
def test_every_layer_keeps_the_budget_with_sinks_and_newest(held, layers, span, overlap, contiguous):
    found, _ = kept(held, 64, layers, span, overlap, contiguous=contiguous)
    for index in found:
        assert len(index) == 64
        assert bool((index[1:] > index[:-1]).all())
        assert {0, 1, 2, 3, *range(held - layers, held)} <= set(index.tolist())


def test_the_layers_together_hold_every_slot_of_a_first_pass():
    found, _ = kept(100, 64, 30, 8)
    assert {int(i) for index in found for i in index} == set(range(100))


def test_one_of_two_alternates_between_layers():
    found, cursor = kept(44, 40, 4, 2)
    assert found[0].tolist() == [0, 1, 2, 3, 4, 6, 8, 10, *range(12, 44)]
    assert found[1].tolist() == [0, 1, 2, 3, 5, 7, 9, 11, *range(12, 44)]
    assert cursor == 8


def test_neighbouring_layers_agree_when_contiguous():
    found, _ = kept(100, 64, 30, 8, contiguous=True)
    shared = [len(set(a.tolist()) & set(b.tolist())) for a, b in pairwise(found)]
    assert sum(one == 64 for one in shared) == 30 - 4  # four steps of the ladder over thirty layers


def test_many_small_compactions_are_not_one_large_one():
    whole, _ = kept(60, 40, 4, 1)
    index, cursor = torch.arange(41), 4
    for token in range(41, 61):
        (mask, *_), cursor = kept(41, 40, 4, 1, cursor=cursor)
        index = torch.cat((index[mask], torch.tensor([token])))
    assert len(index) == 41
    assert index[:40].tolist() != whole[0].tolist()


def test_whole_ladders_drop_more_than_needed():
    found, _ = kept(65, 64, 30, 8, whole=True)
    assert {len(index) for index in found} == {62}


def test_streaming_is_bounded():
    session = engine_model().session("lacache(budget=24, when=chunk, positions=cache)", chunk=8)
    for _ in range(4):
        session.feed(IDS)
        assert session.longest() == 24
    assert session.stats.peak_entries <= (24 + 8) * 2 * 3
    assert torch.isfinite(session.next_logits()).all()


def test_a_span_of_all_layers_and_a_tiny_budget_are_refused():
    with pytest.raises(BadInput, match="span=3 of lacache must be below"):
        engine_model().session("lacache(span=3)")
    with pytest.raises(BadInput, match="needs at least"):
        engine_model().session("lacache(budget=7)").read(IDS)
    with pytest.raises(BadInput, match="uniform"):
        parse("lacache(allocator=adaptive)")


def test_a_share_of_a_small_first_chunk_waits_for_more_text():
    session = engine_model("llama").session("lacache(when=chunk, budget=0.5)", chunk=8).read(IDS)
    assert session.longest() == len(IDS) // 2
    with pytest.raises(BadInput, match="at least"):
        engine_model("llama").session("lacache(when=chunk, budget=5)", chunk=8).read(IDS)
