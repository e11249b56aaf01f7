"""MoA: every head has a span of its own that grows with the text by its own rule; reading looks no further back, and the cache holds no more.

Source: MoA: Mixture of Sparse Attention for Automatic LLM Compression, Fu et al., 2024, arXiv 2406.14909; code thu-nics/MoA. At a text of N tokens head h keeps the
first block of 64 tokens and the newest alpha_h + beta_h N. The rules come from `longspan calibrate moa`: the influence of every attention entry
on the loss of the model's own answers (`moa_profile`), then the choice of one rule a head that loses least within a density (`moa_search`), then, of
the plans that no other beats, the one under which the model finds its own answer likeliest at a length it was not profiled at.

While a text is read the spans are masks; at its end each head drops what lies beyond its span, so that heads hold different numbers of entries and the memory is
really freed, and while tokens are generated the spans move on with them (every `every` tokens). The widths are those of the length at which the text ended; what has left every
span is gone for good, later texts included.

The original measures per query head and converts grouped models to one KV head a query head. Here a rule belongs to a KV head, and its loss is the sum over the group:
the cache of a group costs its widest head's span, so narrower spans for the others would save no memory. plan="uniform" gives every head the same share, which
is the paper's baseline. The calibration texts are key-value lists and prose instead of the paper's multi-document questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.method import CachePolicy, DecodeSelector, Method, PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.prefill.moa_profile import by_distance, influence, profile_text, with_own_answer
from longspan.methods.prefill.moa_search import Plan, Rule, rule_losses, rules, search
from longspan.ops.tile_patterns import from_window_sink
from longspan.ops.tiles import TileMask

DENSITIES = (0.25, 0.5)


@register("moa")
@dataclass(frozen=True)
class MoA(PrefillPattern):
    """budget: mean share of the keys that heads keep (1 reads and keeps everything). plan: "calibrated" (an artefact's, made for that budget) or "uniform".
    block: tokens of the sink and of the steps in which spans grow. every: generated tokens after which the spans move on. evict: drop what lies beyond the spans; false only masks
    the reading."""

    source = Source("https://arxiv.org/abs/2406.14909", 2024, "https://github.com/thu-nics/MoA")
    system = "moa"

    budget: float = 0.5
    plan: str = "calibrated"
    block: int = 64
    every: int = 64
    evict: bool = True

    def __post_init__(self) -> None:
        share = self.budget
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise BadInput(
                f"budget={share!r} of moa is the share of the keys that heads keep on average, above 0 and at most 1."
            )
        if self.plan not in ("calibrated", "uniform"):
            raise BadInput(f"plan={self.plan!r} of moa is not one of calibrated, uniform.")
        if self.block < 1 or self.every < 1:
            raise BadInput("moa counts tokens: block >= 1 and every >= 1.")

    @property
    def chunk_step(self) -> int:  # type: ignore[override]
        return self.block if self.budget < 1 else 1

    def refuses(self, other: Method) -> str | None:
        if isinstance(other, CachePolicy) and other.action in ("drop", "merge"):
            return "moa already decides what each head holds."
        if isinstance(other, DecodeSelector):
            return "moa already decides what each head of a generated token reads."
        return None

    def check(self, model: Any) -> None:
        if self.plan == "calibrated" and self.budget < 1:
            self._rules(model)

    def _rules(self, model: Any) -> list[list[Rule]]:
        """One rule for each KV head of every growing layer."""
        layers, heads = len(model.geometry.growing), model.geometry.kv_heads
        if self.budget == 1:
            return [[Rule(0.0, 1.0)] * heads] * layers
        if self.plan == "uniform":
            return [[Rule(-float(self.block), float(self.budget))] * heads] * layers
        facts = calibration.load("moa", model).facts
        made = {float(one): plan for one, plan in facts["plans"].items()}
        if self.budget not in made or facts["block"] != self.block:
            raise BadInput(
                f"moa was calibrated on this model for budget={' or '.join(map(str, sorted(made)))} with block={facts['block']}, not for "
                f"budget={self.budget} with block={self.block}; use one of those, or plan=uniform."
            )
        plan = made[self.budget]["rules"]
        if len(plan) != layers or any(len(row) != heads for row in plan):
            raise BadInput(f"the spans of moa are not for {layers} growing layers of {heads} KV heads.")
        return [[Rule(*one) for one in row] for row in plan]

    # -- acting ----------------------------------------------------------------------------------------------------
    def spans(self, session: Any, order: int, tokens: int) -> Tensor:
        """Newest blocks that each KV head of growing layer number `order` keeps at a text of `tokens`, (Hk,)."""
        held = session.run_state(self)
        if "rules" not in held:
            held["rules"] = self._rules(session.model)
        return torch.tensor([rule.blocks(tokens, self.block) for rule in held["rules"][order]])

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | None:
        queries, keys = q.shape[1], k.shape[1]
        whole = view.session.length + view.session.expected
        blocks = self.spans(view.session, view.order, whole).to(q.device)
        window = (blocks - 1) * self.block + 1  # the band of whole blocks, diagonal one included
        if self.budget == 1 or bool((window >= keys).all()):
            return None
        grid = {"query_tile": self.block, "key_tile": self.block}
        return from_window_sink(
            k.shape[0], queries, keys, sink=self.block, window=window, **grid, device=q.device
        )

    def after_read(self, session: Any) -> None:
        state = session.run_state(self)
        state["ended"], state["since"] = session.length, 0
        self._move_on(session)

    def after_tokens(self, session: Any, new: int, reading: bool) -> None:
        state = session.run_state(self)
        if reading or "ended" not in state:
            return
        state["since"] = state.get("since", 0) + new
        if state["since"] >= self.every:
            state["since"] = 0
            self._move_on(session)

    def free_tokens(self, session: Any) -> int | None:
        if not self.evict or self.budget == 1:
            return None
        return self.every - session.run_state(self).get("since", 0)

    def _move_on(self, session: Any) -> None:
        """Drop what lies beyond every head's span."""
        if not self.evict or self.budget == 1:
            return
        ended, dropped = session.run_state(self)["ended"], False
        for order, layer in enumerate(session.growing_layers()):
            view = session.view(layer, self)
            span = (self.spans(session, order, ended) * self.block).to(view.positions.device).unsqueeze(1)
            kept = (view.positions < self.block) | (view.positions >= view.seen - span)
            kept = kept if view.valid is None else kept & view.valid
            if int(kept.sum()) < view.entries:
                view.keep(kept)
                dropped = True
        if dropped:
            session.note_eviction()

    # -- calibration -----------------------------------------------------------------------------------------------
    def calibrate(
        self,
        lm: Any,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        lengths: Sequence[int] = (512, 1024),
        extended: Sequence[int] = (2048, 4096),
        texts: int = 4,
        answer: int = 32,
        densities: Sequence[float] = DENSITIES,
        candidates: int = 2,
    ) -> Path:
        """Profile, search and validate, and keep a plan for each density as an artefact.

        lengths: profiled, in tokens. extended: lengths at which the density must hold as well. texts: at the shortest length; half as many at twice
        the length and so on, at least two. answer: tokens of the model's own that are scored. candidates: plans of the Pareto set that are validated, at three quarters of the
        longest length.
        """
        if min(lengths) < 2 * self.block or min(lengths) <= 2 * answer:
            raise BadInput(
                f"moa profiles texts of at least {max(2 * self.block, 2 * answer + 1)} tokens, not {min(lengths)}."
            )
        heads = lm.geometry.kv_heads
        counts = [max(2, texts * min(lengths) // length) for length in lengths]
        unseen = max(lengths) * 3 // 4 // self.block * self.block
        done, total = 0, sum(counts) + 1 + 2 * candidates * len(densities)

        def step() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(min(done, total), total)

        profiles, texts_nll = [], []
        for length, count in zip(lengths, counts, strict=True):
            sums = []
            for number in range(count):
                ids = with_own_answer(lm, profile_text(number, length - answer, lm), answer)
                nll, blocks = influence(lm, ids, answer, self.block)
                sums.append(by_distance(blocks, heads))
                texts_nll.append(nll)
                step()
            profiles.append(torch.stack(sums).mean(0).flatten(0, 1).double().cpu().numpy())
        grid = rules(lengths, extended, self.block)
        losses = [
            rule_losses(one, grid, length, self.block) for one, length in zip(profiles, lengths, strict=True)
        ]
        costs = np.array([[rule.cost(n, self.block) for rule in grid] for n in (*lengths, *extended)])
        judged = [
            with_own_answer(lm, profile_text(number, unseen - answer, lm), answer) for number in (100, 101)
        ]
        step()
        plans = {}
        for density in densities:
            front = search(losses, costs, density)
            nats = []
            for plan in front[:candidates]:
                shaped = self._shaped(plan, grid, heads)
                nats.append(sum(self._answer_nll(lm, ids, answer, shaped) for ids in judged) / len(judged))
                step()
            best = front[int(np.argmin(nats))]
            plans[str(density)] = {
                "rules": [[[r.alpha, r.beta] for r in row] for row in self._shaped(best, grid, heads)],
                "influence_lost": list(best.losses),
                "densities": list(best.densities),
                "pareto_plans": len(front),
                "validated_nats": nats,
            }
        facts = {
            "made_by": f"longspan calibrate moa --model {lm.name}",
            "block": self.block,
            "lengths": list(lengths),
            "extended": list(extended),
            "texts": counts,
            "answer": answer,
            "rules_tried": len(grid),
            "dense_nats": texts_nll,
            "validated_at": unseen,
            "influence": [[[float(f"{x:.3g}") for x in head] for head in one] for one in profiles],
            "plans": plans,
        }
        return calibration.save("moa", lm, facts=facts, folder=folder)

    @staticmethod
    def _shaped(plan: Plan, grid: list[Rule], heads: int) -> list[list[Rule]]:
        chosen = [grid[number] for number in plan.choice]
        return [chosen[i : i + heads] for i in range(0, len(chosen), heads)]

    def _answer_nll(self, lm: Any, ids: Tensor, answer: int, plan: list[list[Rule]]) -> float:
        """Nats a token of the model's own answer when the text before it was read and kept under a plan."""
        method = MoA(budget=0.5, plan="uniform", block=self.block)  # the plan below takes its rules' place
        session = lm.session(method)
        session.run_state(method)["rules"] = plan
        session.feed(ids[:-answer])
        session.finish_read()
        return -float(session.score(ids[-answer:]).mean())
