"""RetroLM's bookmarks: what they gather, what they learn, and that they leave the model alone; the paged base that ArkVale shares."""

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model
from tests.methods.artefacts import Bytes
from tests.tiny_models import tiny

from longspan.engine import calibration
from longspan.engine.batch import Work, forward
from longspan.engine.model import Model
from longspan.errors import BadInput
from longspan.methods.decode.retrolm import RetroLM
from longspan.methods.decode.retrolm_train import (
    Seen,
    bookmark_keys,
    contrast,
    found_in,
    new_bookmarks,
    page_logits,
    record_text,
    train_bookmarks,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_bookmark_gathers_its_page_by_its_own_query():
    k, v = draw(2, 11, 4), draw(2, 11, 3, seed=1)
    bookmark = {"look": draw(2, 4, seed=2), "k": draw(14, 5, seed=3)}
    found = bookmark_keys(bookmark, k, v, 4)
    assert found.shape == (3, 5)
    for page, span in enumerate((slice(0, 4), slice(4, 8), slice(8, 11))):
        parts = []
        for head in range(2):
            weights = (k[head, span] @ bookmark["look"][head] / 2).softmax(0)
            parts.append(weights @ torch.cat((k[head, span], v[head, span]), 1))
        torch.testing.assert_close(found[page], torch.cat(parts) @ bookmark["k"], atol=1e-5, rtol=1e-4)


def fake(seed, pages=12, page=4):
    """Texts in which one token of the right page carries what the query asks for, among noise."""
    generator = torch.Generator().manual_seed(seed)
    k, v = (torch.randn(2, 2, pages * page, 8, generator=generator) for _ in range(2))
    right = torch.randperm(pages, generator=generator)[:6]
    topic = 3 * torch.randn(6, 4, generator=generator)
    q = torch.randn(2, 6, 32, generator=generator)
    q[:, :, :4] = topic
    k[:, 0, right * page + 1, :4] = topic
    k[:, 0, right * page + 1, 4] = 6.0  # a mark that says "look here"
    return Seen(q, k, v, right)


def test_training_finds_pages_that_untrained_bookmarks_do_not():
    texts = [fake(seed) for seed in range(60)]
    made, losses = train_bookmarks(texts, 4, 8, steps=300)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    unseen = fake(99)
    untrained = new_bookmarks(unseen, 8)

    def recall(bookmark):
        scores = page_logits(unseen.q @ bookmark["q"], bookmark_keys(bookmark, unseen.k, unseen.v, 4))
        return float(found_in(scores, unseen.page, 2).mean())

    assert recall(made) > recall(untrained) + 0.3
    assert float(contrast(made, unseen, 4)) < float(contrast(untrained, unseen, 4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    lm = Model(tiny("llama"), Bytes(), name="tiny-bytes", trained_window=4096)
    before = {name: value.clone() for name, value in lm.hf.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGSPAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        with pytest.raises(BadInput, match="longspan calibrate retrolm"):
            lm.session("retrolm(summary=bookmark)")
        seen = []
        RetroLM(page=16, rank=8).calibrate(
            lm, None, lambda done, total: seen.append(done / total), texts=2, tokens=900, steps=30
        )
        assert seen == sorted(seen) and seen[-1] == 1.0
        assert all(torch.equal(value, before[name]) for name, value in lm.hf.state_dict().items())
        yield lm


def test_records_say_where_their_answers_are():
    lm = Model(tiny("llama"), Bytes(), name="b", trained_window=4096)
    text = record_text(lm, 1200, 3)
    for row, token in text.asked:
        answer = next(r for r, t in text.asked if t == token)  # the row before the first token of this answer
        offset = row - answer
        assert text.ids[row + 1] == text.ids[token + offset]
        assert token < text.read <= answer
    assert torch.equal(text.ids, record_text(lm, 1200, 3).ids)
    assert not torch.equal(text.ids, record_text(lm, 1200, 4).ids)


def test_bookmarks_choose_one_set_of_pages_a_layer_and_read_all_when_they_may(trained):
    knobs = "summary=bookmark, page=16, refresh=4"
    session = trained.session(f"retrolm(budget=0.5, {knobs})", chunk=32).read(IDS)
    fork = session.fork()
    (method,) = fork.recipe.methods
    chosen = method.select(fork.view(1, method), draw(4, 1, 16))
    assert chosen.indices.shape == (2, 3) and torch.equal(chosen.indices[0], chosen.indices[1])
    assert {0, 5} <= set(chosen.indices[0].tolist())
    for token in MORE:
        forward(trained, [Work(fork, token.view(1))])
    assert fork.stats.decode_density < 0.75
    full = trained.session().read(IDS).score(MORE)
    whole = trained.session(f"retrolm(budget=1.0, {knobs})").read(IDS).score(MORE)
    torch.testing.assert_close(whole, full, atol=1e-4, rtol=1e-4)
    alone = trained.session(f"retrolm(budget=0.5, {knobs})", chunk=96).read(IDS).score(MORE)
    torch.testing.assert_close(session.score(MORE), alone, atol=1e-4, rtol=1e-4)


def test_bookmarks_of_other_pages_or_models_are_refused(trained):
    assert calibration.load("retrolm", trained).facts["page"] == 16
    with pytest.raises(BadInput, match="page=16"):
        trained.session("retrolm(summary=bookmark, page=32)")
    with pytest.raises(BadInput, match="growing layers"):
        Model(tiny("llama", num_hidden_layers=2), Bytes(), name="tiny-bytes", trained_window=4096).session(
            "retrolm(summary=bookmark, page=16)"
        )


def test_both_paged_methods_name_their_wrong_knobs():
    for wrong in (
        "retrolm(page=0)",
        "arkvale(page=0)",
        "arkvale(sink_pages=-1)",
        "arkvale(volume=cone)",
        "retrolm(summary=x)",
    ):
        with pytest.raises(BadInput, match=wrong.split("(")[0]):
            engine_model().session(wrong)
