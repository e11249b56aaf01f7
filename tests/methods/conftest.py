"""What tests of methods with an offline part share: the artefact, and a model that trains on text."""

import pytest
from tests.engine.models import engine_model
from tests.methods.artefacts import MAKERS, Bytes
from tests.tiny_models import tiny

from longspan.engine.model import Model


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """A folder with an artefact of the method that the test file is named after, for `engine_model()`."""
    name = request.module.__name__.rpartition("test_")[2]
    path = tmp_path_factory.mktemp(name)
    MAKERS[name](engine_model(), path)
    return path


@pytest.fixture(scope="module")
def reader():
    """A tiny model whose tokens are bytes."""
    return Model(tiny("llama"), Bytes(), name="tiny-reader", model_hash="abc", trained_window=4096)
