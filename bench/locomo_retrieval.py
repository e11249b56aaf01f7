"""Evidence recall of every memory on LoCoMo at equal tokens, against BM25, dense, hybrid, document-order RAG and full context.

    LONGSPAN_DATA=... python bench/locomo_retrieval.py [--conversations 0,1] [--systems zep,bm25] [--seconds 150]

What the result file holds already is not measured again; delete it to start anew.

LoCoMo (Maharana et al. 2024, CC BY-NC 4.0) is read from LONGSPAN_DATA/locomo and never copied. A question counts by the
share of its evidence turns in the recalled context: "strict" when the turn, or one sentence taken from it alone, is there;
"loose" also through summaries that were made from it. Both with all golds and without the wrong ones in audit_errors.json.
Category 5 (adversarial) is reported apart. No model is called: extraction is the built-in heuristic, so the rows of memory
systems are rule-based floors and say nothing about their quality with a strong model. Tokens are words and marks. Seconds are without the embedding
of turns and questions, which is done once for all systems.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from longspan.bench.locomo import blocks, evidence_of, load, turns
from longspan.context.ledger import Ledger
from longspan.context.memory.base import StoreMemory
from longspan.context.memory.comorag import ComoRag
from longspan.context.memory.heuristics import heuristic_model
from longspan.context.memory.hipporag2 import HippoRag2
from longspan.context.memory.mem0 import Mem0
from longspan.context.memory.plain import Passages
from longspan.context.memory.raptor import Raptor
from longspan.context.memory.scm import Scm, ScmKnobs
from longspan.context.memory.zep import Zep
from longspan.context.memory.zep_schema import ZepKnobs
from longspan.context.retrieval.baselines import full_context
from longspan.context.retrieval.embedders import MiniLM
from longspan.context.stores.sqlite import SqliteStore

BUDGETS = (250, 500, 1000, 2000)
RESULTS = Path(__file__).parent / "results" / "locomo_retrieval.json"
SYSTEMS = {
    "bm25": lambda *a: Passages(*a, ranker="bm25", order="best_first"),
    "dense": lambda *a: Passages(*a, ranker="dense", order="best_first"),
    "hybrid": lambda *a: Passages(*a, ranker="hybrid", order="best_first"),
    "document-order": lambda *a: Passages(*a, ranker="hybrid", order="document"),
    # Mem0 and Zep gate by cosines that were set for larger embedders; MiniLM's are lower.
    "zep": lambda *a: Zep(*a, knobs=ZepKnobs(min_cosine=0.3, limit=20)),
    "mem0-add": lambda *a: Mem0(*a),
    "hipporag2": lambda *a: HippoRag2(*a),
    "comorag": lambda *a: ComoRag(*a),
    "raptor": lambda *a: Raptor(*a),
    "scm": lambda *a: Scm(*a, knobs=ScmKnobs(top=40)),
}


def measure(name: str, told, questions: list[dict], wrong: set[int], embedder) -> dict:
    """Scores per budget and category of one system on one conversation, and what it cost."""
    memory = (
        SYSTEMS[name](SqliteStore(":memory:"), heuristic_model(), embedder)
        if name != "full-context"
        else None
    )
    owner: dict[str, list[str]] = {}
    if name == "document-order":
        given = blocks(told)
    else:
        given = [([id], episode) for id, episode in told]
    for ids, episode in given:
        owner[episode.id] = ids
    ledger, started = Ledger(), time.perf_counter()
    if memory is not None:
        done = memory.remember("t", [episode for _, episode in given], ledger)
        assert not done.failed, done.failed[:2]
    ingest_seconds = time.perf_counter() - started
    known = {id for id, _ in told}
    sums: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0])
    started = time.perf_counter()
    for number, qa in enumerate(questions):
        gold = evidence_of(qa, known)
        if not gold:
            continue
        for budget in BUDGETS:
            strict, loose, tokens = found(memory, told, qa["question"], budget, owner, ledger)
            for golds in ("all",) if number in wrong else ("all", "audited"):
                row = sums[budget, "adversarial" if qa["category"] == 5 else "answerable", golds]
                row[0] += len(strict & set(gold)) / len(gold)
                row[1] += len(loose & set(gold)) / len(gold)
                row[2] += tokens
                row[3] += 1
    query_seconds = (time.perf_counter() - started) / max(1, len(questions) * len(BUDGETS))
    ingest = ledger.total("ingest")
    return {
        "rows": [[*key, *values] for key, values in sorted(sums.items())],
        "ingest_seconds": round(ingest_seconds, 2),
        "query_seconds": round(query_seconds, 4),
        "ingest_calls": ingest.calls,
        "ingest_tokens": ingest.prompt_tokens + ingest.completion_tokens,
        "episodes": len(given),
    }


def found(
    memory: StoreMemory | None, told, query: str, budget: int, owner, ledger
) -> tuple[set[str], set[str], int]:
    """(turns found strictly, turns found loosely, tokens) of one recalled context."""
    if memory is None:
        packed = full_context([episode.said for _, episode in told], budget)
        ids = {told[int(entry.sources[0])][0] for entry in packed.manifest}
        return ids, ids, packed.tokens
    packed = memory.recall("t", query, budget, ledger=ledger)
    strict, loose = set(), set()
    for entry in packed.manifest:
        roots = set(_roots(memory, entry.sources))
        ids = {id for root in roots for id in owner.get(root, ())}
        loose |= ids
        if len(roots) == 1:
            strict |= ids
    return strict, loose, packed.tokens


def _roots(memory: StoreMemory, ids) -> list[str]:
    """The episodes behind ids, through summaries of summaries."""
    cache = memory.__dict__.setdefault("_roots_of", {})
    roots = []
    for id in ids:
        if id not in cache:
            (record,) = memory.store.get("t", [id]) or (None,)
            above = record.sources + record.support if record else ()
            cache[id] = _roots(memory, above) if above else [id]
        roots += cache[id]
    return roots


class Remembering:
    """An embedder that computes every text once for all systems: their embedding time is then the first one's alone."""

    def __init__(self, embedder):
        self.embedder, self.id, self.dimensions = embedder, embedder.id, embedder.dimensions
        self.known: dict[str, np.ndarray] = {}

    def embed(self, texts):
        missing = list(dict.fromkeys(text for text in texts if text not in self.known))
        self.known.update(zip(missing, self.embedder.embed(missing), strict=True) if missing else ())
        return (
            np.stack([self.known[text] for text in texts])
            if texts
            else np.zeros((0, self.dimensions), np.float32)
        )


