"""Attribution on a real small model against exact leave-one-out, exact Shapley, BM25, random and chance, in one run.

    python bench/attribution.py [--samples 6] [--part cache needle copies shapley] [--seconds 150]

The contexts and measures are in longspan.bench.attribution_probe. Results: bench/results/attribution.json (samples that are in it are not
run again; delete it to start anew).
"""

import json
from pathlib import Path

from longspan.bench.attribution_probe import EXAMPLES, cache, copies, heads, needle, shapley
from longspan.bench.parts import main, write

PARTS = {"cache": cache, "needle": needle, "copies": copies, "shapley": shapley}

if __name__ == "__main__":
    results = Path(__file__).parent / "results" / "attribution.json"
    stored, given = main(__doc__.split("\n")[0], PARTS, results)
    if len(list(EXAMPLES.glob("*.npz"))) >= 4:
        stored["parts"]["heads"] = heads(given.samples)
        write(given.out, stored)
        print("heads", json.dumps(stored["parts"]["heads"]), flush=True)
