"""Dynamic NTK: NTK-aware scaling that grows with the text and leaves texts inside the window alone.

Source: emozilla, 2023 (public post); transformers rope_type dynamic. b'(t) = b * (s t/L - (s-1))^(d/(d-2)) for t > L. While a text is read, t is the
length it will have at its end (as in a one-shot prefill); after that it follows every token.

Keys are stored un-rotated and turned with the frequencies of the current length. With a post-RoPE cache, old keys would keep the old base (huggingface/transformers
issue 25104), so that decoding differs from reading; vLLM freezes the base when a model is loaded, for that reason.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from longspan.engine.method import PositionMethod, Source
from longspan.engine.registry import register
from longspan.methods.positions.base import apply_map, check_assumed, check_factor, check_window, trained
from longspan.ops import frequency_maps as maps
from longspan.ops.frequency_maps import Frequencies


@register("dynamic_ntk")
@dataclass(frozen=True)
class DynamicNTK(PositionMethod):
    """factor: s of the formula; 1 makes the slowest pair cover t exactly. window: trained window in tokens, 0 for the model's own."""

    source = Source("https://www.reddit.com/r/LocalLLaMA/comments/14mrgpr/dynamically_scaled_rope/", 2023)
    rotate_on_read: ClassVar[bool] = True

    factor: float = 1.0
    window: int = 0

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        check_window(self.name, self.window)

    def check_trained(self, trained_window: int) -> None:
        check_assumed(self.name, self.window, trained_window)

    def frequencies(self, rope: Any, length: int) -> Frequencies:
        own = trained(rope, self.window)
        if length <= own.window:
            return rope.frequencies
        return apply_map(rope.frequencies, own, maps.dynamic_ntk(own, self.factor, length))
