"""Calibration artefacts: found by method and model, refused when missing, damaged or made on other weights."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from longspan.engine import calibration
from longspan.errors import BadInput


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))


def model(name: str = "owner/some model.gguf", hash: str = "a" * 64):
    return SimpleNamespace(name=name, model_hash=hash)


@pytest.mark.parametrize("tensors", [None, {"gates": torch.arange(6.0).view(2, 3)}])
def test_an_artefact_comes_back(tensors, tmp_path):
    path = calibration.save(
        "some_method", model(), tensors=tensors, facts={"made_by": "a test", "threshold": 0.5}
    )
    assert path.parent == tmp_path / "cache" / "calibration" / "some_method" and path.stem == "some-model"
    found = calibration.load("some_method", model())
    assert found.path == path and found.facts["threshold"] == 0.5
    if tensors:
        assert torch.equal(found.tensors["gates"], tensors["gates"])
    nearer = calibration.save(
        "some_method", model(), tensors=tensors, facts={"threshold": 1}, folder=tmp_path / "own"
    )
    assert calibration.load("some_method", model(), tmp_path / "own").path == nearer


def test_missing_damaged_and_foreign_artefacts_say_how_to_make_one(tmp_path):
    with pytest.raises(BadInput, match="longspan calibrate some_method --model owner/some model"):
        calibration.load("some_method", model())
    path = calibration.save("some_method", model(), tensors={"x": torch.ones(50)})
    with pytest.raises(BadInput, match="other weights"):
        calibration.load("some_method", model(hash="b" * 64))
    data = path.read_bytes()
    for broken in (data[:-20], b"", b"not an artefact at all", json.dumps([1]).encode()):
        path.write_bytes(broken)
        with pytest.raises(BadInput, match="damaged; make it with"):
            calibration.load("some_method", model())
    path.unlink()
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(BadInput, match="damaged"):
        calibration.load("some_method", model())
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write the artefact"):
        calibration.save("some_method", model(), facts={}, folder=tmp_path / "file")


def test_a_file_is_read_once_until_it_changes(monkeypatch, tmp_path):
    reads = []
    plain = calibration._read
    monkeypatch.setattr(calibration, "_read", lambda path: reads.append(path.name) or plain(path))
    path = calibration.save("some_method", model(), tensors={"x": torch.ones(3)}, facts={"step": 1})
    first = [calibration.load("some_method", model()) for _ in range(5)]
    assert len(reads) == 1 and all(one.tensors["x"] is first[0].tensors["x"] for one in first)
    first[0].tensors["mine"] = torch.zeros(1)  # a user's own entry is nobody else's
    first[0].facts["step"] = 9
    again = calibration.load("some_method", model())
    assert set(again.tensors) == {"x"} and again.facts["step"] == 1
    calibration.save("some_method", model(), tensors={"x": torch.zeros(3)}, facts={"step": 2})
    os.utime(path, ns=(1, 1))  # a copy can be older than what it replaces
    found = calibration.load("some_method", model())
    assert len(reads) == 2 and found.facts["step"] == 2 and not found.tensors["x"].any()
    with pytest.raises(BadInput, match="other weights"):
        calibration.load("some_method", model(hash="b" * 64))
    assert len(reads) == 2


def test_the_files_in_memory_are_few():
    for number in range(calibration.KEPT + 5):
        calibration.save(f"method_{number}", model(), facts={"number": number})
        assert calibration.load(f"method_{number}", model()).facts["number"] == number
    assert len(calibration._files) == calibration.KEPT
    assert calibration.load("method_0", model()).facts["number"] == 0  # read anew


def test_shapes_are_compared_with_the_models():
    one = model()
    one.device, one.geometry = torch.device("cpu"), SimpleNamespace(growing=(0, 1))
    found = calibration.Artefact({"a": torch.ones(2, 3, 5).half(), "b": torch.ones(7).half()}, {}, None)
    made = calibration.matched(found, {"a": (2, 3)}, "the things of some_method", one)
    assert set(made) == {"a", "b"} and made["b"].dtype == torch.float32
    with pytest.raises(BadInput, match="the things of some_method are not for 2 growing layers"):
        calibration.matched(found, {"a": (2, 4)}, "the things of some_method", one)
