"""Compressing a file: read it, choose the method by name, count the budget with the model's own tokenizer."""

import json
from dataclasses import asdict
from pathlib import Path

from longspan.context.agents.draft import write_whole
from longspan.context.documents import read_document
from longspan.context.port import ChatModel
from longspan.context.scorer import PortScorer
from longspan.errors import BadInput, nearest
from longspan.methods.prompt import METHODS, Compressed, LongCodeZip

LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".ts": "javascript",
    ".java": "java",
    ".rs": "rust",
    ".go": "go",
    ".c": "c",
    ".h": "c",
    ".cpp": "c",
    ".cc": "c",
    ".hpp": "c",
}


def compress_file(
    model: ChatModel, path: Path, budget: float | int | str, question: str = "", method: str | None = None
) -> Compressed:
    """`budget` in tokens (int) or as a share of the file's tokens (float below 1). `method` None: LongLLMLingua with a question,
    LLMLingua without."""
    method = method or ("longllmlingua" if question.strip() else "llmlingua")
    if method not in METHODS:
        raise BadInput(f"there is no prompt method {method!r}; {nearest(method, METHODS)}")
    if METHODS[method].aware and not question.strip():
        raise BadInput(f"{method} keeps what a question needs; give --question, or use llmlingua")
    chosen = METHODS[method]()
    if isinstance(chosen, LongCodeZip):
        chosen = LongCodeZip(language=LANGUAGES.get(path.suffix.lower(), "auto"))
    text = read_document(path).text
    scorer = PortScorer(model)
    if isinstance(budget, str) or not (0 < budget < 1 or (budget >= 1 and budget == budget // 1)):
        raise BadInput(f"the budget {budget!r} is no number of tokens and no share; use 2000 or 0.25")
    if isinstance(budget, float) and budget < 1:
        budget = max(1, int(budget * scorer.count_tokens(text)))
    return chosen.compress(text, question, int(budget), scorer)


def save_manifest(done: Compressed, path: Path) -> None:
    """Kept spans and counts as JSON; offsets are characters of the source text and of the output."""
    facts = {
        "method": done.method,
        "budget": done.budget,
        "tokens": done.tokens,
        "source_tokens": done.source_tokens,
    }
    write_whole(path, json.dumps(facts | {"kept": [asdict(k) for k in done.manifest]}, indent=1) + "\n")
