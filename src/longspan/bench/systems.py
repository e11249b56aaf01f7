"""The 141 systems in scope and how far each is proved: the table and the evidence files.

`longspan verify` writes one evidence file a check, evidence/NAME.json, with the keys of `Evidence`. A system's status is read from them:
- works: every check of it has the verdict "works";
- partial: a check ran and its verdict is "no effect" (the numbers are an honest result), "incomplete" (a part of it needs data that was
  not there) or "fails";
- none: no check has run.
A system may have several checks: their names differ, `system` agrees.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from longspan.errors import BadInput

VERDICTS = ("works", "no effect", "incomplete", "fails")
EVIDENCE = Path("evidence")


@dataclass(frozen=True)
class System:
    """A row of the scope: `slug` is its name everywhere, `room` where it lives, `title` the paper's."""

    id: int
    slug: str
    room: str
    title: str


@dataclass(frozen=True)
class Evidence:
    """What one check measured. `figures` maps a short name to a number or a string with its unit."""

    name: str  # the check's name, the file's stem
    system: str  # slug
    claim: str
    figures: Mapping[str, Any]
    verdict: str
    date: str
    machine: str
    command: str
    file: str = ""  # source file of the system, relative to the repository


def systems() -> list[System]:
    """The scope in id order, from the table inside the package."""
    table = (files("longspan") / "data" / "systems.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [System(int(row["id"]), row["slug"], row["room"], row["title"]) for row in rows]


def load_evidence(folder: str | Path = EVIDENCE) -> list[Evidence]:
    """Every evidence file of a folder by name; an absent folder holds none. BadInput for a file that is not evidence."""
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            item = Evidence(
                name=path.stem, file=data.get("file", ""), **{key: data[key] for key in _REQUIRED}
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{path} is not an evidence file ({error!r}): delete it or run longspan verify {path.stem} again"
            ) from error
        if item.verdict not in VERDICTS:
            raise BadInput(f"{path} has the verdict {item.verdict!r}: it is one of {', '.join(VERDICTS)}")
        found.append(item)
    return found


_REQUIRED = ("system", "claim", "figures", "verdict", "date", "machine", "command")


def save_evidence(evidence: Evidence, folder: str | Path = EVIDENCE) -> Path:
    """Write evidence/NAME.json; the newest run of a check replaces the one before."""
    if evidence.verdict not in VERDICTS:
        raise ValueError(f"verdict {evidence.verdict!r} is none of {VERDICTS}")
    path = Path(folder) / f"{evidence.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {key: value for key, value in asdict(evidence).items() if key != "name"}
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return path


def statuses(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    """One entry a system: slug, title, status, check (names of its checks), figures, and the rest of its evidence."""
    of_system: dict[str, list[Evidence]] = defaultdict(list)
    for item in evidence:
        of_system[item.system].append(item)
    entries = []
    for system in systems():
        checks = of_system.get(system.slug, [])
        figures: dict[str, Any] = {}
        for check in checks:
            prefix = f"{check.name}: " if len(checks) > 1 else ""
            figures |= {prefix + name: value for name, value in check.figures.items()}
        entries.append(
            {
                "id": system.id,
                "slug": system.slug,
                "title": system.title,
                "room": system.room,
                "status": _status(checks),
                "verdicts": {check.name: check.verdict for check in checks},
                "check": [check.name for check in checks],
                "figures": figures,
                "file": ", ".join(sorted({check.file for check in checks if check.file})),
                "date": max((check.date for check in checks), default=""),
                "machine": ", ".join(sorted({check.machine for check in checks})),
            }
        )
    return entries


def _status(checks: Sequence[Evidence]) -> str:
    if not checks:
        return "none"
    return "works" if all(check.verdict == "works" for check in checks) else "partial"
