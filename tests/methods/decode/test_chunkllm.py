"""ChunkLLM: where chunks end, what the adapters learn, and when a choice is made anew."""

import hashlib
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.engine.models import IDS, engine_model
from tests.methods.artefacts import Bytes
from tests.tiny_models import tiny

from longspan.engine import calibration
from longspan.engine.batch import Work, forward
from longspan.engine.model import Model
from longspan.errors import BadInput
from longspan.methods.decode import chunkllm as module
from longspan.methods.decode.chunkllm_train import (
    AGES,
    Seen,
    age_terms,
    agreement,
    boundary_logits,
    chunk_keys,
    chunk_logits,
    chunks_of,
    divergence,
    labelled,
    observe,
    split_sentences,
    train_adapters,
    train_detector,
)

TEXT = "A tree grows. Dr. Low, e.g. a botanist, saw it in 1902. It fell!\nNobody heard it (or so they say). The end?"


def test_sentences_join_to_the_text_and_spare_abbreviations():
    found = split_sentences(TEXT)
    assert "".join(found) == TEXT
    assert [s.strip() for s in found] == [
        "A tree grows.",
        "Dr. Low, e.g. a botanist, saw it in 1902.",
        "It fell!",
        "Nobody heard it (or so they say).",
        "The end?",
    ]


def test_labels_mark_the_last_token_of_a_sentence():
    ids, ends = labelled(Model(tiny("llama"), Bytes(), name="b", trained_window=512), TEXT, 40)
    assert len(ids) == 40 and bytes(ids.tolist()).decode() == TEXT[:40]
    assert ends.nonzero().flatten().tolist() == [12]


def test_chunks_end_where_marked_and_where_they_are_too_long():
    ends = torch.tensor([0, 0, 1, 0, 0, 0, 0, 0, 1, 0]).bool()
    assert chunks_of(ends, 100).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
    assert chunks_of(ends, 4).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]


def test_chunk_keys_are_last_or_mean():
    keys, labels = (
        torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 0, 1, 2, 2]),
    )
    torch.testing.assert_close(chunk_keys(keys, labels, "last"), keys[:, [1, 2, 4]])
    torch.testing.assert_close(chunk_keys(keys, labels, "mean")[:, 2], keys[:, 3:].mean(1))


