"""Several sessions' tails as rows of one buffer, so that one attention call serves all that decode alike.

Cells that were forked from one context and shortened to one budget hold equally many entries. Their K and V move, layer by layer and once,
into one buffer; every tail keeps its row as a view and stays usable alone. From then on a step appends and attends for all rows at once:
one kernel a layer instead of one a session. A tail that outgrows the buffer or is replaced leaves it; rows of sessions that have ended lie
idle and are skipped. Letters: B rows, Hk KV heads, Hq query heads, T entries, D head dim, E value head dim.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from longspan.engine.segments import Tail, room_for


class Joint:
    """k (B, Hk, room, D), v (B, Hk, room, E), positions (B, Hk or 1, room) of the tails it was made of, in their order."""

    def __init__(self, tails: list[Tail]):
        first = tails[0]
        assert first.k is not None and first.v is not None
        length, room = first.length, room_for(first.length, first.length + 1)
        rows = max(tail.position_rows for tail in tails)
        self.k = first.k.new_empty(len(tails), first.heads, room, first.k.shape[-1])
        self.v = first.v.new_empty(len(tails), first.heads, room, first.v.shape[-1])
        self.positions = torch.empty(len(tails), rows, room, dtype=torch.int32, device=first.k.device)
        self.room = room
        for row, tail in enumerate(tails):
            assert tail.k is not None and tail.v is not None and tail.positions is not None
            self.k[row, :, :length] = tail.k[:, :length]
            self.v[row, :, :length] = tail.v[:, :length]
            self.positions[row, :, :length] = tail.positions[:, :length]
            tail.move(self.k[row], self.v[row], self.positions[row])
            tail.joint, tail.row = self, row

    def append(self, tails: list[Tail], k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Add one entry to tails in consecutive rows: k (B', Hk, D), v (B', Hk, E), positions (B',).

        Returns all their entries, K (B' Hk, T, D) and V (B' Hk, T, E), as views.
        """
        start, stop, at = tails[0].row, tails[-1].row + 1, tails[0].length
        self.k[start:stop, :, at] = k
        self.v[start:stop, :, at] = v
        self.positions[start:stop, :, at] = positions.unsqueeze(1)
        for tail in tails:
            tail.grow()
        return self.k[start:stop, :, : at + 1].flatten(0, 1), self.v[start:stop, :, : at + 1].flatten(0, 1)


def runs(tails: dict[int, Tail]) -> list[list[int]]:
    """Numbers of tails that one call can serve: consecutive rows of one buffer with equally many entries.

    Tails of equal length that share no buffer with room are put into one first. What would stand alone is left out.
    """
    loose: dict[int, list[int]] = defaultdict(list)
    joined: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, tail in tails.items():
        if tail.joint is None or tail.length >= tail.joint.room:
            loose[tail.length].append(number)
        else:
            joined[id(tail.joint), tail.length].append(number)
    found = []
    for numbers in loose.values():
        if len(numbers) > 1:
            Joint([tails[number] for number in numbers])
            found.append(numbers)
    for numbers in joined.values():
        numbers.sort(key=lambda number: tails[number].row)
        start = 0
        for stop in range(1, len(numbers) + 1):
            if stop == len(numbers) or tails[numbers[stop]].row != tails[numbers[stop - 1]].row + 1:
                if stop - start > 1:
                    found.append(numbers[start:stop])
                start = stop
    return found
