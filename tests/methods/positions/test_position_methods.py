"""One interface test over every position method, and what is particular to single ones."""

import pytest
import torch
from tests.methods.artefacts import dpe as dpe_artefact
from tests.tiny_models import tiny

from longspan.engine import calibration
from longspan.engine.model import Model
from longspan.engine.recipe import parse
from longspan.engine.registry import methods
from longspan.errors import BadInput
from longspan.methods.positions.base import smallest_factor
from longspan.methods.positions.dpe import detect_scales
from longspan.methods.positions.export import exported_config
from longspan.methods.positions.longrope import search_factors
from longspan.ops.frequency_maps import Rope, ntk
from longspan.ops.neural_frequencies import solve

WINDOW, LENGTH = 64, 150
DIVISORS = tuple(1 + i / 4 for i in range(8))

# recipe at work, recipe that changes nothing
RECIPES = {
    "pi": ("pi(factor=4)", "pi(factor=1)"),
    "ntk": ("ntk(factor=4)", "ntk(factor=1)"),
    "dynamic_ntk": ("dynamic_ntk(factor=2)", "dynamic_ntk(window=4096)"),
    "ntk_by_parts": ("ntk_by_parts(factor=4)", "ntk_by_parts(factor=1)"),
    "yarn": ("yarn", "yarn(factor=1)"),
    "longrope": (f"longrope(long={DIVISORS})", f"longrope(long={DIVISORS}, factor=1)"),
    "llama3": ("llama3(factor=4)", "llama3(factor=1)"),
    "abf": ("abf", "abf(multiplier=1)"),
    "longllada": ("longllada(factor=4)", "longllada(factor=1)"),
    "giraffe": ("giraffe(factor=2, power=0.5, truncate=128)", "giraffe"),
    "giraffe, xpos": ("giraffe(factor=2, xpos=64)", "giraffe(xpos=0)"),
    "giraffe, all": ("giraffe(factor=2, power=0.5, truncate=128, xpos=64)", "giraffe(xpos=0)"),
    "dprope": ("dprope(factor=4)", "dprope(factor=1)"),
    "mrope_plus": ("mrope_plus(factor=4, rho=0.5, scale=2)", "mrope_plus(factor=1)"),
    "self_extend": ("self_extend(neighbours=16, group=8)", "self_extend(group=1)"),
    "rerope": ("rerope(neighbours=32, leak=0.125)", "rerope(neighbours=1000)"),
    "dca": ("dca(sharpen=2)", "dca(chunk=1000, local=16)"),
    "dpe": ("dpe(neighbours=16, scales=(2, 8, 4, 1))", "dpe(scales=(1, 1))"),
    "dpe, key pairs": (
        "dpe(neighbours=16, scales=(2, 8, 4, 1), key_pairs=5)",
        "dpe(scales=(1, 1), key_pairs=5)",
    ),
    "lm_infinite": ("lm_infinite(window=48, first=4)", "lm_infinite(window=1000)"),
    "lm_infinite, middle": (
        "lm_infinite(window=48, first=4, middle=5)",
        "lm_infinite(window=1000, middle=5)",
    ),
    "lm_infinite, middle of a layer": (
        "lm_infinite(window=48, first=4, middle=5, insert_at=20, from_layer=1)",
        "lm_infinite(window=1000, middle=5, from_layer=1)",
    ),
    "clex": ("clex(trained=false)", "clex(trained=false, window=4096)"),
    "e2_llm": ("e2_llm(factor=3)", "e2_llm(factor=1)"),
    "flexrope": ("flexrope(slope=0.05)", "flexrope(slope=0)"),
}


@pytest.fixture(scope="module")
def model():
    return Model(tiny("llama", max_position_embeddings=WINDOW), None, trained_window=WINDOW)


@pytest.fixture(autouse=True)
def artefacts(model, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "artefacts"
    if not (folder / "dpe").is_dir():
        dpe_artefact(model, folder)
    monkeypatch.setattr(calibration, "user_folder", lambda: folder)


@pytest.fixture(autouse=True)
def beyond_the_window(monkeypatch):
    """The mathematics is tested beyond what each setting is meant for; refusing that is tested with admission."""
    monkeypatch.setattr(Model, "admit", lambda *_: None)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 256, (LENGTH,), generator=torch.Generator().manual_seed(0))


def _logits(model, recipe, ids, chunk=512):
    return model.session(recipe, chunk=chunk).read(ids).next_logits()


def test_every_position_method_is_tested():
    known = {name for name, cls in methods().items() if cls.stage == "positions"}
    assert known == {label.split(",")[0] for label in RECIPES}


