"""A scoring chat model as the scorer of prompt compression: the bridge from `context` to `methods/prompt`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longspan.context.port import ChatModel, score_pairs, scoring
from longspan.errors import BadInput


@dataclass(frozen=True)
class PortScorer:
    """`methods.prompt.Scorer` over any model with the capability "logprobs"; others are refused at the first score."""

    model: ChatModel

    def token_logprobs(self, prefix: str, text: str):
        """(tokens, character offsets, log-probabilities in nats) of `text` after `prefix`."""
        scored = scoring(self.model, "prompt compression").logprobs(prefix, text)
        return scored.tokens, scored.offsets, scored.values

    def token_logprobs_many(self, pairs: Sequence[tuple[str, str]]):
        """`token_logprobs` of many (prefix, text) pairs, packed when the backend can."""
        return [(s.tokens, s.offsets, s.values) for s in score_pairs(self.model, pairs, "prompt compression")]

    def count_tokens(self, text: str) -> int:
        return self.model.count_tokens(text)

    def tail_attention(self, text: str, question: str, draft: str, rows: int, **options: Any):
        """`engine.textscore.TextScorer.tail_attention` of a model in this process; endpoints do not show attention."""
        lm = getattr(self.model, "lm", None)
        if lm is None:
            raise BadInput(
                f"this prompt method reads attention, which {self.model.model_id} does not show; use a local model, as in local:smollm2-135m"
            )
        from longspan.engine.textscore import TextScorer

        return TextScorer(lm).tail_attention(text, question, draft, rows, **options)
