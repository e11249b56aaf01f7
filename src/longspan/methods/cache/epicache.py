"""EpiCache: read block by block under a fixed budget; after each block keep what typical pieces of the conversation attend to.

Source: EpiCache, Kim et al., 2025; code apple/ml-epicache. After every block (the session's chunk) a prompt is fed on top of the cache, and
forgotten: an instruction, then `episode`, pieces of the conversation that stand for one of its topics. Score of a key: its largest softmax
weight, over the cached keys only, from all prompt tokens and all heads of its group. A layer's heads compete for the layer's total
(allocator="adaptive", the code's "pair"; "uniform" is its "pair-uniform"). No question is known, and the cache never holds more than
budget + block + prompt. `episodes.py` clusters a conversation, reads it once a topic and asks the nearest one.

Layer budgets (layers="sensitivity"): `longspan calibrate epicache` reads one text twice, densely and in blocks that see the first tokens and half
the block before; s is the mean cosine between the keys of both (over heads and runs of 100 tokens), scaled to [0, 1]; a layer weighs
(1 - s)^alpha and gets at least `least` of the mean. The code measures on 16K tokens of BookSum in blocks of 4,096 with 128 first ones; here on a
quarter of that, of Python's language reference.

Where the code differs: its prompt starts at the position of the block's last token, here at the next; its floor can make the sum too large, here
the total is exact; it may evict the first tokens, here `sink` protects them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.allocate import sensitivity_shares
from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.session import Session
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.methods.cache.window import Window

INSTRUCTION = "\n\nPick out what matters in this part of the conversation: who speaks, what they are like, what happened and when."
TOKENS, BLOCK, FIRST, RUN = (
    4096,
    1024,
    32,
    100,
)  # calibration: text, block, first tokens seen by all, run of tokens compared
ROWS = 32  # queries whose attention rows are held at a time


@register("epicache")
@dataclass(frozen=True)
class EpiCache(CachePolicy):
    """prompt: instruction that asks for what to keep, as text or token ids. episode: text of typical pieces, put after it. layers: "uniform" or
    "sensitivity" budgets. alpha: sharpness of the latter. least: smallest layer's share of the mean. folder: where the artefact lies, "" for the
    usual places."""

    source = Source("https://arxiv.org/abs/2509.17396", 2025, "https://github.com/apple/ml-epicache")
    system = "epicache"

    when: str = "chunk"
    sink: int = 4
    allocator: str = "adaptive"
    floor: float = 0.0
    prompt: str | tuple[int, ...] = INSTRUCTION
    episode: str = ""
    layers: str = "uniform"
    alpha: float = 1.1
    least: float = 0.25
    folder: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt and not self.episode:
            raise BadInput("epicache needs a prompt or an episode to score with.")
        if self.layers not in ("uniform", "sensitivity"):
            raise BadInput(f"layers={self.layers!r} of epicache is not one of uniform, sensitivity.")
        if self.alpha < 0 or not 0.0 <= self.least <= 1.0:
            raise BadInput("epicache needs alpha >= 0 and least between 0 and 1.")

    def check(self, model: Any) -> None:
        if self.layers == "sensitivity":
            self._sensitivity(model)

    def _sensitivity(self, model: Any) -> list[float]:
        return calibration.load("epicache", model, self.folder or None).facts["sensitivity"]

    def layer_shares(self, session: Any) -> list[float] | None:
        if self.layers == "uniform":
            return None
        return sensitivity_shares(self._sensitivity(session.model), self.alpha, self.least)

    def score_all(self, session: Any) -> dict[int, Tensor]:
        return prompted_scores(self, session)

    def prompt_ids(self, session: Session) -> list[int]:
        """Tokens of the scoring pass: the instruction, the opening of a reply where a turn is open, the episode's pieces."""
        encode, chat = session.model.encode, session.model.chat
        asked = list(self.prompt) if not isinstance(self.prompt, str) else encode(self.prompt)
        reply = encode(chat.reply) if chat is not None and session.turn_open else []
        return asked + reply + (encode(self.episode) if self.episode else [])

    def calibrate(self, model: Any, out: Path | None, progress: Any = None) -> Path:
        """Measure how much every layer's keys change when blocks are read apart, and write the artefact."""
        tokens, block, first = calibration_sizes(model.geometry.trained_window)
        ids: list[int] = []
        for paragraph in reference_prose():
            ids += model.encode(paragraph + "\n\n", special=not ids)
            if len(ids) >= tokens:
                break
        found = key_similarity(model, torch.tensor(ids[:tokens]), block, first, progress)
        facts = {
            "made_by": f"longspan calibrate epicache --model {model.name}",
            "tokens": tokens,
            "block": block,
            "first": first,
            "sensitivity": [round(x, 6) for x in found],
        }
        return calibration.save("epicache", model, facts=facts, folder=out)


