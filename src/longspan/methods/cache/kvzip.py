"""KVzip: an entry that no query needs while the model repeats its context is redundant for every question.

Source: KVzip, Kim et al., NeurIPS 2025, arXiv 2505.23416; code snu-mllab/KVzip; NVIDIA/kvpress. After a dense read, the context is cut into chunks of
`chunk` tokens; for each, a fork of the session is fed "repeat the context" and the chunk itself. The score of an entry of the chunk is the
largest attention that any of these queries, of any head of its group, gives it in a softmax over the first `sink` entries, the chunk's entries
and the repeat pass's own. The fork is thrown away, so the cache is untouched until the cut, and its result serves any question.

The cut is one top-k over all layers, heads and positions (allocator="overall"); "adaptive" fixes each layer's total ("layerwise" in the code).
Entries really leave; kvpress masks them. The output-aware variant ("plus") is not here. It reads the context twice, and the largest pass
holds one chunk on top of the dense cache. A model too small to repeat its context gives scores that say little.
"""

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


@register("kvzip")
@dataclass(frozen=True)
class KVzip(CachePolicy):
    """chunk: tokens repeated at a time. lead: last tokens of the chunk before that open a later one. prompt, prompt_next: what asks for the first
    and for later chunks; "" asks nothing."""

    source = Source("https://arxiv.org/abs/2505.23416", 2025, "https://github.com/snu-mllab/KVzip")

    sink: int = 4
    allocator: str = "overall"
    floor: float = 0.0
    chunk: int = 2048
    lead: int = 8
    prompt: str = "\n\nRepeat the previous context exactly."
    prompt_next: str = "\n\nRepeat the part of the previous context exactly, starting with"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk < 1 or self.lead < 0:
            raise BadInput("kvzip needs chunk >= 1 and lead >= 0 tokens.")
        if self.when != "prefill":
            raise BadInput(
                "kvzip scores a whole context by repeating it, so it acts after reading; use when=prefill."
            )

    def score_all(self, session: Any) -> dict[int, Tensor]:
        return reconstruction_scores(self, session)

    def repeat_ids(self, session: Session, start: int, stop: int) -> list[int]:
        """Tokens of the pass that repeats tokens start..stop of the session: the request, then the tokens."""
        request = self.prompt if start == 0 else self.prompt_next
        opened = session.ids[max(0, start - self.lead) : start] if start else []
        encode, chat = session.model.encode, session.model.chat
        asked = (encode(request) if request else []) + (opened if request else [])
        reply = encode(chat.reply) if chat is not None and request and session.turn_open else []
        return asked + reply + session.ids[start:stop]


def reconstruction_scores(method: KVzip, session: Session) -> dict[int, Tensor]:
    """Largest reconstruction attention of every entry, per growing layer (Hk, T), in [0, 1]. The session is left as it was."""
    views = {layer: session.view(layer, method) for layer in session.growing_layers()}
    best = {layer: torch.zeros_like(view.positions, dtype=torch.float32) for layer, view in views.items()}
    for start in range(0, session.length, method.chunk):
        stop = min(session.length, start + method.chunk)
        fork = session.fork(session.recipe.uncompressed, collect=Needs(window_queries=session.chunk))
        ids = torch.tensor(method.repeat_ids(session, start, stop))
        for block in ids.split(session.chunk):
            fork.feed(block, reading=False)
            for layer, scores in best.items():
                peak = _largest(
                    fork.view(layer, method), len(block), method.sink, start, stop, session.length
                )
                scores.copy_(torch.maximum(scores, peak[:, : scores.shape[1]]))
    return best


def _largest(view: LayerView, rows: int, sink: int, start: int, stop: int, context: int) -> Tensor:
    """(Hk, T): the largest weight of each entry at positions start..stop in the rows of the newest `rows` queries; 0 elsewhere."""
    positions = view.positions
    chunk = (positions >= start) & (positions < stop)
    used = chunk | (positions < min(sink, start)) | (positions >= context)
    if view.valid is not None:
        used, chunk = used & view.valid, chunk & view.valid
    columns = used.any(0).nonzero().flatten()
    scores = view.logits(view.window_queries(rows), view.keys[:, columns])
    scores = scores.view(positions.shape[0], -1, rows, len(columns))
    late = positions[:, None, None, columns] > view.window_positions(rows).view(1, 1, -1, 1)
    weights = scores.masked_fill(late | ~used[:, None, None, columns], float("-inf")).softmax(-1).amax((1, 2))
    peak = torch.zeros(positions.shape, device=positions.device)
    peak[:, columns] = weights * chunk[:, columns]
    return peak
