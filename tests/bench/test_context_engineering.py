"""The check of prompt assembly: its properties hold without a model, and it can fail."""

from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.bench.checks import context_engineering as checking
from longspan.context.packer import pack
from longspan.engine.model import Model


class Bench:
    def model(self):
        hf = tiny("llama", vocab_size=len(byte_level()), num_hidden_layers=1, head_dim=32)
        return Model(hf, byte_level(), name="tiny", model_hash="tiny", trained_window=4096)


def test_the_packer_passes_on_a_tiny_model():
    outcome = checking.context_engineering(Bench())
    assert len(outcome.properties) == 6 and outcome.verdict == "works"


def test_a_packer_that_drops_the_end_fails(monkeypatch):
    def cut(parts, window, **options):
        whole = pack(parts, window, **options)
        return type(whole)(whole.text[:-1], whole.tokens, whole.manifest, whole.dropped)

    monkeypatch.setattr(checking, "TRIALS", 5)
    monkeypatch.setattr(checking, "pack", cut)
    assert checking.context_engineering(Bench()).verdict == "fails"
