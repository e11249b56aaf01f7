"""What a memory costs: ingest of 1,000 turns with tokens and seconds per stage, and a query over 100,000 vectors.

    python bench/memory_cost.py [--turns 1000] [--vectors 100000] [--part ingest search]

The turns are made here from patterns. Extraction is the built-in heuristic (tokens are counted, no model runs), so the
seconds are those of everything but a model. Results: bench/results/memory_cost.json.
"""

import argparse
import json
import os
import platform
import random
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from longspan.context.ledger import Ledger
from longspan.context.memory.base import Episode
from longspan.context.memory.heuristics import heuristic_model
from longspan.context.memory.zep import Zep
from longspan.context.retrieval.embedders import MiniLM
from longspan.context.stores.base import Record, Unit
from longspan.context.stores.sqlite import SqliteStore

START = datetime(2026, 1, 1, tzinfo=UTC)
RESULTS = Path(__file__).parent / "results" / "memory_cost.json"
NAMES = "Ada Bruno Clara Dario Elena Felix Greta Hugo Irene Jonas Katja Lukas".split()
TOWNS = "Lisbon Porto Turin Graz Lyon Ghent Bergen Tartu Split Cork".split()
TOPICS = [
    "a new flat near the river",
    "the train to work",
    "a concert",
    "bread with seeds",
    "the garden",
    "an old bicycle",
]


def turns(count: int) -> list[Episode]:
    rng = random.Random(0)
    made = []
    for number in range(count):
        who, other, town, topic = rng.choice(NAMES), rng.choice(NAMES), rng.choice(TOWNS), rng.choice(TOPICS)
        text = (
            f"Yesterday I talked with {other} in {town} about {topic}. It was the {number}th time this year."
        )
        made.append(Episode(text, START + timedelta(minutes=number), who, f"session {number // 50}"))
    return made


def ingest(folder: Path, count: int) -> dict:
    path = folder / "turns.db"
    memory, ledger = Zep(SqliteStore(path), heuristic_model(), MiniLM()), Ledger()
    started = time.perf_counter()
    done = memory.remember("t", turns(count), ledger)
    seconds = time.perf_counter() - started
    asked = time.perf_counter()
    memory.recall("t", "What did Ada talk about in Lisbon?", 1000, ledger=ledger)
    query = time.perf_counter() - asked
    memory.store.close()
    rows = [{**row, "seconds": round(row["seconds"], 3)} for row in ledger.table()]
    return {
        "turns": len(done.stored),
        "failed": len(done.failed),
        "seconds": round(seconds, 2),
        "between_stages_seconds": round(seconds - ledger.total("ingest").seconds, 2),
        "query_seconds": round(query, 3),
        "file_bytes": os.path.getsize(path),
        "stages": rows,
    }


def search(folder: Path, count: int, dimensions: int = 384) -> dict:
    path = folder / "vectors.db"
    store = SqliteStore(path)
    store.bind_embedder("random", dimensions)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    started = time.perf_counter()
    for block in range(0, count, 1000):
        rows = range(block, min(block + 1000, count))
        records = tuple(Record(f"r{i}", "fact", f"fact {i}", vector=vectors[i]) for i in rows)
        store.commit("t", Unit(None, START, records))
    written = time.perf_counter() - started
    times, exact = [], True
    for _ in range(11):
        query = rng.normal(size=dimensions).astype(np.float32)
        query /= np.linalg.norm(query)
        asked = time.perf_counter()
        found = store.search_vector("t", query, kinds=("fact",), limit=10)
        times.append(time.perf_counter() - asked)
        exact &= [r.id for r, _ in found] == [
            f"r{i}" for i in np.argsort(-(vectors @ query), kind="stable")[:10]
        ]
    store.close()
    return {
        "vectors": count,
        "dimensions": dimensions,
        "write_seconds": round(written, 1),
        "first_query_seconds": round(times[0], 3),
        "median_query_seconds": round(sorted(times[1:])[5], 4),
        "exact_top_10": exact,
        "file_bytes": os.path.getsize(path),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--part", choices=("ingest", "search"), nargs="*", default=("ingest", "search"))
    options = parser.parse_args()
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    result["extraction"] = "heuristic (no model)"
    with tempfile.TemporaryDirectory() as folder:
        if "ingest" in options.part:
            result["ingest"] = ingest(Path(folder), options.turns)
        if "search" in options.part:
            result["search"] = search(Path(folder), options.vectors)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
