"""LoCoCo: a memory of fixed size; when it is full, trained convolutions blend what is not attended to into a few new entries.

Source: LoCoCo, Cai et al., ICML 2024; code VITA-Group/LoCoCo (no weights were published). The fusion and its training are in `lococo_fusion.py`; filters
come from `longspan calibrate lococo`. After every chunk that leaves more than budget + `buffer` entries, `keep_share` of the budget stays as it is, by the
attention received since the last fusion, and the rest of the cache is fused into the rest of the budget. The paper fuses when the next chunk comes,
which is the same, except that here the text's last chunk is fused as well (to the budget exactly, unless nothing was ever fused). Keys are mixed as they are stored, rotated to their original positions.

The number of filters is fixed by the training (32 for 64 entries). A larger budget copies more entries, a smaller one uses the first filters only.
The code leaves new entries behind the copied ones; here all are in order of position, which attention does not notice and the next convolution does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.collect import MASS
from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.lococo_fusion import Plan, fuse, train_fusion


@register("lococo")
@dataclass(frozen=True)
class LoCoCo(CachePolicy):
    """keep_share: part of the budget that is copied (paper: half). mix: share of the convolution, -1 for the trained one of each layer; 0 is plain
    heavy-hitter selection. buffer: entries above the budget before anything is fused. relu: before the softmax, as in the code. steps: of
    `longspan calibrate`. folder: where the artefact lies, "" for the usual places."""

    source = Source("https://arxiv.org/abs/2406.05317", 2024, "https://github.com/VITA-Group/LoCoCo")
    system = "lococo"
    action = "merge"

    when: str = "chunk"
    keep_share: float = 0.5
    mix: float = -1.0
    buffer: int = 16
    relu: bool = True
    steps: int = 40
    folder: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.keep_share <= 1.0 or self.buffer < 0 or self.steps < 1:
            raise BadInput("lococo takes keep_share from 0 to 1, buffer >= 0 and steps >= 1.")
        if self.mix != -1.0 and not 0.0 <= self.mix <= 1.0:
            raise BadInput(f"mix={self.mix} of lococo is neither -1 (as trained) nor a share from 0 to 1.")
        if self.allocator != "uniform" or self.sink:
            raise BadInput(
                "lococo keeps a budget of the same size in every head, without sinks; use allocator=uniform and sink=0."
            )

    @property
    def needs(self) -> Needs:
        return Needs(column_mass=True)

    def check(self, model: Any) -> None:
        self._trained(model)

    def _trained(self, model: Any) -> tuple[Tensor, Tensor]:
        """filters (growing layers, fused, 2 D, kernel) and mix (growing layers,)."""
        tensors = calibration.load("lococo", model, self.folder or None).tensors
        first = model.geometry.layers[model.geometry.growing[0]]
        wanted = (len(model.geometry.growing), first.head_dim + first.value_dim)
        filters = (tensors["codes"].float() * tensors["scales"].float()).to(model.device)
        if (filters.shape[0], filters.shape[2]) != wanted:
            raise BadInput(f"the filters of lococo are not for {wanted[0]} layers of {wanted[1]} inputs.")
        mix = tensors["mix"].to(model.device)
        return filters, mix if self.mix < 0 else torch.full_like(mix, self.mix)

    def compress(self, view: LayerView, budget: int) -> None:
        if view.valid is not None:
            raise BadInput(
                "lococo fuses heads that hold equally many entries; leave out what drops different ones in each."
            )
        size = budget // view.keys.shape[0]
        length = view.keys.shape[1]
        slack = self.buffer if view.session.expected or length == view.seen else 0
        if length <= size + slack:
            return
        state = view.session.run_state(self)
        if "trained" not in state:
            state["trained"] = self._trained(view.session.model)
        filters, mix = (held[view.order] for held in state["trained"])
        fused = min(len(filters), int(size * (1 - self.keep_share)))
        mass = view.column_mass.sum(-1)
        k, v, positions, _ = fuse(
            view.keys, view.values, mass, view.positions, filters[:fused], mix, size,
            relu=self.relu, newest=min(self.recent, size - fused),
        )  # fmt: skip
        view.replace(k, v, positions, side={MASS: torch.zeros_like(view.column_mass[:, :size])})

    def calibrate(self, model: Any, out: Path | None, progress: Any = None) -> Path:
        """Train the filters and write the artefact, 8 bits a weight; an interrupted run is taken up where it was."""
        plan = Plan(steps=self.steps)
        filters, mix, losses = train_fusion(model, plan, out, progress)
        scales = filters.abs().amax((2, 3), keepdim=True).clamp(min=1e-12) / 127
        tensors = {"codes": (filters / scales).round().to(torch.int8), "scales": scales.half(), "mix": mix}
        facts = {
            "made_by": f'longspan calibrate "lococo(steps={self.steps})" --model {model.name}',
            **vars(plan),
            "losses": [round(loss, 4) for loss in losses],
            "mix": [round(value, 4) for value in mix.tolist()],
        }
        return calibration.save("lococo", model, tensors=tensors, facts=facts, folder=out)
