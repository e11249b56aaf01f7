"""verify: a system works when it proves it. A check is the small-scale check of a system's sheet, as code.

A check measures on a real model against baselines of the same run (no baseline number is ever stored) and states two kinds of sentence:
`must` (an exact property; false means the system is broken) and `shows` (an expected effect; false is an honest "no effect" with numbers).
A part whose data is not here is named with `not_run` and makes the verdict "incomplete": what was not measured is never claimed.
Checks live in `bench/checks/`, one file a system, and are found by name. They share read contexts through `Bench`.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longspan.bench.systems import EVIDENCE, Evidence, save_evidence
from longspan.bench.testbed import Bench
from longspan.errors import BadInput, nearest


@dataclass
class Outcome:
    """What a check found. `figures` maps a short name to a number or text."""

    figures: dict[str, Any] = field(default_factory=dict)
    properties: list[tuple[str, bool]] = field(default_factory=list)
    effects: list[tuple[str, bool]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def must(self, sentence: str, holds: bool) -> None:
        """An exact property of the system."""
        self.properties.append((sentence, bool(holds)))

    def shows(self, sentence: str, holds: bool) -> None:
        """An effect that the sheet expects on this model."""
        self.effects.append((sentence, bool(holds)))

    def not_run(self, part: str, reason: str) -> None:
        """A part of the check that needs what is not here, such as a data folder: in one sentence."""
        self.left_out.append((part, reason))

    @property
    def verdict(self) -> str:
        if not self.properties and not self.effects and not self.left_out:
            return "fails"
        if not all(holds for _, holds in self.properties):
            return "fails"
        if not all(holds for _, holds in self.effects):
            return "no effect"
        return "incomplete" if self.left_out else "works"


@dataclass(frozen=True)
class Check:
    """name: what `longspan verify` takes. system: slug in the table of systems ("" for a baseline). file: source of the system."""

    name: str
    system: str
    claim: str
    run: Callable[[Bench], Outcome]
    file: str = ""


_CHECKS: dict[str, Check] = {}


def check(
    name: str, *, claim: str, system: str = "", file: str = ""
) -> Callable[[Callable[[Bench], Outcome]], Callable[[Bench], Outcome]]:
    """Decorator: register a check function `(bench) -> Outcome`."""

    def wrap(run: Callable[[Bench], Outcome]) -> Callable[[Bench], Outcome]:
        _CHECKS[name] = Check(name, system, claim, run, file)
        return run

    return wrap


def checks() -> dict[str, Check]:
    """Every check by name."""
    import longspan.bench.checks as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
    return dict(sorted(_CHECKS.items()))


def run_checks(
    names: Sequence[str] | None,
    *,
    out: str | Path = EVIDENCE,
    progress: Callable[[str], None] | None = None,
    bench: Bench | None = None,
) -> list[Evidence]:
    """Run checks by name (None: all) and write one evidence file each; BadInput with the nearest name for an unknown one."""
    from longspan.bench.run import machine

    known = checks()
    for name in names or ():
        if name not in known:
            raise BadInput(f"There is no check called {name!r}; {nearest(name, known)}")
    bench = bench or Bench()
    folder = Path(out)
    found = []
    for name in names or list(known):
        one = known[name]
        if progress is not None:
            progress(name)
        started = time.perf_counter()
        outcome = one.run(bench)
        figures = {
            **outcome.figures,
            **{f"must: {sentence}": holds for sentence, holds in outcome.properties},
            **{f"shows: {sentence}": holds for sentence, holds in outcome.effects},
            **{f"not run: {part}": reason for part, reason in outcome.left_out},
            "seconds": round(time.perf_counter() - started, 1),
        }
        evidence = Evidence(
            name=name,
            system=one.system or name,
            claim=one.claim,
            figures=figures,
            verdict=outcome.verdict,
            date=datetime.now(UTC).date().isoformat(),
            machine=machine(),
            command=f"longspan verify {name}",
            file=one.file,
        )
        save_evidence(evidence, folder)
        found.append(evidence)
    return found
