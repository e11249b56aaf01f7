"""M-RoPE++: ranges of pairs under different maps, as GIRAFFE gives time, height and width one each.

Source: GIRAFFE: Design Choices for Extending the Context Length of Visual Language Models, 2024, arXiv 2412.12735; code kiaia/GIRAFFE. With pairs split (16, 24, 24) of 64: time keeps its
frequencies, height mixes linear and NTK by rho, width takes NTK with base b ((T-1)/(L-1))^(d/(d-2)). Code defaults: scale 1 and rho 1, so height = width = NTK. On text all three axes hold the
same position, so the map is one of frequencies. The stored patch of the reference does not run (a syntax error); its formulas do.
"""

from dataclasses import dataclass

from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.positions.base import FrequencyMethod, check_factor
from longspan.ops.frequency_maps import Frequencies, Rope, adjusted_base, axis_mixed, default


@register("mrope_plus")
@dataclass(frozen=True)
class MRoPEPlus(FrequencyMethod):
    """rho: share of NTK in the height pairs, the rest linear by `scale`. time, height: shares of the pairs (the rest is width); 0.25 and 0.375 are Qwen2-VL's."""

    source = Source("https://arxiv.org/abs/2412.12735", 2024, "https://github.com/kiaia/GIRAFFE")
    system = "giraffe-vlm"

    rho: float = 1.0
    scale: float = 1.0
    time: float = 0.25
    height: float = 0.375

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor(self.name, self.scale, "scale")
        if not (0 <= self.rho <= 1 and 0 <= self.time <= 1 and 0 <= self.height <= 1 - self.time):
            raise BadInput("mrope_plus needs 0 <= rho <= 1 and shares time + height of at most 1.")

    def map(self, rope: Rope, factor: float) -> Frequencies:
        pairs = rope.dim // 2
        first, second = round(self.time * pairs), round((self.time + self.height) * pairs)
        stretch = (round(factor * rope.window) - 1) / (rope.window - 1)
        base = rope.base * stretch ** (rope.dim / (rope.dim - 2))

        def width(r: Rope) -> Frequencies:
            return adjusted_base(r, base)

        def high(r: Rope) -> Frequencies:
            return Frequencies(r.frequencies / self.scale * (1 - self.rho) + width(r).inv_freq * self.rho)

        return axis_mixed(rope, [(0, first, default), (first, second, high), (second, pairs, width)])
