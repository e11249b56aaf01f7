"""Tiny models past their window: what is trained on the spot is kept, positions drawn at random leave tokens in sight of each other, diffusion writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import longspan
from longspan.bench import tiny_trained
from longspan.bench.extension import needle_recall, prose_nll, reach
from longspan.bench.results import load
from longspan.bench.run import compare
from longspan.cli.calibrate import app as calibrate_app
from longspan.engine import calibration
from longspan.errors import BadInput
from longspan.ops.frame_sizes import frame_tokens, hybrid_tokens, snapped
from longspan.report.page import render
from longspan.train import tiny, tiny_model
from longspan.train.diffusion import draw_mask, mask_id, see_both_sides, train_diffusion
from longspan.train.diffusion_sampling import block_nll, quotas, write
from longspan.train.tiny_tasks import ANSWER, PROSE, needle

SHAPE, PLAN = tiny.preset("smoke")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "untrained"
    folder.mkdir()
    tiny_model.export(tiny_model.build(SHAPE), folder)
    return folder


# -- training positions -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("positions", tiny.POSITIONS)
def test_drawn_positions_leave_every_token_in_sight_of_the_first(positions):
    """transformers parts a row whose positions do not rise by one, unless it is given a mask."""
    plan = replace(PLAN, positions=positions, largest_scale=4)
    model = tiny_model.build(SHAPE).eval()
    drawn = tiny.draw_positions(plan, 3, 1, 64)
    ids = torch.arange(64).unsqueeze(0) + 5
    kinds = torch.zeros(1, 64, dtype=torch.long)
    kinds[0, -1] = PROSE
    other = ids.clone()
    other[0, 0] += 100
    with torch.no_grad():
        found = [tiny.losses(model, one, kinds, drawn)[1] for one in (ids, other)]
    assert abs(float(found[0] - found[1])) > 1e-5
    if drawn is not None:
        assert drawn.shape == (1, 64) and (drawn.diff() > 0).all()


def test_interpolated_positions_are_those_of_position_interpolation():
    plan = replace(PLAN, positions="interpolated", largest_scale=4)
    assert torch.equal(tiny.draw_positions(plan, 0, 2, 8)[1], torch.arange(8) / 4)
    with pytest.raises(BadInput, match="interpolated"):
        tiny.train(SHAPE, replace(PLAN, positions="folded"), "unused")


# -- the cache of trained models --------------------------------------------------------------------------------------
def test_a_model_is_trained_once_and_resumed():
    plan = replace(PLAN, steps=3, stages=(64,))
    part = tiny_trained.trained(SHAPE, plan, minutes=0)
    assert not tiny_trained.is_trained(part)
    folder = tiny_trained.trained(SHAPE, plan)
    assert folder == part and tiny_trained.is_trained(folder)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert tiny_trained.trained(SHAPE, plan) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    others = {
        tiny_trained.folder_of({"a": 1}),
        tiny_trained.folder_of({"a": 2}),
        tiny_trained.folder_of({"a": 1}, folder),
        folder,
    }
    assert len(others) == 4
    assert tiny_trained.trained(SHAPE, plan, diffusion=True) != folder


def test_tuning_writes_the_map_into_the_config(monkeypatch):
    monkeypatch.setattr(
        tiny_trained,
        "short",
        lambda seed=0, steps=2: (SHAPE, replace(PLAN, steps=2, stages=(64,), seed=seed)),
    )
    folder = tiny_trained.tuned("pi(factor=4)", 128, 1)
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"]["factor"] == 4.0 and tiny_trained.is_trained(folder)


# -- measuring --------------------------------------------------------------------------------------------------------
def test_reach_measures_the_same_samples_for_every_recipe(untrained):
    lm = longspan.load(str(untrained))
    full = reach(lm, "full", 256, prose=1, prompts=1)
    again = reach(lm, "pi(factor=1)", 256, prose=1, prompts=1)
    assert full == again and len(full.nll) == 16
    assert full.beyond(128) == pytest.approx(sum(full.nll[8:]) / 8)
    assert prose_nll(lm, "pi(factor=4)", 256, 1) != full.nll
    held_out = needle_recall(lm, "full", 256, 1, draw=1)
    assert held_out != full.recall
    assert all(0 <= one.accuracy <= 1 and one.gold_nats > 0 for one in held_out.values())


# -- masked diffusion -------------------------------------------------------------------------------------------------
@given(masks=st.integers(1, 200), steps=st.integers(1, 64))
def test_quotas_add_up_and_differ_by_one(masks, steps):
    found = quotas(masks, steps)
    assert sum(found) == masks and len(found) == steps and max(found) - min(found) <= 1
    assert found == sorted(found, reverse=True)


def test_masking_follows_the_ratio_and_spares_the_start():
    kinds = torch.full((200, 100), PROSE)
    masked, ratio = draw_mask(kinds, torch.Generator().manual_seed(0))
    assert not masked[:, 0].any()
    assert (masked.float().mean(1) - ratio[:, 0]).abs().mean() < 0.05
    kinds[:, 50:60] = ANSWER
    masked, _ = draw_mask(kinds, torch.Generator().manual_seed(0))
    only_answers = ~masked[:, :50].any(1)
    assert 60 < int(only_answers.sum()) < 140


def test_a_diffusion_model_sees_both_sides_and_writes_every_mask(untrained):
    model = tiny_model.load_tiny(untrained)
    ids = torch.arange(40).unsqueeze(0) + 5
    later = ids.clone()
    later[0, -1] += 90
    with torch.no_grad():
        assert (see_both_sides(model, ids) - see_both_sides(model, later))[0, 0].abs().max() > 1e-6
    prompt = ids[0, :20]
    one_each = write(model, prompt, 8, steps=8, block=4)
    assert one_each.unmasked == (1,) * 8 and torch.equal(
        one_each.ids, write(model, prompt, 8, steps=8, block=4).ids
    )
    warm = write(model, prompt, 7, steps=3, block=4, temperature=1.0, cfg=0.5)
    assert len(warm.ids) == 8 and mask_id() not in warm.ids.tolist()
    with pytest.raises(BadInput, match="at least 1"):
        write(model, prompt, 0)
    course = block_nll(model, ids, block=8, draws=2)
    assert [start for start, _ in course] == [8, 16, 24, 32] and all(nats > 0 for _, nats in course)


def test_a_fresh_diffusion_model_starts_on_the_way_to_recall():
    """From the mask at an answer's place some head of the second layer looks at the record's value, and none at masks, itself included."""
    shape = replace(tiny.preset("short")[0], window=128)
    model = tiny_model.build(shape, 0, masked=True).eval()
    model.set_attn_implementation("eager")
    open_mask = torch.zeros(1, 1, 128, 128)
    to_value, to_masks = [], []
    for number in range(6):
        drawn = needle(128, 0.4, np.random.default_rng(number))
        ids = torch.from_numpy(drawn.ids).unsqueeze(0)
        value = drawn.evidence[0][0] + 2  # a line is a line break, the name, the value
        assert ids[0, value] == ids[0, -1]
        ids[0, [20, 60, -1]] = mask_id()
        with torch.no_grad():
            seen = model(input_ids=ids, attention_mask=open_mask, output_attentions=True, use_cache=False)
        started = seen.attentions[1][0, :: shape.query_heads // shape.kv_heads, -1]
        to_value.append(started[:, value].max())
        to_masks.append(started[:, [20, 60, -1]].max())
    assert np.mean(to_value) > 4 / 128 and np.max(to_masks) < 1e-3


def test_diffusion_training_lowers_the_loss_and_resumes(tmp_path):
    plan = replace(PLAN, steps=12, stages=(64,), rate=3e-3)
    seen = {}
    for name, parts in (("whole", (None,)), ("parts", (0, None))):
        for minutes in parts:
            train_diffusion(SHAPE, plan, tmp_path / name, minutes=minutes)
        seen[name] = tiny_model.load_tiny(tmp_path / name)
    pairs = zip(seen["whole"].parameters(), seen["parts"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    fresh = tiny_model.build(SHAPE, plan.seed).eval()
    ids = torch.from_numpy(tiny.sample("text", 96, np.random.default_rng(0)).ids).unsqueeze(0)
    before, after = (sum(n for _, n in block_nll(m, ids, block=16)) for m in (fresh, seen["whole"]))
    assert after < before


# -- calibrate clex ---------------------------------------------------------------------------------------------------
def test_calibrate_clex_trains_the_equation_alone(untrained, tmp_path, monkeypatch):
    from longspan.train import clex

    lm = longspan.load(str(untrained))
    weights = {name: p.clone() for name, p in lm.hf.named_parameters()}
    inner = clex.calibrate
    monkeypatch.setattr(clex, "calibrate", lambda *a: inner(*a, steps=4))
    monkeypatch.setattr(calibration, "user_folder", lambda: tmp_path / "artefacts")
    done = CliRunner().invoke(calibrate_app, ["clex(largest=3)", "--model", str(untrained)])
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith(f"{untrained.name}.safetensors")
    artefact = calibration.load("clex", lm)
    assert artefact.facts["largest"] == 3 and artefact.tensors["down"].abs().max() > 0
    assert all(torch.equal(p, weights[name]) for name, p in lm.hf.named_parameters())
    lm.session("clex(largest=3)").read(list(range(5, 205)))


# -- frames -----------------------------------------------------------------------------------------------------------
def test_frames_snap_to_the_grid_within_their_pixels():
    assert snapped(28, 28) == (56, 56) and frame_tokens(448, 448, 448 * 448) == 256
    with pytest.raises(BadInput, match="too thin"):
        snapped(10, 3000)


@given(
    groups=st.integers(1, 6),
    size=st.integers(1, 6),
    height=st.integers(60, 1500),
    width=st.integers(60, 1500),
)
def test_a_group_costs_one_high_frame_and_the_rest_low(groups, size, height, width):
    high, low = 400_000, 60_000
    hi, lo = frame_tokens(height, width, high), frame_tokens(height, width, low)
    assert hi >= lo
    assert hybrid_tokens(groups * size, height, width, size, high, low) == groups * (hi + (size - 1) * lo)
    assert hybrid_tokens(groups, height, width, 0, high, low) == groups * hi


# -- the comparison ---------------------------------------------------------------------------------------------------
def test_a_run_of_position_methods_records_the_loss_of_the_whole_text(untrained, tmp_path):
    lm = longspan.load(str(untrained))

    def run(name: str, methods: list[str]) -> list[dict]:
        compare(
            lm, methods, out=tmp_path / name, tasks=["perplexity"], lengths=[300], samples=1, haystacks=["prose"],
            references=False, latency_tokens=0, beyond_window=True,
        )  # fmt: skip
        return load(tmp_path / name)

    facts, rows = run("extended", ["full", "pi(factor=4)"])
    courses = {row["recipe"]: row["nll_by_position"] for row in rows}
    assert set(courses) == {"full", "pi(factor=4)"} and courses["full"] != courses["pi(factor=4)"]
    for row in rows:
        at = [position for position, _ in row["nll_by_position"]]
        assert at[0] == 1 and at[-1] < 300 and max(np.diff(at)) == 16
        ids = row["read_tokens"] + row["gold_tokens"]
        assert ids - at[-1] <= 16
    page = render(facts, rows)
    assert 'id="extension"' in page and "inside the window" in page
    _, plain = run("plain", ["full", "knorm(budget=0.5)"])
    assert all(row["nll_by_position"][0][0] == row["read_tokens"] for row in plain)
