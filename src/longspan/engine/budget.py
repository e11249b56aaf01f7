"""Budgets as a share, as entries, or as bytes, and their exact split over layers."""

import math
import re
from dataclasses import dataclass
from typing import Any

from longspan.errors import BadInput

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Budget:
    """What may stay: exactly one of share (0, 1], entries a KV head, bytes of K and V in the growing layers."""

    share: float | None = None
    count: int | None = None
    size: int | None = None

    @staticmethod
    def parse(value: float | int | str) -> "Budget":
        """0.25 is a share, 1024 (or "1024") entries a head, "64MB" bytes. Raises BadInput when out of range."""
        if isinstance(value, str):
            match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*%?\s*", value)
            if match and match.group(2).upper() in UNITS:
                return Budget(size=int(float(match.group(1)) * UNITS[match.group(2).upper()]))
            try:
                value = float(value) if "." in value else int(value)
            except ValueError:
                raise BadInput(
                    f'The budget "{value}" is not a share (0.25), entries a head (1024) or bytes ("64MB").'
                ) from None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value <= 0
        ):
            raise BadInput(
                f"The budget {value!r} is out of range; give a share between 0 and 1, entries a head, or bytes like 64MB."
            )
        if isinstance(value, float) and value > 1.0:
            raise BadInput(
                f"The budget {value} is above 1; a share lies between 0 and 1, and entries are whole numbers such as 1024."
            )
        if value == 1 or isinstance(value, float):
            return Budget(share=float(value))
        return Budget(count=int(value))

    def entries(self, tokens: int, geometry: Any, element_size: int) -> int:
        """Entries a head that may stay after `tokens` tokens have been seen; at least 1, at most `tokens`."""
        if self.share is not None:
            kept = round(self.share * tokens)
        elif self.count is not None:
            kept = self.count
        else:
            assert self.size is not None
            kept = self.size // (geometry.kv_elements_per_token * element_size)
        return max(1, min(tokens, kept))


def split_exactly(total: int, shares: list[float] | None, parts: int, most: int | list[int]) -> list[int]:
    """Split `total` over `parts` in proportion to `shares` (even when None), the sum exact (largest remainder).

    most: what a part can take, the same for all or one number each; what does not fit there goes to the others.
    """
    weights = [1.0] * parts if shares is None else [max(share, 1e-9) for share in shares]
    limits = most if isinstance(most, list) else [most] * parts
    left = min(total, sum(limits))
    given = [0] * parts
    open_parts = list(range(parts))
    while open_parts:
        weight = sum(weights[i] for i in open_parts)
        full = [i for i in open_parts if left * weights[i] / weight >= limits[i]]
        if not full:
            break
        for i in full:
            given[i] = limits[i]
            left -= limits[i]
        open_parts = [i for i in open_parts if i not in full]
    ideal = {i: left * weights[i] / weight for i in open_parts}
    for i in open_parts:
        given[i] = int(ideal[i])
    rest = left - sum(given[i] for i in open_parts)
    for i in sorted(open_parts, key=lambda i: (given[i] - ideal[i], i))[:rest]:
        given[i] += 1
    return given
