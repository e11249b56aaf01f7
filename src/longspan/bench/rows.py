"""What compare writes: one row a cell, from what was measured on the branch that answered it.

A cell is one row to be (an item under a variant in one question mode and answer mode); a branch is the forked session that answers one or more
of them. Nothing here reads or decodes; `compare` does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longspan.bench.contexts import Pieces
from longspan.bench.item import Item
from longspan.bench.scorers import rank_score
from longspan.bench.scorers import score as score_reply
from longspan.bench.variants import Variant
from longspan.engine.generate import Generation
from longspan.engine.session import Session
from longspan.engine.stats import Stats
from longspan.errors import BadInput

RECORDED = ("benchmark", "prompt", "prompt_hash", "truncation", "truncation_hash", "truncated")


@dataclass
class Cell:
    """One row to be: an item under a variant in one question mode and answer mode."""

    pieces: Pieces
    variant: Variant
    aware: bool | None
    mode: str
    length: int
    id: str


@dataclass
class Branch:
    """A forked session that answers one or more cells: same item, variant and question mode."""

    cells: list[Cell]
    session: Session
    shared_seconds: float
    own_tokens: int
    map: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """What a branch said. gold: log-probability of every token of the gold reply. ranks: summed log-probability of every candidate, where they
    are ranked. reply: where one is written. latency: seconds a decoded token, where that is timed."""

    gold: Tensor
    ranks: list[float] | None
    reply: Generation | None
    latency: float | None


def identity(cell: Cell, seed: int) -> dict[str, Any]:
    """What says which cell a row is. `seed`: of the items."""
    item, variant = cell.pieces.item, cell.variant
    return {
        "cell": cell.id,
        "recipe": variant.spelled,
        "method": variant.method,
        "role": variant.role,
        "budget": variant.share,
        "task": item.task,
        "haystack": item.haystack,
        "length": cell.length,
        "depth": item.depth,
        "sample": item.metadata.get("index", 0),
        "seed": seed,
        "aware": cell.aware,
        "answer_mode": cell.mode,
        "gold": list(item.answers),
        "tags": dict(item.tags),
        "template": cell.pieces.template,
        **_published(item),
    }


def failed(cell: Cell, seed: int, reason: str) -> dict[str, Any]:
    """The row of a cell that could not run: no score, and why."""
    return {**identity(cell, seed), "score": None, "error": reason}


def measured(branch: Branch, cell: Cell, seed: int, answered: Answered, extends: bool) -> dict[str, Any]:
    """The row of an answered cell. extends: position methods are compared, so that the loss of every token read belongs to a perplexity row."""
    item, gold, reply = cell.pieces.item, answered.gold, answered.reply
    row: dict[str, Any] = {
        **identity(cell, seed),
        **branch.facts,
        "gold_logprob": float(gold.sum()),
        "gold_tokens": len(gold),
        "prefilled_tokens": branch.own_tokens,
        "ttft_s": branch.shared_seconds,
        "time_per_token_s": answered.latency,
        "error": None,
    }
    if cell.mode == "rank" and answered.ranks is not None:
        row["score"], row["margin"] = rank_score(item, answered.ranks)
    elif cell.mode == "generate" and reply is not None:
        row |= {
            "answer": reply.text,
            "new_tokens": len(reply.ids),
            "finish_reason": reply.finish_reason,
        }
        try:
            row["score"] = score_reply(item, reply.text)
        except (
            BadInput
        ) as error:  # the scorer needs a package that is not there: listed, never counted as wrong
            row |= {"score": None, "error": str(error)}
    elif cell.mode == "perplexity":
        read = len(cell.pieces.read)
        row["nll_by_position"] = _whole_course(branch.session, gold, read) if extends else _course(gold, read)
    return row


def _whole_course(session: Session, gold: Tensor, read: int) -> list[list[float]]:
    """The loss by position of the text that was read, and of the continuation."""
    return _course(torch.cat((session.token_logprobs()[1:read].cpu(), gold.cpu())), 1)


def _published(item: Item) -> dict[str, Any]:
    """What a data set's item records about its prompt, its cut and the document it shares with others."""
    facts = {key: item.metadata[key] for key in RECORDED if key in item.metadata}
    if "cluster" in item.metadata:
        facts["cluster"] = f"{item.task}-{item.metadata['cluster']}"
    return facts


def decoding(reading: Stats, decoding: Stats) -> dict[str, float]:
    """What the answer's attention read of the entries held, and the larger share of dense calls, of reading or decoding, in a sparse method's place."""
    fallback = max(reading.dense_fallback, decoding.dense_fallback)
    return {"decode_density": decoding.decode_density, "dense_fallback": fallback}


def digest(item: Item) -> str:
    """Names the item's words: a resumed run must not take another text's results for its own."""
    words = "\x1f".join((item.context, item.question, item.gold_text))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _course(logprobs: Tensor, start: int, width: int = 16) -> list[list[float]]:
    """Mean negative log-likelihood in runs of `width` tokens: [[position of the run's first token, nats], ...]."""
    return [[start + i, -float(logprobs[i : i + width].mean())] for i in range(0, len(logprobs), width)]


def by_prompt(cells: list[Cell]) -> list[list[Cell]]:
    """Cells that read the same text: the same prompt methods, and the same question where those look at it."""
    groups: dict[tuple[str, str | None], list[Cell]] = {}
    for cell in cells:
        lead = cell.variant.recipe.prompt
        groups.setdefault((str(lead), cell.pieces.item.id if lead.aware else None), []).append(cell)
    return list(groups.values())


def grouped(cells: list[Cell]) -> list[tuple[Pieces, bool, list[Cell]]]:
    """Cells by item and question mode."""
    groups: dict[tuple[str, bool], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.pieces.item.id, bool(cell.aware)), []).append(cell)
    return [(members[0].pieces, aware, members) for (_, aware), members in groups.items()]


def by_variant(cells: list[Cell]) -> list[tuple[Variant, list[Cell]]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.variant.spelled, []).append(cell)
    return [(members[0].variant, members) for members in groups.values()]
