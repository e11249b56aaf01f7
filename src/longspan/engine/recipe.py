"""Recipes: methods composed with `+`, written as text such as `snapkv(budget=0.5, window=32) + kivi(bits=4)`.

The text is parsed as a syntax tree of calls and literals; nothing is ever evaluated. Whether stages go together is decided here, when
the recipe is built, and a wrong pair is refused with the reason.
"""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from longspan.engine.method import CachePolicy, Method, PositionMethod
from longspan.engine.needs import Needs
from longspan.engine.registry import method_class
from longspan.errors import BadInput, nearest

STAGES = ("prompt", "positions", "prefill", "cache", "decode", "draft", "adapt")
ACTION_ORDER = ("drop", "merge", "thin", "quantise")


@dataclass(frozen=True)
class Recipe:
    """The methods of one session, in stage order. `Recipe()` is the identity, spelled `full`."""

    methods: tuple[Method, ...] = field(default=())

    def __post_init__(self) -> None:
        _check_pairs(self.methods)
        object.__setattr__(self, "methods", tuple(sorted(self.methods, key=_order)))

    def __add__(self, other: Recipe | Method | str) -> Recipe:
        return Recipe(self.methods + parse(other).methods)

    def __str__(self) -> str:
        return " + ".join(method.spell() for method in self.methods) or "full"

    @property
    def needs(self) -> Needs:
        needs = Needs()
        for method in self.methods:
            needs = needs | method.needs
        return needs

    def of(self, stage: str) -> list[Any]:
        return [method for method in self.methods if method.stage == stage]

    def one(self, stage: str) -> Any | None:
        return self._firsts.get(stage)

    @cached_property
    def _firsts(self) -> dict[str, Any]:
        """The first method of each stage; asked for by every attention call."""
        return {method.stage: method for method in reversed(self.methods)}

    @cached_property
    def unpackable(self) -> str | None:
        """The first method that does not share a forward with other sessions, or None."""
        return next((method.name for method in self.methods if not method.batch_safe), None)

    @property
    def by_chunk(self) -> tuple[str, ...]:
        """The methods that take every chunk of a text for itself, so that the size of the chunks is part of the result."""
        return tuple(method.name for method in self.methods if method.reads == "by_chunk")

    @property
    def prompt(self) -> Recipe:
        """The part that shortens texts before they are read."""
        return Recipe(tuple(self.of("prompt")))

    @property
    def after_prompt(self) -> Recipe:
        """The part that acts on what is read."""
        return Recipe(tuple(method for method in self.methods if method.stage != "prompt"))

    @property
    def uncompressed(self) -> Recipe:
        """The part that says what is read and where it stands, for a fork that reads on densely and is thrown away."""
        return Recipe(tuple(method for method in self.methods if method.stage in ("prompt", "positions")))

    @property
    def changes_prefill(self) -> bool:
        """Whether the reading itself differs from a dense read, so that a dense prefill cannot be shared with it."""
        for method in self.methods:
            if method.stage in ("prompt", "positions", "prefill", "adapt"):
                return True
            if isinstance(method, CachePolicy) and (
                method.when == "chunk" or getattr(method, "position_mode", "original") != "original"
            ):
                return True
            if getattr(method, "changes_prefill", False):
                return True
        return False

    @property
    def aware(self) -> bool:
        return any(method.aware for method in self.methods)

    @property
    def budgeted(self) -> tuple[Method, ...]:
        """The methods whose knob `budget` says what the recipe keeps. Where entries are chosen as well, a prompt method's own share is not
        among them: it is part of what was asked for, and one number cannot mean a share of two things."""
        found = tuple(m for m in self.methods if any(f.name == "budget" for f in dataclasses.fields(m)))
        return tuple(m for m in found if m.stage != "prompt") or found

    @property
    def budget(self) -> float | int | str | None:
        """What the recipe keeps, None where nothing in it has a budget."""
        return getattr(self.budgeted[0], "budget", None) if self.budgeted else None

    def with_budget(self, budget: float | int | str) -> Recipe:
        """The same recipe with the knob `budget` of its `budgeted` methods set; quantisers and methods without one are left alone."""
        chosen = self.budgeted
        return Recipe(
            tuple(dataclasses.replace(m, **{"budget": budget}) if m in chosen else m for m in self.methods)
        )


