"""LongHeads: each head reads a few chunks of its own choice, found by one key per chunk that the chunk's self-attention points to.

Source: LongHeads, Lu et al., 2024, arXiv 2402.10685; code LuLuLuyi/LongHeads. Inside every complete chunk, queries and keys rotated as if the chunk stood
alone attend to each other without a causal mask; the mean output m (in value space, yet dotted with keys, as in the code) weighs the chunk's keys by
softmax(m . k), and their mixture represents it. The score of a chunk is the un-rotated query times that. First chunk, the newest complete one and the
unfinished rest are always read, then the best until the budget.

The original also moves the chosen chunks next to each other, so that positions never exceed the trained window; here entries keep their own positions
and the method is a way to read less, not to read beyond the window. It needs the text's own queries, kept for up to `history` tokens (as much memory as the
keys of all query heads). heads=kv adds the scores of a query group.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longspan.engine.budget import Budget
from longspan.engine.method import DecodeSelector, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.decode.base import budget_entries
from longspan.ops.attention import grouped_mix, grouped_scores
from longspan.ops.page_digest import top_pages
from longspan.ops.selection import Selection


@register("longheads")
@dataclass(frozen=True)
class LongHeads(DecodeSelector):
    """chunk: entries a chunk. budget: share, entries a head, or bytes that a token reads. heads: "query" or "kv". history: tokens whose queries are
    kept; a longer text is refused."""

    source = Source("https://arxiv.org/abs/2402.10685", 2024, "https://github.com/LuLuLuyi/LongHeads")
    system = "longheads"
    pre_rope = True

    refresh: int = 256
    chunk: int = 256
    budget: float | int | str = 0.25
    heads: str = "query"
    history: int = 32768

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if self.chunk < 1 or self.history < self.chunk or self.heads not in ("query", "kv"):
            raise BadInput("longheads takes chunk >= 1, history >= chunk, and heads=query or kv.")

    @property
    def needs(self) -> Needs:
        return Needs(window_queries=self.history)

    def check(self, model: Any) -> None:
        for index in model.geometry.growing:
            layer = model.geometry.layers[index]
            if layer.head_dim != layer.value_dim:
                raise BadInput(
                    f"longheads needs keys and values of one width, and this model's are {layer.head_dim} and {layer.value_dim} wide."
                )

    def index(self, view: LayerView) -> None:
        total = min(view.run.store.lengths)
        queries = view.unrotated_window_queries()
        if queries.shape[1] < total or total < view.seen:
            raise BadInput(
                f"longheads needs the queries of all {view.seen} tokens in the cache; raise history above that and use no cache policy with it."
            )
        fresh = chunk_keys(
            *(
                x[:, : total // self.chunk * self.chunk].unflatten(1, (-1, self.chunk))
                for x in (queries, view.unrotated_keys, view.values)
            ),
            view,
        )
        view.state.update(chunks=fresh, budget=budget_entries(view, self.budget))

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        count, chunks = view.run.indexed, view.state["chunks"]
        if view.state["budget"] >= count or not chunks.shape[1]:
            return None
        plain = view.geometry.rope.unrotate(
            q, torch.tensor([view.seen], device=q.device), view.run.written_frequencies(view.seen)
        )
        scores = (plain.float() @ chunks.transpose(1, 2)).squeeze(1)
        if self.heads == "kv":
            scores = scores.unflatten(0, (view.geometry.kv_heads, -1)).sum(1)
        rest = count > chunks.shape[1] * self.chunk
        if rest:  # the unfinished chunk
            scores = torch.cat((scores, scores.new_zeros(scores.shape[0], 1)), 1)
        return top_pages(
            scores, view.state["budget"] // self.chunk, count, self.chunk, sink_pages=1, recent_pages=1 + rest
        )


def chunk_keys(queries: Tensor, keys: Tensor, values: Tensor, view: LayerView) -> Tensor:
    """One key a chunk, (Hq, G, D), from un-rotated queries (Hq, G, w, D), keys and values (Hk, G, w, D) of complete chunks."""
    found, scale = [], view.session.scale(view.layer)
    inside = torch.arange(queries.shape[2], device=queries.device)
    for chunk in range(queries.shape[1]):
        q = view.geometry.rope.rotate(queries[:, chunk], inside, view.run.written_frequencies(view.seen))
        k = view.geometry.rope.rotate(keys[:, chunk], inside, view.run.written_frequencies(view.seen))
        mean = grouped_mix(grouped_scores(q, k, scale).softmax(-1), values[:, chunk].float()).mean(
            1, keepdim=True
        )
        found.append(grouped_mix(grouped_scores(mean, k, scale).softmax(-1), k.float()))
    return torch.cat(found, 1) if found else queries.new_zeros(queries.shape[0], 0, queries.shape[3])
