"""Sizes of video frames in tokens: snapping to the patch grid, and hybrid resolution, which spends tokens on the first frame of every group.

Source: GIRAFFE, 2024, arXiv 2412.12735, code kiaia/GIRAFFE; the snapping is Qwen2-VL's. A frame of h x w pixels becomes multiples of `unit` (patch 14, merged 2 x 2 = 28),
scaled to stay between the least and most pixels; it costs one token a unit squared. Groups of `group` frames: the first high, the others low,
so a group costs hi + (group - 1) lo. group 0 is off: every frame high.
"""

import math

from longspan.errors import BadInput

UNIT, LEAST_PIXELS, MOST_PIXELS, LONGEST_RATIO = 28, 56 * 56, 14 * 14 * 4 * 1280, 200


def snapped(
    height: int,
    width: int,
    most_pixels: int = MOST_PIXELS,
    least_pixels: int = LEAST_PIXELS,
    unit: int = UNIT,
) -> tuple[int, int]:
    """Height and width in pixels as the model sees them. Raises BadInput for sides that differ more than 200 times."""
    if max(height, width) > LONGEST_RATIO * min(height, width):
        raise BadInput(
            f"a frame of {height} x {width} pixels is too thin; sides may differ {LONGEST_RATIO} times."
        )
    high, wide = (max(unit, round(side / unit) * unit) for side in (height, width))
    if high * wide > most_pixels:
        shrink = math.sqrt(height * width / most_pixels)
        high, wide = (max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width))
    elif high * wide < least_pixels:
        grow = math.sqrt(least_pixels / (height * width))
        high, wide = (math.ceil(side * grow / unit) * unit for side in (height, width))
    return high, wide


def frame_tokens(height: int, width: int, most_pixels: int = MOST_PIXELS, unit: int = UNIT) -> int:
    """Tokens of one frame."""
    high, wide = snapped(height, width, most_pixels, unit=unit)
    return high * wide // unit**2


def hybrid_sizes(
    frames: int, height: int, width: int, group: int, most_pixels: int, most_low_pixels: int
) -> list[tuple[int, int]]:
    """The size of every frame under hybrid resolution."""
    if group < 0 or most_low_pixels > most_pixels:
        raise BadInput(
            "hybrid resolution needs a group of at least 0 frames and low frames no larger than high ones."
        )
    high, low = (snapped(height, width, pixels) for pixels in (most_pixels, most_low_pixels))
    return [high if not group or number % group == 0 else low for number in range(frames)]


def hybrid_tokens(
    frames: int, height: int, width: int, group: int, most_pixels: int, most_low_pixels: int
) -> int:
    """Tokens of the whole video: hi + (group - 1) lo a full group."""
    return sum(
        h * w // UNIT**2 for h, w in hybrid_sizes(frames, height, width, group, most_pixels, most_low_pixels)
    )
