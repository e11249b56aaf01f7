"""Attention heads with a known shape, on which sparse methods must separate: needle, slash, grid, and what a flat head looks like.

Natural text at a few thousand tokens hardly tells tile scorers apart; these heads do. Each is made of q (1, S, D) and k (1, S, D) whose true attention
is known by construction: `needle`: every late query reads one key. `slash`: query i reads key i - distance. `grid`: late queries read every `step`-th key.
Every key has its opposite 32 tokens on, so that the mean of a tile of 64 is zero and only scorers that look inside tiles can see.

Dimension letters: S tokens, D head dim.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

LOGIT = 14.0  # of the planted pairs; e^14 outweighs a thousand keys at logit 0


@dataclass
class HeadView:
    """What a prefill pattern may ask of a layer's view, for one synthetic layer read in one chunk of `tokens` tokens."""

    tokens: int
    dim: int
    layer: int = 0
    order: int = 0
    image_spans: tuple[tuple[int, int], ...] | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def session(self) -> SimpleNamespace:
        return SimpleNamespace(
            scale=lambda layer: self.dim**-0.5,
            softcap=lambda layer: None,
            expected=self.tokens,
            length=0,
            image_spans=self.image_spans,
        )

    @property
    def seen(self) -> int:
        return 0


def flat(tokens: int = 1024, dim: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random directions: no structure to find."""
    keys = _paired(tokens, dim, seed)
    return torch.randn(1, tokens, dim, generator=torch.Generator().manual_seed(seed + 1)), keys


def needle(at: int, tokens: int = 1024, dim: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Every query after `at` reads key `at`."""
    q, k = flat(tokens, dim, seed)
    return _planted(k[:, at : at + 1]) * (1 + 0.05 * q), k


def slash(distance: int, tokens: int = 1024, dim: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Query i reads key i - distance. Use an odd distance: antidiagonals of even strides hold odd distances only."""
    _, k = flat(tokens, dim, seed)
    return _planted(k.roll(distance, 1)), k


def grid(step: int, tokens: int = 1024, dim: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Every query reads all keys at multiples of `step`, as frames of a video do."""
    q, k = flat(tokens, dim, seed)
    direction = (
        torch.nn.functional.normalize(
            torch.randn(dim, generator=torch.Generator().manual_seed(seed + 2)), dim=0
        )
        * dim**0.5
    )
    k = k.clone()
    k[:, ::step] = direction
    return _planted(direction.view(1, 1, dim)) * (1 + 0.05 * q), k


def same_place(step: int, tokens: int = 1024, dim: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Query i reads the keys j with i - j a multiple of `step`: the same patch in every frame of a video. Queries and keys share one direction a place."""
    _, k = flat(tokens, dim, seed)
    places = torch.randn(step, dim, generator=torch.Generator().manual_seed(seed + 3))
    places = torch.linalg.qr(places.T).Q.T if step <= dim else torch.nn.functional.normalize(places, dim=-1)
    own = (places * dim**0.5)[torch.arange(tokens) % step].unsqueeze(0)
    return _planted(own), 0.3 * k + own


def two_kinds(border: int, tokens: int = 1024, dim: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An image of `border` tokens and a text after it, in turns of 64 from there on: image queries read four image keys, text queries four text keys."""
    q, k = flat(tokens, dim, seed)
    image = image_tokens(border, tokens)
    directions = (
        torch.nn.functional.normalize(
            torch.randn(2, dim, generator=torch.Generator().manual_seed(seed + 4)), dim=-1
        )
        * dim**0.5
    )
    k = k.clone()
    for kind, where in enumerate((image.nonzero().flatten(), (~image).nonzero().flatten())):
        k[:, where[: len(where) // 2 : max(1, len(where) // 8)]] = directions[kind]
    own = torch.where(image.unsqueeze(1), directions[0], directions[1]).unsqueeze(0)
    return _planted(own) * (1 + 0.05 * q), k


def image_tokens(border: int, tokens: int = 1024) -> Tensor:
    """Which tokens of `two_kinds` are the image's, (tokens,) bool: the first `border`, then every other 64."""
    at = torch.arange(tokens)
    return (at < border) | (((at - border) // 64) % 2 == 1)


def _paired(tokens: int, dim: int, seed: int) -> Tensor:
    """Random directions in which the second half of every 64 tokens is the negative of the first."""
    half = torch.randn(1, -(-tokens // 64), 32, dim, generator=torch.Generator().manual_seed(seed))
    half = torch.nn.functional.normalize(half, dim=-1) * dim**0.5
    return torch.cat((half, -half), 2).flatten(1, 2)[:, :tokens]


def _planted(k: Tensor) -> Tensor:
    """Queries whose scaled logit with k (norm sqrt(D)) is LOGIT."""
    return k * (LOGIT / k.shape[-1] ** 0.5)
