"""Items grouped by the text they share, and each item's tokens cut where a cache method needs them cut.

An item becomes three runs of tokens: what is read (template opening and context), the question, and the opening of the reply with the
answer prefix. A query-aware run compresses after the second, a query-agnostic one after the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longspan.bench.item import Item
from longspan.bench.kept import token_spans
from longspan.engine.model import Model
from longspan.engine.prompt import Compressed


@dataclass(frozen=True)
class Pieces:
    """Token ids (n,) of one item, and the token spans of its evidence. template: "chat" or "raw".

    source_tokens: what would be read without a prompt method. survival: share of the evidence's characters that is still in the text.
    """

    item: Item
    read: Tensor
    question: Tensor
    reply: Tensor
    evidence: list[tuple[int, int]]
    template: str
    source_tokens: int
    survival: float = 1.0


def templated(model: Model, item: Item) -> bool:
    """Whether `item` stands under the chat template: not plain texts to continue, nor benchmarks that are run without one.

    A data set's item without a question is a prompt in one piece (its cut may have joined the two), not a plain text.
    """
    asks = bool(item.question) or "benchmark" in item.metadata
    return model.chat is not None and asks and item.metadata.get("chat") is not False


def cut(model: Model, item: Item) -> Pieces:
    """Tokenise an item for `model`, under its chat template where `templated`, else with the tokenizer's document marks."""
    chat = model.chat if templated(model, item) else None
    opening = "" if chat is None else chat.prefix
    before = model.encode(opening, special=chat is None) if opening or chat is None else []
    question = model.encode(item.separator + item.question) if item.question else []
    if chat is None:
        lead = f"\n{item.answer_prefix}" if item.answer_prefix else ""
        reply = model.encode(lead) if lead else []
    else:
        reply = model.encode(chat.reply + item.answer_prefix)
    read = before + model.encode(item.context)
    evidence = token_spans(model.tokenizer, item.context, len(before), item.evidence)
    return Pieces(
        item,
        torch.tensor(read),
        torch.tensor(question, dtype=torch.long),
        torch.tensor(reply, dtype=torch.long),
        evidence,
        "raw" if chat is None else "chat",
        len(read),
    )


def shortened(model: Model, pieces: Pieces, done: Compressed) -> Pieces:
    """The same item with its context replaced by what a prompt method left of it; the evidence is where the manifest puts it."""
    item = pieces.item
    opening = len(pieces.read) - len(model.encode(item.context))
    read = torch.cat((pieces.read[:opening], torch.tensor(model.encode(done.text), dtype=torch.long)))
    spans = [span for start, end in item.evidence for span in done.surviving(start, end)]
    whole = sum(end - start for start, end in item.evidence)
    return replace(
        pieces,
        read=read,
        evidence=token_spans(model.tokenizer, done.text, opening, spans),
        survival=sum(end - start for start, end in spans) / whole if whole else 1.0,
    )


def by_context(model: Model, items: Sequence[Item]) -> list[list[Item]]:
    """Items that share what is read first, in first-seen order: each group is read once."""
    groups: dict[tuple[str, bool], list[Item]] = {}
    for item in items:
        groups.setdefault((item.context, templated(model, item)), []).append(item)
    return list(groups.values())
