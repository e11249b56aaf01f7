"""From which length on a sparse kernel beats dense attention on this machine, and the rule that keeps to dense below it.

A sparse call pays for its bookkeeping: under some length, which depends on the density, the dense kernel is faster. `longspan calibrate kernels`
measures that length once per machine (`bench/crossover.py`) and leaves it in the user's cache, kernels/NODE-DEVICE.json:

    {"version": 1, "machine": NODE, "crossover": {PHASE: {BACKEND: {DENSITY: LENGTH or null}}}, ... how it was measured ...}

LENGTH is the shortest measured number of keys from which sparse was faster at every measured length; null where it never was. Without a file,
or with LONGSPAN_CROSSOVER=off, sparse methods are always sparse. What was answered densely is counted, never hidden: `Stats.dense_fallback`.
"""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longspan.engine.gguf import cache_root
from longspan.errors import BadInput

VERSION = 1
PREFILL, DECODE = "prefill", "decode"
SWITCH = "LONGSPAN_CROSSOVER"
REMEDY = "measure again with: longspan calibrate kernels"


@dataclass(frozen=True)
class Crossovers:
    """lengths[phase, backend]: (density, length or None), densities ascending. A kernel without an entry never falls back."""

    machine: str = ""
    lengths: dict[tuple[str, str], tuple[tuple[float, int | None], ...]] = field(default_factory=dict)

    def dense_is_faster(self, phase: str, backend: str, keys: int, density: float) -> bool:
        """Whether a call over `keys` keys that would read `density` of them (or of the causal pairs) should read all.

        The crossover of the next larger measured density counts; denser than all that was measured is dense.
        """
        points = self.lengths.get((phase, backend))
        if points is None:
            return False
        length = next((length for measured, length in points if measured >= density), None)
        return length is None or keys < length


def crossover_length(faster: list[tuple[int, bool]]) -> int | None:
    """The shortest length from which every measured one is faster; None when the longest is not. faster: (length, sparse won)."""
    found = None
    for length, won in sorted(faster, reverse=True):
        if not won:
            break
        found = length
    return found


def node() -> str:
    """This machine's name as a file's stem."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", platform.node()) or "machine"


def path_for(device: str) -> Path:
    """Where the table of this machine lies. device: "cpu", "cuda"."""
    return cache_root() / "kernels" / f"{node()}-{device}.json"


def store(device: str, facts: dict[str, Any]) -> Path:
    """Write the table: `facts` with its "crossover" part as in the file's form. BadInput when the place cannot be written."""
    path = path_for(device)
    text = json.dumps({"version": VERSION, "machine": node(), "device": device, **facts}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise BadInput(
            f"cannot write the kernels' crossovers to {path} ({error.strerror}); set LONGSPAN_CACHE to a folder that can be written."
        ) from None
    return path


def read(device: str) -> Crossovers | None:
    """The table of this machine and device, or None without one or with the switch off. BadInput for a damaged file or another machine's."""
    switch = os.environ.get(SWITCH, "on")
    if switch not in ("on", "off"):
        raise BadInput(f"{SWITCH}={switch} is neither on nor off.")
    path = path_for(device)
    if switch == "off" or not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        lengths = {
            (phase, backend): tuple(
                sorted((float(density), _length(length)) for density, length in by_density.items())
            )
            for phase, backends in facts["crossover"].items()
            for backend, by_density in backends.items()
        }
        machine, version = facts["machine"], facts["version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path} is not a table of crossovers or is damaged; {REMEDY}") from None
    if version != VERSION or machine != node():
        raise BadInput(f"{path} is of another machine or version; {REMEDY}")
    return Crossovers(machine, lengths)


def _length(value: Any) -> int | None:
    return None if value is None else int(value)
