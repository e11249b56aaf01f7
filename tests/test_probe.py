"""The shipped probe model: small, loads by its alias, does what its facts say, and runs under the engine."""

import json

import pytest
import torch

import longspan
from longspan.engine.aliases import ALIASES
from longspan.train.tiny_evaluate import evaluate
from longspan.train.tiny_model import load_tiny, parameters
from longspan.train.tiny_ship import FACTS, trained_difficulty
from longspan.train.tiny_tasks import PLANS, sample

FOLDER = ALIASES["probe"].folder


@pytest.fixture(scope="module")
def facts():
    return json.loads((FOLDER / FACTS).read_text())


def test_it_is_small_and_trained_at_its_window(facts):
    assert (FOLDER / "model.safetensors").stat().st_size < 6e6
    model = load_tiny(FOLDER)
    assert 1e6 < parameters(model) < 3e6 and facts["parameters"] == parameters(model)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert facts["length"] == model.config.max_position_embeddings == 1024
    assert min(facts["full_cache"][task] for task in PLANS) > 0.95


def test_it_does_what_is_stated(facts):
    found = evaluate(load_tiny(FOLDER), 1024, samples=4, seed=1, difficulty=trained_difficulty(FOLDER))
    for task in PLANS:
        assert found[task] > facts["full_cache"][task] - 0.1, task
    assert found["text_nll"] == pytest.approx(facts["full_cache"]["text_nll"], abs=0.3)


def test_it_answers_under_the_engine():
    import numpy as np

    lm = longspan.load("probe", dtype="float32")
    assert lm.name == "probe" and lm.geometry.trained_window == 1024
    right = asked = 0
    rng = np.random.default_rng(3)
    for _ in range(3):
        drawn = sample("recall", 512, rng, trained_difficulty(FOLDER))
        ids = torch.from_numpy(drawn.ids)
        first = drawn.answers[0][0]
        session = lm.session(None).feed(ids[:first])
        (right, asked) = (right + int(session.next_logits().argmax() == ids[first]), asked + 1)
    assert right == asked
