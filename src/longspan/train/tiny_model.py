"""Tiny Llama models: their shape, their first weights, and the folder they live in.

The class is transformers' own LlamaForCausalLM with grouped-query attention, so whatever runs on a real model runs on it. The folder holds config, safetensors and
tokenizer, which is what ``longspan.load`` reads.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from longspan.errors import BadInput
from longspan.ops.rotary import inverse_frequencies
from longspan.train.tiny_tasks import NAMES, tokenizer


@dataclass(frozen=True)
class Shape:
    """The model's size. window: trained length in tokens. rope: transformers' `rope_parameters` in place of plain RoPE on `rope_base`. start_heads: initialise
    some heads on the way to recall. start_counting: and one on the way to counting."""

    layers: int = 4
    hidden: int = 192
    query_heads: int = 6
    kv_heads: int = 2
    feed_forward: int = 384
    window: int = 1024
    rope_base: float = 100000.0
    rope: dict | None = None
    start_heads: bool = True
    start_counting: bool = False


def check_shape(shape: Shape) -> None:
    """Raise BadInput when the sizes do not divide."""
    if shape.hidden % shape.query_heads or shape.query_heads % shape.kv_heads:
        raise BadInput(
            f"hidden {shape.hidden}, query_heads {shape.query_heads} and kv_heads {shape.kv_heads} do not divide; "
            "hidden must be a multiple of query_heads and query_heads of kv_heads"
        )


def build(shape: Shape, seed: int = 0, masked: bool = False) -> LlamaForCausalLM:
    """A freshly initialised model, fp32. masked: it will fill masks and not foretell, so its heads start on the way to that kind of recall."""
    check_shape(shape)
    vocabulary = tokenizer()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.query_heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.window,
        rope_parameters=shape.rope or {"rope_type": "default", "rope_theta": shape.rope_base},
        tie_word_embeddings=False,
        attention_bias=True,
        initializer_range=shape.hidden
        ** -0.5,  # the usual 0.02 belongs to models ten times as wide; here it delays every head
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with (
        torch.no_grad()
    ):  # what a token is must outweigh what the layers add, or the first layer's output drowns it
        model.model.embed_tokens.weight /= config.initializer_range
        for layer in model.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight *= (2 * shape.layers) ** -0.5
    if shape.start_heads:
        _start_heads(model, masked)
    if shape.start_counting:
        _start_counting(model)
    return model.train()


@torch.no_grad()
def _start_heads(
    model: LlamaForCausalLM,
    masked: bool = False,
    match: float = 2.0,
    recency: float = 3.0,
    unread: float = 16.0,
) -> None:
    """Start one head of each group on the way to recall: in the first layer it looks one token back, above it looks for the token that followed its own.

    In the spirit of mimetic initialisation (Trockman and Kolter, 2023, arXiv 2305.09828). First layer: query and key biases whose rotations agree at distance 1 (a soft
    previous-token head), values projected by P and written by R^T. Layers above: queries projected by P, keys by R, on the slower half of the pairs,
    so that a token matches what the first layer noted about a predecessor. From random weights a model of this size needs some 10^5 sequences before
    its first recall. Everything stays trainable.

    masked: the answer's place holds a mask, which says nothing of what is asked; there queries are projected by R as keys are, so that a place looks for tokens
    with the predecessor it has itself. It has that itself, and so has every mask something in common with it, so masks start out as keys that nobody reads.
    """
    config = model.config
    dim = config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // config.num_key_value_heads
    half = dim // 2
    frequency = inverse_frequencies(dim, config.rope_parameters["rope_theta"])[: half // 2]
    slow = torch.cat((torch.arange(half // 2, half), torch.arange(half // 2, half) + half))
    for kv in range(config.num_key_value_heads):
        reads, head = slice(kv * dim, (kv + 1) * dim), kv * group * dim
        asks = slice(head, head + dim)
        first = model.model.layers[0].self_attn
        first.q_proj.weight[asks] *= 0.1
        first.k_proj.bias[kv * dim : kv * dim + half // 2] = recency
        first.q_proj.bias[head : head + half // 2] = recency * frequency.cos()
        first.q_proj.bias[head + half : head + half + half // 2] = -recency * frequency.sin()
        noted = first.v_proj.weight[reads].clone()
        written = torch.randn_like(noted) * noted.std()
        first.o_proj.weight[:, asks] = written.T
        for layer in model.model.layers[1:]:
            attention = layer.self_attn
            for projection, pattern, rows in (
                (attention.q_proj, written if masked else noted, asks),
                (attention.k_proj, written, reads),
            ):
                projection.weight[rows] *= 0.1
                projection.weight[rows.start + slow] += match * pattern[slow]
            attention.o_proj.weight[:, asks] = attention.v_proj.weight[reads].T
            if masked:
                mask = model.model.embed_tokens.weight[config.eos_token_id]
                anchor = half - 1  # of the slowest pair
                attention.q_proj.weight[asks.start + anchor] = 0.0
                attention.q_proj.bias[asks.start + anchor] = unread
                attention.k_proj.weight[reads.start + anchor] = -unread * mask / mask.square().sum()


@torch.no_grad()
def _start_counting(model: LlamaForCausalLM, match: float = 2.0, weight: float = 2.0) -> None:
    """Start one head of the first layer on the way to counting: a name attends to itself everywhere and, with `weight` times as much, to <s>.

    Of n occurrences and <s> the latter then gets weight / (n + weight), a smooth function of the count that the layers above can read. Names share a
    subspace in which they have equal norms and nothing else lies, so that they all match alike; slow pairs only, so that distance does not matter.
    Without it a trial run was still at chance after 2,600 samples of counting alone; with it, at nearly twice chance after 1,900.
    """
    config = model.config
    dim = config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // config.num_key_value_heads
    half = dim // 2
    slow = torch.cat((torch.arange(half // 2, half), torch.arange(half // 2, half) + half))
    anchor, same = slow[half // 2 - 1], torch.cat((slow[: half // 2 - 1], slow[half // 2 :]))
    reads = (config.num_key_value_heads - 1) * dim
    asks = reads * group + dim
    basis = torch.linalg.qr(torch.randn(config.hidden_size, len(same))).Q
    embedding = model.model.embed_tokens.weight
    inside = embedding @ basis
    named = torch.zeros(len(embedding), 1)
    named[[token for word, token in tokenizer().get_vocab().items() if word in NAMES]] = 1.0
    even = inside * (len(same) ** 0.5 / inside.norm(dim=1, keepdim=True)) * named
    outside = embedding - inside @ basis.T
    outside *= (config.hidden_size - len(same) * named) ** 0.5 / outside.norm(dim=1, keepdim=True)
    embedding.copy_(outside + even @ basis.T)
    attention = model.model.layers[0].self_attn
    attention.q_proj.weight[asks : asks + dim] = 0.0
    attention.q_proj.weight[asks + same] = match * basis.T
    attention.k_proj.weight[reads + slow] = 0.0
    attention.k_proj.weight[reads + same] = match * basis.T
    start = embedding[config.bos_token_id] / embedding[config.bos_token_id].square().mean().sqrt()
    wanted = match**2 * len(same) + dim**0.5 * math.log(weight)
    attention.q_proj.bias[asks + anchor] = wanted**0.5
    attention.k_proj.weight[reads + anchor] = wanted**0.5 * start / config.hidden_size


def export(model: LlamaForCausalLM, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write config, weights (in `dtype` when given) and tokenizer so that ``longspan.load(folder)`` reads them."""
    weights = {name: p.detach().clone() for name, p in model.state_dict().items()}
    if dtype is not None:
        weights = {name: w.to(dtype) for name, w in weights.items()}
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer().save_pretrained(folder)


def load_weights_into(model: LlamaForCausalLM, folder: Path) -> None:
    """Read an exported folder's weights into `model` (fp32). Raises BadInput when they do not fit it."""
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise BadInput(f"{folder} holds no model.safetensors; give a folder written by `longspan tiny train`")
    weights = {name: w.float() for name, w in load_file(path).items()}
    mine = model.state_dict()
    wrong = [name for name, w in weights.items() if name not in mine or mine[name].shape != w.shape]
    if wrong:
        raise BadInput(f"the weights in {folder} do not fit this shape (first difference: {wrong[0]})")
    model.load_state_dict(weights)


def load_tiny(folder: Path) -> LlamaForCausalLM:
    """Read a trained folder for evaluation: fp32, eval mode. Raises BadInput when there is no model."""
    if not (Path(folder) / "config.json").is_file():
        raise BadInput(f"{folder} holds no model; write one with `longspan tiny train {folder}`")
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def parameters(model: LlamaForCausalLM) -> int:
    """Number of weights."""
    return sum(math.prod(p.shape) for p in model.parameters())
