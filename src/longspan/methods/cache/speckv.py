"""SpecKV: a draft writes a guess of the answer; what the prompt's tail and the guessed answer attend to stays.

Source: "Draft-based Approximate Inference for LLMs", 2025; code furiosa-ai/draft-based-approx-llm. SnapKV looks at the attention of the prompt's
last queries; here the queries of `lookahead` guessed tokens vote as well. The target reads the guess on a fork that is thrown away, so the
guess never enters the cache, and the first answer token stands at its true position. Score of an entry before the last `window`: the
largest (reduce="mean": the mean) softmax weight over all these rows and over the query group, then pooled; the window always stays.

The code crops the last prompt token and runs it again, so its window of w tokens and the token after it are this file's window of w + 1.
Its optional sparse prefill is another method here (minference). A draft may guess wrong and has no way back; `plain` lets a share of the
budget go by the prompt's tail alone. Larger guesses raise all scores: those of different runs do not compare. The time to the first token
holds the whole guess.

The paper's SpecKV-PC is the recipe specpc + speckv; its code uses one guess for both, here the second is written from the short prompt.

draft: "self", "self:N" (early exit), "self:Nbit" (rounded weights) or a model's name, see `engine/drafts.py`. The paper's drafts are smaller
models of the same family. A model that was not trained for early exit writes nonsense there, SmolLM2-135M even after 25 of its 30 layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longspan.engine.allocate import by_score
from longspan.engine.drafts import draft_of, drafting, greedy_guess
from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.session import Session
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.snapkv import WINDOW_SCORE, smooth

ROWS = 32  # queries whose attention rows are held at a time


@register("speckv")
@dataclass(frozen=True)
class SpecKV(CachePolicy):
    """draft: who guesses. lookahead: guessed tokens; 0 looks at the prompt alone. window: last prompt tokens that vote and stay. opening: text
    the reply is known to start with. guess: text or token ids to use in place of a draft's. pool, pooling: as in snapkv. reduce: "max" or
    "mean" over rows and query group. plain: share of the budget that goes by the prompt's tail alone."""

    source = Source(
        "https://arxiv.org/abs/2506.08373", 2025, "https://github.com/furiosa-ai/draft-based-approx-llm"
    )
    system = "speckv+specpc"
    aware = True

    draft: str = "self"
    lookahead: int = 32
    window: int = 32
    opening: str = ""
    guess: str | tuple[int, ...] = ""
    pool: int = 7
    pooling: str = "max"
    reduce: str = "max"
    plain: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.lookahead < 0 or self.pool < 1 or self.pool % 2 == 0:
            raise BadInput("speckv needs window >= 1, lookahead >= 0 and an odd pool.")
        if self.pooling not in ("avg", "max") or self.reduce not in ("max", "mean"):
            raise BadInput("speckv takes pooling=avg or max, and reduce=max or mean.")
        if not 0.0 <= self.plain <= 1.0:
            raise BadInput(f"plain={self.plain} of speckv must lie between 0 and 1.")
        if self.when != "prefill":
            raise BadInput("speckv guesses an answer to the whole prompt; use when=prefill.")

    @property
    def needs(self) -> Needs:
        return Needs(window_queries=self.window)

    def check(self, model: Any) -> None:
        if self.lookahead and not self.guess:
            draft_of(model, self.draft)

    def score_all(self, session: Any) -> dict[int, Tensor]:
        return lookahead_scores(self, session)

    def looked_ahead(self, session: Session) -> Session:
        """A fork of the session that has gone on with the reply's opening and the guess, and kept their queries."""
        encode, chat = session.model.encode, session.model.chat
        reply = chat.reply if chat is not None and session.turn_open else ""
        opening = _ids(encode, reply + self.opening)
        given = _ids(encode, self.guess)
        length = self.window + len(opening) + max(self.lookahead, len(given))
        fork = session.fork(session.recipe.uncompressed, collect=Needs(window_queries=length))
        if not self.lookahead and not len(given):
            return fork
        fork.feed(opening, reading=False)
        if len(given):
            return fork.feed(given, reading=False)
        draft = draft_of(session.model, self.draft)
        if draft is session.model:
            greedy_guess(fork, self.lookahead)
            return fork
        writer = drafting(session, draft).feed(opening, reading=False)
        return fork.feed(greedy_guess(writer, self.lookahead), reading=False)


def _ids(encode: Callable[[str], list[int]], text: str | tuple[int, ...]) -> Tensor:
    ids = encode(text) if isinstance(text, str) and text else text
    return torch.tensor(list(ids), dtype=torch.long) if ids else torch.zeros(0, dtype=torch.long)


def lookahead_scores(method: SpecKV, session: Session) -> dict[int, Tensor]:
    """Score of every entry, per growing layer (Hk, T). The session is left as it was."""
    fork = method.looked_ahead(session)
    tail = min(method.window, session.length)
    kept = method.per_head(session) - tail
    found = {}
    for layer in session.growing_layers():
        held = session.view(layer, method)
        before = held.positions < session.length - tail
        votes = [
            rows.masked_fill(~before, 0.0)
            for rows in _votes(fork.view(layer, method), tail, fork.length - session.length, held, method)
        ]
        by_tail = smooth(votes[0], method.pool, method.pooling)
        scores = smooth(votes[1], method.pool, method.pooling)
        if by_plain := max(0, round(method.plain * kept)):
            first = by_score(by_tail.masked_fill(~before, -1.0))[:, :by_plain]
            scores = scores.scatter_add(1, first, scores.new_full(first.shape, 2.0))  # above any weight
        found[layer] = torch.where(before, scores, WINDOW_SCORE + held.positions.float())
    return found


def _votes(
    ahead: LayerView, tail: int, guessed: int, held: LayerView, method: SpecKV
) -> tuple[Tensor, Tensor]:
    """(Hk, T) of the prompt's tail alone, and of tail and guess together, over the entries held before the guess."""
    heads, entries = held.positions.shape
    count = tail + guessed
    queries, positions = ahead.window_queries(count), ahead.window_positions(count)
    total = torch.zeros(heads, entries, device=queries.device)
    by_tail = total
    for start, stop in [*_blocks(0, tail), *_blocks(tail, count)]:
        rows = ahead.attention_rows(queries[:, start:stop], positions[start:stop])[..., :entries]
        rows = rows.reshape(heads, -1, entries)
        total = torch.maximum(total, rows.amax(1)) if method.reduce == "max" else total + rows.sum(1)
        if stop == tail:
            by_tail = total
    if method.reduce == "max":
        return by_tail, total
    group = queries.shape[0] // heads
    return by_tail / (group * tail), total / (group * count)


def _blocks(start: int, stop: int) -> list[tuple[int, int]]:
    return [(at, min(stop, at + ROWS)) for at in range(start, stop, ROWS)]
