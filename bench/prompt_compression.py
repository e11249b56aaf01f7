"""Prompt compression and ALR2's retrieval on a real small model against BM25, random and truncation, in one run.

    python bench/prompt_compression.py [--samples 6] [--part documents code facts] [--seconds 150]

documents  ten short documents, one holds the needle: share of the needle kept and NLL of the gold answer (nats a token) at 25% and 50%
code       a module of small functions, the query depends on one constant: needed function kept and NLL of the completion
facts      ALR2: is the supporting sentence among the top 3, by log p(question | sentence), trie decoding, BM25 and random
The full and the empty context are in every row as ceiling and floor. All methods see the same budget in the scorer's tokens.
Results: bench/results/prompt_compression.json (samples that are in it are not run again; delete it to start anew).
"""

from pathlib import Path

from longspan.bench.parts import main
from longspan.bench.prompt_probe import code, documents, facts

if __name__ == "__main__":
    results = Path(__file__).parent / "results" / "prompt_compression.json"
    main(__doc__.split("\n")[0], {"documents": documents, "code": code, "facts": facts}, results)
