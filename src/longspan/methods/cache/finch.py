"""FINCH: read a document chunk by chunk together with the question; after each chunk keep what the question attends to.

Source: FINCH, Corallo and Papotti, TACL 2024, arXiv 2408.00167; FinchPress of NVIDIA/kvpress (the authors' code was not read). Score of an entry:
attention from the question's rows over everything cached, each row multiplied by the number of entries it sees (normalise=true), averaged over
rows and query group, no smoothing. Kept keys move to contiguous positions (positions="cache": stored un-rotated, numbered by their index).

Two forms. question="..." with when="chunk" is the paper's: the question is fed to a fork after every chunk and forgotten with it, so the cache
never holds more than budget + chunk + question, and a text longer than the window can be read. Without a question in the recipe the last `window` tokens read
stand for it after a dense read (kvpress's form; put the question at the end of the text and `window` at its length); they always stay. The
cache serves one question only.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.session import Session
from longspan.engine.view import LayerView
from longspan.errors import BadInput


@register("finch")
@dataclass(frozen=True)
class Finch(CachePolicy):
    """question: text (or token ids) that guides the reading; "" for the last `window` tokens of the text. normalise: multiply a row by the
    number of entries it sees. positions: "cache" (contiguous) or "original"."""

    source = Source("https://arxiv.org/abs/2408.00167", 2024, "https://github.com/NVIDIA/kvpress")
    aware = True

    question: str | tuple[int, ...] = ""
    window: int = 32
    normalise: bool = True
    positions: str = "cache"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in ("cache", "original"):
            raise BadInput(f"positions={self.positions!r} of finch is not one of cache, original.")
        if self.window < 1:
            raise BadInput(f"window={self.window} of finch counts tokens and must be at least 1.")
        if not self.question and self.when != "prefill":
            raise BadInput(
                'finch reads chunk by chunk with the question: give question="..." or use when=prefill.'
            )

    @property
    def position_mode(self) -> str:
        return self.positions

    @property
    def needs(self) -> Needs:
        return Needs() if self.question else Needs(window_queries=self.window)

    def passes(self, rope: Any) -> Any | None:
        return None

    def score_all(self, session: Session) -> dict[int, Tensor]:
        """With a question, the scores from that question posed to a fork."""
        if not self.question:
            return {}
        ids = (
            list(self.question)
            if not isinstance(self.question, str)
            else session.model.encode(f"\n\n{self.question}")
        )
        plain = session.recipe.uncompressed
        if session.map is not None and not plain.of("positions"):
            plain = plain + dataclasses.replace(
                self, budget=1.0, when="prefill"
            )  # numbers positions, drops nothing
        fork = session.fork(plain, collect=Needs(window_queries=len(ids)))
        fork.feed(torch.tensor(ids), reading=False)
        found = {}
        for layer in session.growing_layers():
            held = session.layers[layer].store.longest
            found[layer] = self._from_rows(fork.view(layer, self), len(ids))[:, :held]
        return found

    def score(self, view: LayerView) -> Tensor:
        if self.question:
            return super().score(view)
        rows = min(self.window, view.seen)
        asked = view.positions >= view.seen - rows
        return self._from_rows(view, rows).masked_fill(asked, float("inf"))

    def _from_rows(self, view: LayerView, rows: int) -> Tensor:
        """(Hk, T): attention of the newest `rows` queries, as the model saw the positions."""
        weights = rows_as_read(view, rows)
        heads, entries = view.keys.shape[0], view.keys.shape[1]
        if self.normalise:
            weights = weights * (weights > 0).sum(-1, keepdim=True)
        return weights.mean(1).view(heads, -1, entries).mean(1)


def rows_as_read(view: LayerView, rows: int) -> Tensor:
    """Softmax rows (Hq, W, T) of the newest `rows` queries; with positions numbered inside the cache when the session does so."""
    if view.run.map is None or not view.run.map.cache_index:
        return view.attention_rows(view.window_queries(rows))
    rope, keys = view.geometry.rope, view.unrotated_keys
    frequencies = view.run.written_frequencies(view.seen)
    counts = keys.new_tensor(view.run.store.lengths).long()
    at = (counts.unsqueeze(1) - rows + torch.arange(rows, device=keys.device)).repeat_interleave(
        view.geometry.group, 0
    )
    queries = rope.rotate(view.unrotated_window_queries(rows), at, frequencies)
    keys = rope.rotate(keys, torch.arange(keys.shape[1], device=keys.device), frequencies)
    scores = view.logits(queries, keys)
    hidden = torch.arange(keys.shape[1], device=keys.device) > at.unsqueeze(-1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1)
