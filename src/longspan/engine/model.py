"""A loaded model: weights, tokenizer, geometry. Stateless and shared by all its sessions."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import torch

from longspan.engine import dispatch, weights
from longspan.engine.chat import chat_format
from longspan.engine.crossover import Crossovers, read
from longspan.engine.geometry import probe
from longspan.engine.loading import load_weights
from longspan.engine.method import Method
from longspan.engine.needs import Needs
from longspan.engine.recipe import Recipe
from longspan.engine.recurrent import RecurrentStates, has_recurrent_layers
from longspan.engine.session import Session
from longspan.engine.state import CHUNK

UNKNOWN_WINDOW = 1 << 20


class Model:
    """What `longspan.load` returns. `session(recipe)` starts a conversation; nothing is ever written into the model."""

    def __init__(
        self,
        hf: Any,
        tokenizer: Any,
        *,
        name: str = "",
        source: str = "",
        model_hash: str = "",
        template_hash: str | None = None,
        trained_window: int | None = None,
    ):
        dispatch.register()
        self.hf, self.tokenizer = hf, tokenizer
        self.name, self.source, self.model_hash, self.template_hash = name, source, model_hash, template_hash
        self._attach()
        window = trained_window or UNKNOWN_WINDOW
        self._recurrent = has_recurrent_layers(hf.config)
        self.calls: dict[
            int, tuple[float, float | None]
        ] = {}  # scale and soft cap of each layer, facts of the model
        self.geometry = probe(hf, window, self.new_recurrent if self._recurrent else None)
        self.chat = chat_format(tokenizer) if tokenizer is not None else None
        self.crossovers: Crossovers | None = None  # set by `load`; None: sparse methods are always sparse

    def _attach(self) -> None:
        """Name the engine as attention implementation of the text part; vision parts keep theirs."""
        if self.hf.config is self.hf.config.get_text_config(decoder=True):
            self.hf.set_attn_implementation(dispatch.NAME)
        else:
            self.hf.set_attn_implementation({"text_config": dispatch.NAME})

    @property
    def device(self) -> torch.device:
        return next(self.hf.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.hf.parameters()).dtype

    @property
    def weight_bytes(self) -> int:
        seen = {p.data_ptr(): p.numel() * p.element_size() for p in self.hf.parameters()}
        return sum(seen.values())

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a reply, as the generation config says now."""
        found: set[int] = set()
        for holder in (getattr(self.hf, "generation_config", None), self.tokenizer):
            value = getattr(holder, "eos_token_id", None)
            found |= (
                set(value) if isinstance(value, list | tuple) else {value} if value is not None else set()
            )
        return self._turn_ends | found

    @cached_property
    def _turn_ends(self) -> frozenset[int]:
        """The marks that end a chat turn, of those the vocabulary has (copying a vocabulary takes long)."""
        vocabulary = self.tokenizer.get_vocab() if self.tokenizer is not None else {}
        names = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>")
        return frozenset(vocabulary[name] for name in names if name in vocabulary)

    def new_recurrent(self) -> RecurrentStates | None:
        return (
            RecurrentStates(config=self.hf.config.get_text_config(decoder=True)) if self._recurrent else None
        )

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; special: with the marks the tokenizer puts at the start of a document."""
        return self.tokenizer.encode(text, add_special_tokens=special)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def session(
        self,
        recipe: Recipe | Method | str | None = None,
        *,
        collect: Needs | None = None,
        chunk: int = CHUNK,
        beyond_window: bool = False,
    ) -> Session:
        """Start a session under a recipe; `collect` asks for statistics beyond the recipe's own, for forks under other recipes.

        beyond_window: read texts longer than the recipe reaches instead of refusing them, to measure what that costs.
        """
        return Session(self, recipe, collect=collect, chunk=chunk, beyond_window=beyond_window)

    def load_session(self, path: str | os.PathLike[str]) -> Session:
        """Continue a session saved by `Session.save` with this model."""
        from longspan.engine.save import load_session

        return load_session(self, path)

    def admit(self, session: Session, new_tokens: int) -> None:
        """Refuse, with numbers and a way out, a text that the window or the memory cannot hold."""
        from longspan.engine.limits import admit_text

        admit_text(session, new_tokens)


def load(
    name_or_path: str | os.PathLike[str] = "smollm2-135m",
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """Load a model by alias, hub id, folder with safetensors, or GGUF file. dtype and device are chosen unless given.

    Raises BadInput when it cannot be found or read.
    """
    loaded = load_weights(name_or_path, dtype=dtype, device=device)
    weights.for_decoding(loaded.model)
    model = Model(
        loaded.model,
        loaded.tokenizer,
        name=loaded.alias or os.fspath(name_or_path),
        source=loaded.source,
        model_hash=loaded.model_hash,
        template_hash=loaded.template_hash,
        trained_window=loaded.trained_window,
    )
    model.crossovers = read(model.device.type)
    return model
