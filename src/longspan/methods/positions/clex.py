"""CLEX: frequencies from a small trained differential equation over the scaling factor t = ceil(length / window).

Source: CLEX: Continuous Length Extrapolation, ICLR 2024, arXiv 2310.16450; code DAMO-NLP-SG/CLEX. The equation is in `ops.neural_frequencies`. Its network is trained with the model (random t,
random positions, `train.clex.train_clex`), or alone on a model that stays as it is (`longspan calibrate clex`), and read as an artefact. Without training (`trained=false`) the equation has a closed solution, NTK scaling by 2t - 1. Keys stay un-rotated:
crossing a t in mid-text turns all of them, which the authors require too. Whole t only: the cost jumps when a text passes a multiple of the window. The optional
log(length) / log(window) on queries of the released configuration is off.

On a tiny model that reads letters, 300 steps at scattered positions left it worse at t = 4 than the untrained equation (evidence/clex.json): the order of letters is told by the
fastest pairs at distances of 1 to 3, and positions drawn over four windows are 4 apart on average.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from torch import Tensor

from longspan.engine import calibration
from longspan.engine.method import PositionMethod, Source
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.positions.base import apply_map, check_assumed, check_sizes, check_window
from longspan.methods.positions.base import trained as trained_rope
from longspan.ops import neural_frequencies as equation
from longspan.ops.frequency_maps import Frequencies, Rope


@register("clex")
@dataclass(frozen=True)
class CLEX(PositionMethod):
    """trained: use the artefact made for the model; false for the untrained equation. largest: t is capped here, as drawn in training. step: of the solver in t.
    activation: "tanh" or "silu" (of the released weights unknown). window: trained window in tokens, 0 for the model's own."""

    source = Source("https://arxiv.org/abs/2310.16450", 2023, "https://github.com/DAMO-NLP-SG/CLEX")
    system = "clex"
    rotate_on_read: ClassVar[bool] = True

    trained: bool = True
    largest: int = 16
    step: float = 0.01
    activation: str = "tanh"
    window: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.name, largest=self.largest)
        check_window(self.name, self.window)
        if self.activation not in equation.ACTIVATIONS or not 0 < self.step <= 1:
            raise BadInput("clex takes activation=tanh or silu and a step between 0 and 1.")

    def check(self, model: Any) -> None:
        """Load the model's network; it is kept by the rotations of its layers, which identify the model when frequencies are asked."""
        if self.trained:
            network = dict(calibration.load("clex", model).tensors)
            ropes = [layer.rope for layer in model.geometry.layers.values()]
            known = getattr(self, "_networks", {})
            object.__setattr__(self, "_networks", {**known, **{id(rope): (rope, network) for rope in ropes}})

    def check_trained(self, trained_window: int) -> None:
        check_assumed(self.name, self.window, trained_window)

    def frequencies(self, rope: Any, length: int) -> Frequencies:
        own = trained_rope(rope, self.window)
        t = min(self.largest, -(-length // own.window))
        if t <= 1:
            return rope.frequencies
        return apply_map(rope.frequencies, own, self._solved(rope, own, t))

    def _solved(self, asked: Any, rope: Rope, t: int) -> Frequencies:
        if not self.trained:
            return _untrained(rope, t, self.step)
        network: dict[str, Tensor] = self._networks[id(asked)][1]
        if f"f{t}" not in network:
            up, down = network["up"], network["down"]
            network[f"f{t}"] = equation.solve(rope, t, up, down, activation=self.activation, step=self.step)
        return Frequencies(network[f"f{t}"])


@lru_cache(maxsize=64)
def _untrained(rope: Rope, t: int, step: float) -> Frequencies:
    return equation.clex(rope, t, step=step)