def fake(layers=2, tokens=120, seed=0):
    """A text whose teacher is what two hidden adapters would say, so that it can be learnt exactly."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(tokens) // 6
    q, k = (torch.randn(layers, tokens, 16, generator=generator) for _ in range(2))
    true = torch.randn(layers, 16, 4, generator=torch.Generator().manual_seed(99))
    scores = chunk_logits(q @ true, chunk_keys(k @ true, labels, "last"))
    hidden = (torch.arange(20) >= labels.unsqueeze(1)) | (torch.arange(20) == 0)
    teacher = scores.masked_fill(hidden, float("-inf")).softmax(-1).nan_to_num()
    ends = labels.diff(append=torch.tensor([99])) > 0
    features = torch.randn(tokens, 8, generator=generator)
    features[:, 3] += 4 * ends
    return Seen(q, k, features, ends, labels, teacher), true


def test_the_divergence_is_zero_for_adapters_that_are_the_teacher():
    seen, true = fake()
    rows = torch.arange(30, 120)
    exact = divergence(seen, (seen.q @ true)[:, rows], seen.k @ true, rows, "last")
    assert float(exact) == pytest.approx(0.0, abs=1e-4)
    assert float(divergence(seen, (seen.q @ -true)[:, rows], seen.k @ true, rows, "last")) > 1.0


def test_training_learns_what_the_teacher_looks_at_and_where_chunks_end():
    texts = [fake(seed=s)[0] for s in range(4)]
    maps, history = train_adapters(texts, 8, "last", steps=250, rate=1e-2)
    assert sum(history[-10:]) < 0.5 * sum(history[:10])
    unseen, _ = fake(seed=9)
    rows = torch.arange(30, 120)
    trained = divergence(unseen, unseen.q[:, rows] @ maps["q"], unseen.k @ maps["k"], rows, "last")
    flat = divergence(unseen, 0 * unseen.q[:, rows, :4], unseen.k[..., :4], rows, "last")
    assert float(trained) < 0.7 * float(flat)
    detector, losses = train_detector(texts, steps=60)
    assert losses[-1] < losses[0]
    assert agreement(boundary_logits(detector, unseen.features) > 0, unseen.ends) > 0.8


def test_an_age_term_learns_what_unrotated_keys_cannot_say():
    texts = [fake(seed=s)[0] for s in range(4)]
    number = torch.arange(20)
    for i, seen in enumerate(texts):  # a teacher for whom only distance counts
        away = (torch.arange(120).unsqueeze(1) - (6 * number + 5)).clamp(min=1)
        hidden = (number >= seen.labels.unsqueeze(1)) | (number == 0)
        recent = (-1.5 * away.float().log2()).masked_fill(hidden, float("-inf")).softmax(-1).nan_to_num()
        texts[i] = replace(seen, teacher=recent.expand(2, -1, -1))
    plain, without = train_adapters(texts, 8, "last", steps=150, aged=False)
    maps, history = train_adapters(texts, 8, "last", steps=150)
    assert set(plain) == {"q", "k"} and maps["age"].shape == (2, AGES)
    assert sum(history[-10:]) < 0.3 * sum(without[-10:])
    seen_ages = maps["age"][:, :6]
    assert bool((seen_ages.diff(dim=1) < 0).all())  # every doubling of the age costs
    assert bool((maps["age"][:, 6:] == maps["age"][:, 6:7]).all())  # texts of 120 tokens


def test_age_classes_are_doublings():
    age = torch.arange(float(AGES))
    ends = torch.tensor([3, 1021, 1023, 1022])
    assert age_terms(age, torch.tensor([1024]), ends).tolist() == [[9.0, 1.0, 0.0, 1.0]]
    assert float(age_terms(age[:4], torch.tensor([1024]), ends)[0, 0]) == 3.0  # the last class has no end


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model with byte tokens, the adapters trained on it, and a hash of its weights from before."""
    lm = Model(tiny("llama"), Bytes(), name="tiny-bytes", trained_window=4096)
    before = fingerprint(lm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGSPAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        with pytest.raises(BadInput, match="longspan calibrate chunkllm"):
            lm.session("chunkllm")
        seen = []
        module.ChunkLLM(rank=8, longest=32).calibrate(
            lm, None, lambda done, total: seen.append(done / total), texts=2, tokens=300, steps=40
        )
        assert seen == sorted(seen) and seen[-1] == 1.0
        yield lm, before


def fingerprint(lm):
    digest = hashlib.sha256()
    for _, value in sorted(lm.hf.state_dict().items()):
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def test_the_models_weights_are_untouched_and_training_lowers_the_divergence(trained):
    lm, before = trained
    assert fingerprint(lm) == before
    facts = calibration.load("chunkllm", lm).facts
    assert facts["kl_last"] < facts["kl_first"]


def test_adapters_of_another_shape_are_refused(trained):
    lm, _ = trained
    with pytest.raises(BadInput, match="summary=last"):
        lm.session("chunkllm(summary=mean)")
    other = Model(tiny("llama", num_hidden_layers=2), Bytes(), name="tiny-bytes", trained_window=4096)
    with pytest.raises(BadInput, match="growing layers"):
        other.session("chunkllm")


def steps(session, tokens):
    """The chosen chunks of layer 0 after each token."""
    fork, found = session.fork(), []
    (method,) = fork.recipe.methods
    for token in tokens:
        forward(fork.model, [Work(fork, token.view(1))])
        found.append(fork.view(0, method).state["worth"])
    return found


def test_a_choice_holds_until_a_chunk_ends(trained):
    lm, _ = trained
    ids = torch.tensor(lm.encode("It is. " * 30))
    for knobs, changes in (("", False), (", trigger=token", True)):
        session = lm.session(f"chunkllm(budget=0.4, chunks=fixed, longest=7, refresh=4{knobs})").read(ids)
        tokens = torch.tensor(lm.encode("abcdef"))
        found = steps(session, tokens)
        same = [torch.equal(a, b) for a, b in pairwise(found)]
        assert all(same) != changes
    session = lm.session("chunkllm(budget=0.4, chunks=fixed, longest=7, refresh=1000)").read(ids)
    found = steps(session, torch.tensor(lm.encode("abcdefgh")))
    assert [torch.equal(a, b) for a, b in pairwise(found)] == [True] * 6 + [False]


def test_all_chunks_are_dense_attention_and_an_index_changes_no_choice(trained):
    lm, _ = trained
    ids, more = torch.tensor(lm.encode(TEXT * 2)), torch.tensor(lm.encode(" It fell. It did."))
    full = lm.session().read(ids).score(more)
    torch.testing.assert_close(
        lm.session("chunkllm(budget=1.0)").read(ids).score(more), full, atol=1e-4, rtol=1e-4
    )
    often = lm.session("chunkllm(budget=0.5, refresh=1)").read(ids).score(more)
    seldom = lm.session("chunkllm(budget=0.5, refresh=1000)").read(ids).score(more)
    assert torch.isfinite(often).all() and torch.isfinite(seldom).all()
    chosen = lm.session("chunkllm(budget=0.5, chunks=fixed, longest=8)").read(ids)
    (method,) = chosen.recipe.methods
    fork = chosen.fork()
    forward(lm, [Work(fork, more[:1])])
    state = fork.view(0, method).state
    kept = state["selection"].dense()
    assert torch.equal(kept[0], kept[1])
    assert int(kept[0].sum()) == round(0.5 * len(ids))
    assert bool(kept[0][state["labels"] == 0].all())


def test_a_rollback_forgets_the_chunks_of_the_tokens_it_takes_back(trained):
    lm, _ = trained
    session = lm.session("chunkllm(budget=0.5, refresh=4)").read(torch.tensor(lm.encode(TEXT * 2)))
    fork = session.fork()
    for token in lm.encode(" Xyz. "):
        forward(lm, [Work(fork, torch.tensor([token]))])
    fork.rollback(6)
    for token in lm.encode("abcdef"):
        forward(lm, [Work(fork, torch.tensor([token]))])
    straight = session.fork()
    for token in lm.encode("abcdef"):
        forward(lm, [Work(straight, torch.tensor([token]))])
    (method,) = fork.recipe.methods
    assert torch.equal(fork.run_state(method)["ends"], straight.run_state(method)["ends"])


def test_the_age_moves_the_choice_and_adapters_without_one_still_serve(trained, monkeypatch):
    lm, _ = trained
    ids = torch.tensor(lm.encode("It is. " * 30))
    knobs = "budget=0.4, chunks=fixed, longest=7, refresh=4"
    loaded = calibration.load

    def with_age(make):
        def load(*args):
            found = loaded(*args)
            return replace(found, tensors=make(dict(found.tensors)))

        monkeypatch.setattr(calibration, "load", load)

    def worth(recipe):
        return steps(lm.session(recipe).read(ids), torch.tensor(lm.encode("a")))[0]

    with_age(lambda held: {name: value for name, value in held.items() if name != "age"})
    plain = worth(f"chunkllm({knobs})")
    with_age(lambda held: {**held, "age": -torch.arange(float(AGES)).expand(3, -1)})
    aged = worth(f"chunkllm({knobs})")
    assert torch.equal(worth(f"chunkllm({knobs}, age=false)"), plain)
    away = (len(ids) - (7 * torch.arange(len(plain)) + 6)).clamp(min=1)
    torch.testing.assert_close(aged, plain - away.float().log2().floor())


def test_wrong_knobs_and_evicted_caches_are_named():
    for wrong in ("alpha=1.5", "trigger=never", "scorer=best", "rank=0", "summary=first"):
        with pytest.raises(BadInput):
            engine_model().session(f"chunkllm({wrong})")
    with pytest.raises(BadInput, match="in its place"):
        engine_model().session("snapkv(budget=0.5, window=8) + chunkllm(scorer=random, chunks=fixed)").read(
            IDS
        )


def test_the_teacher_is_the_models_own_attention_by_chunk(trained):
    lm, _ = trained
    ids, ends = labelled(lm, TEXT, 60)
    seen = observe(lm, ids, ends, 16)
    assert seen.teacher.shape == (3, 60, int(seen.labels[-1]) + 1)
    torch.testing.assert_close(seen.teacher.sum(-1), torch.ones(3, 60), atol=1e-4, rtol=1e-4)
    later = torch.arange(seen.teacher.shape[-1]) > seen.labels.unsqueeze(1)
    assert float(seen.teacher[:, later].abs().max()) == 0.0
