"""Prompt methods: text in, shorter text out, with a manifest of the source spans that were kept.

They run before the model sees a token, so they need no cache and combine with everything after them. One file a method;
`base.py` holds the steps they share. Never here: endpoints, files, models (a scorer object is handed in).
"""

from longspan.engine.method import PromptMethod
from longspan.engine.prompt import Compressed, Kept, Scorer
from longspan.methods.prompt.baselines import RandomUnits, Truncate
from longspan.methods.prompt.extractive_bm25 import ExtractiveBM25
from longspan.methods.prompt.llmlingua import LLMLingua, LongLLMLingua
from longspan.methods.prompt.llmlingua2 import LLMLingua2
from longspan.methods.prompt.longcodezip import LongCodeZip
from longspan.methods.prompt.specpc import SpecPC

METHODS: dict[str, type[PromptMethod]] = {
    cls.name: cls
    for cls in (
        ExtractiveBM25,
        LLMLingua,
        LongLLMLingua,
        LLMLingua2,
        LongCodeZip,
        SpecPC,
        RandomUnits,
        Truncate,
    )
}

__all__ = [
    "METHODS",
    "Compressed",
    "Kept",
    "PromptMethod",
    "Scorer",
    *(cls.__name__ for cls in METHODS.values()),
]
