"""KVMerger: runs of neighbours, pivots and kernel weights, exact budgets under every allocator."""

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model

from longspan.engine.needs import Needs
from longspan.engine.recipe import parse
from longspan.errors import BadInput
from longspan.methods.cache.kvmerger import Runs


def plainly_read():
    """The full cache, read as the methods here read: the sums of attention are taken in the attention call, which rounds otherwise."""
    return engine_model().session(collect=Needs(column_mass=True), chunk=32).read(IDS)


def read(recipe):
    session = engine_model().session(recipe, chunk=32).read(IDS)
    return session, [session.view(layer, session.recipe.methods[0]) for layer in session.growing_layers()]


def degrees(view):
    found = view.side("degree")
    return found if view.valid is None else found * view.valid


@pytest.mark.parametrize("allocator", ["overall", "adaptive", "uniform"])
@pytest.mark.parametrize("budget", [0.7, 0.5, 0.2])
def test_totals_are_exact(allocator, budget):
    session, views = read(f"kvmerger(budget={budget}, allocator={allocator})")
    per_head = round(budget * 96)
    assert session.growing_entries() == per_head * 2 * 3
    for view in views:
        lengths = session.layers[view.layer].store.lengths
        if allocator != "overall":
            assert sum(lengths) == 2 * per_head
        if allocator == "uniform":
            assert lengths == (per_head, per_head)


def test_kept_and_merged_add_up():
    _, views = read("kvmerger(budget=0.6)")
    for view in views:
        assert degrees(view).sum(1).tolist() == [96.0, 96.0]


def test_a_threshold_of_one_changes_nothing():
    session, _ = read("kvmerger(eps=1.1)")
    plain = plainly_read()
    assert torch.equal(session.score(MORE), plain.score(MORE))


def test_protected_entries_are_untouched():
    _, views = read("kvmerger(budget=0.5, sink=2)")
    plain = plainly_read()
    newest = int(0.17 * 96)
    for view in views:
        dense = plain.layers[view.layer].store.padded()
        for head in range(2):
            count = int(view.valid[head].sum()) if view.valid is not None else view.positions.shape[1]
            positions = view.positions[head, :count].long()
            assert set(range(96 - newest, 96)) | {0, 1} <= set(positions.tolist())
            same = (view.keys[head, :count] == dense.k[head, positions]).all(-1)
            single = view.side("degree")[head, :count] == 1
            assert bool(same[single].all())
            assert bool(single[-newest:].all()) and bool(single[:2].all())


def test_a_narrow_kernel_returns_the_pivot():
    sharp, _ = read("kvmerger(budget=0.5, sigma=0.000001)")
    pivots, _ = read("kvmerger(budget=0.5, merge=false)")
    for layer in sharp.growing_layers():
        one, two = sharp.layers[layer].store.padded(), pivots.layers[layer].store.padded()
        assert torch.equal(one.positions, two.positions)
        torch.testing.assert_close(one.k, two.k, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(one.v, two.v, atol=1e-6, rtol=1e-6)


def test_runs():
    join = torch.tensor([[True, True, False, False, True, False]])
    runs = Runs(join, None)
    assert runs.sizes().tolist() == [[3.0, 1.0, 2.0]]
    value = torch.tensor([[1.0, 5.0, 5.0, 2.0, 3.0, 4.0]])
    assert runs.total(value).tolist() == [[11.0, 2.0, 7.0]]
    assert runs.first_best(value).tolist() == [[1, 3, 5]]
    assert runs.spread(runs.total(value)).tolist() == [[11.0, 11.0, 11.0, 2.0, 7.0, 7.0]]
    ragged = Runs(
        torch.tensor([[True, False, False], [False, False, False]]),
        torch.tensor([[True, True, False], [True, True, True]]),
    )
    assert ragged.valid.tolist() == [[True, False, False], [True, True, True]]
    assert ragged.sizes().tolist() == [[2.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def test_identical_members_give_the_member_back():
    keys = torch.ones(1, 4, 3)
    runs = Runs(torch.tensor([[True, True, True, False]]), None)
    method = parse("kvmerger").methods[0]
    weights = method._weights(keys, runs.first_best(torch.ones(1, 4)), runs)
    assert weights.tolist() == [[0.25] * 4]


def test_value_mass():
    mean, _ = read("kvmerger(budget=0.5)")
    bias, views = read("kvmerger(budget=0.5, value_mass=bias)")
    total, _ = read("kvmerger(budget=0.5, value_mass=sum)")
    assert all(view.bias is not None for view in views)
    scores = [one.score(MORE) for one in (mean, bias, total)]
    assert not torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


def test_a_second_read_goes_on_merging():
    session, _ = read("kvmerger(budget=0.6)")
    session.read(IDS[:40])
    assert session.growing_entries() == round(0.6 * 136) * 2 * 3


def test_wrong_knobs():
    with pytest.raises(BadInput, match="mean, sum, bias"):
        parse("kvmerger(value_mass=max)")
    with pytest.raises(BadInput, match="at most 1"):
        parse("kvmerger(recent_share=0.7, heavy_share=0.5)")
