"""DetectiveQA's check: the loader on its schema, step recall, constant answerers, and the puzzles that stand in for the novels."""

from longspan.bench.checks._items import SEED, mean, must_generate, must_load, rows
from longspan.bench.checks._readings import kept, ranked, readings
from longspan.bench.scorers import score, scorer_names
from longspan.bench.task import get_task
from longspan.bench.tasks.detective_puzzle import consistent
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

STEPS = (
    "The gardener kept the only key to the cellar.",
    "Wet clay from the cellar lay on the stairs.",
    "So the gardener used the stairs.",
)
NOVEL = "\n".join(
    ("Rain fell on the house all night.", *STEPS[:2], "Nobody slept.", "The inspector named the gardener.")
)
ROWS = [
    {
        "id": i, "novel_id": i % 2, "context": NOVEL, "question": f"Who used the stairs in night {i}?", "answer": letter,
        "options": {"A": "the cook", "B": "the doctor", "C": "the maid", "D": "the gardener"}, "reasoning": list(STEPS),
        "clue_position": [1, 2], "answer_position": 4,
    }
    for i, letter in enumerate("ABCD")
]  # fmt: skip


@check(
    "detectiveqa",
    system="detectiveqa",
    claim="culprits must be inferred from scattered clues: a small model stays near chance, and a policy that drops entries drops clues",
    file="src/longspan/bench/tasks/detectiveqa.py",
)
def detectiveqa(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    with rows({"en.jsonl": ROWS}) as folder:
        made = must_load(
            outcome,
            ["detectiveqa", "detectiveqa_question", "detectiveqa_evidence"],
            folder,
            what=" of the published schema",
        )
    items = made["detectiveqa"]
    outcome.must("the context ends before the solution", all("inspector" not in i.context for i in items))
    outcome.must(
        "clues are found as evidence", all([t for t in i.evidence_text()] == list(STEPS[:2]) for i in items)
    )
    outcome.must(
        "a constant letter is right for one option in four",
        all(mean([score(i, x) for i in items]) == 0.25 for x in "ABCD"),
    )
    steps = scorer_names()["detective_steps"]
    outcome.must(
        "reciting the steps recalls all of them, silence none",
        steps(" ".join(STEPS), items[0]) == 1 and steps("", items[0]) == 0,
    )
    puzzles = must_generate(outcome, tokenizer, ["detective_puzzle"])["detective_puzzle"]
    outcome.must(
        "exactly one suspect fits all clues",
        all(len(consistent(i.metadata["world"], i.metadata["facts"])) == 1 for i in puzzles),
    )
    outcome.must(
        "without any one clue another suspect fits too",
        all(
            len(consistent(i.metadata["world"], i.metadata["facts"][:n] + i.metadata["facts"][n + 1 :])) > 1
            for i in puzzles
            for n in range(len(i.metadata["facts"]))
        ),
    )
    asked = get_task("detective_puzzle").make(10, 460, tokenizer, SEED, haystack="filler", reserve=False)
    table = readings(bench, asked, ("full", "snapkv(budget=0.25)", "random(budget=0.25)"), aware=True)
    found = ranked(outcome, "puzzles, whole text", table["full"], asked)
    chance = mean([i.chance or 0 for i in asked])
    for recipe in ("snapkv(budget=0.25)", "random(budget=0.25)"):
        outcome.figures[f"clues kept by {recipe}"] = round(kept(table[recipe]), 2)
    held, drawn = kept(table["snapkv(budget=0.25)"]), kept(table["random(budget=0.25)"])
    outcome.shows(
        f"a model of this size stays within 0.35 of chance ({found:.2f}, {chance:.2f})",
        abs(found - chance) <= 0.35,
    )
    outcome.shows(
        f"reading the question keeps more of the clues than chance ({held:.2f} against {drawn:.2f})",
        held > drawn,
    )
    return outcome
