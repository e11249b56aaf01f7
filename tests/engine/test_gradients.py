"""Forwards in which gradients flow, and the resumable fit: equal to the model, equal to an uninterrupted run."""

import pytest
import torch
from tests.engine.models import IDS, engine_model
from tests.tiny_models import tiny

from longspan.engine.fitting import fit, up_and_down
from longspan.engine.gradients import causal_mask, dense, last_hidden, logits, masked


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gemma3", "gpt_oss", "phi3", "stablelm"])
def test_dense_answers_are_the_model_itself(arch):
    with torch.no_grad():
        wanted = tiny(arch)(input_ids=IDS.unsqueeze(0), use_cache=False).logits[0].float()
        torch.testing.assert_close(logits(engine_model(arch), IDS, dense), wanted, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt_oss"])
def test_with_gradients_the_answer_is_the_same(arch):
    lm, scale = engine_model(arch), torch.ones(1, requires_grad=True)

    def scaled(call, q, k, v):
        return dense(call, q * scale, k, v)

    found = last_hidden(lm, IDS, scaled)
    with torch.no_grad():
        torch.testing.assert_close(found, last_hidden(lm, IDS, dense), atol=3e-4, rtol=1e-3)
    found.square().mean().backward()
    assert scale.grad is not None and float(scale.grad.abs()) > 0
    assert all(parameter.grad is None for parameter in lm.hf.parameters())


def test_positions_may_start_anywhere():
    lm = engine_model()
    with torch.no_grad():
        torch.testing.assert_close(
            logits(lm, IDS, dense, first=40), logits(lm, IDS, dense), atol=1e-3, rtol=1e-3
        )


def test_masked_gradients_are_those_of_the_formula():
    from longspan.engine.dispatch import LayerCall
    from longspan.ops.attention import attend_plain

    torch.manual_seed(0)
    q, k, v = (torch.randn(heads, 9, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    mask = causal_mask(9, 9, q)
    mask[:, 3] &= torch.arange(9) < 6
    one = masked(LayerCall(0, 0.3), q, k, v, mask).square().sum()
    two = attend_plain(q, k, v, scale=0.3, mask=mask)[0].square().sum()
    for a, b in zip(*(torch.autograd.grad(x, (q, k, v)) for x in (one, two)), strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=1e-4, rtol=1e-4)


def quadratic(lm, folder, steps=9, stop_at=None, plan=None):
    """Fit a point to a moving target; returns parameters, what was counted beside, losses."""
    point, count = torch.zeros(3, requires_grad=True), torch.zeros(1)

    def gradients(step):
        count.add_(1)
        loss = (point - torch.tensor([1.0, -2.0, step / 10])).square().sum()
        loss.backward()
        return float(loss.detach())

    def progress(done, total):
        if done == stop_at:
            raise KeyboardInterrupt

    losses = fit(
        "toy", lm, {"point": point}, gradients, steps=steps, rate=up_and_down(steps, 0.3, 0.2, 0.2, 0.1),
        plan=plan or {"seed": 1}, beside={"count": count}, folder=folder, progress=progress, every=2,
    )  # fmt: skip
    return point.detach(), count, losses


@pytest.mark.parametrize("stop_at", [1, 2, 5, 8])
def test_a_resumed_fit_ends_in_the_same_numbers(tmp_path, stop_at):
    lm = engine_model()
    point, count, losses = quadratic(lm, tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        quadratic(lm, tmp_path / "two", stop_at=stop_at)
    again = quadratic(lm, tmp_path / "two")
    assert torch.equal(again[0], point) and torch.equal(again[1], count) and again[2] == losses
    assert not list(tmp_path.rglob("*.unfinished")) and losses[-1] < losses[0]


def test_a_state_of_another_plan_or_a_broken_one_is_not_taken_up(tmp_path):
    lm = engine_model()
    with pytest.raises(KeyboardInterrupt):
        quadratic(lm, tmp_path, stop_at=5, plan={"seed": 2})
    assert len(quadratic(lm, tmp_path)[2]) == 9 and float(quadratic(lm, tmp_path)[1]) == 9
    with pytest.raises(KeyboardInterrupt):
        quadratic(lm, tmp_path, stop_at=5)
    (path,) = tmp_path.rglob("*.unfinished")
    path.write_bytes(path.read_bytes()[:-7])
    assert float(quadratic(lm, tmp_path)[1]) == 9


def test_the_rate_rises_and_falls():
    rate = up_and_down(10, 1.0, 0.2, 0.2, least=0.1)
    assert [round(rate(step), 3) for step in (0, 1, 5, 8, 9)] == [0.55, 1.0, 1.0, 1.0, 0.55]
