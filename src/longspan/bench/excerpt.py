"""Excerpt mode: a book-length item cut to the passage that retrieval finds for its question, for models with short windows.

This is no benchmark's setting (NoCha's point is global reading): it tells whether a small model can judge a claim when the right page is
in front of it, and feeds likelihood comparisons with and without the text. Scores made so carry `truncation: "excerpt"`.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from longspan.bench.item import Item
from longspan.bench.lengths import count_tokens
from longspan.bench.truncation import Truncation
from longspan.context.retrieval.bm25 import BM25

CHUNK = 1200  # characters


@lru_cache(maxsize=4)
def _index(text: str, chunk: int) -> BM25:
    """Many questions are asked of one book."""
    return BM25([text[a : a + chunk] for a in range(0, len(text), chunk)], stem=None)


def excerpt(item: Item, max_tokens: int, tokenizer: Any, chunk: int = CHUNK) -> Item:
    """`item` with the window of its context around the chunk that BM25 ranks first for the question; short items stay whole."""
    if count_tokens(tokenizer, item.user_text) <= max_tokens:
        return Truncation("none").apply(item, max_tokens, tokenizer)
    hits = _index(item.context, chunk).rank(item.question, 1)
    best = hits[0].index * chunk if hits else 0
    end = min(best + chunk, len(item.context))
    found = Truncation("around").apply(replace(item, evidence=((best, end),)), max_tokens, tokenizer)
    low, high = found.metadata["kept_characters"]
    inside = tuple((a - low, b - low) for a, b in item.evidence if a >= low and b <= high)
    facts = {"truncation": "excerpt", "evidence_lost": len(item.evidence) - len(inside)}
    return replace(found, evidence=inside, depth=None, metadata={**found.metadata, **facts})
