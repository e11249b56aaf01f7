"""MagicPIG: chances against counts, estimates without bias, and what is always read."""

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model

from longspan.engine.batch import Work, forward
from longspan.errors import BadInput
from longspan.methods.decode.magicpig import chance, codes
from longspan.ops.selection import Selection
from longspan.ops.sparse_decode import decode

SMALL = "sink=2, local=4, refresh=4, every=0"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_chance_is_how_often_two_codes_agree():
    q, k = draw(1, 1, 16), draw(1, 60, 16, seed=1) + 0.7 * draw(1, 1, 16)
    bits, tables, hits = 4, 12, torch.zeros(60)
    for trial in range(600):
        directions = draw(16, tables * bits, seed=100 + trial)
        hits += ((codes(k, directions, bits) == codes(q, directions, bits)).sum(-1) >= 2)[0]
    u = chance(torch.nn.functional.cosine_similarity(q, k, dim=-1)[0], bits, tables)
    assert bool(((u > 0) & (u <= 1)).all())
    torch.testing.assert_close(hits / 600, u, atol=0.07, rtol=0.0)


def test_numerator_and_denominator_are_unbiased():
    q, k, v = draw(1, 1, 16), draw(1, 200, 16, seed=1), draw(1, 200, 3, seed=2)
    weight = (q @ k.transpose(1, 2) / 4).exp()[0, 0]
    u = chance(torch.nn.functional.cosine_similarity(q, k, dim=-1)[0], 3, 20)
    total, mixed = 0.0, torch.zeros(3)
    for trial in range(400):
        directions = draw(16, 60, seed=trial)
        drawn = ((codes(k, directions, 3) == codes(q, directions, 3)).sum(-1) >= 2)[0]
        total += float((weight / u)[drawn].sum()) / 400
        mixed += ((weight / u)[drawn, None] * v[0, drawn]).sum(0) / 400
    exact = weight @ v[0]
    assert total == pytest.approx(float(weight.sum()), rel=0.03)
    assert float((mixed - exact).norm() / (weight.sum() * v.norm(dim=-1).mean() / 14)) < 0.6


@pytest.mark.parametrize("backend", ["reference", "gather"])
def test_a_selections_bias_weighs_its_entries(backend):
    q, k, v = draw(4, 1, 8), draw(2, 30, 8, seed=1), draw(2, 30, 8, seed=2)
    indices = torch.stack(
        [torch.randperm(30, generator=torch.Generator().manual_seed(h))[:9] for h in range(4)]
    )
    counts, bias = torch.tensor([9, 5, 7, 9]), draw(4, 9, seed=3)
    out, lse = decode(q, k, v, Selection(indices, 30, 1, counts, bias), scale=0.3, backend=backend)
    for head in range(4):
        chosen = indices[head, : counts[head]]
        logits = k[head // 2, chosen] @ q[head, 0] * 0.3 + bias[head, : counts[head]]
        torch.testing.assert_close(
            out[head, 0], logits.softmax(0) @ v[head // 2, chosen], atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(lse[head, 0], logits.logsumexp(0), atol=1e-5, rtol=1e-4)
    with pytest.raises(BadInput, match="bias"):
        Selection(indices, 30, 1, counts, bias[:, :3])


def read(recipe):
    return engine_model().session(recipe, chunk=32).read(IDS)


def test_tables_without_end_are_dense_attention():
    full = engine_model().session().read(IDS).score(MORE)
    ours = read(f"magicpig(bits=1, tables=500, budget=95, {SMALL})").score(MORE)
    torch.testing.assert_close(ours, full, atol=0.2, rtol=0.05)
    torch.testing.assert_close(
        read(f"magicpig(bits=1, tables=500, budget=1.0, {SMALL})").score(MORE), full, atol=1e-4, rtol=1e-4
    )


def test_ends_are_always_read_and_a_cap_holds():
    session = read(f"magicpig(bits=2, tables=30, budget=20, {SMALL})")
    fork = session.fork()
    (method,) = fork.recipe.methods
    for layer in fork.growing_layers():
        view = fork.view(layer, method)
        chosen = method.select(view, draw(4, 1, 16, seed=layer))
        kept = chosen.dense()
        assert bool(kept[:, [0, 1, 92, 93, 94, 95]].all())
        assert int(kept.sum(1).max()) <= 20
        assert torch.isfinite(chosen.bias).all()
        assert bool((chosen.dense_bias()[:, [0, 1, 92, 93, 94, 95]] == 0).all())
        again = method.select(view, draw(4, 1, 16, seed=layer))
        assert torch.equal(chosen.indices, again.indices)


def test_the_first_of_every_few_layers_reads_all():
    session = read("magicpig(bits=4, tables=30, sink=2, local=4, every=2)").fork()
    for token in MORE[:2]:
        forward(session.model, [Work(session, token.view(1))])
    counters = [session.layers[i].counters for i in session.growing_layers()]
    assert [c.read == c.held for c in counters] == [True, False, True]


def test_wrong_knobs_are_named():
    for wrong in ("bits=16", "tables=1", "local=-1"):
        with pytest.raises(BadInput):
            engine_model().session(f"magicpig({wrong})")
