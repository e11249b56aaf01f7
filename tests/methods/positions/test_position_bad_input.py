"""What a new user gets wrong, for every registered position method: one sentence with the way out, and exit code 2 from the command line."""

import dataclasses

import pytest
import torch
from tests.methods.artefacts import Bytes
from tests.tiny_models import tiny
from transformers import GPT2Config, GPT2LMHeadModel

from longspan.cli.main import run
from longspan.engine import calibration
from longspan.engine.model import Model
from longspan.engine.recipe import parse
from longspan.engine.registry import methods
from longspan.errors import BadInput
from longspan.methods.positions.export import exported_config

WINDOW = 64
POSITIONS = {name: cls for name, cls in methods().items() if cls.stage == "positions"}
NEEDED = {
    "longrope": f"long={(1.0,) * 8}",
    "clex": "trained=false",
}  # what a method cannot be spelled without
STRETCHES = {
    "factor",
    "multiplier",
    "sharpen",
    "scale",
}  # knobs of which 1 changes nothing and less would shorten
EXACT = {"neighbours", "chunk", "limit"}  # knobs up to which distances stay what they are
RANGE = {"lm_infinite": "window"}


def spelled(name: str, *knobs: str) -> str:
    return f"{name}({', '.join([k for k in (NEEDED.get(name),) if k] + list(knobs))})"


def knobs_of(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(POSITIONS[name])}


def pairs(wanted: set[str]) -> list[tuple[str, str]]:
    return [(name, knob) for name in POSITIONS for knob in sorted(knobs_of(name) & wanted)]


@pytest.fixture(scope="module")
def model():
    return Model(tiny("llama", max_position_embeddings=WINDOW), Bytes(), name="tiny", trained_window=WINDOW)


@pytest.fixture(scope="module")
def unrotated(tmp_path_factory):
    """A folder with a GPT-2: learned positions, no rotation."""
    from longspan.train.tiny_tasks import tokenizer

    folder = tmp_path_factory.mktemp("gpt2")
    words = tokenizer()
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": WINDOW}
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(words), bos_token_id=0, eos_token_id=1, **shape)
    ).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_stretching_knobs_are_all_known():
    assert {name for name, _ in pairs(STRETCHES)} >= {
        "pi",
        "ntk",
        "yarn",
        "longrope",
        "llama3",
        "abf",
        "dca",
        "giraffe",
    }


@pytest.mark.parametrize("name, knob", pairs(STRETCHES))
@pytest.mark.parametrize("value", ["0.5", "0", "-2", "1e400"])
def test_a_stretch_below_one_or_without_end_names_its_knob(name, knob, value):
    with pytest.raises(BadInput, match=rf"{knob}.*at least 1"):
        parse(spelled(name, f"{knob}={value}"))


@pytest.mark.parametrize("name", [n for n in POSITIONS if "window" in knobs_of(n) and n not in RANGE])
def test_a_window_shorter_than_the_models(name, model):
    """Refused, unless reading past the window was asked for: then it is a way to pretend."""
    ids = torch.arange(20)
    short = spelled(name, "window=32")
    with pytest.raises(BadInput, match=r"shorter than the 64 tokens.*leave it at 0"):
        model.session(short).read(ids)
    model.session(short, beyond_window=True).read(ids)
    model.session(spelled(name, "window=64")).read(ids)
    with pytest.raises(BadInput, match="too short to be a trained window"):
        parse(spelled(name, "window=8"))
    method = parse(spelled(name, "window=32", *(["factor=2"] if "factor" in knobs_of(name) else []))).methods[
        0
    ]
    if hasattr(method, "rope_parameters"):
        with pytest.raises(BadInput, match="shorter than the 64"):
            exported_config(model.hf.config, method)


@pytest.mark.parametrize("name, knob", pairs(EXACT) + list(RANGE.items()))
def test_exact_distances_beyond_the_trained_ones(name, knob, model):
    with pytest.raises(BadInput, match=rf"{knob}=500 of {name}.*has not seen; give at most 64"):
        model.session(spelled(name, f"{knob}=500")).read(torch.arange(20))


@pytest.mark.parametrize("name", POSITIONS)
def test_a_model_without_rotary_positions(name, unrotated, capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A cat sat on a mat.")
    recipe = spelled(name)
    assert run(["ask", str(text), "Who?", "--method", recipe, "--model", str(unrotated)]) == 2
    said = capsys.readouterr().err
    assert f"{name} changes rotary positions, and this model has none" in said and f"leave {name} out" in said
    assert "Traceback" not in said and said.strip().count("\n") == 0


@pytest.mark.parametrize(
    "recipe, way_out",
    [
        ("clex", "longspan calibrate clex --model tiny"),
        ("dpe(scales=(1, 2), neighbours=16, key_pairs=3)", "longspan calibrate dpe --model tiny"),
        ("longrope", "search_factors"),
    ],
)
def test_what_needs_training_says_how_to_get_it(recipe, way_out, model, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "user_folder", lambda: tmp_path)
    with pytest.raises(BadInput, match=way_out):
        model.session(recipe)


@pytest.mark.parametrize("name", ["dpe", "clex"])
def test_calibrating_a_model_without_rotary_positions(name, unrotated, capsys):
    assert run(["calibrate", name, "--model", str(unrotated)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("dpe(scales=3)", "a list of numbers"),
        ("longrope(long=3)", "a list of numbers"),
        ("longrope(long=(1, 'a'))", "a list of numbers"),
        ("giraffe(xpos=-1)", "at least 0"),
        ("dpe(key_pairs=-1)", "0 for all"),
        ("lm_infinite(middle=-1)", "negative"),
        ("lm_infinite(from_layer=4, to_layer=2)", "which are none"),
        ("yarn(output=-1)", "at least 0"),
        ("yarn(windw=100)", "did you mean window"),
        ("yran", "did you mean yarn"),
    ],
)
def test_bad_knobs_are_one_sentence_on_the_command_line(recipe, message, capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A cat sat on a mat.")
    assert run(["ask", str(text), "Who?", "--method", recipe, "--model", "probe"]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("trained", [1024, 8192])
def test_no_method_reaches_less_than_the_model_itself(name, trained):
    assert parse(spelled(name)).methods[0].reach(trained) >= trained
