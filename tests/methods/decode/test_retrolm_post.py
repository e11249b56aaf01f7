"""RetroLM's second stage: what a page reads while the model is tuned, what is learnt, and that the model beside it stays as it was."""

import hashlib

import pytest
import torch
from tests.engine.models import IDS, engine_model
from tests.methods.artefacts import Bytes
from tests.tiny_models import tiny

from longspan.engine import calibration
from longspan.engine.gradients import dense, logits
from longspan.engine.model import Model
from longspan.errors import BadInput
from longspan.methods.decode.retrolm import RetroLM
from longspan.methods.decode.retrolm_post import (
    NAME,
    Post,
    changed_weights,
    long_text,
    new_changes,
    pages_read,
    post_trained,
    prediction_loss,
    sparse_pages,
    tuned_layers,
    with_changes,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bookmarks(layers=3, rank=4):
    """Of the tiny Llama: 4 query heads and 2 KV heads of 16."""
    return {
        "look": draw(layers, 2, 16),
        "k": draw(layers, 64, rank, seed=1),
        "q": draw(layers, 64, rank, seed=2),
    }


def test_a_page_reads_the_first_the_newest_and_what_its_predecessor_asks_for():
    one = {name: value[0] for name, value in bookmarks().items()}
    q, k, v = draw(4, 50, 16, seed=3), draw(2, 50, 16, seed=4), draw(2, 50, 16, seed=5)
    read = pages_read(one, q, k, v, 4, Post(1, budget=0.4))
    assert read.shape == (13, 13)
    assert not read.triu(1).any() and bool(read.diagonal().all())
    assert bool(read[:, 0].all()) and bool(read.diagonal(-1).all())
    counts = (read.sum(1) - 1).tolist()  # of the pages before
    assert counts == [max(min(p, 2), -(-p * 4 // 10)) for p in range(13)]
    later = q.clone()
    later[:, 20:] = draw(4, 30, 16, seed=6)  # page 5 is asked for by token 19
    assert torch.equal(pages_read(one, later, k, v, 4, Post(1, budget=0.4))[:6], read[:6])
    assert not torch.equal(pages_read(one, later, k, v, 4, Post(1, budget=0.4)), read)
    assert torch.equal(pages_read(one, q, k, v, 4, Post(1, budget=1.0)), torch.ones(13, 13).tril().bool())


def test_all_pages_are_dense_attention_and_fresh_changes_change_nothing():
    lm = engine_model()
    whole = sparse_pages(lm, bookmarks(), 8, Post(1, budget=1.0))
    weights = changed_weights(lm, new_changes(lm, 4))
    plain = logits(lm, IDS, dense)
    torch.testing.assert_close(logits(lm, IDS, whole, weights=weights), plain, atol=1e-4, rtol=1e-4)
    some = sparse_pages(lm, bookmarks(), 8, Post(1, budget=0.2))
    assert (logits(lm, IDS, some) - plain).abs().max() > 0.1


def test_the_tokens_of_the_first_page_and_a_short_text_read_what_they_always_do():
    lm = engine_model()
    some = sparse_pages(lm, bookmarks(), 16, Post(1, budget=0.1, recent_pages=0))
    plain = logits(lm, IDS, dense)
    torch.testing.assert_close(logits(lm, IDS, some)[:16], plain[:16], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(lm, IDS[:9], some), logits(lm, IDS[:9], dense), atol=1e-4, rtol=1e-4)


def test_sliding_layers_are_left_alone():
    lm = engine_model("gemma3")
    assert any(layer.window for layer in lm.geometry.layers.values())
    growing = len(lm.geometry.growing)
    made = {"look": draw(growing, 2, 16), "k": draw(growing, 64, 4), "q": draw(growing, 64, 4)}
    whole = sparse_pages(lm, made, 8, Post(1, budget=1.0))
    torch.testing.assert_close(logits(lm, IDS, whole), logits(lm, IDS, dense), atol=1e-3, rtol=1e-3)


def fingerprint(lm):
    digest = hashlib.sha256()
    for _, value in sorted(lm.hf.state_dict().items()):
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model, its weights' hash from before, and its artefacts of both stages."""
    lm = Model(
        tiny("llama", num_hidden_layers=2),
        Bytes(),
        name="tiny-post",
        model_hash="c" * 64,
        trained_window=4096,
    )
    before = fingerprint(lm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGSPAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        with pytest.raises(BadInput, match=f"{NAME} needs an artefact"):
            post_trained(lm)
        seen = []
        RetroLM(page=16, rank=4, post=30).calibrate(
            lm, None, lambda done, total: seen.append(done / total), texts=1, tokens=700, steps=10
        )
        assert seen == sorted(seen) and seen[-1] == 1.0
        yield lm, before


def test_the_second_stage_lowers_what_sparse_reading_costs_and_leaves_the_model_alone(trained):
    lm, before = trained
    assert fingerprint(lm) == before
    facts = calibration.load(NAME, lm).facts
    assert facts["nats_last"] < facts["nats_first"] and facts["steps"] == 30 and facts["page"] == 16
    held = {name: value.float() for name, value in calibration.load("retrolm", lm).tensors.items()}
    answer = sparse_pages(lm, held, 16, Post(1))
    changes = {name: value.float() for name, value in calibration.load(NAME, lm).tensors.items()}
    unseen = long_text(lm, 300, 1, 7)
    with torch.no_grad():
        assert prediction_loss(lm, changes, unseen, answer) < prediction_loss(
            lm, new_changes(lm, 1), unseen, answer
        )


def test_the_post_trained_model_is_one_of_its_own_and_finds_its_bookmarks(trained):
    lm, before = trained
    tuned = post_trained(lm)
    assert tuned.model_hash != lm.model_hash and tuned.name != lm.name
    assert fingerprint(tuned) != before and fingerprint(lm) == before
    changes = {name: value.float() for name, value in calibration.load(NAME, lm).tensors.items()}
    expected = logits(lm, IDS, dense, weights=changed_weights(lm, changes))
    torch.testing.assert_close(logits(tuned, IDS, dense), expected, atol=1e-4, rtol=1e-4)
    session = tuned.session("retrolm(summary=bookmark, page=16, budget=0.5)").read(IDS)
    assert torch.isfinite(session.score(IDS[:4])).all()
    assert post_trained(lm).model_hash == tuned.model_hash
    with pytest.raises(BadInput, match="retrolm takes rank >= 1 and post >= 0"):
        RetroLM(post=-1)


def test_changes_touch_the_linear_layers_of_attention_alone():
    lm = engine_model()
    names = list(tuned_layers(lm))
    assert len(names) == 4 * 3 and all("self_attn" in name for name in names)
    changes = new_changes(lm, 2)
    changes = {name: torch.ones_like(value) for name, value in changes.items()}
    other = with_changes(lm, changes)
    held = dict(lm.hf.named_parameters())
    for name, value in other.hf.named_parameters():
        assert torch.equal(value, held[name]) != (name in names)
