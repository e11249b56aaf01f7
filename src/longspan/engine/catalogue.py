"""What a method says about itself, as plain values: for lists and pages, from its class and its file's docstring."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

from longspan.engine.method import Method


def describe(cls: type[Method]) -> dict[str, Any]:
    """name, stage, summary (one line), notes (the file's docstring), knobs with defaults as a recipe spells them, what it declares about
    its use with those defaults, paper, year, code."""
    notes = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
    summary = notes.partition("\n\n")[0].replace("\n", " ")
    own = cls.__dict__.get("__doc__") or ""
    source = getattr(cls, "source", None)
    return {
        "name": cls.name,
        "stage": cls.stage,
        "summary": summary,
        "knobs": {knob.name: _default(knob) for knob in dataclasses.fields(cls)},
        **_declared(cls),
        "paper": source.paper if source else "",
        "year": source.year if source else None,
        "code": source.code if source else "",
        "system": cls.system,
        "notes": notes,
        "knob_notes": "" if own.startswith(f"{cls.__name__}(") else inspect.cleandoc(own),
    }


def _declared(cls: type[Method]) -> dict[str, Any]:
    """The declarations of `engine.terms` at the default knobs."""
    plain = object.__new__(cls)  # not checked: some methods have no knobs that work by default
    for knob in dataclasses.fields(cls):
        if knob.default_factory is not dataclasses.MISSING:
            object.__setattr__(plain, knob.name, knob.default_factory())
    names = ("reads", "chunk_safe", "chunk_step", "batch_safe", "turn_safe", "pre_rope")
    return {name: getattr(plain, name) for name in names}


def _default(knob: dataclasses.Field) -> Any:
    if knob.default is dataclasses.MISSING:
        made = knob.default_factory() if knob.default_factory is not dataclasses.MISSING else None
    else:
        made = knob.default
    return made.spell() if isinstance(made, Method) else made
