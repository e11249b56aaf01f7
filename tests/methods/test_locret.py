"""Locret: scores made once and never changed, eviction between chunks, the heads' training, the artefact."""

import pytest
import torch
from tests.engine.models import IDS, MORE, eager_score, engine_model

from longspan.engine import calibration
from longspan.engine.method import Method
from longspan.engine.needs import Needs
from longspan.errors import BadInput
from longspan.methods.cache.locret import SCORE
from longspan.methods.cache.locret_heads import (
    Plan,
    evaluate,
    observe,
    overlap,
    retain,
    sample,
    standardised,
    train_heads,
)


def read(recipe, folder, chunk=16, ids=IDS):
    return engine_model().session(f"locret({recipe}, folder='{folder}')", chunk=chunk).read(ids)


def scores(session) -> list[torch.Tensor]:
    return [session.layers[layer].store.padded().side[SCORE] for layer in session.growing_layers()]


def kept(session) -> list[torch.Tensor]:
    return [session.layers[layer].store.padded().positions for layer in session.growing_layers()]


def test_scores_are_those_of_the_training_s_inputs(folder):
    session = read("budget=1.0", folder)
    inputs, _ = observe(engine_model(), torch.cat((IDS, MORE)), len(IDS), len(IDS) + 1)
    tensors = calibration.load("locret", engine_model(), folder).tensors
    wanted = retain(inputs, tensors["fc1"], tensors["fc2"])
    torch.testing.assert_close(torch.stack(scores(session)), wanted, atol=1e-3, rtol=1e-3)


def test_a_score_is_causal_and_final(folder):
    short, long = read("budget=1.0", folder, ids=IDS[:60]), read("budget=1.0", folder, chunk=7)
    for one, two in zip(scores(short), scores(long), strict=True):
        torch.testing.assert_close(one, two[:, :60], atol=1e-3, rtol=1e-3)


def test_an_entry_keeps_its_score_and_every_entry_has_one(folder):
    session, whole = read("budget=24", folder), read("budget=1.0", folder)
    assert all(
        found.shape == places.shape == (2, 24) for found, places in zip(scores(session), kept(session))
    )
    wanted = scores(whole)[0].gather(1, kept(session)[0].long())  # what enters the first layer is the same
    torch.testing.assert_close(scores(session)[0], wanted, atol=1e-3, rtol=1e-3)


def test_the_best_of_a_single_chunk_stay(folder):
    session = read("budget=24", folder, chunk=96)
    whole = read("budget=1.0", folder, chunk=96)
    for places, all_scores in zip(kept(session), scores(whole), strict=True):
        for head in range(2):
            assert set(places[head].tolist()) == set(all_scores[head].topk(24).indices.tolist())


def test_a_long_text_is_read_within_budget_and_chunk(folder):
    session = read("budget=24", folder, chunk=16, ids=torch.cat([IDS] * 6))
    assert session.stats.peak_entries <= (24 + 16) * 2 * 3
    assert session.growing_entries() == 24 * 2 * 3


def test_stabilizers_hold_between_chunks_and_not_at_the_end(folder):
    session = read("budget=24, stabilizers=0.5, last_stabilizers=true", folder)
    for places in kept(session):
        assert set(range(84, 96)) <= set(places[0].tolist())
    loose = read("budget=24, stabilizers=0.5", folder)
    assert any(not set(range(84, 96)) <= set(row.tolist()) for places in kept(loose) for row in places)


def test_a_silent_network_keeps_the_earliest(tmp_path):
    lm = engine_model()
    tensors = {"fc1": torch.randn(3, 4, 128), "fc2": torch.zeros(3, 2, 4)}
    calibration.save("locret", lm, tensors=tensors, folder=tmp_path)
    for places in kept(read("budget=24, stabilizers=0.0", tmp_path)):
        assert places.tolist() == [list(range(24))] * 2


def test_positions_in_the_cache_are_true_ones_while_all_is_kept(folder):
    session = read("budget=1.0, positions=cache", folder)
    torch.testing.assert_close(session.score(MORE), eager_score(), atol=3e-4, rtol=1e-3)
    plain = read("budget=1.0", folder)
    torch.testing.assert_close(torch.stack(scores(session)), torch.stack(scores(plain)), atol=1e-3, rtol=1e-3)
    assert torch.isfinite(read("budget=24, positions=cache", folder).score(MORE)).all()


def test_later_reads_and_questions_are_scored_too(folder):
    session = read("budget=24", folder)
    session.feed(MORE, reading=False)
    assert all(bool((found[:, -10:] != 0).all()) for found in scores(session))
    session.read(IDS)
    assert session.growing_entries() == 24 * 2 * 3


def test_labels_are_the_largest_logit_of_any_answer_token(reader):
    ids, read_to, answer = sample(reader, Plan(shortest=50, longest=60), 1)
    _, labels = observe(reader, ids, read_to, answer)
    watched = reader.session(None, collect=Needs(window_queries=len(ids)), chunk=len(ids)).feed(ids)
    view = watched.view(0, Method())
    logits = view.logits(view.window_queries(len(ids) - answer), view.keys)[..., :read_to]
    torch.testing.assert_close(labels[0], logits.view(2, -1, read_to).amax(1), atol=1e-4, rtol=1e-3)


def test_overlap_and_standardised_labels():
    labels = torch.arange(20.0).view(1, 20)
    assert overlap(labels, labels) == 1.0 and overlap(-labels, labels) == 0.0
    assert overlap(labels.roll(1), labels) == 0.5
    found = standardised(torch.randn(2, 50) * 7 + 3)
    assert found.mean().abs() < 1e-5 and (found.std() - 1).abs() < 0.02


def test_training_beats_chance_on_texts_it_has_not_seen(reader, tmp_path):
    plan = Plan(steps=40, shortest=60, longest=90, width=8, rate=0.01)
    tensors, figures = train_heads(reader, plan, tmp_path)
    assert tensors["fc1"].dtype == torch.float16 and tensors["fc1"].shape == (3, 8, 128)
    assert figures["overlap_heads"] > 2 * figures["overlap_random"]
    assert figures["overlap_heads"] > figures["overlap_knorm"]
    again = evaluate(reader, tensors, [sample(reader, plan, -1 - number) for number in range(6)])
    assert again["overlap_heads"] == figures["overlap_heads"]
    assert all(parameter.grad is None for parameter in reader.hf.parameters())


def test_a_missing_artefact_or_one_of_another_shape_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="longspan calibrate locret"):
        engine_model().session("locret")
    tensors = {"fc1": torch.zeros(3, 4, 100), "fc2": torch.zeros(3, 2, 4)}
    calibration.save("locret", engine_model(), tensors=tensors, folder=tmp_path)
    with pytest.raises(BadInput, match="not for 3 layers of 128"):
        engine_model().session(f"locret(folder='{tmp_path}')")


def test_a_chunk_above_the_window_of_queries_is_refused(folder):
    with pytest.raises(BadInput, match="at most 512"):
        read("budget=24", folder, chunk=600, ids=torch.cat([IDS] * 7))


def test_a_saved_session_goes_on_as_before(folder, tmp_path):
    lm = engine_model()
    session = lm.session(f"locret(budget=24, folder='{folder}')", chunk=16).read(IDS)
    session.save(tmp_path / "session")
    again = lm.load_session(tmp_path / "session")
    for one in (session, again):
        one.read(torch.cat((MORE, IDS[:30])))
    assert torch.equal(session.score(MORE), again.score(MORE))
