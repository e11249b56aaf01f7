"""A long text in the making, on disk: plan and finished sections in one JSON file, replaced whole after every section.

A kill at any moment leaves the file of the last finished section, never half of one; the next run goes on from there and,
with a deterministic model, ends in the same text. A draft remembers what it was made for (brief, length, knobs, model,
prompt versions) and refuses to be continued for anything else.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longspan.context.agents.plan import Step
from longspan.errors import BadInput

VERSION = 1


@dataclass
class Draft:
    """`made_for` identifies the task; `planned_by` is "model" or "fallback"; a skipped section has an empty text."""

    made_for: dict[str, Any]
    steps: list[Step] = field(default_factory=list)
    planned_by: str = ""
    sections: list[dict[str, Any]] = field(default_factory=list)

    def text(self) -> str:
        return "\n\n".join(s["text"] for s in self.sections if s["text"])

    @property
    def finished(self) -> bool:
        return bool(self.steps) and len(self.sections) == len(self.steps)


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save(draft: Draft, path: Path) -> None:
    write_whole(path, json.dumps({"version": VERSION, **asdict(draft)}, ensure_ascii=False, indent=1) + "\n")


def load(path: Path, made_for: dict[str, Any]) -> Draft:
    """The draft at `path`, or a new one where none is or nothing is written yet. Another task's or version's is refused with the way out."""
    if not path.exists():
        return Draft(made_for)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version, stored = data.pop("version"), data["made_for"]
        draft = Draft(stored, [Step(**s) for s in data["steps"]], data["planned_by"], data["sections"])
    except (ValueError, KeyError, TypeError, OSError, AttributeError) as error:
        raise BadInput(f"{path} is not a draft of longspan write; move it away or restart") from error
    if version != VERSION:
        raise BadInput(
            f"{path} is a draft of version {version}, this program writes version {VERSION}; restart it"
        )
    if not draft.sections:
        return Draft(made_for) if stored != made_for else draft
    for key, value in made_for.items():
        if stored.get(key) != value:
            raise BadInput(f"{path} was begun with another {key}; use the same one to go on, or restart")
    return draft


def write_whole(path: Path, text: str) -> None:
    """Replace the file at `path` in one step: readers see the old or the new content, never a part. BadInput where none can be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from error
    finally:
        _gone(temporary)


def writable(path: Path) -> Path:
    """`path` as a place for a file, or BadInput: asked before work begins whose result goes there."""
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file in it")
    return path


def _gone(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
