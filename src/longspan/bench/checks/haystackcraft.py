"""HaystackCraft's check: gold inside and the budget met whatever the ranker, PageRank's limit, and how hard each ranker's haystack is."""

import re
from dataclasses import replace
from random import Random

import numpy as np

from longspan.bench.biographies import biography, people
from longspan.bench.checks._items import mean, rows
from longspan.bench.checks._readings import nats, readings
from longspan.bench.dataset import get_dataset
from longspan.bench.lengths import Budget
from longspan.bench.scorers import score
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.context.retrieval.pagerank import graph, personalised_pagerank

TOKENS, QUESTIONS = 560, 8
RANKERS = ("random", "bm25", "dense", "bm25+ppr")


def corpus() -> dict[str, object]:
    """Articles about invented people, linked where they share a town, and questions about their subject of study."""
    cast = people(Random(7), 60)
    docs = [
        {
            "id": str(i),
            "title": p.name,
            "text": " ".join(s for _, s in biography(p, "standard", Random(i))[1:-1]),
        }
        for i, p in enumerate(cast)
    ]
    edges = [
        f"{i},{j}"
        for i, a in enumerate(cast)
        for j, b in enumerate(cast)
        if i != j
        and {a.values["birthplace"], a.values["workplace"]} & {b.values["birthplace"], b.values["workplace"]}
    ]
    asked = [
        {
            "id": i,
            "question": f"Which subject did {p.name}, who works in {p.values['workplace']}, study?",
            "answer": p.values["subject"],
            "p2d_id": [str(i)],
        }
        for i, p in enumerate(cast[:QUESTIONS])
    ]
    return {
        "docs.jsonl": docs,
        "edge_list.csv": "source_node,target_node\n" + "\n".join(edges),
        "questions.jsonl": asked,
    }


@check(
    "haystackcraft",
    system="haystackcraft",
    claim="distractors that a retriever ranks high are harder than random ones of the same number and length",
    file="src/longspan/bench/ranked_haystack.py",
)
def haystackcraft(bench: Bench) -> Outcome:
    outcome, tokenizer = Outcome(), bench.model().tokenizer
    with rows(corpus()) as folder:
        made = {
            (ranker, order): get_dataset("haystackcraft_bm25").make(
                None, TOKENS, tokenizer, data=str(folder), ranker=ranker, order=order, reserve=False
            )
            for ranker in RANKERS
            for order in ("descending", "permutation_1")
        }
    every = [item for items in made.values() for item in items]
    outcome.must(
        "gold is inside whatever the ranker",
        all(len(i.evidence) == len(i.metadata["gold_articles"]) for i in every),
    )
    outcome.must(
        "the budget is never exceeded",
        all(Budget(TOKENS, tokenizer, reserve=False).used(i) <= TOKENS for i in every),
    )
    outcome.must(
        "another order shows the same articles",
        all(
            _titles(a) == _titles(b)
            for r in RANKERS
            for a, b in zip(made[r, "descending"], made[r, "permutation_1"], strict=True)
            if a.metadata["articles"] == b.metadata["articles"]
        ),
    )
    outcome.must(
        "oracle 1, silence 0",
        mean([score(i, i.gold_text) for i in every]) == 1 and mean([score(i, "") for i in every]) == 0,
    )
    links = graph(6, [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0), (3, 4, 1.0), (4, 5, 1.0)])
    reset = np.array([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    outcome.must(
        "PageRank that always returns to the seeds is the seeds' ranking",
        np.allclose(personalised_pagerank(links, reset, damping=0.0), reset),
    )
    found = {}
    for ranker in RANKERS:
        items = made[ranker, "permutation_1"]
        found[ranker] = nats(readings(bench, [_plain(i) for i in items], rank=False)["full"])
        outcome.figures[f"{ranker}: gold, nats a token"] = round(found[ranker], 3)
        outcome.figures[f"{ranker}: articles shown"] = round(mean([i.metadata["articles"] for i in items]), 1)
        outcome.figures[f"{ranker}: gold's place in its own order, 0 first"] = round(
            mean([i.depth or 0 for i in made[ranker, "descending"]]), 2
        )
    outcome.shows(
        f"BM25's distractors are harder than random ones ({found['bm25']:.2f} against {found['random']:.2f})",
        found["bm25"] > found["random"],
    )
    outcome.shows(
        f"dense distractors are harder than random ones ({found['dense']:.2f} against {found['random']:.2f})",
        found["dense"] > found["random"],
    )
    return outcome


def _titles(item) -> set[str]:
    return set(re.findall(r"Article Title: (.+)", item.context))


def _plain(item):
    """The item with the bare answer after the stated form, so that the likelihood is the answer's."""
    return replace(
        item,
        answer_prefix="The correct answer is (",
        metadata={**item.metadata, "gold_text": item.answers[0]},
    )