def _order(method: Method) -> tuple[int, int]:
    action = getattr(method, "action", "")
    return STAGES.index(method.stage), ACTION_ORDER.index(action) if action in ACTION_ORDER else 0


def _check_pairs(methods: tuple[Method, ...]) -> None:
    by_stage: dict[str, list[Method]] = {}
    for method in methods:
        if method.stage not in STAGES:
            raise BadInput(f"{method.name} acts at an unknown stage {method.stage!r}.")
        by_stage.setdefault(method.stage, []).append(method)
    for stage, found in by_stage.items():
        if stage == "cache":
            actions = [getattr(m, "action", "drop") for m in found]
            for action in set(actions):
                if actions.count(action) > 1:
                    names = " and ".join(m.name for m in found if getattr(m, "action", "drop") == action)
                    raise BadInput(
                        f"{names} both {action} cache entries, and one would undo the other's choice; use one of them."
                    )
        elif stage != "prompt" and len(found) > 1:
            names = " and ".join(m.name for m in found)
            raise BadInput(
                f"{names} act at the same stage ({stage}), where only one can decide; use one of them."
            )
    for method in methods:
        refuses = getattr(method, "refuses", None)
        if refuses is None:
            continue
        for other in methods:
            reason = refuses(other) if other is not method else None
            if reason:
                raise BadInput(f"{method.name} and {other.name} cannot be combined: {reason}")
    positions = [m for m in methods if isinstance(m, PositionMethod)]
    for method in methods:
        if positions and getattr(method, "position_mode", "original") == "cache":
            raise BadInput(
                f"{method.name} with positions inside the cache and {positions[0].name} both decide positions; "
                f"use {method.name}(positions=original)."
            )


def parse(recipe: Recipe | Method | str | None) -> Recipe:
    """Build a recipe from text, a method, or a recipe. BadInput names the wrong method, knob or value, with the nearest right one."""
    if recipe is None:
        return Recipe()
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Method):
        return Recipe((recipe,))
    text = recipe.strip()
    if text in ("", "full"):
        return Recipe()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadInput(
            f'The recipe "{text}" is not written as method(knob=value) + method(knob=value); '
            'a value that is neither a number nor a plain word stands in quotes, as in draft="self:8".'
        ) from None
    return Recipe(tuple(_methods(tree, text)))


def _methods(node: ast.expr, text: str) -> list[Method]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _methods(node.left, text) + _methods(node.right, text)
    built = _value(node, text)
    if isinstance(node, ast.Name | ast.Call) and built == "full":
        return []
    if isinstance(built, str) and isinstance(node, ast.Name):
        return [_build(built, {})]
    if not isinstance(built, Method):
        raise BadInput(f'In the recipe "{text}", {ast.unparse(node)} is not a method.')
    return [built]


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id.lower(), node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise BadInput(
                f'In the recipe "{text}", write the knobs of {node.func.id} by name, as in {node.func.id}(budget=0.5).'
            )
        if node.func.id == "full":
            return "full"
        return _build(
            node.func.id, {str(keyword.arg): _value(keyword.value, text) for keyword in node.keywords}
        )
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise BadInput(
            f'In the recipe "{text}", {ast.unparse(node)} is neither a method nor a plain value.'
        ) from None


def _build(name: str, knobs: dict[str, Any]) -> Method:
    cls = method_class(name)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for knob in knobs:
        if knob not in known:
            raise BadInput(f"{name} has no knob {knob!r}; {nearest(knob, known)}")
    for knob, value in knobs.items():
        default = known[knob].default
        if isinstance(default, Method) and isinstance(value, str):
            knobs[knob] = _build(value, {})
        elif value is None and isinstance(default, str):
            knobs[knob] = "none"  # a word of the method's own, as in keydiff(rope=none)
        elif isinstance(default, bool) != isinstance(value, bool) and isinstance(default, bool):
            raise BadInput(f"{knob} of {name} is true or false, not {value!r}.")
        elif isinstance(default, int | float) and not isinstance(default, bool) and knob != "budget":
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise BadInput(f"{knob} of {name} is a number, not {value!r}.")
            if isinstance(value, str) and value not in getattr(cls, "words", ()):
                raise BadInput(f"{knob} of {name} is a number, not {value!r}.")
            if isinstance(default, int) and isinstance(value, float) and not value.is_integer():
                raise BadInput(f"{knob} of {name} is a whole number, not {value}.")
    return cls(**knobs)
