"""RetroLM: pages are looked up by one key each, per layer, and a token reads the sink, the found and the newest pages.

Source: Does RAG Really Perform Bad For Long-Context Processing?, Luo et al., 2025, arXiv 2502.11444; no code. There a trained bookmark token at the end of each
page makes the page's key. Three forms: the key is the mean of the page's keys (`summary=mean`), its last key (`summary=last`, where the bookmark
would sit), or a trained bookmark's (`summary=bookmark`; `longspan calibrate retrolm`, `retrolm_train`). A page's score to a query is added over heads: all
heads of a layer read the same pages. Page size and counts are not published: knobs.

A bookmark is a token of its own in the paper, which shifts what follows. Here it has no place in the text: in every layer it looks at its page with a query of its
own and turns what it gathers, un-rotated keys and values, into the page's key; the query gets a projection of its own. So the base model's logits are untouched
when everything is read. The second training stage, next-token prediction with sparse reading, makes another model: `retrolm_post`, with post=STEPS when calibrating.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.decode.base import PagedSelector
from longspan.methods.decode.retrolm_post import NAME, Post, post_train, with_changes
from longspan.methods.decode.retrolm_train import (
    bookmark_keys,
    observe,
    page_logits,
    record_text,
    train_bookmarks,
)
from longspan.ops.choose import group_mass
from longspan.ops.tile_scores import tile_means


@register("retrolm")
@dataclass(frozen=True)
class RetroLM(PagedSelector):
    """page: entries a page. summary: "mean" or "last" key, or "bookmark". budget: share, entries a head, or bytes that a token reads. sink_pages, recent_pages:
    always read. rank: dimensions of the bookmarks when they are trained. post: steps of the second stage after that, 0 for none."""

    source = Source("https://arxiv.org/abs/2502.11444", 2025)
    system = "retrolm"

    page: int = 64
    summary: str = "mean"
    rank: int = 16
    post: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.summary not in ("mean", "last", "bookmark"):
            raise BadInput(f"summary={self.summary!r} of retrolm is not one of mean, last, bookmark.")
        if self.rank < 1 or self.post < 0:
            raise BadInput("retrolm takes rank >= 1 and post >= 0.")

    @property
    def pre_rope(self) -> bool:  # type: ignore[override]
        return self.summary == "bookmark"

    def check(self, model: Any) -> None:
        if self.summary == "bookmark":
            self._bookmarks(model)

    def _bookmarks(self, model: Any) -> dict[str, Tensor]:
        found = calibration.load("retrolm", model)
        layers = len(model.geometry.growing)
        first = model.geometry.layers[model.geometry.growing[0]]
        wanted = {
            "look": (layers, first.kv_heads, first.head_dim),
            "q": (layers, first.q_heads * first.head_dim),
        }
        made = calibration.matched(found, wanted, "the bookmarks of retrolm", model)
        if found.facts["page"] != self.page:
            raise BadInput(
                f"the bookmarks of retrolm were trained for pages of {found.facts['page']} entries; use page={found.facts['page']}."
            )
        return made

    def bookmarks(self, view: LayerView) -> dict[str, Tensor]:
        """This layer's bookmark parameters; loaded once a session."""
        held = view.session.run_state(self)
        if "bookmarks" not in held:
            held["bookmarks"] = self._bookmarks(view.session.model)
        return {name: value[view.order] for name, value in held["bookmarks"].items()}

    def digest(self, view: LayerView, keys: Tensor) -> None:
        if self.summary == "bookmark":
            count = keys.shape[1]
            plain, values = view.unrotated_keys[:, :count], view.values[:, :count]
            view.state["pages"] = bookmark_keys(
                self.bookmarks(view), plain.float(), values.float(), self.page
            )
        elif self.summary == "mean":
            view.state["pages"] = tile_means(keys, self.page)
        else:
            pages = -(-keys.shape[1] // self.page)
            last = [min(keys.shape[1], (page + 1) * self.page) - 1 for page in range(pages)]
            view.state["pages"] = keys[:, last].clone()

    def scores(self, view: LayerView, q: Tensor) -> Tensor:
        """(1, P): softmaxed over pages and added over heads, or the bookmarks' logits."""
        if self.summary != "bookmark":
            return group_mass(q, view.state["pages"], view.session.scale(view.layer)).sum(0, keepdim=True)
        at = torch.tensor([view.seen], device=q.device)
        plain = view.geometry.rope.unrotate(q, at, view.run.written_frequencies(view.seen))
        return page_logits(
            plain.transpose(0, 1).flatten(1).float() @ self.bookmarks(view)["q"], view.state["pages"]
        )

    def calibrate(
        self,
        lm: Any,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        texts: int = 8,
        tokens: int = 768,
        steps: int = 300,
    ) -> Path:
        """Train the bookmarks of every layer on records in prose and questions about them, and keep them as an artefact. tokens: of a text and its questions, about."""
        total, read = texts + steps // 10 + self.post, []
        for number in range(texts):
            read.append(observe(lm, record_text(lm, tokens, number), self.page))
            if progress is not None:
                progress(number + 1, total)
        step = None if progress is None else lambda n: progress(texts + (n + 1) // 10, total)
        made, losses = train_bookmarks(read, self.page, self.rank, steps=steps, progress=step)
        post = f", post={self.post}" if self.post else ""
        facts = {
            "made_by": f'longspan calibrate "retrolm(page={self.page}{post})" --model {lm.name}',
            "page": self.page,
            "rank": self.rank,
            "texts": texts,
            "tokens": tokens,
            "steps": steps,
            "loss_first": sum(losses[:10]) / len(losses[:10]),
            "loss_last": sum(losses[-10:]) / len(losses[-10:]),
        }
        tensors = {name: value.half() for name, value in made.items()}
        path = calibration.save("retrolm", lm, tensors=tensors, facts=facts, folder=folder)
        if self.post:
            later = None if progress is None else lambda done, _: progress(total - self.post + done, total)
            self._second_stage(lm, made, tensors, facts, folder, later)
        return path

    def _second_stage(
        self,
        lm: Any,
        bookmarks: dict[str, Tensor],
        kept: dict[str, Tensor],
        facts: dict[str, Any],
        folder: Path | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Train the changes of `retrolm_post` and keep them, and the bookmarks once more for the model that has them."""
        plan = Post(self.post)
        changes, losses = post_train(lm, bookmarks, self.page, plan, folder, progress)
        changes = {name: value.half() for name, value in changes.items()}
        ends = {"nats_first": losses[0], "nats_last": losses[-1]}
        told = {"made_by": facts["made_by"], **vars(plan), "page": self.page, **ends}
        calibration.save(NAME, lm, tensors=changes, facts=told, folder=folder)
        calibration.save("retrolm", with_changes(lm, changes), tensors=kept, facts=facts, folder=folder)
