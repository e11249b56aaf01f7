"""What a comparison runs: every recipe at every budget, and the reference rows that stand beside them.

References are always there: `full` (ceiling), `random` and `window` with sinks (floors), and the `oracle` that reads the best entries at the
same budget. A recipe without a budget (a quantised cache, a position method) is run once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from longspan.engine.budget import Budget
from longspan.engine.method import CachePolicy
from longspan.engine.recipe import Recipe, parse

FLOORS = ("random", "window")
ORACLE = "oracle"


@dataclass(frozen=True)
class Variant:
    """One recipe at one budget. role: method, ceiling, floor or oracle. method: the recipe's short label without its budget."""

    recipe: Recipe
    method: str
    role: str
    budget: float | int | str | None

    @property
    def share(self) -> float | None:
        """The budget as a share, where it is one."""
        return None if self.budget is None else Budget.parse(self.budget).share

    @property
    def spelled(self) -> str:
        return str(self.recipe)

    @property
    def compresses(self) -> bool:
        """Whether a cache policy chooses entries after the text has been read, so that seeing the question first can matter."""
        return any(isinstance(method, CachePolicy) for method in self.recipe.methods)

    @property
    def rereads(self) -> bool:
        """Whether what is read (after any shortening) must be read under this very recipe."""
        return self.recipe.after_prompt.changes_prefill

    def question_modes(self, aware: Sequence[bool]) -> tuple[bool | None, ...]:
        """In which of the asked question modes to run; (None,) where they are the same.

        A prompt method that keeps what the question needs has no agnostic form: asked for nothing else, it runs and fails with its reason.
        """
        if self.recipe.prompt.aware:
            return (True,) if True in aware else tuple(aware)
        return tuple(aware) if self.compresses else (None,)


def variants(
    recipes: Sequence[str | Recipe], budgets: Sequence[float | int | str], references: bool = True
) -> list[Variant]:
    """Expand `recipes` over `budgets`, references first, duplicates dropped.

    A recipe that states its own budget knob keeps it when `budgets` is empty.
    """
    found: dict[str, Variant] = {}

    def add(recipe: Recipe, role: str, budget: float | int | str | None) -> None:
        method = (
            str(recipe.with_budget(1.0)).replace("budget=1.0, ", "").replace("(budget=1.0)", "")
            if recipe.budgeted
            else str(recipe)
        )
        variant = Variant(recipe, method, role, budget)
        if variant.spelled not in found or role != "method":
            found[variant.spelled] = variant

    def expand(recipe: Recipe, role: str) -> None:
        if not recipe.budgeted or not budgets:
            add(recipe, role, recipe.budget)
            return
        for budget in budgets:
            add(recipe.with_budget(budget), role, budget)

    if references:
        add(Recipe(), "ceiling", None)
    for text in recipes:
        recipe = parse(text)
        expand(recipe, "ceiling" if not recipe.methods else "method")
    if references and any(variant.budget is not None for variant in found.values()):
        for name in FLOORS:
            expand(parse(name), "floor")
        expand(parse(ORACLE), "oracle")
    return list(found.values())
