"""MoA: influence against brute force and finite differences, the search against enumeration, spans in masks and in the cache."""

from itertools import product

import numpy as np
import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model
from tests.tiny_models import VOCAB

from longspan.engine.dispatch import current_span
from longspan.errors import BadInput
from longspan.methods.prefill import moa as module
from longspan.methods.prefill.moa_profile import by_distance, influence
from longspan.methods.prefill.moa_search import Rule, rule_losses, rules, search
from longspan.ops.influence import attend_with_influence

UNIFORM = "moa(plan=uniform, budget=0.5, block=8, every=4)"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_influence_attention_is_attention_with_its_gradients():
    q, k, v = draw(4, 37, 8), draw(2, 37, 8, seed=1), draw(2, 37, 8, seed=2)
    goal, results = draw(4, 37, 8, seed=3), []
    for ours in (True, False):
        x = [t.clone().requires_grad_() for t in (q, k, v)]
        if ours:
            out = attend_with_influence(*x, torch.zeros(4, 5, 5), scale=0.3, block=8)
        else:
            wide = [t.repeat_interleave(2, 0) for t in x[1:]]
            logits = (x[0] @ wide[0].transpose(1, 2) * 0.3).masked_fill(
                torch.ones(37, 37).triu(1).bool(), float("-inf")
            )
            out = logits.softmax(-1) @ wide[1]
        results.append((out, *torch.autograd.grad((out * goal).sum(), x)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_influence_is_what_removing_an_entry_does_to_a_linear_loss():
    q, k, v, goal = (draw(2, 9, 4, seed=s) for s in range(4))
    found = torch.zeros(2, 9, 9)
    out = attend_with_influence(q.requires_grad_(), k, v, found, scale=0.5, block=1)
    torch.autograd.grad((out * goal).sum(), q)
    logits = (q.detach() @ k.transpose(1, 2) * 0.5).masked_fill(
        torch.ones(9, 9).triu(1).bool(), float("-inf")
    )
    for head, i, j in product(range(2), range(1, 9), range(9)):
        if j > i:
            assert found[head, i, j] == 0
            continue
        less = logits[head, i].clone()
        less[j] = float("-inf")
        change = ((less.softmax(-1) - logits[head, i].softmax(-1)) @ v[head] * goal[head, i]).sum()
        assert found[head, i, j].item() == pytest.approx(change.item(), abs=2e-5)


class Blended:
    """Attention in which one entry of one row is taken out by a share t and the row renormalised."""

    def __init__(self, layer, head, i, j, t):
        self.where, self.t = (layer, head, i, j), t

    def attend(self, call, q, k, v):
        group = q.shape[0] // k.shape[0]
        logits = q @ k.repeat_interleave(group, 0).transpose(1, 2) * call.scale
        weights = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), float("-inf")).softmax(-1)
        layer, head, i, j = self.where
        if call.layer == layer:
            row = weights[head, i].clone()
            row[j] = 0
            weights[head, i] += self.t * (row / row.sum() - weights[head, i])
        return (weights @ v.repeat_interleave(group, 0)).transpose(0, 1)


@pytest.mark.parametrize("arch", ["llama", "gpt_oss"])
def test_influence_matches_finite_differences_of_a_models_loss(arch):
    lm, ids, answer = engine_model(arch), IDS[:24], 6
    nll, found = influence(lm, ids, answer, 1)
    assert found.shape == (len(lm.geometry.growing), 4, 24, 24)
    if arch == "gpt_oss":  # sinks and sliding layers take part; their differences are not blended here
        assert torch.isfinite(found).all() and float(found.abs().max()) > 0
        return

    def loss(where, t):
        span = current_span.set(Blended(*where, t))
        try:
            with torch.no_grad():
                logits = lm.hf(input_ids=ids.unsqueeze(0), use_cache=False, span=current_span.get()).logits[0]
        finally:
            current_span.reset(span)
        return torch.nn.functional.cross_entropy(logits[-answer - 1 : -1].double(), ids[-answer:])

    assert float(loss((0, 0, 5, 1), 0.0)) == pytest.approx(nll, abs=1e-5)
    order = found.abs().flatten().argsort(descending=True)[:40:8]
    for flat in order.tolist():
        where = np.unravel_index(flat, found.shape)
        h = 0.02
        slope = float(loss(where, h) - loss(where, -h)) / (2 * h)
        assert found[where].item() == pytest.approx(slope, rel=0.05, abs=1e-4)


