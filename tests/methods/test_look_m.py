"""LOOK-M: text stays, images go or are folded in by the formula; the map comes from the session or from the model's image token."""

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model

from longspan.engine.needs import Needs
from longspan.errors import BadInput
from longspan.methods.cache.look_m import merged

SPANS = [(10, 40), (50, 80)]
TEXT = sorted(set(range(96)) - {p for first, end in SPANS for p in range(first, end)})


def plainly_read():
    """The full cache, read as the methods here read: the sums of attention are taken in the attention call, which rounds otherwise."""
    return engine_model().session(collect=Needs(column_mass=True), chunk=32).read(IDS)


def read(recipe, spans=SPANS, model=None):
    session = (model or engine_model()).session(recipe, chunk=32)
    return (session if spans is None else session.mark_images(spans)).read(IDS)


@pytest.mark.parametrize("merge", ["pivot", "averaged", "weighted", "drop"])
def test_text_stays_and_the_total_is_exact(merge):
    session = read(f"look_m(budget=0.5, merge={merge})")
    for layer in session.growing_layers():
        positions = session.layers[layer].store.padded().positions
        assert positions.shape[1] == 48
        assert all(set(TEXT) <= set(head.tolist()) for head in positions)
        assert bool((positions[:, 1:] > positions[:, :-1]).all())


def test_entries_that_nothing_joins_are_untouched():
    session, plain = read("look_m(budget=0.5)"), plainly_read()
    changed = 0
    for layer in session.growing_layers():
        ours, dense = session.layers[layer].store.padded(), plain.layers[layer].store.padded()
        for head in range(2):
            index = ours.positions[head].long()
            same = (ours.k[head] == dense.k[head, index]).all(-1)
            gone = sorted(set(range(96)) - set(index.tolist()))
            unit = torch.nn.functional.normalize(dense.k[head], dim=-1)
            joined = (unit[gone] @ unit[index].T).argmax(1).unique()
            alone = torch.ones(len(index), dtype=torch.bool)
            alone[joined] = False
            assert bool(same[alone].all())
            changed += int((~same).sum())
    assert changed > 0


def test_the_formulas():
    k = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.0, 2.0]]])
    v = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    kept, gone = torch.tensor([[0, 1]]), torch.tensor([[2]])
    key, value = merged(k, v, kept, gone, "pivot")
    torch.testing.assert_close(key[0, 0], 0.75 * k[0, 0] + 0.25 * k[0, 2])
    assert torch.equal(key[0, 1], k[0, 1])
    torch.testing.assert_close(value[0, 0, 0], torch.tensor(1.5))
    key, _ = merged(k, v, kept, gone, "averaged")
    torch.testing.assert_close(key[0, 0], (k[0, 0] + k[0, 2]) / 2)
    key, _ = merged(k, v, kept, torch.tensor([[2, 3]]), "weighted")
    assert torch.equal(key[0, 0], k[0, 0])  # 0.8 is below the mean of 0.8 and 1
    torch.testing.assert_close(key[0, 1], (k[0, 1] + k[0, 3]) / 2)


def test_every_evicted_entry_goes_somewhere():
    generator = torch.Generator().manual_seed(3)
    k = torch.randn(2, 40, 8, generator=generator)
    kept = torch.arange(10).expand(2, -1)
    gone = torch.arange(10, 40).expand(2, -1)
    ones = torch.ones(2, 40, 1)
    _, folded = merged(k, ones, kept, gone, "averaged")
    torch.testing.assert_close(folded, torch.ones(2, 10, 1))


def test_no_images_no_change():
    session, plain = read("look_m(budget=0.3)", spans=[]), plainly_read()
    assert torch.equal(session.score(MORE), plain.score(MORE))


def test_without_the_text_prior_it_needs_no_map():
    session = read("look_m(budget=0.3, text_prior=false)", spans=None)
    assert session.layers[0].store.lengths == (29, 29)


def test_a_vision_models_image_token_is_the_map():
    model = engine_model("qwen2_vl")
    token = model.hf.config.image_token_id
    ids = IDS.clone()
    ids[20:70] = token
    session = model.session("look_m(budget=0.6)", chunk=32).read(ids)
    kept = session.layers[0].store.padded().positions
    assert kept.shape[1] == 58
    assert all({*range(20), *range(70, 96)} <= set(head.tolist()) for head in kept)
    assert torch.isfinite(session.score(MORE)).all()


def test_what_cannot_be_served_is_refused():
    with pytest.raises(BadInput, match="mark_images"):
        read("look_m(budget=0.5)", spans=None)
    with pytest.raises(BadInput, match="below the 36 of text"):
        read("look_m(budget=0.3)")
    with pytest.raises(BadInput, match="equally many"):
        read("adakv(budget=0.6) + look_m(budget=0.5)")
    with pytest.raises(BadInput, match="first < end"):
        read("look_m", spans=[(5, 5)])
