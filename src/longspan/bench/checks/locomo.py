"""LoCoMo's check: the published score on gold, empty and denying answers, and retrieval without any model against shuffled turns."""

import random

from longspan.bench.data import data_root, missing
from longspan.bench.locomo import (
    ADVERSARIAL,
    ANSWERABLE,
    NOT_MENTIONED,
    evidence_of,
    f1,
    gold_of,
    load,
    recall_at,
    score,
    turns,
)
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.context import chunking
from longspan.context.retrieval.bm25 import BM25

DEPTHS = (5, 10, 25)


@check(
    "locomo",
    system="locomo",
    claim="the published score gives gold its maximum and empty answers nothing, and the evidence turns of a question can be found in the chat",
    file="src/longspan/bench/locomo.py",
)
def locomo(bench: Bench) -> Outcome:
    outcome = Outcome()
    _by_hand(outcome)
    if reason := missing("locomo", "snap-research/locomo"):
        outcome.not_run("scores and retrieval on the data", reason)
        return outcome
    root = data_root()
    assert root is not None
    conversations, wrong = load(root / "locomo")
    outcome.figures["conversations"] = len(conversations)
    outcome.figures["questions 1-4"] = sum(
        q["category"] != ADVERSARIAL for c in conversations for q in c["qa"]
    )
    outcome.figures["questions 5"] = sum(q["category"] == ADVERSARIAL for c in conversations for q in c["qa"])
    outcome.figures["wrong golds"] = sum(map(len, wrong))
    _constant_answers(outcome, [q for c in conversations for q in c["qa"]])
    _retrieval(outcome, conversations)
    return outcome


def _by_hand(outcome: Outcome) -> None:
    outcome.must(
        "articles, commas and endings do not count",
        f1("the 1,200 painted boats", "1200 paint boat and a") == 1.0,
    )
    many = {"category": 1, "answer": "pottery, camping"}
    outcome.must("category 1 takes the best match of every part", score("camping, a pottery", many) == 1.0)
    outcome.must("and half for one of two", score("camping", many) == 0.5)
    outcome.must(
        "category 3 cuts the gold at a semicolon",
        score("Yes", {"category": 3, "answer": "Yes; she said so"}) == 1.0,
    )
    outcome.must("numbers may be golds", score("2022", {"category": 2, "answer": 2022}) == 1.0)


def _constant_answers(outcome: Outcome, questions: list[dict]) -> None:
    def mean(category: int, answer) -> float:
        mine = [q for q in questions if q["category"] == category]
        return sum(score(answer(q), q) for q in mine) / len(mine)

    for category in (*ANSWERABLE, ADVERSARIAL):
        gold = mean(category, gold_of)
        outcome.figures[f"category {category}: gold"] = gold
        if category != 3:
            outcome.must(f"category {category}: gold scores 1", abs(gold - 1) < 1e-9)
        outcome.must(f"category {category}: an empty answer scores 0", mean(category, lambda q: "") == 0)
        outcome.figures[f"category {category}: always denying"] = mean(category, lambda q: NOT_MENTIONED)
    cut = mean(3, lambda q: gold_of(q).split(";")[0])
    outcome.must("category 3: gold scores 1 when it is cut as well", abs(cut - 1) < 1e-9)
    outcome.must(
        "denying everything scores 1 on category 5", outcome.figures["category 5: always denying"] == 1
    )


def _retrieval(outcome: Outcome, conversations: list[dict]) -> None:
    """Evidence recall of BM25 over turns and of shuffled turns, and the F1 of the best retrieved sentence, categories 1-4."""
    rng = random.Random(0)
    sums = {(name, k): 0.0 for name in ("BM25", "shuffled") for k in DEPTHS}
    asked, expected, extracted = 0, dict.fromkeys(DEPTHS, 0.0), 0.0
    for conversation in conversations:
        told = turns(conversation["conversation"])
        ids, texts = [id for id, _ in told], [episode.said for _, episode in told]
        index = BM25(texts)
        for qa in conversation["qa"]:
            gold = evidence_of(qa, set(ids)) if qa["category"] != ADVERSARIAL else []
            if not gold:
                continue
            asked += 1
            found = [hit.index for hit in index.rank(qa["question"], max(DEPTHS))]
            blind = rng.sample(ids, len(ids))
            for k in DEPTHS:
                sums["BM25", k] += recall_at([ids[i] for i in found], gold, k)
                sums["shuffled", k] += recall_at(blind, gold, k)
                expected[k] += k / len(ids)
            extracted += score(_best_sentence(qa["question"], [told[i][1].text for i in found[:5]]), qa)
    for (name, k), total in sums.items():
        outcome.figures[f"{name} recall@{k}"] = total / asked
    outcome.figures["F1 of the best retrieved sentence"] = extracted / asked
    for k in DEPTHS:
        outcome.shows(
            f"shuffled turns fall to k / turns at {k}", abs(sums["shuffled", k] - expected[k]) < 0.02 * asked
        )
        outcome.shows(
            f"BM25 finds three times as much as shuffled turns at {k}",
            sums["BM25", k] > 3 * sums["shuffled", k],
        )
    outcome.shows("extraction scores little but something", 0.02 < extracted / asked < 0.5)


def _best_sentence(question: str, texts: list[str]) -> str:
    parts = [text[a:b].strip() for text in texts for a, b in chunking.sentences(text)]
    found = BM25(parts).rank(question, 1) if parts else []
    return parts[found[0].index] if found else ""
