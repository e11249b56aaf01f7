"""CompressKV: only the heads that look at whole needles vote on what stays, and layers that suffer more from compression get more.

Source: CompressKV, Lin et al., 2025; code TUDa-HWAI/CompressKV. Found once per model, by `longspan calibrate compresskv`: (A) for every head the
attention it puts on the needle while the model answers (semantic retrieval heads, `retrieval_heads.py`), heads of each layer in that order; (B)
for every layer the error |o' - o| / |o| of its attention output when 32 entries stay, normalised to sum 1. Then, after a text: the softmax rows
of the last `window` queries of the layer's best `first_k` heads, smoothed, averaged; all KV heads of the layer keep the same entries. Layer
budgets: least + round(error * (L C - L least)), at most `most` times the mean C, repaired one entry at a time so that the sum is exact.

The code measures (B) after the output projection and over 16 LongBench sets; here before it, on needle prompts. It adds a needle's attention
once per matching token; here a head's mean share. shared=false lets every KV head keep what the voters of its own group say.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.retrieval_heads import GATE, Probe, head_scores, observe, probes
from longspan.methods.cache.snapkv import WINDOW_SCORE, smooth

PROBE_BUDGET = 32  # entries a head at which the layers' errors are measured
PROMPTS, TOKENS = 10, 500


@register("compresskv")
@dataclass(frozen=True)
class CompressKV(CachePolicy):
    """first_k: heads a layer that vote, 0 for all. window, pool: as in snapkv. layers: "error" or "uniform" budgets. least, most: bounds of a
    layer's budget, in entries and in multiples of the mean. folder: where the artefact lies, "" for the usual places."""

    source = Source("https://arxiv.org/abs/2508.02401", 2025, "https://github.com/TUDa-HWAI/CompressKV")
    aware = True

    first_k: int = 4
    window: int = 8
    pool: int = 5
    layers: str = "error"
    least: int = 32
    most: float = 3.0
    shared: bool = True
    folder: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.pool < 1 or self.pool % 2 == 0 or self.first_k < 0 or self.least < 1:
            raise BadInput("compresskv needs window >= 1, an odd pool, first_k >= 0 and least >= 1.")
        if self.layers not in ("error", "uniform") or self.most < 1:
            raise BadInput("compresskv takes layers=error or uniform, and most >= 1.")
        if self.allocator != "uniform":
            raise BadInput(
                "compresskv keeps the same entries in every head of a layer; use allocator=uniform."
            )

    @property
    def needs(self) -> Needs:
        return Needs(window_queries=self.window)

    def check(self, model: Any) -> None:
        if self.first_k or self.layers == "error":
            self._artefact(model)

    def _artefact(self, model: Any) -> dict[str, Any]:
        return calibration.load("compresskv", model, self.folder or None).facts

    def compress_all(self, session: Any) -> None:
        """Fix every layer's budget, then compress each."""
        per_head = self.per_head(session)
        if session.longest() <= per_head:
            return
        layers = session.growing_layers()
        facts = self._artefact(session.model) if self.first_k or self.layers == "error" else {}
        counts = [per_head] * len(layers)
        if self.layers == "error":
            counts = layer_budgets(
                facts["layer_error"], per_head, self.least, int(self.most * per_head), session.longest()
            )
        state = session.run_state(self)
        for order, (layer, count) in enumerate(zip(layers, counts, strict=True)):
            view = session.view(layer, self)
            state["voters"] = facts["heads"][order][: self.first_k] if self.first_k else None
            if count * session.model.geometry.kv_heads < view.entries:
                self.compress(view, count * session.model.geometry.kv_heads)
        session.note_eviction()

    def score(self, view: LayerView) -> Tensor:
        heads, length = view.positions.shape
        queries = view.window_queries(self.window)
        before = view.positions < view.seen - queries.shape[1]
        rows = view.once(f"window sums {self.window}", lambda: view.attention_rows(queries).sum(1))  # (Hq, T)
        voters = view.session.run_state(self).get("voters")
        chosen = torch.zeros(rows.shape[0], device=rows.device)
        chosen[list(range(rows.shape[0])) if voters is None else voters] = 1.0
        rows = rows.masked_fill(~before.repeat_interleave(rows.shape[0] // heads, 0), 0.0)
        if self.shared:
            votes = (rows * chosen.unsqueeze(1)).sum(0, keepdim=True).expand(heads, length) / chosen.sum()
        else:
            weight = chosen.view(heads, -1)
            weight = torch.where(weight.sum(1, keepdim=True) == 0, torch.ones_like(weight), weight)
            votes = (rows.view(heads, -1, length) * weight.unsqueeze(-1)).sum(1) / weight.sum(1, keepdim=True)
        return torch.where(before, smooth(votes, self.pool, "avg"), WINDOW_SCORE + view.positions.float())

    def calibrate(self, model: Any, out: Path | None, progress: Any = None) -> Path:
        """Probe the model's heads and layers and write the artefact."""
        observed, errors = [], []
        for number, probe in enumerate(probes(model, PROMPTS, TOKENS)):
            session = model.session(collect=Needs(window_queries=64))
            session.feed(probe.read)
            observed.append(observe(session, probe))
            if observed[-1].recall > GATE:
                errors.append(
                    layer_error(session, probe, self, torch.argsort(observed[-1].mass, 1, descending=True))
                )
            if progress is not None:
                progress(number + 1, PROMPTS)
        found = head_scores(observed, model.geometry.growing)
        if not found.passed:
            raise BadInput(
                f"{model.name or 'the model'} answered none of {PROMPTS} needle prompts, so its heads cannot be told apart."
            )
        error = torch.stack(errors).mean(0)
        facts = {
            "made_by": f"longspan calibrate compresskv --model {model.name}",
            "prompts": PROMPTS,
            "tokens": TOKENS,
            "answered": found.passed,
            "heads": found.mass.argsort(dim=1, descending=True, stable=True).tolist(),
            "head_mass": [[round(x, 4) for x in row] for row in found.mass.tolist()],
            "layer_error": [round(x, 6) for x in (error / error.sum()).tolist()],
        }
        return calibration.save("compresskv", model, facts=facts, folder=out)


def layer_error(session: Any, probe: Probe, method: CompressKV, ranked: Tensor) -> Tensor:
    """Error of every layer's attention output over the answer when PROBE_BUDGET entries of the text stay, normalised: (L,).

    ranked: query heads of every layer, the best first.
    """
    asked = session.fork(collect=Needs(window_queries=64))
    asked.feed(probe.tail, reading=False)
    answered = asked.fork()
    answered.feed(probe.answer[:-1], reading=False)
    errors = []
    for order, layer in enumerate(session.growing_layers()):
        asked.run_state(method)["voters"] = (
            ranked[order][: method.first_k].tolist() if method.first_k else None
        )
        kept = method.score(asked.view(layer, method))[0].topk(PROBE_BUDGET).indices
        view = answered.view(layer, method)
        rows = view.attention_rows(view.window_queries(len(probe.answer) - 1))
        values = view.values.unsqueeze(1)
        visible = torch.ones(rows.shape[-1], dtype=torch.bool)
        visible[: asked.length] = False
        visible[kept.cpu()] = True
        less = rows * visible.to(rows.device)
        rows, less = (
            x.view(values.shape[0], -1, *x.shape[1:]) for x in (rows, less / less.sum(-1, keepdim=True))
        )
        full, short = rows @ values, less @ values
        errors.append(float((short - full).norm() / (full.norm() + 1e-5)))
    found = torch.tensor(errors)
    return found / found.sum()


def layer_budgets(errors: list[float], mean: int, least: int, most: int, room: int) -> list[int]:
    """Entries a head of every layer: the sum is exactly mean * layers, none below `least` (or the mean, if smaller) or above `most` and `room`."""
    layers, least, most = len(errors), min(least, mean), min(most, room)
    total, scale = mean * layers, sum(errors)
    counts = [
        min(most, max(least, least + round(error / scale * (total - least * layers)))) for error in errors
    ]
    richest = sorted(range(layers), key=lambda i: -errors[i])
    while (missing := total - sum(counts)) != 0:
        for i in richest if missing > 0 else reversed(richest):
            if missing > 0 and counts[i] < most:
                counts[i] += 1
                missing -= 1
            elif missing < 0 and counts[i] > least:
                counts[i] -= 1
                missing += 1
            if not missing:
                break
    return counts