def prompted_scores(method: EpiCache, session: Session) -> dict[int, Tensor]:
    """Score of every entry, per growing layer (Hk, T), in [0, 1]. The session is left as it was, but for its measured peak."""
    fork = session.fork(session.recipe.uncompressed, collect=Needs(window_queries=session.chunk))
    views = {layer: session.view(layer, method) for layer in session.growing_layers()}
    best = {layer: torch.zeros(v.positions.shape, device=v.positions.device) for layer, v in views.items()}
    for block in torch.tensor(method.prompt_ids(session)).split(session.chunk):
        fork.feed(block, reading=False)
        for layer, held in views.items():
            queries = fork.view(layer, method).window_queries(len(block))
            for rows in queries.split(ROWS, 1):
                best[layer] = torch.maximum(best[layer], _largest(held, rows))
    session.meter.peak_entries = max(session.meter.peak_entries, fork.meter.peak_entries)
    return best


def _largest(held: LayerView, queries: Tensor) -> Tensor:
    """(Hk, T): the largest weight of every held entry from rotated queries (Hq, R, D), in a softmax over the held entries alone."""
    heads, entries = held.positions.shape
    scores = held.logits(queries, held.keys).view(heads, -1, entries)
    if held.bias is not None:
        scores = scores + held.bias.unsqueeze(1)
    if held.valid is not None:
        scores = scores.masked_fill(~held.valid.unsqueeze(1), float("-inf"))
    return scores.softmax(-1).amax(1)


# -- calibration -----------------------------------------------------------------------------------------------------------
def calibration_sizes(window: int) -> tuple[int, int, int]:
    """(tokens, block, first) of the calibration text; in proportion, where the model's window is shorter than the text."""
    scale = min(1.0, window / TOKENS)
    block = int(BLOCK * scale)
    return block * (TOKENS // BLOCK), block, max(1, int(FIRST * scale))


class _Blocks(Window):
    """Reads a block with the first tokens and half the block before it in sight, and notes the keys of every block."""

    def compress(self, view: LayerView, budget: int) -> None:
        fresh = view.keys[:, -view.session.chunk :]  # type: ignore[attr-defined]
        view.state["keys"] = (*view.state.get("keys", ()), fresh)
        super().compress(view, budget)


def key_similarity(model: Any, ids: Tensor, block: int, first: int, progress: Any = None) -> list[float]:
    """Mean cosine, per growing layer, between the keys of `ids` read densely and read in blocks; over heads and runs of RUN tokens."""
    done = 0

    def step(part: int, whole: int) -> None:
        if progress is not None:
            progress(done + part, 2 * len(ids))

    dense = model.session().feed(ids, progress=step)
    done = len(ids)
    method = _Blocks(budget=first + block // 2, sink=first, when="chunk")
    apart = model.session(method, chunk=block).feed(ids, progress=step)
    found = []
    for layer in dense.growing_layers():
        together = dense.view(layer, method).keys
        alone = torch.cat(apart.view(layer, method).state["keys"], 1)
        pairs = zip(together[:, : alone.shape[1]].split(RUN, 1), alone.split(RUN, 1), strict=True)
        runs = [torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1) for a, b in pairs]
        found.append(float(torch.stack(runs).mean()))
    return found
