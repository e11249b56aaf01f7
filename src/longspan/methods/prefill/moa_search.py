"""MoA's search: one elastic span rule a head so that what is lost is least and what is kept stays within a density at every length.

A rule is (alpha, beta): at a text of N tokens the head keeps the first block and the newest max(1, floor((alpha + beta N) / block)) blocks. For every length
that was profiled the loss of a rule is the influence beyond its span; its cost is the share of key blocks kept. One rule a head minimises the loss at one
length while the density stays within the bound at every length, extrapolated ones too: a multiple-choice knapsack (scipy's HiGHS in place of the original's
Gurobi). As the losses at several lengths are several objectives, each in turn is minimised with the others held below a grid of values (the
epsilon-constraint method), and what no other plan beats at every length is the Pareto set.

Grid of the code: alpha from -N_min to the largest profiled length in steps of half N_min, beta in ninths from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from longspan.errors import BadInput

SECONDS = 5.0  # of one solve; what it has found by then is used
WIDER = 1e-3  # of the relative loss, for a density of 1: of spans that lose the same at the profiled lengths the widest is taken


@dataclass(frozen=True)
class Rule:
    """A head's span in tokens is alpha + beta N."""

    alpha: float
    beta: float

    def blocks(self, tokens: int, block: int) -> int:
        """Newest key blocks kept at a text of `tokens`."""
        return max(1, int((self.alpha + self.beta * tokens) // block))

    def cost(self, tokens: int, block: int) -> float:
        """Share of the key blocks that are kept, the first one included."""
        total = -(-tokens // block)
        return min(total, self.blocks(tokens, block) + 1) / total


@dataclass(frozen=True)
class Plan:
    """choice: number of the rule of every head. losses: at the profiled lengths. densities: at every bounded length."""

    choice: tuple[int, ...]
    losses: tuple[float, ...]
    densities: tuple[float, ...]


def rules(profiled: Sequence[int], extended: Sequence[int], block: int, betas: int = 9) -> list[Rule]:
    """The grid, without rules that keep the same at every length and with those that keep everything."""
    lengths = [*profiled, *extended]
    least, most = min(profiled), max(profiled)
    step = max(block, least // 2)
    found: dict[tuple[int, ...], Rule] = {}
    for alpha in range(-least, most + 1, step):
        for beta in np.linspace(0, 1, betas):
            rule = Rule(float(alpha), float(beta))
            if alpha + beta * most > most or alpha + beta * max(lengths) > max(lengths):
                continue
            if alpha + beta * least > 0:
                found.setdefault(tuple(rule.blocks(n, block) for n in lengths), rule)
    return list(found.values())


def rule_losses(by_distance: np.ndarray, grid: Sequence[Rule], tokens: int, block: int) -> np.ndarray:
    """Influence beyond each rule's span, (heads, rules), from influence by distance (heads, I) at a text of `tokens`."""
    beyond = np.zeros((by_distance.shape[0], by_distance.shape[1] + 1))
    beyond[:, :-1] = by_distance[:, ::-1].cumsum(1)[:, ::-1]
    spans = [min(by_distance.shape[1], rule.blocks(tokens, block)) for rule in grid]
    return beyond[:, spans]


def search(
    losses: Sequence[np.ndarray], costs: np.ndarray, bound: float, points: int = 5, slack: float = 1e-6
) -> list[Plan]:
    """The Pareto set of plans, best sum of relative losses first.

    losses: one (heads, rules) a profiled length. costs: (lengths, rules). bound: mean density over heads at every length. points: of the grid of each
    held objective. BadInput when no plan is that sparse.
    """
    scale = [max(1e-12, float(np.ptp(one, axis=1).sum())) for one in losses]
    wide = WIDER * costs.mean(0) / len(losses[0])
    relative = [one / s - wide for one, s in zip(losses, scale, strict=True)]
    best = [_solve(relative, costs, bound, k, {}) for k in range(len(losses))]
    if any(choice is None for choice in best):
        raise BadInput(
            f"no choice of spans has a density of {bound} at every length; the sparsest is {costs.min(1).max():.3f}."
        )
    held = [[float(_total(one, choice)) for one in relative] for choice in best if choice is not None]
    grids = [
        np.linspace(min(row[k] for row in held), max(row[k] for row in held), points)
        for k in range(len(losses))
    ]
    choices = {tuple(choice) for choice in best if choice is not None}
    for k in range(len(losses)):
        others = [j for j in range(len(losses)) if j != k]
        for values in product(*(grids[j] for j in others)):
            limits = {j: value + slack for j, value in zip(others, values, strict=True)}
            choice = _solve(relative, costs, bound, k, limits)
            if choice is not None:
                choices.add(tuple(choice))
    plans = [
        Plan(
            choice,
            tuple(float(_total(one, choice)) for one in losses),
            tuple(float(row[list(choice)].mean()) for row in costs),
        )
        for choice in choices
    ]
    front = [one for one in plans if not any(_beats(other, one) for other in plans)]
    return sorted(
        front, key=lambda plan: (sum(x / s for x, s in zip(plan.losses, scale, strict=True)), plan.choice)
    )


def _beats(one: Plan, other: Plan) -> bool:
    pairs = list(zip(one.losses, other.losses, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _total(losses: np.ndarray, choice: Sequence[int]) -> float:
    return losses[np.arange(len(losses)), list(choice)].sum()


def _solve(
    losses: Sequence[np.ndarray], costs: np.ndarray, bound: float, primary: int, limits: dict[int, float]
) -> list[int] | None:
    """One rule a head: least `losses[primary]` with mean costs within `bound` and the other losses within `limits`; None when there is none."""
    heads, count = losses[0].shape
    one_each = csr_array(
        coo_array(
            (np.ones(heads * count), (np.repeat(np.arange(heads), count), np.arange(heads * count))),
            shape=(heads, heads * count),
        )
    )
    constraints = [
        LinearConstraint(one_each, 1, 1),  # type: ignore[arg-type]
        LinearConstraint(np.tile(costs, (1, heads)) / heads, -np.inf, bound),
    ]
    if limits:
        constraints.append(
            LinearConstraint(np.stack([losses[j].ravel() for j in limits]), -np.inf, list(limits.values()))
        )
    found = milp(
        losses[primary].ravel(),
        integrality=np.ones(heads * count),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": SECONDS, "mip_rel_gap": 1e-5},
    )
    return None if found.x is None else found.x.reshape(heads, count).argmax(1).tolist()