def test_distances_leave_the_first_block_out_and_join_the_group():
    blocks = draw(1, 4, 5, 5).tril()
    sums = by_distance(blocks, 2)
    expected = sum(blocks[0, h, i, i - 2] for h in (0, 1) for i in range(3, 5))
    torch.testing.assert_close(sums[0, 0, 2], expected)
    assert sums.shape == (1, 2, 5)


def test_rules_and_their_losses():
    grid = rules((128, 256, 512), (1024,), 64)
    assert Rule(0.0, 1.0).cost(512, 64) == 1.0 and any(rule.cost(1024, 64) == 1.0 for rule in grid)
    assert all(rule.alpha + rule.beta * 512 <= 512 and rule.alpha + rule.beta * 128 > 0 for rule in grid)
    spans = {tuple(rule.blocks(n, 64) for n in (128, 256, 512, 1024)) for rule in grid}
    assert len(spans) == len(grid)
    losses = rule_losses(np.array([[9.0, 4.0, 2.0, 1.0]]), [Rule(64, 0), Rule(128, 0), Rule(0, 1)], 256, 64)
    assert losses.tolist() == [[7.0, 3.0, 0.0]]


def test_the_search_finds_the_plans_that_enumeration_finds():
    rng = np.random.default_rng(1)
    losses = [rng.random((3, 4)) for _ in range(2)]
    costs = np.sort(rng.random((2, 4)), axis=1)
    bound = 0.6
    plans = search(losses, costs, bound, points=9)
    every = []
    for choice in product(range(4), repeat=3):
        if (costs[:, list(choice)].mean(1) <= bound).all():
            every.append(tuple(one[range(3), list(choice)].sum() for one in losses))
    front = {p for p in every if not any(o != p and o[0] <= p[0] and o[1] <= p[1] for o in every)}
    for plan in plans:
        assert max(plan.densities) <= bound + 1e-9
        assert any(np.allclose(plan.losses, p, atol=1e-3) for p in front)
    for k in range(2):
        assert min(plan.losses[k] for plan in plans) == pytest.approx(min(p[k] for p in front), abs=2e-3)
    with pytest.raises(BadInput, match="sparsest"):
        search(losses, costs, 1e-4)


def test_a_full_span_for_every_head_is_the_unmodified_model():
    lm = engine_model()
    full = lm.session().read(IDS).score(MORE)
    for method, rule in (("moa(budget=1.0)", None), (UNIFORM, Rule(0.0, 1.0))):
        session = lm.session(method, chunk=32)
        if rule is not None:
            session.run_state(session.recipe.methods[0])["rules"] = [[rule] * 2] * 3
        torch.testing.assert_close(session.read(IDS).score(MORE), full, atol=1e-4, rtol=1e-4)


def spread(session):
    """One narrow and one wide head a layer."""
    session.run_state(session.recipe.methods[0])["rules"] = [[Rule(16.0, 0.0), Rule(0.0, 0.5)]] * 3
    return session


