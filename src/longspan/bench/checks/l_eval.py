"""L-Eval's check: the published scores again from stored replies, every set's oracle on the real data, letters, and excerpts that help."""

from longspan.bench.checks._items import mean, must_load
from longspan.bench.checks._readings import accuracy, readings, shows_help
from longspan.bench.data import data_root
from longspan.bench.excerpt import excerpt
from longspan.bench.replay import replay_leval
from longspan.bench.scorers import score
from longspan.bench.scorers_leval import letter_score, letters_score
from longspan.bench.tasks.l_eval import SETS
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.errors import BadInput

TOKENS = 520
OPEN = ("scientific_qa", "natural_question", "legal_contract_qa")


@check(
    "l-eval",
    system="l-eval",
    claim="stored replies score as published within 0.05, and the excerpt that a question finds makes its answer likelier",
    file="src/longspan/bench/tasks/l_eval.py",
)
def l_eval(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    outcome.must(
        "a reply without a letter counts as A",
        letter_score("none of them?", "A") == 1 and letter_score("none", "B") == 0,
    )
    outcome.must(
        "a subset of several letters scores 0.25",
        letters_score("AB", "ABD") == 0.25 and letters_score("ABD", "ABD") == 1,
    )
    try:
        for row in replay_leval():
            outcome.figures[f"replayed: {row.series}, {row.count} items"] = round(row.score, 2)
            if row.expected is not None:
                outcome.must(
                    f"{row.series} replays as published ({row.expected})",
                    abs(row.score - row.expected) < 0.05,
                )
    except BadInput as error:
        outcome.not_run("replay of the stored replies", str(error))
    names = [
        f"l_eval_{name}" for name in SETS if name not in ("codeU", "narrative_qa")
    ]  # not in the obtainable copy
    if data_root() is None:
        outcome.not_run(
            "oracle, silence and excerpts on the data", "set LONGSPAN_DATA to the folder that holds l-eval"
        )
        return outcome
    made = must_load(outcome, names)
    quality = made.get("l_eval_quality", [])
    letters = {x: mean([score(i, x) for i in quality]) for x in "ABCD"} if quality else {}
    if quality:
        outcome.figures["constant letters on QuALITY"] = ", ".join(f"{x} {v:.2f}" for x, v in letters.items())
        outcome.must("the four constant letters share the golds", abs(sum(letters.values()) - 1) < 1e-9)
        exam = [excerpt(i, TOKENS, tokenizer) for i in quality[::20][:10]]
        outcome.figures["QuALITY excerpts by likelihood of the letter (chance 0.25)"] = accuracy(
            readings(bench, exam)["full"]
        )
    asked = [
        i
        for name in OPEN
        for i in made.get(f"l_eval_{name}", [])[::40][:3]
        if len(i.gold_text.split()) <= 25 and len(i.question) < 300
    ]
    if asked:
        shows_help(
            outcome,
            bench,
            [excerpt(i, TOKENS, tokenizer, chunk=800) for i in asked[:9]],
            "answers of the open sets",
        )
    return outcome
