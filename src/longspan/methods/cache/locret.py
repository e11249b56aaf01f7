"""Locret: a trained head in every layer says, when a token is read, how much its entry will matter; chunk by chunk only the best stay.

Source: Locret, Huang et al., 2024; code huangyuxiang03/Locret. The scores come from small networks on the token's own un-rotated q, k and v
(`locret_heads.py`, made by `longspan calibrate locret`), so they are causal, final and independent of any question, and a text of any length
is read with at most budget + chunk entries. Between chunks the newest `stabilizers` of the budget are kept whatever their scores; after the last
chunk they are not, as in the code (last_stabilizers=true changes that). A question that is asked later is never evicted.

The code caches keys un-rotated and numbers them by their place in the cache, so that a long text stays among short positions:
positions="cache". The default keeps true positions, which costs nothing at run time and is the same while everything is kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from longspan.engine import calibration
from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.segments import SideSpec
from longspan.engine.state import CHUNK
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.locret_heads import Plan, features, retain, train_heads

SCORE = "retain"  # side value: the score an entry got when it was read


@register("locret")
@dataclass(frozen=True)
class Locret(CachePolicy):
    """stabilizers: share of the budget for the newest entries between chunks (paper: 2,500 of 6,000). last_stabilizers: after the last chunk too.
    positions: "original" or "cache". width, steps: of `longspan calibrate`. folder: where the artefact lies, "" for the usual places."""

    source = Source("https://arxiv.org/abs/2410.01805", 2024, "https://github.com/huangyuxiang03/Locret")
    system = "locret"
    changes_prefill: ClassVar[bool] = True  # scores are made while the text is read
    pre_rope: ClassVar[bool] = True

    when: str = "chunk"
    stabilizers: float = 0.4
    last_stabilizers: bool = False
    positions: str = "original"
    width: int = 16
    steps: int = 60
    folder: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in ("original", "cache"):
            raise BadInput(f"positions={self.positions!r} of locret is not one of original, cache.")
        if not 0.0 <= self.stabilizers <= 1.0 or self.width < 1 or self.steps < 1:
            raise BadInput("locret takes stabilizers from 0 to 1, width >= 1 and steps >= 1.")

    @property
    def position_mode(self) -> str:
        return self.positions

    @property
    def needs(self) -> Needs:
        return Needs(window_queries=CHUNK)

    def side_specs(self, model: Any) -> dict[str, SideSpec]:
        return {SCORE: SideSpec()}

    def check(self, model: Any) -> None:
        self._heads(model)

    def _heads(self, model: Any) -> tuple[Tensor, Tensor]:
        """fc1 (growing layers, width, in) and fc2 (growing layers, Hk, width)."""
        tensors = calibration.load("locret", model, self.folder or None).tensors
        first = model.geometry.layers[model.geometry.growing[0]]
        size = (first.q_heads + first.kv_heads) * first.head_dim + first.kv_heads * first.value_dim
        fc1, fc2 = (tensors[name].float().to(model.device) for name in ("fc1", "fc2"))
        if fc1.shape[::2] != (len(model.geometry.growing), size) or fc2.shape[1] != first.kv_heads:
            raise BadInput(
                f"the retaining heads of locret are not for {len(model.geometry.growing)} layers of {size} inputs."
            )
        return fc1, fc2

    def after_tokens(self, session: Any, new: int, reading: bool) -> None:
        state = session.run_state(self)
        if "heads" not in state:
            state["heads"] = self._heads(session.model)
        fc1, fc2 = state["heads"]
        for order, layer in enumerate(session.growing_layers()):
            view = session.view(layer, self)
            queries = view.unrotated_window_queries(new)
            if queries.shape[1] < new:
                raise BadInput(
                    f"locret reads at most {CHUNK} tokens at a time; make the session's chunk smaller."
                )
            inputs = features(queries, *view.newest(new))
            view.write_newest(SCORE, retain(inputs, fc1[order], fc2[order]))
        super().after_tokens(session, new, reading)

    def score(self, view: LayerView) -> Tensor:
        scores = view.side(SCORE)
        assert scores is not None
        return scores

    def protected(self, view: LayerView, scores: Tensor) -> Tensor:
        scores = super().protected(view, scores)
        if not (self.last_stabilizers or view.session.expected):
            return scores
        newest = int(self.stabilizers * self.per_head(view.session))
        return scores.float().masked_fill(view.positions >= view.seen - newest, float("inf"))

    def calibrate(self, model: Any, out: Path | None, progress: Any = None) -> Path:
        """Train the heads and write the artefact; an interrupted run is taken up where it was."""
        plan = Plan(steps=self.steps, width=self.width)
        tensors, figures = train_heads(model, plan, out, progress)
        facts = {
            "made_by": f'longspan calibrate "locret(width={self.width}, steps={self.steps})" --model {model.name}',
            **vars(plan),
            **figures,
        }
        return calibration.save("locret", model, tensors=tensors, facts=facts, folder=out)
