"""A conversation of four topics with known facts, as EpiCache's check asks about it: what was said, and questions with their answers."""

import random
from dataclasses import dataclass

Utterance = tuple[str, str]

#: topic: (what Mia tells, the question, how the answer starts, the answer) and what Tom says to it
FACTS: dict[str, list[tuple[str, str, str, str]]] = {
    "garden": [
        ("In the garden I planted tomatoes behind the old shed, where the soil is rich.", "What did Mia plant behind the shed?", "Mia planted", " tomatoes"),
        ("The roses in my garden are covered with snails after every rain.", "What covers the roses in the garden?", "The roses are covered with", " snails"),
        ("For watering the flower beds I bought a yellow hose with a brass end.", "Which colour is the hose for the flower beds?", "The hose is", " yellow"),
    ],
    "travel": [
        ("Next month I will fly to Lisbon, the ticket and the hotel are booked.", "Where will Mia fly next month?", "Mia will fly to", " Lisbon"),
        ("On the last trip my suitcase was lost at the airport in Denver.", "At which airport was the suitcase lost?", "The suitcase was lost in", " Denver"),
        ("For the train journey I always take a book about chess with me.", "What is the book for the train about?", "The book is about", " chess"),
    ],
    "music": [
        ("I have begun to learn the violin, my teacher says my bow is too stiff.", "Which instrument does Mia learn?", "Mia learns the", " violin"),
        ("Our choir will sing in the church on Sunday, and the concert is free.", "On which day will the choir sing?", "The choir will sing on", " Sunday"),
        ("My brother sold his piano and bought a set of drums for his band.", "What did the brother buy for his band?", "He bought a set of", " drums"),
    ],
    "kitchen": [
        ("In the kitchen I baked bread with walnuts this morning, the dough was heavy.", "What is in the bread that Mia baked?", "The bread is baked with", " walnuts"),
        ("The oven broke, so I cooked the soup on a small camping stove.", "What did Mia cook on the camping stove?", "Mia cooked", " the soup"),
        ("My aunt sent me a recipe for a cake with lemon and much butter.", "Which fruit is in the cake of the aunt?", "The cake is made with", " lemon"),
    ],
}  # fmt: skip
REPLIES: dict[str, list[str]] = {
    "garden": ["A garden needs patience, and the plants will thank you.", "My plants never grow so well in this soil.", "You should put straw between the beds."],
    "travel": ["A journey is always a good change, take warm clothes along.", "Airports make me tired before the trip begins.", "I hope the hotel has a view of the sea."],
    "music": ["Music takes practice, play a little every day.", "I would love to hear a concert with you.", "The band of my school was terribly loud."],
    "kitchen": ["That smells good even from here, save me a slice.", "Cooking for others is the best part of the week.", "I burn everything in my kitchen, even toast."],
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A question about one topic, how its answer starts, and the answer."""

    topic: str
    question: str
    opening: str
    answer: str


def conversation(seed: int = 0, rounds: int = 3) -> tuple[list[Utterance], list[Asked]]:
    """Utterances by Mia and Tom, topic after topic in blocks of four, and the question of every fact."""
    rng = random.Random(f"conversation-{seed}")
    said: list[Utterance] = []
    asked: list[Asked] = []
    order = list(FACTS)
    for number in range(rounds):
        rng.shuffle(order)
        for topic in order:
            fact, question, opening, answer = FACTS[topic][number]
            first, second = rng.sample(REPLIES[topic], 2)
            said += [
                ("Mia", f"Let us talk about the {topic} again. I have something to tell."),
                ("Tom", first),
                ("Mia", fact),
                ("Tom", second),
            ]
            asked.append(Asked(topic, question, opening, answer))
    return said, asked
