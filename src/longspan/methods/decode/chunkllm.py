"""ChunkLLM: small trained adapters say where sentences end and which finished sentences matter; the choice is made anew only where a sentence ends.

Source: ChunkLLM: A Lightweight Pluggable Framework for Accelerating LLMs Inference, Ouyang et al., 2025; no code was found. A chunk adapter marks the tokens that end a
chunk (p > alpha); a QK adapter in every layer maps queries and keys to `r` dimensions, where a chunk's key is that of its last token and the score of a chunk is
Q' . K' / sqrt r. When a generated token ends a chunk, the next token's query chooses in every layer the best chunks within the budget, and the tokens
after it read the same until another chunk ends. The first chunk, the newest and what is not yet a chunk are always read. Made by
`longspan calibrate chunkllm` (`chunkllm_train`); the model's own weights stay as they are.

Sizes, losses' weights and inputs of the adapters are not published: the QK adapters are linear on un-rotated queries and keys, the chunk adapter one hidden layer on the
second layer's un-rotated keys and values, linear in what the paper feeds it. What is un-rotated knows no distance, so a chunk's age adds to its score (age=false: not). Both are trained apart, so the losses need no weights. Choices are
made by layer; a vote between layers would need all layers' scores before the first one reads. Chunks are cut at `longest` tokens, which the paper does not say.
scorer="mean" (the un-rotated query against mean keys, no artefact) and "random" (untrained adapters), chunks="fixed" (every `longest` tokens) and
trigger="token" (a choice for every token) are for comparison. Nothing is freed: retention means what is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.budget import Budget
from longspan.engine.method import DecodeSelector, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.retrieval_heads import reference_prose
from longspan.methods.decode.base import budget_entries
from longspan.methods.decode.chunkllm_train import (
    age_terms,
    boundary_logits,
    chunk_ends,
    chunk_keys,
    chunk_logits,
    chunks_of,
    detector_layer,
    labelled,
    observe,
    train_adapters,
    train_detector,
)
from longspan.ops.choose import fill_groups
from longspan.ops.selection import Selection

HELD_OUT = 0.5  # of the reference prose, its first part, is not trained on


@register("chunkllm")
@dataclass(frozen=True)
class ChunkLLM(DecodeSelector):
    """budget: share, entries a head, or bytes that a token reads. alpha: probability above which a token ends a chunk. longest: tokens of a chunk. trigger: "boundary"
    or "token". scorer: "adapter", "mean" or "random". chunks: "adapter" or "fixed". rank, summary: dimensions of the QK adapters and the key of a chunk, "last" or "mean",
    when they are trained. age: train the adapters with an age term, and use the one they have; adapters without one are used as they are."""

    source = Source("https://arxiv.org/abs/2510.02361", 2025)
    system = "chunkllm"
    pre_rope: ClassVar[bool] = True

    budget: float | int | str = 0.5
    alpha: float = 0.5
    longest: int = 128
    trigger: str = "boundary"
    scorer: str = "adapter"
    chunks: str = "adapter"
    rank: int = 16
    summary: str = "last"
    age: bool = True

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        for knob, allowed in (
            ("trigger", ("boundary", "token")),
            ("scorer", ("adapter", "mean", "random")),
            ("chunks", ("adapter", "fixed")),
            ("summary", ("last", "mean")),
        ):
            if getattr(self, knob) not in allowed:
                raise BadInput(
                    f"{knob}={getattr(self, knob)!r} of chunkllm is not one of {', '.join(allowed)}."
                )
        if not 0 < self.alpha < 1 or self.longest < 1 or self.rank < 1:
            raise BadInput("chunkllm takes an alpha between 0 and 1, longest >= 1 and rank >= 1.")

    def check(self, model: Any) -> None:
        if "adapter" in (self.scorer, self.chunks):
            self._adapters(model)

    def _adapters(self, model: Any) -> dict[str, Tensor]:
        found = calibration.load("chunkllm", model)
        layers = [model.geometry.layers[i] for i in model.geometry.growing]
        first = layers[0]
        wanted = {
            "q": (len(layers), first.q_heads * first.head_dim),
            "k": (len(layers), first.kv_heads * first.head_dim),
        }
        made = calibration.matched(found, wanted, "the adapters of chunkllm", model)
        if found.facts["summary"] != self.summary:
            raise BadInput(
                f"the adapters of chunkllm were trained with summary={found.facts['summary']}; use that."
            )
        return made

    def adapters(self, view: LayerView) -> dict[str, Tensor]:
        """The artefact, or as many untrained numbers; loaded once a session."""
        held = view.session.run_state(self)
        if "adapters" not in held:
            made = self._adapters(view.session.model) if "adapter" in (self.scorer, self.chunks) else {}
            if self.scorer == "random":
                made.pop("age", None)
                generator = torch.Generator().manual_seed(0)
                layer, count = view.geometry, len(view.session.growing_layers())
                for name, heads in (("q", layer.q_heads), ("k", layer.kv_heads)):
                    width = heads * layer.head_dim
                    made[name] = torch.randn(count, width, self.rank, generator=generator).to(
                        view.keys.device
                    )
            held["adapters"] = made
        return held["adapters"]

    # -- chunks ----------------------------------------------------------------------------------------------------
    def ends(self, view: LayerView, first: int, stop: int) -> Tensor:
        """Which of the entries first .. stop - 1 end a chunk by themselves, (stop - first,) bool; `view` is of the detector's layer."""
        if self.chunks == "fixed":
            return torch.zeros(stop - first, dtype=torch.bool, device=view.padded.k.device)
        keys = view.geometry.rope.unrotate(
            view.padded.k[:, first:stop],
            view.positions[:, first:stop],
            view.run.written_frequencies(view.seen),
        )
        parts = [x.transpose(0, 1).flatten(1).float() for x in (keys, view.values[:, first:stop])]
        logits = boundary_logits(self.adapters(view), torch.cat(parts, 1))
        return logits.sigmoid() > self.alpha

    def labels(self, session: Any, total: int) -> Tensor:
        """Chunk number of the first `total` entries, (total,); found once for every token and kept."""
        held = session.run_state(self)
        ids = session.ids[:total]
        if held.get("of") != ids:
            before = held.get("of", [])
            same = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), None)
            same = (
                min(len(before), len(ids)) if same is None else same
            )  # after a rollback, what is still true
            view = session.view(detector_layer(session), self)
            fresh = self.ends(view, same, total)
            held["ends"] = torch.cat((held["ends"][:same], fresh)) if same else fresh
            held["of"] = ids
        return chunks_of(held["ends"], self.longest)

    def after_read(self, session: Any) -> None:
        session.run_state(self)["crossed"] = True

    def after_tokens(self, session: Any, new: int, reading: bool) -> None:
        held = session.run_state(self)
        if not reading and "adapters" in held and self.trigger == "boundary":
            total = min(session.layers[detector_layer(session)].store.lengths)
            labels = self.labels(session, total)
            held["crossed"] = new > 1 or self._closed(held["ends"], labels)

    def _closed(self, ends: Tensor, labels: Tensor) -> bool:
        """Whether the newest chunk has ended."""
        return bool(ends[-1]) or int((labels == labels[-1]).sum()) >= self.longest

    # -- choosing --------------------------------------------------------------------------------------------------
    def index(self, view: LayerView) -> None:
        session, total = view.session, min(view.run.store.lengths)
        if total < view.seen:
            raise BadInput(
                "chunkllm needs every token's entry in its place; use no cache policy that drops or merges with it."
            )
        adapters = self.adapters(view)
        labels = self.labels(session, total)
        flat = view.unrotated_keys[:, :total].transpose(0, 1).flatten(1).float()
        adapted = flat if self.scorer == "mean" else flat @ adapters["k"][view.order]
        view.state.update(
            keys=chunk_keys(adapted, labels, "mean" if self.scorer == "mean" else self.summary),
            labels=labels,
            ends=chunk_ends(labels),
            closed=int(labels[-1]) + self._closed(session.run_state(self)["ends"], labels),
            budget=budget_entries(view, self.budget),
        )
        if (
            "worth" in view.state
        ):  # the chunks chosen stay chosen; newer ones count as current until a boundary
            view.state["selection"] = self._selection(view, view.state["worth"])

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        state, count = view.state, view.run.indexed
        if len(state["labels"]) > count:  # rolled back
            labels = state["labels"][:count]
            state.update(labels=labels, closed=min(state["closed"], int(labels[-1])))
            state.pop("selection", None)
        if state["budget"] >= count or state["closed"] < 3:
            return None
        if "worth" not in state or self.trigger == "token" or view.session.run_state(self)["crossed"]:
            state["worth"] = self.scores(view, q)
            state.pop("selection", None)
        if "selection" not in state:
            state["selection"] = self._selection(view, state["worth"])
        return state["selection"]

    def scores(self, view: LayerView, q: Tensor) -> Tensor:
        """Worth of every chunk to one query (Hq, 1, D), (C,)."""
        at = torch.tensor([view.seen], device=q.device)
        plain = view.geometry.rope.unrotate(q, at, view.run.written_frequencies(view.seen))
        keys = view.state["keys"]
        if self.scorer == "mean":
            heads = view.geometry.kv_heads
            grouped = plain.squeeze(1).unflatten(0, (heads, -1)).sum(1).flatten()
            return keys @ grouped.float()
        adapted = plain.transpose(0, 1).flatten(1).float() @ self.adapters(view)["q"][view.order]
        worth = chunk_logits(adapted, keys).squeeze(0)
        if not self.age or "age" not in self.adapters(view):
            return worth
        return worth + age_terms(self.adapters(view)["age"][view.order], at, view.state["ends"]).squeeze(0)

    def _selection(self, view: LayerView, worth: Tensor) -> Selection:
        """The best chunks within the budget. Entries of the first and the newest chunks, and of chunks without a worth yet, are always read."""
        labels, closed = view.state["labels"], view.state["closed"]
        known = min(len(worth), closed)
        none = known  # the label of what is always read
        always = (labels == 0) | (labels >= known - 1)
        grouped = torch.where(always, none, labels)
        return _for_heads(
            fill_groups(worth[:known].unsqueeze(0), grouped.unsqueeze(0), view.state["budget"]),
            view.geometry.kv_heads,
        )

    # -- training --------------------------------------------------------------------------------------------------
    def calibrate(
        self,
        lm: Any,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        texts: int = 8,
        tokens: int = 768,
        steps: int = 400,
    ) -> Path:
        """Train the adapters on prose and keep them as an artefact. texts of `tokens` tokens each from the Python language reference, its second half."""
        total, read = texts + steps // 10, []
        for number, text in enumerate(training_texts(texts)):
            read.append(observe(lm, *labelled(lm, text, tokens), self.longest))
            if progress is not None:
                progress(number + 1, total)
        step = None if progress is None else lambda n: progress(texts + (n + 1) // 10, total)
        detector, boundary = train_detector(read, steps=steps // 2)
        maps, divergence = train_adapters(
            read, self.rank, self.summary, steps=steps, aged=self.age, progress=step
        )
        facts = {
            "made_by": f"longspan calibrate chunkllm --model {lm.name}",
            "texts": texts,
            "tokens": tokens,
            "steps": steps,
            "rank": self.rank,
            "summary": self.summary,
            "age": self.age,
            "kl_first": sum(divergence[:10]) / len(divergence[:10]),
            "kl_last": sum(divergence[-10:]) / len(divergence[-10:]),
            "boundary_loss": boundary[-1],
        }
        tensors = {name: value.half() for name, value in maps.items()} | detector
        return calibration.save("chunkllm", lm, tensors=tensors, facts=facts, folder=folder)


def _for_heads(one: Selection, heads: int) -> Selection:
    return Selection(one.indices.expand(heads, -1).contiguous(), one.entries)


def training_texts(count: int) -> list[str]:
    """Running prose from the second half of the language reference, in `count` pieces spread over it."""
    paragraphs = reference_prose()
    paragraphs = paragraphs[int(len(paragraphs) * HELD_OUT) :]
    step = len(paragraphs) // count
    return ["\n\n".join(paragraphs[i * step : (i + 1) * step]) for i in range(count)]
