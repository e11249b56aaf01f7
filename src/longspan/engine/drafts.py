"""A draft for a model: something cheaper, with the same tokenizer, that guesses how a session goes on.

Spelled as text, so that a method can take it as a knob: "self" (the model itself: an upper bound for any draft), "self:12" (early exit: its
first 12 layers, then its own norm and head; the weights are shared), "self:3bit" (its linear weights rounded to 3 bits in groups of 32, kept
in the model's dtype: the guesses of a quantised copy, not its speed), or any name or path that `load` takes. A draft with another tokenizer
would guess other tokens and is refused. Drafts are made once a model and shared, like the model.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from longspan.engine.batch import Work, forward
from longspan.errors import BadInput
from longspan.ops.quantise import dequantise, quantise

if TYPE_CHECKING:
    from longspan.engine.model import Model
    from longspan.engine.session import Session

BITS = (2, 3, 4, 8)
GROUP = 32  # weights of one row that share a scale
SPELLING = re.compile(r"self(?::(\d+)(bit)?)?")
SAMPLE = "A sample: naïve 12,345 tokens\n\tof «text»."

_made: WeakKeyDictionary[Model, dict[str, Model]] = WeakKeyDictionary()


def draft_of(model: Model, spelled: str) -> Model:
    """The draft that `spelled` names for `model`. BadInput when it cannot be made or read, or does not share the tokenizer."""
    found = SPELLING.fullmatch(spelled)
    if found and not found.group(1):
        return model
    made = _made.setdefault(model, {})
    if spelled not in made:
        made[spelled] = _shortened(model, found) if found else _loaded(model, spelled)
    return made[spelled]


def _shortened(model: Model, found: re.Match[str]) -> Model:
    from longspan.engine.model import Model

    number = int(found.group(1))
    hf = _rounded(model.hf, number) if found.group(2) else _first_layers(model, number)
    return Model(
        hf,
        model.tokenizer,
        name=f"{model.name} as {found.group()}",
        source=model.source,
        model_hash=f"{model.model_hash}/{found.group()}",
        template_hash=model.template_hash,
        trained_window=model.geometry.trained_window,
    )


def _loaded(model: Model, name: str) -> Model:
    from longspan.engine.model import load

    draft = load(name, dtype=model.dtype, device=model.device)
    if not same_tokenizer(model, draft):
        raise BadInput(
            f'{name} cannot draft for {model.name}: the two have different tokenizers; use a model of the same family, or draft="self:N" '
            "(the model's own first N layers)."
        )
    return draft


def same_tokenizer(one: Model, other: Model) -> bool:
    """Whether both models give every text the same token ids: equal vocabularies, and equal ids for a sample."""
    if one.tokenizer is None or other.tokenizer is None:
        return one.tokenizer is other.tokenizer and one.geometry.vocab == other.geometry.vocab
    same = one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    return same and one.encode(SAMPLE) == other.encode(SAMPLE)


def _first_layers(model: Model, count: int) -> Any:
    """A model of the first `count` layers, which shares every weight."""
    decoder = model.hf.get_decoder()
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or model.geometry.recurrent:
        raise BadInput(
            f"{model.name or 'This model'} has no plain list of layers to leave early; use another draft."
        )
    if not 1 <= count < len(layers):
        raise BadInput(
            f'draft="self:{count}" leaves a model of {len(layers)} layers after {count}; give from 1 to {len(layers) - 1}.'
        )
    config = copy.deepcopy(decoder.config)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    short = _twin(decoder)
    short.layers = nn.ModuleList(list(layers)[:count])
    short.config = config
    return _replaced(model.hf, decoder, short)


def _twin(module: nn.Module) -> Any:
    """The same module object again with the same children and weights, whose children can be exchanged."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _replaced(root: nn.Module, old: nn.Module, new: nn.Module) -> Any:
    """A twin of `root` in which `new` stands wherever `old` was; what lies beside the way to it is shared."""
    if root is old:
        return new
    twin = _twin(root)
    for name, child in root._modules.items():
        if child is not None and any(module is old for module in child.modules()):
            twin._modules[name] = _replaced(child, old, new)
    if hasattr(twin, "config") and hasattr(new, "config"):
        twin.config = new.config
    return twin


@torch.no_grad()
def _rounded(hf: Any, bits: int) -> Any:
    """A copy whose linear weights inside the layers are rounded to `bits` bits."""
    if bits not in BITS:
        raise BadInput(f'draft="self:{bits}bit" is not one of {", ".join(f"self:{b}bit" for b in BITS)}.')
    twin = copy.deepcopy(hf)
    for linear in twin.get_decoder().modules():
        if isinstance(linear, nn.Linear) and linear.in_features % GROUP == 0:
            weight = linear.weight
            codes = quantise(weight.detach().unsqueeze(0), bits, GROUP, per_channel=False)
            weight.copy_(dequantise(codes, torch.float32)[0].to(weight.dtype))
    return twin


# -- sessions of a draft -------------------------------------------------------------------------------------------------
def drafting(session: Session, draft: Model) -> Session:
    """A session of `draft` that has read what `session` has; the session stays as it was.

    The model itself and its early exits go on from the session's own cache, of which they read the first layers; any other draft reads
    the tokens itself, and is refused by its own limits.
    """
    if draft is not session.model and not _shares_layers(session.model, draft):
        return draft.session(chunk=session.chunk).feed(torch.tensor(session.ids))
    twin = session.fork(session.recipe.uncompressed)
    if draft is not session.model:
        twin.model, twin.logits, twin._marks = draft, None, {}
        twin.layers = {index: twin.layers[index] for index in draft.geometry.layers}
    return twin


def _shares_layers(model: Model, draft: Model) -> bool:
    whole, part = model.hf.get_decoder(), draft.hf.get_decoder()
    return (
        whole.layers[0] is part.layers[0] if hasattr(part, "layers") and hasattr(whole, "layers") else False
    )


@torch.no_grad()
def greedy_guess(session: Session, count: int) -> Tensor:
    """Append the `count` likeliest tokens to the session, one after the other, and return them; a stop token ends the guess, but is not its first."""
    ends = session.model.stop_ids
    stops = torch.tensor(sorted(ends), dtype=torch.long)
    found: list[int] = []
    for _ in range(count):
        logits = session.next_logits()
        if not found and len(stops):
            logits = logits.index_fill(0, stops.to(logits.device), float("-inf"))
        token = int(logits.argmax())
        if token in ends:
            break
        found.append(token)
        (session.logits,) = forward(session.model, [Work(session, torch.tensor([token]))])
    return torch.tensor(found, dtype=torch.long)
