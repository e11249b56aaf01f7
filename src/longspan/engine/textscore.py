"""Texts scored by a model: the tokens of a text with their character offsets and log-probabilities after a prefix.

Short pairs of (prefix, text) are packed into common forwards, which is what ranking many passages costs. A pair longer than the model's
window is scored in runs of half a window, each after the half window before it, so any text has a score and memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from longspan.engine.batch import Work, forward
from longspan.engine.drafts import draft_of
from longspan.engine.tail_attention import tail_attention

if TYPE_CHECKING:
    from longspan.engine.model import Model

Span = tuple[int, int]  # half-open character range

PACKED = 2048  # tokens of one packed forward
ROWS = 512  # rows of logits held at once


@dataclass(frozen=True)
class Coded:
    """A pair as token ids, the prefix with the tokenizer's opening marks; `offsets` tile the text."""

    prefix: list[int]
    ids: list[int]
    offsets: tuple[Span, ...]


def coded(model: Model, prefix: str, text: str) -> Coded:
    """The pair as the model reads it; a prefix without any token is an end mark, after which texts begin."""
    found = model.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
    )
    before = model.encode(prefix, special=True) or [min(model.stop_ids)]
    return Coded(before, found["input_ids"], tiled(found["offset_mapping"], len(text)))


def tiled(offsets: Sequence[Span], length: int) -> tuple[Span, ...]:
    """Spans that tile [0, length): tokens that share a character (bytes of one symbol) get it once, with the last."""
    if not offsets:
        return ()
    ends = list(accumulate((end for _, end in offsets), max))
    for i in range(len(ends) - 1):
        if offsets[i + 1][0] < ends[i]:
            ends[i] = max(offsets[i + 1][0], ends[i - 1] if i else 0)
    ends[-1] = length
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


def packs(pairs: Sequence[Coded], limit: int = PACKED) -> Iterator[list[Coded]]:
    """Runs of pairs whose tokens together stay within `limit`, at least one pair each."""
    batch: list[Coded] = []
    size = 0
    for pair in pairs:
        more = len(pair.prefix) + len(pair.ids)
        if batch and size + more > limit:
            yield batch
            batch, size = [], 0
        batch.append(pair)
        size += more
    if batch:
        yield batch


def score_packed(model: Model, pairs: Sequence[Coded]) -> list[list[float]]:
    """Log-probability in nats of every token of every text after its prefix, all pairs in two forwards."""
    sessions = [model.session() for _ in pairs]
    opened = _logits(
        model, [Work(s, torch.tensor(pair.prefix)) for s, pair in zip(sessions, pairs, strict=True)]
    )
    works = [
        Work(s, torch.tensor(pair.ids[:-1]), "all")
        for s, pair in zip(sessions, pairs, strict=True)
        if len(pair.ids) > 1
    ]
    rest = iter(_logits(model, works) if works else [])
    scored = []
    for first, pair in zip(opened, pairs, strict=True):
        logits = first[None] if len(pair.ids) < 2 else torch.cat([first[None], next(rest)])
        scored.append(_chosen(logits, pair.ids))
    return scored


def score_long(model: Model, pair: Coded) -> list[float]:
    """The same for one pair of any length, `ROWS` tokens a forward and never more than the model's window at once."""
    window = max(2, min(model.geometry.trained_window, len(pair.prefix) + len(pair.ids)))
    values: list[float] = []
    start = 0
    while start < len(pair.ids):
        whole = pair.prefix + pair.ids[:start]
        room = window - len(whole)
        before = whole if room >= window // 2 or room >= len(pair.ids) - start else whole[-(window // 2) :]
        stop = min(len(pair.ids), start + window - len(before))
        session = model.session().feed(torch.tensor(before))
        logits = session.next_logits()[None]
        for row in range(start, stop, ROWS):
            part = pair.ids[row : min(stop, row + ROWS)]
            (after,) = _logits(model, [Work(session, torch.tensor(part), "all")])
            values += _chosen(torch.cat([logits, after[:-1]]), part)
            logits = after[-1:]
        start = stop
    return values


def _logits(model: Model, works: list[Work]) -> list[torch.Tensor]:
    return [logits for logits in forward(model, works) if logits is not None]


def _chosen(logits: torch.Tensor, ids: list[int]) -> list[float]:
    """Log-probabilities of ids (n,) under logits (>= n, V)."""
    rows = logits[: len(ids)].log_softmax(-1)
    wanted = torch.tensor(ids, dtype=torch.long, device=rows.device)
    return rows.gather(1, wanted[:, None])[:, 0].tolist()


class TextScorer:
    """`engine.prompt.Scorer` over a loaded model."""

    def __init__(self, model: Model):
        self.model = model

    def count_tokens(self, text: str) -> int:
        return len(self.model.encode(text))

    def offsets(self, text: str) -> tuple[Span, ...]:
        """Character spans of the tokens of `text`; needs no forward."""
        return coded(self.model, "", text).offsets

    def tail_attention(
        self, text: str, question: str, draft: str, rows: int, **options: Any
    ) -> tuple[tuple[Span, ...], np.ndarray]:
        """Spans of the tokens of `text`, and what the end of text and question attends to among them, (R, N): see `engine/tail_attention.py`.

        draft: who reads, as `engine/drafts.py` spells it.
        """
        pair = coded(self.model, "", text)
        asked = self.model.encode(f"\n\n{question}") if question.strip() else []
        weights = tail_attention(
            draft_of(self.model, draft), [*pair.prefix, *pair.ids, *asked], rows, **options
        )
        columns = slice(len(pair.prefix), len(pair.prefix) + len(pair.ids))
        return pair.offsets, weights[:, columns].cpu().numpy()

    def token_logprobs(self, prefix: str, text: str) -> tuple[list[str], tuple[Span, ...], list[float]]:
        """Tokens of `text`, their offsets and log-probabilities (nats)."""
        return self.token_logprobs_many([(prefix, text)])[0]

    def token_logprobs_many(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[list[str], tuple[Span, ...], list[float]]]:
        """`token_logprobs` of every (prefix, text), short ones packed."""
        read = [coded(self.model, prefix, text) for prefix, text in pairs]
        alone = self.model.geometry.recurrent
        short = [pair for pair in read if not alone and len(pair.prefix) + len(pair.ids) <= PACKED]
        values = {
            id(p): v
            for pack in packs(short)
            for p, v in zip(pack, score_packed(self.model, pack), strict=True)
        }
        found = []
        for pair, (_, text) in zip(read, pairs, strict=True):
            scored = values[id(pair)] if id(pair) in values else score_long(self.model, pair)
            found.append(([text[a:b] for a, b in pair.offsets], pair.offsets, scored))
        return found
