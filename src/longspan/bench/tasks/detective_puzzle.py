"""Murder puzzles: who did it, from clues scattered over a text. The generated stand-in for DetectiveQA (Xu et al. 2024), whose novels
cannot be shipped.

`suspects` people each carried one weapon and were in one room, no two alike. Clues, each true and one sentence: somebody did not carry a weapon
or was not in a room; who carried a weapon was (or was not) in a room; somebody carried one of two weapons. They are drawn until only one
suspect can have carried the murder weapon in the murder room in any arrangement that fits, and then thinned until every clue is needed (brute
force over all arrangements). So the evidence is the clues, all of them are needed, and the answer is told nowhere.
"""

import itertools
from collections.abc import Sequence
from random import Random
from typing import Any

from longspan.bench import words
from longspan.bench.haystacks import weave
from longspan.bench.item import Item
from longspan.bench.task import Maker, Task
from longspan.errors import BadInput

WEAPONS = "rope dagger candlestick poison pistol hammer".split()
ROOMS = "library kitchen cellar garden attic chapel".split()
Fact = tuple[str, int, int]
"""(kind, a, b): not_weapon and not_room (suspect, thing), together and apart (weapon, room), one_of (suspect, weapon * 10 + weapon)."""


def holds(fact: Fact, weapon: Sequence[int], room: Sequence[int]) -> bool:
    """Whether a clue is true when suspect i carries weapon[i] in room[i]."""
    kind, a, b = fact
    match kind:
        case "not_weapon":
            return weapon[a] != b
        case "not_room":
            return room[a] != b
        case "together":
            return room[weapon.index(a)] == b
        case "apart":
            return room[weapon.index(a)] != b
    return weapon[a] in divmod(b, 10)


def consistent(world: Sequence[int], facts: Sequence[Sequence[Any]]) -> set[int]:
    """Suspects who can have carried the murder weapon in the murder room: `world` = (suspects, weapon, room) of the murder."""
    count, murder_weapon, murder_room = world
    told: list[Fact] = [(str(k), int(a), int(b)) for k, a, b in facts]
    found = set()
    for weapon in itertools.permutations(range(count)):
        who = weapon.index(murder_weapon)
        for room in itertools.permutations(range(count)):
            if room[who] == murder_room and all(holds(fact, weapon, room) for fact in told):
                found.add(who)
                break
    return found


def draw(rng: Random, count: int) -> tuple[tuple[int, int, int], int, list[Fact]]:
    """(world, culprit, clues that are all needed)."""
    weapon, room = rng.sample(range(count), count), rng.sample(range(count), count)
    culprit = rng.randrange(count)
    world = (count, weapon[culprit], room[culprit])
    pool: list[Fact] = []
    for i in range(count):
        pool += [("not_weapon", i, b) for b in range(count) if b != weapon[i]]
        pool += [("not_room", i, b) for b in range(count) if b != room[i]]
        pool.append(("one_of", i, weapon[i] * 10 + (weapon[i] + 1) % count))
        pool += [("apart", weapon[i], room[j]) for j in range(count) if j != i]
        if i != culprit:
            pool.append(("together", weapon[i], room[i]))
    rng.shuffle(pool)
    facts: list[Fact] = []
    while consistent(world, facts) != {culprit}:
        facts.append(pool.pop())
    for fact in list(facts):
        fewer = [other for other in facts if other != fact]
        if consistent(world, fewer) == {culprit}:
            facts = fewer
    return world, culprit, facts


def tell(fact: Fact, names: Sequence[str]) -> str:
    kind, a, b = fact
    match kind:
        case "not_weapon":
            return f"{names[a]} never touched the {WEAPONS[b]}."
        case "not_room":
            return f"{names[a]} did not set foot in the {ROOMS[b]} that night."
        case "together":
            return f"Whoever carried the {WEAPONS[a]} was seen in the {ROOMS[b]}."
        case "apart":
            return f"The {WEAPONS[a]} was not taken into the {ROOMS[b]}."
    one, other = divmod(b, 10)
    return f"{names[a]} carried the {WEAPONS[min(one, other)]} or the {WEAPONS[max(one, other)]}."


def generate(maker: Maker) -> Item:
    count = maker.knobs["suspects"]
    if not 3 <= count <= 5:
        raise BadInput("detective_puzzle takes 3 to 5 suspects")
    assert maker.haystack is not None
    haystack = maker.haystack
    rng = maker.rng("puzzle")
    names = words.separate_names(rng, count)
    world, culprit, facts = draw(rng, count)
    clues = [tell(fact, names) for fact in facts]
    depths = [rng.random() for _ in clues]
    if maker.depth is not None:
        depths[0] = maker.depth
    head = (
        f"In one night {', '.join(names[:-1])} and {names[-1]} were in the house, each with one weapon ({', '.join(WEAPONS[:count])}) "
        f"and each in one room ({', '.join(ROOMS[:count])}), no two alike. Clues are scattered over the text.\n\n"
    )

    def build(units: int) -> Item:
        text = haystack.take(units, maker.rng("haystack"))
        woven, spans = weave(
            text, [(round(d * units), clue) for d, clue in zip(depths, clues, strict=True)], haystack.glue
        )
        return maker.item(
            context=head + woven,
            question=f"The murder was done in the {ROOMS[world[2]]} with the {WEAPONS[world[1]]}. Who did it? Give the name only.",
            answer_prefix="Answer:",
            answers=(names[culprit],),
            candidates=tuple(names),
            evidence=tuple(sorted((a + len(head), b + len(head)) for a, b in spans)),
            metadata={
                "world": list(world),
                "facts": [list(fact) for fact in facts],
                "chained": True,
                "inferred": True,
            },
        )

    return maker.fit(build)


TASKS = (
    Task(
        name="detective_puzzle",
        description="who did it, from scattered clues that are all needed",
        source="DetectiveQA (Xu et al. 2024), own puzzles",
        generate=generate,
        scorer="words_all",
        max_new_tokens=12,
        scope="S1",
        diffusion="D3",
        haystacks=("filler", "prose"),
        knobs={"suspects": 4},
    ),
)
