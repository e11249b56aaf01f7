"""What position methods share: the choice of a factor, and applying a frequency map to whatever the model itself uses.

A map is defined on plain RoPE. A model may already carry a scaled one (Llama 3.1, YaRN checkpoints), so the map's ratio to plain RoPE is applied to the
model's own frequencies; with factor 1 the ratio is exactly 1 and nothing changes, to the bit.

factor=auto: the smallest power of two that covers the request (tokens to read plus `output`), chosen when reading starts and kept while the text fits.
A static factor costs quality on short prompts (the field's most repeated complaint: Arena-Hard 39 -> 26.5 for a factor of 4 on an 8B model), an automatic
one leaves them alone. Keys stay un-rotated under `auto`, so a later turn may need a larger factor without reading the text again; a given factor rotates on
write and costs nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from longspan.engine.method import PositionMethod
from longspan.errors import BadInput
from longspan.ops.frequency_maps import Frequencies, Rope

AUTO = "auto"


def apply_map(native: Frequencies, rope: Rope, mapped: Frequencies) -> Frequencies:
    """The model's own frequencies under a map that was computed for plain RoPE."""
    inv_freq, factor = native
    ratio = mapped.inv_freq / rope.frequencies
    return Frequencies(inv_freq * ratio.to(inv_freq.device), factor * mapped.attention_factor)


def trained(rope: Any, window: int) -> Rope:
    """The model's trained rotation, with `window` tokens in place of its own when that is not 0."""
    own = rope.trained
    return Rope(own.dim, own.base, window) if window else own


def smallest_factor(tokens: int, window: int) -> int:
    """The smallest power of two f with f * window >= tokens."""
    return 1 << max(0, -(-tokens // window) - 1).bit_length()


@lru_cache(maxsize=256)
def _computed(method: "FrequencyMethod", rope: Rope, factor: float) -> Frequencies:
    return method.map(rope, factor)


@dataclass(frozen=True)
class FrequencyMethod(PositionMethod):
    """Shape 1: new frequencies for every pair.

    factor: target length over trained length, at least 1, or auto. output: tokens the answer may take, for auto. window: trained window in tokens to
    assume, 0 for the model's own.
    """

    factor: float | str = AUTO
    output: int = 512
    window: int = 0

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor, auto=type(self).factor == AUTO)
        check_window(self.name, self.window)
        if self.output < 0:
            raise BadInput(f"output of {self.name} counts tokens and must be at least 0, not {self.output}.")

    @property
    def rotate_on_read(self) -> bool:  # type: ignore[override]
        return self.factor == AUTO

    def map(self, rope: Rope, factor: float) -> Frequencies:
        """The method's frequencies for `factor` on plain RoPE."""
        raise NotImplementedError

    def rope_parameters(self, rope: Rope, factor: float) -> dict[str, Any]:
        """The map in transformers' `rope_parameters` vocabulary. Any map fits longrope's list of divisors, one a pair."""
        mapped = self.map(rope, factor)
        divisors = (rope.frequencies / mapped.inv_freq).tolist()
        return {
            "rope_type": "longrope",
            "rope_theta": rope.base,
            "factor": float(factor),
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": mapped.attention_factor,
            "original_max_position_embeddings": rope.window,
        }

    def neutral(self, factor: float) -> bool:
        """Whether the map changes nothing at `factor`."""
        return factor == 1

    def factor_for(self, tokens: int, window: int) -> float:
        """The factor used for a request that has or will have `tokens` tokens."""
        if self.factor != AUTO:
            return float(self.factor)
        return 1.0 if tokens <= window else float(smallest_factor(tokens + self.output, window))

    def frequencies(self, rope: Any, length: int) -> Frequencies:
        own = trained(rope, self.window)
        factor = self.factor_for(length, own.window)
        if self.neutral(factor):
            return rope.frequencies
        return apply_map(rope.frequencies, own, _computed(self, own, factor))

    def check_trained(self, trained_window: int) -> None:
        check_assumed(self.name, self.window, trained_window)

    def reach(self, trained_window: int) -> float:
        return float("inf") if self.factor == AUTO else float(self.factor) * (self.window or trained_window)


@dataclass(frozen=True)
class DistanceMethod(PositionMethod):
    """Shape 3: distances are mapped; passes over un-rotated keys are merged by log-sum-exp."""

    rotate_on_read = True

    def frequencies(self, rope: Any, length: int) -> Frequencies:
        return rope.frequencies


def check_factor(name: str, value: Any, knob: str = "factor", auto: bool = False) -> None:
    """Raise BadInput unless the knob's `value` is a number of at least 1, or auto where the method knows it."""
    if auto and value == AUTO:
        return
    wanted = "a number of at least 1, or auto" if auto else "a number of at least 1"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{knob} of {name} is {wanted}, not {value!r}.")
    if value < 1:
        raise BadInput(f"{knob}={value} of {name} would shorten the window; give {wanted}.")
    if not value < float("inf"):
        raise BadInput(f"{knob}={value} of {name} has no end; give {wanted}.")


def check_window(name: str, window: int) -> None:
    """Raise BadInput for a trained window too short to be one."""
    if window and window < 16:
        raise BadInput(
            f"window={window} of {name} is too short to be a trained window; give its tokens, or 0 for the model's own."
        )


def check_assumed(name: str, window: int, trained_window: int) -> None:
    """Raise BadInput when the window to assume is shorter than the one the model was trained for."""
    if 0 < window < trained_window:
        raise BadInput(
            f"window={window} of {name} is shorter than the {trained_window:,} tokens this model was trained for, which would stretch texts that fit; "
            "leave it at 0 for the model's own window."
        )


def check_exact(name: str, knob: str, tokens: int, trained_window: int) -> None:
    """Raise BadInput when distances that stay exact, up to `tokens`, exceed those the model was trained on."""
    if tokens > trained_window:
        raise BadInput(
            f"{knob}={tokens} of {name} keeps distances that this model, trained for {trained_window:,} tokens, has not seen; "
            f"give at most {trained_window:,}, better a quarter to a half of it."
        )


def numbers(name: str, knob: str, values: Any) -> tuple:
    """A knob that lists numbers, as a tuple; BadInput for anything else."""
    if not isinstance(values, list | tuple) or not all(isinstance(value, int | float) for value in values):
        raise BadInput(f"{knob} of {name} is a list of numbers, as in {knob}=(2, 8), not {values!r}.")
    return tuple(values)


def check_sizes(name: str, **sizes: float) -> None:
    """Raise BadInput unless every size, in tokens, is at least 1."""
    for knob, value in sizes.items():
        if value < 1:
            raise BadInput(f"{knob}={value} of {name} must be at least 1.")


def window_of(model: Any, window: int) -> int:
    """Tokens of the trained window: the knob, or the model's own."""
    return window or model.geometry.trained_window
