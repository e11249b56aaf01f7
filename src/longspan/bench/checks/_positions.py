"""Shared by the checks of position methods: the same map in transformers' own model, on the same weights."""

import copy
from typing import Any

import torch

from longspan.bench.testbed import Bench


@torch.no_grad()
def gap_to_transformers(
    bench: Bench, recipe: str, rope: dict[str, Any], window: int = 0, tokens: int = 384
) -> float:
    """Largest difference of log-probabilities of the next token between the engine under `recipe` and transformers' model with these rope parameters.

    Both share the weights; transformers rotates inside its own forward, with no cache.
    """
    lm = bench.model()
    ids = bench.passage(tokens)
    config = copy.deepcopy(lm.hf.config)
    config.rope_parameters = {
        **config.rope_parameters,
        "original_max_position_embeddings": window or lm.geometry.trained_window,
        **rope,
    }
    config.max_position_embeddings = window or config.max_position_embeddings
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        peer = type(lm.hf)(config)
    peer.load_state_dict(lm.hf.state_dict(), assign=True, strict=False)
    peer.model.rotary_emb = type(peer.model.rotary_emb)(config=config)
    peer.tie_weights()
    expected = (
        peer.eval()(input_ids=ids.unsqueeze(0), use_cache=False, logits_to_keep=1).logits[0, -1].float()
    )
    session = lm.session(recipe, beyond_window=True).read(
        ids
    )  # a shorter window than the model's own is meant
    return float((session.next_logits().log_softmax(-1) - expected.log_softmax(-1)).abs().max())