def test_reading_sees_the_spans_and_no_more():
    session = spread(engine_model().session(UNIFORM, chunk=96))
    session.expected = 96
    view = session.view(0, session.recipe.methods[0])
    dense = view.method.tiles(view, draw(4, 96, 16), draw(2, 96, 16)).dense()
    i, j = torch.arange(96).unsqueeze(1), torch.arange(96)
    for head, blocks in enumerate((2, 6)):
        band = (j <= i) & ((j < 8) | (i // 8 - j // 8 < blocks))
        assert torch.equal(dense[head], band)


def test_the_cache_holds_the_spans_and_moves_on_with_the_text():
    lm = engine_model()
    session = spread(lm.session(UNIFORM, chunk=32)).read(IDS)
    for layer in session.growing_layers():
        padded = session.layers[layer].store.padded()
        held = [row[ok].tolist() for row, ok in zip(padded.positions, padded.valid, strict=True)]
        assert held == [[*range(8), *range(80, 96)], [*range(8), *range(48, 96)]]
    assert session.stats.cache_bytes < lm.session(chunk=32).read(IDS).stats.cache_bytes * 0.45
    fork = session.fork()
    fork.feed(MORE[:8], reading=False)
    assert fork.layers[0].store.lengths == (24, 56)
    assert session.layers[0].store.lengths == (24, 56)
    assert fork.layers[0].store.padded().positions[0, 8] == 88


def test_masking_alone_keeps_the_cache():
    session = (
        engine_model().session("moa(plan=uniform, budget=0.5, block=8, evict=false)", chunk=32).read(IDS)
    )
    assert session.growing_entries() == 96 * 2 * 3
    assert session.stats.prefill_density < 0.8


def test_a_second_text_can_be_read_after_the_first():
    session = spread(engine_model().session(UNIFORM, chunk=32)).read(IDS).read(MORE)
    assert session.layers[0].store.lengths[0] == 24
    assert torch.isfinite(session.score(MORE)).all()


@pytest.fixture
def artefacts(monkeypatch, tmp_path):
    def text(number, tokens, lm):
        return torch.randint(5, VOCAB - 5, (tokens,), generator=torch.Generator().manual_seed(number))

    monkeypatch.setattr("longspan.engine.calibration.user_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "profile_text", text)
    return tmp_path


def test_calibrate_makes_plans_within_their_density_that_a_session_follows(artefacts):
    lm = engine_model()
    with pytest.raises(BadInput, match="longspan calibrate moa"):
        lm.session("moa")
    seen = []
    made = module.MoA(block=8).calibrate(
        lm,
        None,
        lambda done, total: seen.append(done / total),
        lengths=(48, 64, 96),
        extended=(128,),
        answer=6,
        texts=2,
        candidates=2,
        densities=(0.5, 0.8),
    )
    assert made.suffix == ".json" and seen == sorted(seen)
    (plan,) = module.MoA(block=8, budget=0.5)._rules(lm)[:1]
    assert len(plan) == lm.geometry.kv_heads
    session = lm.session("moa(budget=0.5, block=8)", chunk=32).read(IDS)
    entries = sum(
        min(96, 8 + 8 * r.blocks(96, 8))
        for row in session.run_state(session.recipe.methods[0])["rules"]
        for r in row
    )
    assert session.growing_entries() == entries <= 0.5 * 96 * 2 * 3
    assert torch.isfinite(session.score(MORE)).all()
    with pytest.raises(BadInput, match=r"0.5 or 0.8"):
        lm.session("moa(budget=0.3, block=8)")
    with pytest.raises(BadInput):
        engine_model("qwen3").session("moa(budget=0.5, block=8)")
    with pytest.raises(BadInput, match="texts of at least"):
        module.MoA(block=64).calibrate(lm, lengths=(64,))


def test_models_and_recipes_it_cannot_serve_are_named():
    lm = engine_model("gemma2")
    with pytest.raises(BadInput, match="cap their attention logits"):
        influence(lm, IDS[:32], 4, 8)
    for recipe in ("moa(budget=1.0) + snapkv", "moa(budget=1.0) + quest"):
        with pytest.raises(BadInput, match="cannot be combined"):
            engine_model().session(recipe)
    for wrong in ("moa(budget=1.5)", "moa(budget=64)", "moa(plan=best)", "moa(block=0)"):
        with pytest.raises(BadInput):
            engine_model().session(wrong)
