"""MMInference: permuted rows against dense masks, grids found, boundaries told apart, and the text part of a vision-language model."""

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model

from longspan.bench.synthetic_heads import HeadView, grid, image_tokens, same_place, two_kinds
from longspan.engine.recipe import parse
from longspan.errors import BadInput
from longspan.methods.prefill.mminference_heads import distance_sums, fold
from longspan.ops.attention import attend
from longspan.ops.row_units import Unit, UnitMask
from longspan.ops.sparse_prefill import prefill
from longspan.ops.tile_patterns import from_window_sink
from longspan.ops.tile_scores import exact_rows

SMALL = "vertical=8, slash=56"
ALL = ((0, 1024),)


def spans(images):
    edges = torch.cat((torch.zeros(1), images.float(), torch.zeros(1))).diff().nonzero().flatten().tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def kept(recipe, head, image_spans=None, rows=slice(512, None)):
    q, k = head
    (pattern,) = parse(recipe).methods
    mask = pattern.tiles(HeadView(q.shape[1], q.shape[2], image_spans=image_spans), q, k)
    mass = exact_rows(q, k, q.shape[2] ** -0.5, 0) * mask.dense()
    return float(mass[:, rows].sum() / mass[:, rows].shape[1]), mask.density()


def test_units_are_attention_over_the_pairs_they_say():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, t, 8, generator=generator) for n, t in ((4, 40), (2, 56), (2, 56)))
    base = from_window_sink(4, 40, 56, sink=3, window=5, query_tile=8, key_tile=8)
    units = []
    for head in range(4):
        for part in torch.randperm(40, generator=generator)[:30].split(10):
            keys = torch.randperm(56, generator=generator)[:20].sort().values
            units.append(Unit(head, part.sort().values, keys))
    mask = UnitMask(base, tuple(units))
    dense = mask.dense()
    assert int(dense.sum(dim=(1, 2)).ne(mask.kept_pairs()).sum()) == 0
    assert 0 < mask.density() < 1
    out, lse = prefill(q, k, v, mask, scale=0.4)
    plain, plain_lse = attend(q, k, v, scale=0.4, mask=dense)
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lse, plain_lse, atol=1e-5, rtol=1e-4)
    with pytest.raises(BadInput, match="one unit only"):
        UnitMask(base, (units[0], units[0]))


def test_sums_by_distance_and_by_place():
    mass, positions = (
        torch.rand(2, 3, 12, generator=torch.Generator().manual_seed(1)),
        torch.tensor([4, 7, 11]),
    )
    mass = mass * (torch.arange(12) <= positions.unsqueeze(1))
    found = distance_sums(mass, positions)
    for distance in range(12):
        total = sum(mass[:, r, p - distance] for r, p in enumerate(positions.tolist()) if p >= distance)
        torch.testing.assert_close(found[:, distance], torch.zeros(2) + total)
    torch.testing.assert_close(fold(found, 5)[:, 2], found[:, 2] + found[:, 7])


@pytest.mark.parametrize("step", [16, 49])
def test_grid_heads_are_kept_where_lines_of_the_same_cost_are_not(step):
    ours, density = kept(f"mminference({SMALL}, strides=(16, 32, 49))", same_place(step), ALL)
    assert ours > 0.95 and density < 0.5
    for vertical in (40, 94):
        for slash in (104, 110, 120):
            lines, cost = kept(f"minference(vertical={vertical}, slash={slash})", same_place(step))
            assert cost > density + 0.02 or ours > lines + 0.3
    ours, density = kept(f"mminference({SMALL}, strides=(16, 32, 49))", grid(step), ALL)
    assert ours > 0.95 and density < 0.5  # columns, which lines see as well


def test_the_stride_is_detected_among_all():
    for step in (16, 49):
        assert kept(f"mminference({SMALL})", same_place(step), ALL)[0] > 0.95


def test_a_boundary_of_its_own_keeps_what_one_choice_for_both_loses():
    images = image_tokens(512)
    head, where = two_kinds(512), spans(images)
    last = torch.arange(832, 1024)
    of_text = last[~images[last]]  # the last probe of the text is an image's
    found = {
        name: kept(f"mminference(vertical=12, slash=4, grid=false, boundary={name})", head, where, of_text)[0]
        for name in ("one", "query", "both")
    }
    assert found["query"] > found["one"] + 0.2
    assert found["both"] > found["one"] + 0.2
    auto = kept("mminference(vertical=12, slash=4, grid=false)", head, where, of_text)[0]
    assert auto >= max(found.values()) - 0.05


def test_masks_are_causal_and_every_row_sees_itself():
    head, where = two_kinds(512), spans(image_tokens(512))
    q, k = head
    (pattern,) = parse(f"mminference({SMALL})").methods
    dense = pattern.tiles(HeadView(1024, 64, image_spans=where), q, k).dense()[0]
    assert bool(dense.diagonal().all()) and not bool(dense.triu(1).any())


def test_without_images_it_is_minference():
    lm = engine_model()
    ours = lm.session("mminference(vertical=8, slash=16, tile=8)", chunk=96).read(IDS)
    plain = lm.session("minference(vertical=8, slash=16, tile=8)", chunk=96).read(IDS)
    assert torch.equal(ours.score(MORE), plain.score(MORE))
    assert ours.stats.prefill_density == plain.stats.prefill_density


def with_images():
    lm = engine_model("qwen2_vl")
    ids = torch.cat((IDS, IDS))
    ids[20:68] = ids[90:138] = lm.hf.config.image_token_id
    return lm, ids


@pytest.mark.parametrize("chunk", [192, 50])
def test_a_vision_language_models_text_part_reads_its_images_by_their_token(chunk):
    lm, ids = with_images()
    dense = lm.session(chunk=chunk).read(ids)
    whole = lm.session("mminference(slash=100000, tile=8)", chunk=chunk).read(ids)
    torch.testing.assert_close(whole.score(MORE), dense.score(MORE), atol=3e-4, rtol=1e-3)
    by_token = lm.session("mminference(vertical=2, slash=2, tile=8)", chunk=chunk).read(ids)
    by_mark = lm.session("mminference(vertical=2, slash=2, tile=8)", chunk=chunk)
    by_mark.mark_images([(20, 68), (90, 138)]).read(ids)
    assert torch.equal(by_token.score(MORE), by_mark.score(MORE))
    assert torch.isfinite(by_token.score(MORE)).all()
    assert by_token.stats.prefill_density < 0.95


def test_strides_come_from_the_marked_spans():
    (pattern,) = parse("mminference").methods
    images = torch.zeros(300, dtype=torch.bool)
    for first in (10, 60, 110):
        images[first : first + 48] = True
    assert pattern._strides(None, images) == [48, 50]


def test_what_cannot_be_served_is_refused():
    for wrong in ("mminference(boundary=odd)", "mminference(strides=(1,))", "mminference(tile=0)"):
        with pytest.raises(BadInput):
            parse(wrong)
    with pytest.raises(BadInput, match="in its place"):
        parse("mminference + window(when=chunk)")
    lm, ids = with_images()
    with pytest.raises(BadInput, match="in its place"):
        lm.session("mminference(tile=8) + snapkv(budget=0.5, window=8)").read(ids).read(ids)
