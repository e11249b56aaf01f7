"""Expected attention: how much attention future queries will give an entry, in closed form, times the size of its value.

Source: Expected Attention, Devoto et al., 2025, arXiv 2510.00636; NVIDIA/kvpress. Queries before rotation are taken as Gaussian with the mean mu and
covariance S of the text's own queries. R is the mean rotation over the next `future` positions. For a rotated key k with logit scale c:
z = c (R mu) . k + c^2 / 2 k' (R S R') k; the score is (softmax of z over the entries, averaged over the query group, + epsilon) ||v||.

kvpress recomputes queries from kept hidden states, architecture by architecture; here attention calls feed a running mean and covariance
(`needs.query_moments`), so every architecture is right and memory does not grow with the text. The sink's queries are left out of both, and the
sinks out of the softmax, as in the code. The leaderboard's entry is allocator=adaptive, epsilon=0.01. The prompt's queries stand for the answer's;
for instruct models they differ, which is why the library also ships statistics files. A soft cap on logits (Gemma 2) is not part of the form.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput

BLOCK = 4096  # entries whose quadratic form is computed at once


@register("expected_attention")
@dataclass(frozen=True)
class ExpectedAttention(CachePolicy):
    """future: positions averaged over. covariance, value_norm: use the second-order term, the value's size. epsilon: added before it."""

    source = Source("https://arxiv.org/abs/2510.00636", 2025, "https://github.com/NVIDIA/kvpress")
    pre_rope = True

    sink: int = 4
    future: int = 512
    covariance: bool = True
    value_norm: bool = True
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.future < 1 or self.epsilon < 0:
            raise BadInput("expected_attention needs future >= 1 positions and epsilon >= 0.")

    @property
    def needs(self) -> Needs:
        return Needs(query_moments=True)

    def score(self, view: LayerView) -> Tensor:
        keys = view.keys.float()
        logits = self.expected_logits(view, keys)
        hidden = view.positions < self.sink
        if view.valid is not None:
            hidden = hidden | ~view.valid
        logits = logits.masked_fill(hidden.unsqueeze(1), float("-inf"))
        score = logits.softmax(-1).nan_to_num(0.0).mean(1) + self.epsilon
        return score * view.values.float().norm(dim=-1) if self.value_norm else score

    def expected_logits(self, view: LayerView, keys: Tensor) -> Tensor:
        """z of the formula, (Hk, G, T), for keys (Hk, T, D)."""
        heads, entries, dim = keys.shape
        rope, scale = view.geometry.rope, view.session.scale(view.layer)
        frequencies = view.run.written_frequencies(view.seen)
        ahead = torch.arange(view.seen, view.seen + self.future, device=keys.device)
        moments = view.query_moments
        mean = rope.mean_rotate(moments.mean.unsqueeze(1), ahead, frequencies).view(heads, -1, dim)
        logits = scale * mean @ keys.transpose(1, 2)
        if not self.covariance:
            return logits
        turned = rope.mean_rotate(moments.covariance, ahead, frequencies).transpose(1, 2)
        turned = rope.mean_rotate(turned, ahead, frequencies).view(heads, -1, dim, dim)
        for start in range(0, entries, BLOCK):
            part = keys[:, None, start : start + BLOCK]
            logits[..., start : start + BLOCK] += 0.5 * scale**2 * ((part @ turned) * part).sum(-1)
        return logits
