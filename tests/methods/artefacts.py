"""Artefacts made of thin air for tiny models, so that methods which read one run in tests, and a tokenizer for what trains on text."""

from pathlib import Path

import torch

from longspan.engine import calibration
from longspan.engine.model import Model


class Bytes:
    """A tokenizer whose tokens are bytes; no chat template."""

    chat_template = None
    eos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode("ascii", "replace"))

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode("ascii", "replace")

    def get_vocab(self) -> dict[str, int]:
        return {}


def duoattention(model: Model, folder: Path) -> None:
    """Gates that fall with the head's number inside a layer and with the layer."""
    geometry = model.geometry
    gates = torch.linspace(0.9, 0.1, len(geometry.growing) * geometry.kv_heads)
    rows = gates.view(-1, geometry.kv_heads).tolist()
    facts = {"gates": rows, "mean_gates": rows, "reach": [row[::-1] for row in rows[::-1]]}
    calibration.save("duoattention", model, facts=facts, folder=folder)


def locret(model: Model, folder: Path, width: int = 4) -> None:
    """Retaining heads of random weights."""
    geometry = model.geometry
    first = geometry.layers[geometry.growing[0]]
    size = (first.q_heads + first.kv_heads) * first.head_dim + first.kv_heads * first.value_dim
    generator = torch.Generator().manual_seed(5)
    layers = len(geometry.growing)
    tensors = {
        "fc1": torch.randn(layers, width, size, generator=generator) / size**0.5,
        "fc2": torch.randn(layers, geometry.kv_heads, width, generator=generator),
    }
    calibration.save("locret", model, tensors=tensors, facts={"width": width}, folder=folder)


def lococo(model: Model, folder: Path, fused: int = 12, kernel: int = 5) -> None:
    """Convolutions of random weights."""
    geometry = model.geometry
    first = geometry.layers[geometry.growing[0]]
    generator = torch.Generator().manual_seed(6)
    shape = (len(geometry.growing), fused, first.head_dim + first.value_dim, kernel)
    tensors = {
        "codes": torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8),
        "scales": torch.full((*shape[:2], 1, 1), 0.002).half(),
        "mix": torch.linspace(0.2, 0.6, shape[0]),
    }
    calibration.save("lococo", model, tensors=tensors, facts={}, folder=folder)


def dpe(model: Model, folder: Path) -> None:
    """What pairs contribute in each head, at random."""
    generator = torch.Generator().manual_seed(7)
    tensors = {
        f"layer{index}": torch.rand(layer.q_heads, layer.rope.trained.dim // 2, generator=generator)
        for index, layer in model.geometry.layers.items()
    }
    calibration.save("dpe", model, tensors=tensors, folder=folder)


MAKERS = {"duoattention": duoattention, "locret": locret, "lococo": lococo}