def summary(results: dict) -> list[dict]:
    """Means over all questions of all conversations, one row a system, budget, kind and gold set."""
    sums: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0])
    for key, result in results.items():
        system = key.split("/")[1]
        for budget, kind, golds, *values in result["rows"]:
            row = sums[system, budget, kind, golds]
            for place, value in enumerate(values):
                row[place] += value
    label = lambda system: "baseline" if system in BASELINES else "rule-based"  # noqa: E731
    return [
        {
            "system": system,
            "label": label(system),
            "budget": budget,
            "questions": kind,
            "golds": golds,
            "evidence_recall": round(strict / n, 4),
            "with_summaries": round(loose / n, 4),
            "mean_tokens": round(tokens / n, 1),
            "n": n,
        }
        for (system, budget, kind, golds), (strict, loose, tokens, n) in sorted(sums.items())
    ]


BASELINES = ("bm25", "dense", "hybrid", "document-order", "full-context")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("LONGSPAN_DATA"))
    parser.add_argument("--conversations", default="")
    parser.add_argument("--systems", default=",".join([*SYSTEMS, "full-context"]))
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start nothing new after this long"
    )
    options, started = parser.parse_args(), time.perf_counter()
    if not options.data:
        sys.exit("set LONGSPAN_DATA or give --data: the folder that holds locomo/")
    conversations, wrong_golds = load(Path(options.data) / "locomo")
    stored = json.loads(RESULTS.read_text())["parts"] if RESULTS.exists() else {}
    embedder = Remembering(MiniLM())
    chosen = [int(n) for n in options.conversations.split(",") if n] or range(len(conversations))
    for index in chosen:
        conversation, wrong = conversations[index], wrong_golds[index]
        names = [n for n in options.systems.split(",") if f"{conversation['sample_id']}/{n}" not in stored]
        if not names:
            continue
        told = turns(conversation["conversation"])
        embedder.embed(
            [e.said for _, e in told]
            + [e.said for _, e in blocks(told)]
            + [q["question"] for q in conversation["qa"]]
        )
        for name in names:
            if time.perf_counter() - started > options.seconds:
                return
            stored[f"{conversation['sample_id']}/{name}"] = measure(
                name, told, conversation["qa"], wrong, embedder
            )
            text = {
                "benchmark": "LoCoMo evidence recall",
                "embedder": embedder.id,
                "counter": "words and marks",
            }
            text |= {"extraction": "heuristic (no model)", "summary": summary(stored), "parts": stored}
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(text, indent=1) + "\n")
            print(
                conversation["sample_id"],
                name,
                stored[f"{conversation['sample_id']}/{name}"]["ingest_seconds"],
                flush=True,
            )


if __name__ == "__main__":
    main()
