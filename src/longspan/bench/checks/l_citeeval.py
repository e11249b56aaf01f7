"""L-CiteEval's check: citations against known passages, on the published prompts, and whether the gold passage is the one that counts."""

from dataclasses import replace

from longspan.bench.checks._items import must_generate, must_load, rows
from longspan.bench.checks._readings import nats, readings, shows_help
from longspan.bench.data import data_root
from longspan.bench.dataset import get_dataset
from longspan.bench.item import Item
from longspan.bench.scorers_citation import citation_scores, gold_citations
from longspan.bench.tasks.l_citeeval import citations
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check

PLACES = "Norrick Velden Astor Millbay Torsk Harrow".split()
THINGS = (
    "a brass compass",
    "a glass lantern",
    "a silver whistle",
    "a wooden flute",
    "an iron anchor",
    "a linen map",
)


def needle_rows() -> list[dict]:
    """Six passages a row about six towns; the answer is one of their sentences."""
    made = []
    for number in range(6):
        docs = [
            {
                "title": "",
                "text": f"The market of {p} opens at dawn. The museum of {p} keeps {THINGS[(i + number) % 6]}. In winter {p} is quiet.",
            }
            for i, p in enumerate(PLACES)
        ]
        at = (number * 5 + 2) % 6
        made.append(
            {
                "id": number,
                "question": f"What does the museum of {PLACES[at]} keep?",
                "docs": docs,
                "answer": THINGS[(at + number) % 6],
                "length": 0,
            }
        )
    return made


def without(item: Item, passage: int) -> Item:
    """The item with one passage's text left out, its number kept."""
    lines = item.context.split("\n")
    kept = [f"Passage [{passage}]:" if line.startswith(f"Passage [{passage}]:") else line for line in lines]
    return replace(item, context="\n".join(kept), evidence=(), depth=None)


@check(
    "l-citeeval",
    system="l-citeeval",
    claim="an answer is carried by the passage that should be cited: leaving that one out costs more than leaving out any other",
    file="src/longspan/bench/tasks/l_citeeval.py",
)
def l_citeeval(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    must_generate(outcome, tokenizer, ["bio_citation"])
    with rows({"niah.json": needle_rows()}) as folder:
        items = must_load(outcome, ["l_citeeval_niah"], folder, what=" of the published schema")[
            "l_citeeval_niah"
        ]
    golds = [i.metadata["gold_passages"] for i in items]
    outcome.must(
        "the gold passage is the one that holds the answer",
        all(i.answers[0] in t for i in items for t in i.evidence_text()),
    )
    cited = [citations(i, f"{i.answers[0]} [{g[0]}]") for i, g in zip(items, golds, strict=True)]
    outcome.must("citing the gold passage is 1, 1, 1", all(c == (1, 1, 1) for c in cited))
    outcome.must("citing nothing is 0, 0, 0", all(citations(i, i.answers[0]) == (0, 0, 0) for i in items))
    outcome.must(
        "citing three of which one is right has recall 1 and precision a third",
        gold_citations("x [1][2][3]", [2])[:2] == (1, 1 / 3),
    )
    texts = ["Cats sleep by day.", "Dogs bark at night.", "Cats sleep by day."]
    found = citation_scores(
        "Cats sleep [1][2]. Birds sing.", texts, lambda passage, claim: claim.rstrip(".").strip() in passage
    )
    outcome.must("a needless citation costs precision, an uncited sentence recall", found[:2] == (0.5, 0.5))
    folder = data_root()
    if folder is not None and (folder / "l-citeeval" / "niah_default.json").exists():
        with rows(
            {
                "niah.json": needle_rows(),
                "niah_default.json": (folder / "l-citeeval" / "niah_default.json").read_text(
                    encoding="utf-8"
                ),
            }
        ) as place:
            (shown, *_) = get_dataset("l_citeeval_niah").load(place)
        outcome.must(
            "the published prompt and demonstration are used where they are",
            shown.metadata["prompt"] == "published" and shown.context.endswith(items[0].context[-40:]),
        )
    else:
        outcome.not_run(
            "the published prompts", "set LONGSPAN_DATA to the folder that holds l-citeeval/niah_default.json"
        )
    shows_help(outcome, bench, items)
    whole = readings(bench, items, rank=False)["full"]
    first = cost = 0.0
    for number, (item, gold) in enumerate(zip(items[:4], golds, strict=False)):
        rows_ = readings(bench, [without(item, p) for p in range(1, 7)], rank=False)["full"]
        losses = [whole[number].gold - row.gold for row in rows_]
        order = sorted(range(6), key=lambda p: -losses[p])
        first += (order[0] + 1 == gold[0]) / 4
        cost += losses[gold[0] - 1] / 4
    outcome.figures |= {
        "gold passage is the one whose absence costs most (chance 0.17)": first,
        "its cost, nats": round(cost, 2),
    }
    outcome.figures["gold, nats a token"] = round(nats(whole), 3)
    outcome.shows(f"the passage to cite is the one that counts ({first:.2f} of the items)", first > 0.5)
    return outcome
