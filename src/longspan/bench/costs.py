"""What a cell costs beyond its bytes: decoding time, and the most memory the process held while its text was read.

Decoding is timed one session at a time (rows of a packed batch share their steps, so a packed time would say nothing about a method), on the
first contexts of every recipe, task and length, which is where the interval comes from; rows of further contexts carry none.
"""

from __future__ import annotations

from pathlib import Path

import torch

from longspan.engine.generate import generate
from longspan.engine.session import Session

CONTEXTS = 3  # contexts of a recipe, task and length on which decoding is timed
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Latencies:
    """Seconds a token by (recipe, task, length) and item."""

    def __init__(self, tokens: int):
        self.tokens = tokens
        self._of: dict[tuple[str, str, int], dict[str, float]] = {}

    def measure(self, session: Session, recipe: str, task: str, length: int, item: str) -> float | None:
        """The time of this item, measured on a fork unless it is known or enough contexts were timed (None)."""
        known = self._of.setdefault((recipe, task, length), {})
        if self.tokens and item not in known and len(known) < CONTEXTS:
            reply = generate([session.fork()], max_new_tokens=self.tokens + 1, ignore_eos=True)[0]
            known[item] = (reply.seconds - reply.first_token_seconds) / self.tokens
        return known.get(item)


class PeakMemory:
    """The most bytes held since `start`: of the GPU's memory where the model is on one, else of the process; None where neither is told."""

    def __init__(self, device: torch.device):
        self.device = device
        self._told = False

    def start(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._told = True
            return
        try:
            RESET.write_text("5")  # Linux: forget the peak so far
            self._told = True
        except OSError:
            self._told = False

    def bytes(self) -> int | None:
        if not self._told:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        lines = (line.split() for line in STATUS.read_text().splitlines())
        return next((1024 * int(words[1]) for words in lines if words and words[0] == "VmHWM:"), None)
