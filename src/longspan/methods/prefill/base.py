"""What prefill patterns share: keeping a share or a mass of scored tiles, and the text and the dense pass that a head search works on."""

import random
from typing import Any

import torch
from torch import Tensor

from longspan.engine.needs import Needs
from longspan.ops.tile_patterns import from_blocks, from_full, from_mass
from longspan.ops.tiles import TileMask


def keep_share(
    scores: Tensor, share: float, q: Tensor, k: Tensor, query_tile: int, key_tile: int
) -> TileMask:
    """The best tiles of scores (H, I, J): `share` of each query tile's causal tiles, rounded up; the sink and diagonal tiles are among them."""
    queries, keys = q.shape[1], k.shape[1]
    whole = from_full(1, queries, keys, query_tile=query_tile, key_tile=key_tile, device=q.device)
    counts = (whole.tiles.sum(-1) * share - 1e-6).ceil().long()
    return from_blocks(scores, counts, queries, keys, query_tile=query_tile, key_tile=key_tile, sink_tiles=1)


def keep_mass(
    mass: Tensor, share: float | Tensor, q: Tensor, k: Tensor, query_tile: int, key_tile: int
) -> TileMask:
    """The fewest tiles whose estimated mass (H, I, J) reaches `share` of their row, sink and diagonal first; above 1: every causal tile."""
    queries, keys = q.shape[1], k.shape[1]
    tiles = from_mass(mass, share, queries, keys, query_tile=query_tile, key_tile=key_tile, sink_tiles=1)
    if isinstance(share, float) and share < 1.0:
        return tiles
    dense = torch.as_tensor(share, device=q.device).view(-1, 1, 1) >= 1.0
    return TileMask(
        tiles.tiles | (dense & tiles.causal_tiles()), queries, keys, query_tile, key_tile, tiles.offset
    )


def calibration_text(tokens: int, lm: Any, seed: int = 0) -> Tensor:
    """Token ids of a key-value list and a question about it, the kind of text that published head searches use; the same every time."""
    rng = random.Random(seed)
    pairs = [(rng.randrange(10**8), rng.randrange(10**8)) for _ in range(tokens // 8)]
    text = "Extract the value of the key from the list below.\n" + "".join(
        f"{k:08d}: {v:08d}\n" for k, v in pairs
    )
    asked, answer = pairs[len(pairs) // 3]
    end = lm.encode(f"\nKey: {asked:08d}\nThe value of this key is {answer:08d}.")
    return torch.tensor(lm.encode(text, special=True)[: tokens - len(end)] + end)


def dense_heads(lm: Any, ids: Tensor) -> list[tuple[int, Tensor, Tensor]]:
    """Read `ids` densely and give (layer, queries (Hq, T, D), keys (Hk, T, D)) of every growing layer, as attention saw them."""
    session = lm.session(None, collect=Needs(window_queries=len(ids))).feed(ids)
    found = []
    for layer in session.growing_layers():
        run = session.layers[layer]
        assert run.window_queries is not None
        found.append((layer, run.window_queries, run.store.padded().k))
    return found
