"""Giraffe's bases: linear, power and truncated, which compose in this order, and xPos's decay on top.

Source: Pal et al., Giraffe, 2023, arXiv 2308.10882; code abacusai/Long-Context. linear: f / s. power: f_i (1 - 2i/d)^k (k = 0.5 was tested; the last pair keeps (2/d)^k). truncated to N tokens:
f below 2 pi / N becomes 2 pi / (16 N), below an eighth of that 0, a pair without position. xPos (arXiv 2212.10554): pair i of a query at m is multiplied by zeta_i^(m/B) and of a key at n by
zeta_i^(-n/B), so that it fades with the distance; the code centres positions on the text's middle, which the product does not see, here they count from the query. All were meant for
fine-tuning at the new length; linear was the most robust and is `pi` when alone, xPos never reached the others' loss. The randomised positions of the same paper are a way of
training (`ops.sampled_positions`; `longspan tiny train --positions randomised`). On a tiny model 200 steps favoured the truncated basis, not the linear one
(evidence/giraffe.json).
"""

from dataclasses import dataclass
from typing import Any

from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.positions.base import FrequencyMethod
from longspan.ops.distance_maps import Passes, plain, xpos_decay
from longspan.ops.frequency_maps import Frequencies, Rope, power, truncated


@register("giraffe")
@dataclass(frozen=True)
class Giraffe(FrequencyMethod):
    """factor: linear divisor. power: exponent k, 0 for off. truncate: N tokens, 0 for off. xpos: B tokens (512 in xPos, 8192 in Giraffe's evaluation), 0 for off."""

    source = Source("https://arxiv.org/abs/2308.10882", 2023, "https://github.com/abacusai/Long-Context")
    system = "giraffe"

    factor: float | str = 1.0
    power: float = 0.0
    truncate: int = 0
    xpos: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.power, self.truncate, self.xpos) < 0:
            raise BadInput(
                f"giraffe needs power, truncate and xpos of at least 0, not {self.power}, {self.truncate} and {self.xpos}."
            )

    @property
    def rotate_on_read(self) -> bool:  # type: ignore[override]
        return bool(self.xpos) or super().rotate_on_read

    def map(self, rope: Rope, factor: float) -> Frequencies:
        f = power(rope, self.power).inv_freq / factor
        return truncated(rope, self.truncate, f) if self.truncate else Frequencies(f)

    def neutral(self, factor: float) -> bool:
        return factor == 1 and not self.power and not self.truncate

    def passes(self, rope: Any) -> Passes | None:
        return plain(xpos_decay(rope.trained.dim, self.xpos)) if self.xpos else None

    def rope_parameters(self, rope: Rope, factor: float) -> dict[str, Any]:
        if self.xpos:
            raise BadInput("a config has no place for xPos's decay; export giraffe without xpos.")
        return super().rope_parameters(rope, factor)
