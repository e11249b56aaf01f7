"""Double Sparsity with its keys and values in a slow tier: predicted choices, their hits, and what each tier would hold."""

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model

from longspan.engine.batch import Work, forward
from longspan.methods.decode.double_sparsity import ridge, tiers

KNOBS = "budget=0.25, channels=8, dense_layers=0, refresh=4, window=64, offload=true"


def stepped(recipe, tokens=MORE[:3]):
    session = engine_model().session(recipe, chunk=32).read(IDS).fork()
    for token in tokens:
        forward(session.model, [Work(session, token.view(1))])
    return session


def test_ridge_finds_a_linear_map():
    generator = torch.Generator().manual_seed(0)
    x, true = torch.randn(200, 12, generator=generator), torch.randn(12, 7, generator=generator)
    torch.testing.assert_close(ridge(x, x @ true, 1e-6), true, atol=1e-3, rtol=1e-2)
    short = x[:5]  # fewer rows than dimensions: it fits them
    torch.testing.assert_close(short @ ridge(short, short @ true, 1e-6), short @ true, atol=1e-2, rtol=1e-2)


def test_layers_read_what_the_layer_before_predicted():
    session = stepped(f"double_sparsity({KNOBS})")
    (method,) = session.recipe.methods
    first, *later = [session.view(layer, method).state for layer in session.growing_layers()]
    assert "wanted" not in first
    for state in later:
        assert state["wanted"] == 3 * 24 * 2 and 0 < state["hits"] <= state["wanted"]
    assert [key for key in session.run_state(method) if isinstance(key, tuple)] == []
    for layer in session.growing_layers()[1:]:
        assert session.layers[layer].counters.read < 0.35 * session.layers[layer].counters.held


def test_a_prediction_is_the_choice_of_the_expected_query():
    session = stepped(f"double_sparsity({KNOBS})", MORE[:0])
    (method,) = session.recipe.methods
    one, two = (session.view(layer, method) for layer in session.growing_layers()[:2])
    same = torch.eye(one.state["onward"].shape[0])
    one.state["onward"] = same
    q = torch.randn(4, 1, 16, generator=torch.Generator().manual_seed(1))
    method.select(one, q)
    expected = method.scores(two, q).topk(24, 1).indices.sort(1).values
    assert torch.equal(method.select(two, -q).indices, expected)


def test_tiers_and_the_whole_budget():
    session = stepped(f"double_sparsity({KNOBS})", MORE[:0])
    (method,) = session.recipe.methods
    fast, slow = tiers(session.view(1, method))
    assert slow == 2 * 96 * 32 * 4
    assert fast == (2 * 96 * 8 + 2 * 2 * 24 * 32) * 4
    full = engine_model().session().read(IDS).score(MORE)
    whole = engine_model().session(f"double_sparsity({KNOBS.replace('0.25', '1.0')})").read(IDS).score(MORE)
    torch.testing.assert_close(whole, full, atol=1e-4, rtol=1e-4)


def test_a_pack_and_a_fork_do_not_mix_predictions():
    session = engine_model().session(f"double_sparsity({KNOBS})", chunk=32).read(IDS)
    alone = session.score(MORE)
    twin = session.fork()
    for token in MORE[:2]:
        forward(
            session.model,
            [Work(twin, token.view(1)), Work(engine_model().session().read(IDS[:9]), token.view(1))],
        )
    torch.testing.assert_close(session.score(MORE), alone)
    assert alone.mean() == pytest.approx(float(session.score(MORE).mean()))
