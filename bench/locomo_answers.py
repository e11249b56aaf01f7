"""LoCoMo answers of a real small model, scored by likelihood, with what each memory recalled at equal tokens.

    LONGSPAN_DATA=... python bench/locomo_answers.py [--samples 12] [--seconds 150]

A sample is one question of categories 1 to 4 of one conversation (conv-30, the smallest; wrong golds left out). Every memory recalls at most
`BUDGET` tokens; the figure is the mean negative log-likelihood of the gold answer in nats a token after context and question, beside the
share of evidence turns in that context. `evidence` (the gold turns alone) is the ceiling, `nothing` the floor. Extraction is the built-in
heuristic, so memory systems are rule-based floors. Results: bench/results/locomo_answers.json (samples in it are not run again).
"""

import json
import os
import random
import sys
from functools import cache
from pathlib import Path

from locomo_retrieval import SYSTEMS, Remembering, found

from longspan.bench.locomo import ADVERSARIAL, blocks, evidence_of, gold_of, load, turns
from longspan.bench.parts import main
from longspan.bench.prompt_probe import nll
from longspan.context.ledger import Ledger
from longspan.context.memory.heuristics import heuristic_model
from longspan.context.retrieval.embedders import MiniLM
from longspan.context.stores.sqlite import SqliteStore
from longspan.context.trace import prompt_text

BUDGET = 500
CONVERSATION = "conv-30"
MEMORIES = ("bm25", "hybrid", "document-order", "mem0-add", "zep", "scm")


@cache
def world():
    """(turns, questions, {memory: (memory, owner of each episode)}) of the conversation."""
    if not os.environ.get("LONGSPAN_DATA"):
        sys.exit("set LONGSPAN_DATA: the folder that holds locomo/")
    conversations, wrong = load(Path(os.environ["LONGSPAN_DATA"]) / "locomo")
    number = [c["sample_id"] for c in conversations].index(CONVERSATION)
    told = turns(conversations[number]["conversation"])
    ids = {id for id, _ in told}
    asked = [
        qa
        for place, qa in enumerate(conversations[number]["qa"])
        if place not in wrong[number] and qa["category"] != ADVERSARIAL and evidence_of(qa, ids)
    ]
    random.Random(0).shuffle(asked)
    embedder, made = Remembering(MiniLM()), {}
    for name in MEMORIES:
        given = blocks(told) if name == "document-order" else [([id], episode) for id, episode in told]
        memory = SYSTEMS[name](SqliteStore(":memory:"), heuristic_model(), embedder)
        memory.remember("t", [episode for _, episode in given])
        made[name] = memory, {episode.id: ids for ids, episode in given}
    return told, asked, made


def answers(model, seed: int) -> dict:
    told, asked, made = world()
    qa = asked[seed % len(asked)]
    gold, evidence = f" {gold_of(qa)}", evidence_of(qa, {id for id, _ in told})
    row = {}
    for name, (memory, owner) in made.items():
        strict, _, tokens = found(memory, told, qa["question"], BUDGET, owner, Ledger())
        context = memory.recall("t", qa["question"], BUDGET).text
        row[name] = {
            "answer_nll": nll(model, prompt_text(context, qa["question"]), gold),
            "evidence_recall": len(strict & set(evidence)) / len(evidence),
            "tokens": tokens,
        }
    shown = "\n".join(episode.said for id, episode in told if id in evidence)
    row["evidence"] = {"answer_nll": nll(model, prompt_text(shown, qa["question"]), gold)}
    row["nothing"] = {"answer_nll": nll(model, prompt_text("", qa["question"]), gold)}
    return row


if __name__ == "__main__":
    results = Path(__file__).parent / "results" / "locomo_answers.json"
    stored, _ = main(__doc__.split("\n")[0], {"answers": answers}, results)
    print(json.dumps(stored["parts"]["answers"].get("methods"), indent=1))
