"""LongRoPE: each pair is divided by its own searched factor.

Source: Ding et al., LongRoPE, 2024, arXiv 2402.13753; code microsoft/LongRoPE; transformers rope_type longrope. f'_i = f_i / lambda_i, lambda non-decreasing in i; texts inside the window use `short` (all ones
when not given); logits grow by 1 + ln s / ln L. The paper also leaves the first n tokens unscaled; transformers keeps only lambda, as here. Lists come
from `search_factors`: evolution from PI, NTK and YaRN with perplexity at the target length as fitness (population 64, 16 parents by mutation and 16 by crossover, 40
iterations, mutation probability 0.3: numbers from the paper, unverified, hence knobs).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.errors import BadInput
from longspan.methods.positions.base import FrequencyMethod, numbers
from longspan.ops import frequency_maps as maps
from longspan.ops.frequency_maps import Frequencies, Rope


@register("longrope")
@dataclass(frozen=True)
class LongRoPE(FrequencyMethod):
    """long: divisors for texts beyond the window, one a pair. short: those inside it. attention_factor: 0 for sqrt(1 + ln s / ln L)."""

    source = Source("https://arxiv.org/abs/2402.13753", 2024, "https://github.com/microsoft/LongRoPE")

    long: tuple[float, ...] = ()
    short: tuple[float, ...] = ()
    attention_factor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for knob in ("long", "short"):
            object.__setattr__(self, knob, tuple(map(float, numbers(self.name, knob, getattr(self, knob)))))
        if not self.long:
            raise BadInput(
                "longrope needs the divisors of its pairs, as in longrope(long=(1.0, 1.2, ...)); they come from "
                "longspan.methods.positions.longrope.search_factors."
            )
        if min(self.long + self.short) <= 0:
            raise BadInput("longrope's divisors must be positive.")

    def check(self, model: Any) -> None:
        pairs = {
            layer.rope.trained.dim // 2 for layer in model.geometry.layers.values() if layer.rope.rotates
        }
        for knob in ("long", "short"):
            given = getattr(self, knob)
            if given and {len(given)} != pairs:
                raise BadInput(
                    f"longrope got {len(given)} {knob} divisors and the model rotates {min(pairs)} pairs; give one a pair."
                )

    def neutral(self, factor: float) -> bool:
        return factor == 1 and not self.short

    def map(self, rope: Rope, factor: float) -> Frequencies:
        if factor == 1:
            return maps.longrope(rope, self.short or (1.0,) * (rope.dim // 2))
        scale = self.attention_factor or maps.longrope_attention_factor(factor, rope.window)
        return maps.longrope(rope, self.long, scale)


def search_factors(
    fitness: Callable[[tuple[float, ...]], float],
    rope: Rope,
    factor: float,
    *,
    population: int = 64,
    parents: int = 32,
    iterations: int = 40,
    mutation: float = 0.3,
    seed: int = 0,
) -> tuple[tuple[float, ...], float]:
    """Evolve divisors that minimise `fitness` (such as perplexity at the target length). Returns the best list and its fitness.

    Starts from PI, NTK and YaRN and their mutations. Half the children mutate a parent (each pair with probability `mutation`), half take each pair from one
    of two parents; all are made non-decreasing and kept inside 1..1.25 factor. The best ever seen is returned, so the result is never worse than the three.
    """
    rng = np.random.default_rng(seed)
    plain = rope.frequencies
    seeds = [
        (plain / f.inv_freq).numpy()
        for f in (maps.linear(rope, factor), maps.ntk(rope, factor), maps.yarn(rope, factor))
    ]

    def mutated(divisors: np.ndarray) -> np.ndarray:
        change = rng.random(divisors.shape) < mutation
        return monotone(np.where(change, divisors * np.exp(rng.normal(0, 0.15, divisors.shape)), divisors))

    def monotone(divisors: np.ndarray) -> np.ndarray:
        return np.maximum.accumulate(np.clip(divisors, 1.0, 1.25 * factor))

    def crossed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return monotone(np.where(rng.random(first.shape) < 0.5, first, second))

    members = [monotone(s) for s in seeds]
    members += [mutated(members[int(rng.integers(3))]) for _ in range(population - len(members))]
    scores: dict[tuple[float, ...], float] = {}

    def scored(divisors: np.ndarray) -> tuple[float, tuple[float, ...]]:
        key = tuple(float(x) for x in divisors)
        if key not in scores:
            scores[key] = fitness(key)
        return scores[key], key

    ranked = sorted(scored(m) for m in members)
    for _ in range(iterations):
        best = [np.array(key) for _, key in ranked[:parents]]
        children = [mutated(best[int(rng.integers(len(best)))]) for _ in range(population // 4)]
        children += [
            crossed(*(best[int(i)] for i in rng.integers(len(best), size=2))) for _ in range(population // 4)
        ]
        ranked = sorted({*ranked[:parents], *(scored(c) for c in children)})[:population]
    return ranked[0][1], ranked[0][0]
