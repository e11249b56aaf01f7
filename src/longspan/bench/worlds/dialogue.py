"""A dialogue of sixty turns with ten planted facts, and questions a controller must judge (for SCM)."""

import random
from collections.abc import Mapping

from longspan.bench.worlds.clock import episode

TOPICS = [
    "harbour",
    "violin",
    "glacier",
    "bakery",
    "lantern",
    "orchard",
    "compass",
    "meadow",
    "tunnel",
    "parrot",
]
NAMES = "Ada Bruno Clara Dario Elena Felix Greta Hugo Irene Jonas".split()
FACTS = {
    "locker code": ("What is {n}'s locker code?", "{n}'s locker code is {v}."),
    "birthday": ("When is {n}'s birthday?", "{n} was born on the {v}th of May."),
    "bus": ("Which bus does {n} take to work?", "To get to work {n} takes bus {v}."),
    "room": ("In which room does {n} work?", "You find {n} in room {v} on weekdays."),
}
# Others, to find a threshold on before it is judged on the facts above.
OTHER_FACTS = {
    "phone": ("What is {n}'s phone number?", "You can call {n} at 555 {v}."),
    "cat": ("How old is {n}'s cat?", "{n}'s cat turned {v} in spring."),
    "train": ("When does {n}'s train leave?", "{n}'s train leaves at {v} minutes past eight."),
    "floor": ("On which floor does {n} live?", "{n} moved to floor {v} of the tower."),
    "debt": ("How much money does {n} owe me?", "I lent {n} {v} euros last week."),
}
OTHER = (
    "{n} said the weather would stay dry until Sunday.",
    "Yesterday {n} and I had soup, and then we went for a walk.",
    "{n} would like to learn the violin one day.",
)


def dialogue():
    """60 turns; every sixth one tells the secret number of a topic."""
    turns = []
    for number in range(60):
        topic = TOPICS[number // 6] if number % 6 == 0 else None
        text = (
            f"The secret of the {topic} is number {number}."
            if topic
            else f"Talk about nothing much, part {number}."
        )
        turns.append(episode(text, number, speaker="Ada", session="s"))
    return turns


def judgements(
    count: int, seed: int = 0, facts: Mapping[str, tuple[str, str]] = FACTS
) -> list[tuple[str, str, str, str]]:
    """(question, a turn that answers it, one of the same person that does not, one about another person)."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        name, other = rng.sample(NAMES, 2)
        question, answer = facts[rng.choice(sorted(facts))]
        _, unrelated = facts[rng.choice(sorted(facts))]
        text = rng.choice(OTHER).format(n=name)
        value = rng.randrange(10, 99)
        made.append(
            (question.format(n=name), answer.format(n=name, v=value), text, unrelated.format(n=other, v=7))
        )
    return made
