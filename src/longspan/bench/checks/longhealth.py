"""LongHealth's check: the three tasks and constant letters on the true schema, rotated options, and documents that help a small model."""

import random
from dataclasses import replace

from longspan.bench.checks._items import SEED, mean, must_load, rows
from longspan.bench.checks._readings import accuracy, kept, readings, shows_help
from longspan.bench.scorers import score
from longspan.bench.tasks.longhealth import rotated
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

DRUGS = "Aspirin,Ramipril,Metformin,Bisoprolol,Torasemide,Apixaban,Pantoprazole,Simvastatin".split(",")
SIGNS = "a dry cough,a swollen ankle,night sweats,a stiff neck,blurred sight,a tremor of the left hand".split(
    ","
)
WARDS = "Harrow,Millbay,Calder,Lomond,Sorrel,Tamar".split(",")


def patient(number: int) -> dict:
    """A patient of four short letters with four questions whose answers stand in known places."""
    rng = random.Random(SEED + number)
    drug, sign, ward, room = (
        rng.choice(DRUGS),
        rng.choice(SIGNS),
        rng.choice(WARDS),
        str(rng.randint(100, 899)),
    )
    facts = {"drug": f"After the operation the patient was given {drug}.", "sign": f"At night the patient complained of {sign}.",
             "ward": f"The patient was moved to ward {ward}.", "room": f"Belongings were left in room {room}."}  # fmt: skip
    fill = "Blood pressure and pulse were within the usual range. The family visited in the afternoon. "
    texts = {
        f"text_{i}": f"Letter {i + 1} about patient {number}. {fill}{fact} {fill}"
        for i, fact in enumerate(facts.values())
    }
    asked = [("Which drug was given after the operation?", drug, DRUGS), ("What did the patient complain of at night?", sign, SIGNS),
             ("To which ward was the patient moved?", ward, WARDS), ("In which room were belongings left?", room, [str(rng.randint(100, 899)) for _ in range(9)])]  # fmt: skip
    questions = []
    for i, (question, gold, pool) in enumerate(asked):
        options = [gold, *rng.sample([p for p in pool if p != gold], 4)]
        rng.shuffle(options)
        text, fact = texts[f"text_{i}"], list(facts.values())[i]
        start = text.index(fact) / len(text)
        place = {f"text_{i}": {"start": [start], "end": [start + len(fact) / len(text)]}}
        questions.append(
            {
                "No": i,
                "question": question,
                **{f"answer_{x}": o for x, o in zip("abcde", options, strict=True)},
                "correct": gold,
                "answer_location": place,
            }
        )
    return {"id": f"patient_{number:02d}", "texts": texts, "questions": questions}


@check(
    "longhealth",
    system="longhealth",
    claim="answers stand in known letters: they make the answer likelier, and their place tells what a cache policy kept",
    file="src/longspan/bench/tasks/longhealth.py",
)
def longhealth(bench: Bench) -> Outcome:
    outcome = Outcome()
    table = {p["id"]: {k: v for k, v in p.items() if k != "id"} for p in map(patient, range(4))}
    with rows({"benchmark_v5.json": table}) as folder:
        made = must_load(
            outcome, ["longhealth_1", "longhealth_2", "longhealth_3"], folder, what=" of the published schema"
        )
    always = [
        mean([score(i, "The correct answer is F") for i in made[f"longhealth_{task}"]]) for task in (1, 2, 3)
    ]
    outcome.must("always 'cannot be answered' scores 0, 0 and 1", always == [0, 0, 1])
    every = [i for items in made.values() for i in items]
    outcome.must(
        "a constant letter shares the golds of task 1",
        abs(
            sum(mean([score(i, f"The correct answer is {x}") for i in made["longhealth_1"]]) for x in "ABCDE")
            - 1
        )
        < 1e-9,
    )
    outcome.must("task 3 shows no answering letter", all(not i.evidence for i in made["longhealth_3"]))
    outcome.must(
        "the answer's place holds the answer",
        all(i.metadata["option_text"] in t for i in made["longhealth_1"] for t in i.evidence_text()),
    )
    outcome.must(
        "five rotations give the right answer every letter once",
        all(
            sorted(rotated(i, k).answers[0] for k in range(5)) == list("ABCDE") for i in made["longhealth_1"]
        ),
    )
    outcome.must(
        "the right text is asked for in all rotations",
        all(score(rotated(i, k), rotated(i, k).gold_text) == 1 for i in every for k in range(5)),
    )
    items = made["longhealth_1"][::2]
    shows_help(outcome, bench, [_text_only(i) for i in items], "text of the right option")
    turned = [rotated(i, k) for i in items[:4] for k in range(5)]
    letters = readings(bench, turned)["full"]
    outcome.figures["letters by likelihood over five rotations (chance 0.20)"] = round(accuracy(letters), 2)
    chosen = [row.best for row in letters]
    outcome.figures["share of the commonest letter, the letter bias"] = round(
        max(map(chosen.count, set(chosen))) / len(chosen), 2
    )
    policies = ("snapkv(budget=0.25)", "random(budget=0.25)")
    held = readings(bench, items, policies, aware=True, rank=False)
    shares = [kept(held[p]) for p in policies]
    outcome.figures["answering sentence kept: SnapKV with the question, random"] = (
        f"{shares[0]:.2f}, {shares[1]:.2f}"
    )
    outcome.shows(
        f"reading the question keeps more of the answering sentence ({shares[0]:.2f} against {shares[1]:.2f})",
        shares[0] > shares[1],
    )
    return outcome


def _text_only(item):
    """The item asked for the option's text, so that the likelihood is the answer's and not a letter's."""
    return replace(
        item,
        question=item.metadata["asked"],
        metadata={**item.metadata, "gold_text": item.metadata["option_text"]},
    )