@pytest.mark.parametrize("name", list(RECIPES))
def test_decoding_equals_one_shot_reading(name, model, ids):
    recipe = RECIPES[name][0]
    whole = _logits(model, recipe, ids)
    session = model.session(recipe, chunk=17).expect(LENGTH)
    session.read(ids[:120])
    for token in ids[120:]:
        session.feed(token.view(1), reading=False)
    assert (session.next_logits() - whole).abs().max() < 1e-4
    assert (whole - _logits(model, "full", ids)).abs().max() > 1e-2  # and the method does something


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_neutral_setting_is_the_model_itself(name, model, ids):
    method = parse(RECIPES[name][1]).methods[0]
    rope = model.geometry.layers[0].rope
    inv_freq, factor = method.frequencies(rope, LENGTH)
    assert torch.equal(inv_freq, rope.frequencies.inv_freq) and factor == 1.0
    full, neutral = (_logits(model, recipe, ids) for recipe in ("full", method))
    if method.rotate_on_read:
        assert (full - neutral).abs().max() < 1e-4
    else:
        assert torch.equal(full, neutral)


@pytest.mark.parametrize("arch", ["gemma3", "deepseek_v3", "glm4", "qwen3_next"])
@pytest.mark.parametrize("name", ["yarn", "self_extend", "dpe", "flexrope"])
def test_other_families(arch, name, ids):
    """Layer types with their own rotation, split heads, interleaved pairs, recurrent layers."""
    model = Model(tiny(arch, max_position_embeddings=WINDOW), None, trained_window=WINDOW)
    ids = ids[:100]
    recipe = RECIPES[name][0].replace("2, 8, 4, 1", "2, 8")  # partial rotation can leave two pairs
    whole = _logits(model, recipe, ids)
    session = model.session(recipe, chunk=13).expect(100)
    session.read(ids[:90])
    for token in ids[90:]:
        session.feed(token.view(1), reading=False)
    assert (session.next_logits() - whole).abs().max() < 5e-4
    neutral = _logits(model, RECIPES[name][1], ids)
    assert (neutral - _logits(model, "full", ids)).abs().max() < 5e-4


@pytest.mark.parametrize("name", ["pi", "yarn", "dynamic_ntk", "self_extend", "dca", "flexrope"])
def test_methods_combine_with_a_cache_policy(name, model, ids):
    session = model.session(f"{RECIPES[name][0]} + random(budget=0.5)")
    session.read(ids)
    heads = sum(layer.kv_heads for layer in model.geometry.layers.values())
    assert session.entries() == heads * (LENGTH // 2)
    full_budget = model.session(f"{RECIPES[name][0]} + random(budget=1.0)").read(ids)
    assert (full_budget.next_logits() - _logits(model, RECIPES[name][0], ids)).abs().max() < 1e-4
    assert torch.isfinite(session.score(ids[:5])).all()


def test_auto_factor_follows_the_request_and_then_stays(model, ids):
    assert [smallest_factor(n, 64) for n in (1, 64, 65, 128, 129, 500)] == [1, 1, 2, 2, 4, 8]
    method = parse("yarn(output=0)").methods[0]
    rope = model.geometry.layers[0].rope
    assert torch.equal(method.frequencies(rope, 64).inv_freq, rope.frequencies.inv_freq)
    fixed = [parse(f"yarn(factor={f})").methods[0].frequencies(rope, 999) for f in (2, 4)]
    assert torch.equal(method.frequencies(rope, 65).inv_freq, fixed[0].inv_freq)
    assert torch.equal(method.frequencies(rope, 150).inv_freq, fixed[1].inv_freq)
    assert (_logits(model, "yarn(output=0)", ids) - _logits(model, "yarn(factor=4)", ids)).abs().max() < 1e-4
    short = ids[:60]
    assert (_logits(model, "yarn", short) - _logits(model, "full", short)).abs().max() < 1e-4
    session = model.session("yarn(output=0)").read(ids[:60])
    assert session.horizon == 60
    session.read(ids[60:])  # a later turn needs factor 4; the text is not read again
    assert session.horizon == LENGTH and session.stats.prefilled_tokens == LENGTH


@pytest.mark.parametrize(
    "recipe",
    [
        "pi(factor=4)",
        "ntk(factor=4)",
        "ntk_by_parts(factor=4)",
        "yarn(factor=4)",
        "yarn(factor=4, ramp=paper)",
        "llama3(factor=4)",
        "abf(multiplier=50)",
        "longllada(factor=4)",
        "dprope(factor=4)",
        f"longrope(long={DIVISORS}, factor=4)",
    ],
)
def test_an_exported_config_gives_the_same_logits(recipe, model, ids):
    method = parse(recipe).methods[0]
    plain = tiny("llama", max_position_embeddings=WINDOW)
    config = exported_config(plain.config, method)
    theirs = type(plain)(config).eval()
    theirs.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        logits = theirs(ids.unsqueeze(0)).logits[0, -1]
    assert (logits - _logits(model, recipe, ids)).abs().max() < 1e-3
    assert "rope_scaling" not in config.to_diff_dict() or config.rope_parameters


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("pi(factor=0.5)", "at least 1"),
        ("yarn(factor=huge)", "at least 1, or auto"),
        ("yarn(window=3)", "too short"),
        ("yarn(ramp=steep)", "paper, hf"),
        ("abf(multiplier=0.1)", "at least 1"),
        ("longrope", "divisors"),
        ("self_extend(group=0)", "group"),
        ("dpe(scales=(0, 1))", "whole numbers"),
        ("flexrope(slope=-1)", "rewarded"),
        ("dca(chunk=8, local=9)", "local < chunk"),
        ("rerope(leak=2)", "between 0 and 1"),
        ("pi(factor=2) + yarn(factor=2)", "same stage"),
    ],
)
def test_bad_knobs_are_one_sentence(recipe, message):
    with pytest.raises(BadInput, match=message):
        parse(recipe)


def test_bad_models_are_one_sentence(model):
    with pytest.raises(BadInput, match="one a pair"):
        model.session("longrope(long=(1.0, 2.0))")
    with pytest.raises(BadInput, match="at most one a pair"):
        model.session(f"dpe(scales={(2,) * 9})")
    config = tiny("llama").config
    with pytest.raises(BadInput, match="not a map of frequencies"):
        exported_config(config, parse("self_extend").methods[0])
    with pytest.raises(BadInput, match="fixed factor"):
        exported_config(config, parse("yarn").methods[0])


@pytest.mark.parametrize(
    "recipe",
    ["giraffe(power=0.5)", "giraffe(truncate=32)", f"longrope(long={DIVISORS}, short={DIVISORS}, factor=1)"],
)
def test_maps_that_act_without_stretching(recipe, model, ids):
    short = ids[:60]
    assert (_logits(model, recipe, short) - _logits(model, "full", short)).abs().max() > 1e-2


def test_reach():
    def reach(recipe):
        return parse(recipe).methods[0].reach(1000)

    assert reach("pi(factor=4)") == 4000 and reach("yarn") == float("inf")
    assert reach("self_extend(neighbours=200, group=4)") == 800 * 4 + 200


def test_detection_finds_each_band(model):
    """A score that prefers one divisor a band is recovered exactly, with one probe a band and divisor."""
    wanted = (2, 8, 1)
    calls = []

    def probe(scales):
        calls.append(scales)
        return -sum(abs(s - w) for s, w in zip(scales, wanted))

    best, scores = detect_scales(probe, 3, (1, 2, 4, 8), others=4)
    assert best == wanted and len(calls) == len(scores) == 12


def test_clex_reads_its_network_as_an_artefact(model, ids, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "user_folder", lambda: tmp_path)
    with pytest.raises(BadInput, match="longspan calibrate clex"):
        model.session("clex")
    rope = model.geometry.layers[0].rope
    up = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)) / 4
    calibration.save("clex", model, tensors={"up": up, "down": torch.zeros(8, 16)})
    untrained = _logits(model, "clex(trained=false)", ids)
    assert (_logits(model, "clex", ids) - untrained).abs().max() < 1e-4  # a network that adds nothing
    down = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)) / 4
    calibration.save("clex", model, tensors={"up": up, "down": down})
    session = model.session("clex").read(ids)
    expected = solve(rope.trained, 3, up, down)
    found = session.recipe.methods[0].frequencies(rope, LENGTH).inv_freq
    assert torch.allclose(found, expected, rtol=1e-5)
    assert (session.next_logits() - untrained).abs().max() > 1e-2


def test_clex_untrained_is_ntk_by_twice_t_less_one():
    rope = Rope(64, 1e4, 256)
    assert torch.equal(solve(rope, 1), rope.frequencies)
    for t in (2, 4, 8):
        assert torch.allclose(solve(rope, t), ntk(rope, 2 * t - 1).inv_freq, rtol=1e-5)


def test_search_is_never_worse_than_its_seeds():
    rope = Rope(16, 1e4, 64)
    target = torch.linspace(1, 4, 8)

    def fitness(divisors):
        return float((torch.tensor(divisors) - target).abs().sum())

    seeds = [torch.full((8,), 4.0).tolist()]
    best, value = search_factors(fitness, rope, 4, population=16, parents=8, iterations=10)
    assert value == fitness(best) < fitness(seeds[0])
    assert list(best) == sorted(best)
    assert (best, value) == search_factors(fitness, rope, 4, population=16, parents=8, iterations=10)


def test_the_export_command_writes_a_model_that_transformers_extends(tmp_path, ids):
    from transformers import AutoModelForCausalLM
    from typer.testing import CliRunner

    import longspan
    from longspan.cli.main import app
    from longspan.train import tiny as trainer
    from longspan.train import tiny_model

    shape, _ = trainer.preset("smoke")
    tiny_model.export(tiny_model.build(shape), tmp_path / "plain")
    arguments = ["export-positions", str(tmp_path / "plain"), "yarn(factor=4)", str(tmp_path / "long")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "long")
    assert theirs.config.max_position_embeddings == 4 * shape.window
    ours = longspan.load(str(tmp_path / "plain")).session("yarn(factor=4)").read(ids)
    with torch.inference_mode():
        assert (theirs(ids.unsqueeze(0)).logits[0, -1] - ours.next_logits()).abs().max() < 1e-4
