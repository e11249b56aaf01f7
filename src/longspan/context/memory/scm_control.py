"""Which remembered turns can answer a question: the self-controlled memory's controller, asked or measured.

ask: the model says whether the text answers the question. Where it shows log-probabilities, log p("Yes") is compared with log p("No");
elsewhere the first word counts, and silence means no. The paper asks for one of two letters and shows no example; a model of 135M
parameters then answers by chance, so ours asks for the words and shows four examples (both forms are measured in bench/checks/scm.py).

likelihood (not in the paper): how much likelier the text makes the question,

    gain = (log p(question | text) - log p(question)) / tokens of the question,    in nats per token,

with the same words in front of the question in both terms. A text can answer when its gain is above a threshold. All texts are scored in
packed forwards, where asking takes one forward a text.
"""

import math
from collections.abc import Sequence
from typing import Literal

from longspan.context.port import ChatModel, score_pairs
from longspan.context.prompts import Prompt
from longspan.context.prompts import scm as prompts

Controller = Literal["likelihood", "ask"]
CONTROLLERS: tuple[Controller, ...] = ("likelihood", "ask")

THRESHOLDS: dict[Controller, float] = {"likelihood": 1.25, "ask": 0.0}
"""In nats. Asking: yes is likelier than no. Likelihood: keeps 95% of the answering turns of the probe's facts with SmolLM2-135M
(1.33, rounded down)."""

Judged = tuple[str, str]
"""A question and a text that answers it."""


def can_answer(
    model: ChatModel, texts: Sequence[str], question: str, controller: Controller, threshold: float
) -> list[bool]:
    """For every text whether it can answer the question. A model without log-probabilities is asked in any case, in words."""
    if "logprobs" not in model.capabilities:
        return [yes(model, prompts.CAN_ANSWER, text=text, question=question) for text in texts]
    return [score > threshold for score in scores(model, texts, question, controller)]


def scores(model: ChatModel, texts: Sequence[str], question: str, controller: Controller) -> list[float]:
    """What the controller compares with its threshold, in nats; BadInput for a model without log-probabilities."""
    if controller == "likelihood":
        return gains(model, texts, question)
    return [margin(model, prompts.CAN_ANSWER, text=text, question=question) for text in texts]


def yes(model: ChatModel, prompt: Prompt, **fields: str) -> bool:
    """A yes/no question to the model."""
    if "logprobs" in model.capabilities:
        return margin(model, prompt, **fields) > 0
    said = model.complete(prompt.render(**fields), max_tokens=8).text
    return said.strip().lower().startswith("yes")


def margin(
    model: ChatModel, prompt: Prompt, options: tuple[str, str] = ("Yes", "No"), **fields: str
) -> float:
    """log p(first option) - log p(second option) in nats; positive means yes."""
    a, b = model.choose(prompt.render(**fields), options)  # type: ignore[attr-defined]
    return a - b


def gains(model: ChatModel, texts: Sequence[str], question: str) -> list[float]:
    """Nats per token of the question that each text adds to its log-probability; BadInput for a model without them."""
    if not texts:
        return []
    pairs = [(f"{text}\n\nQuestion:", f" {question}") for text in ("", *texts)]
    alone, *after = score_pairs(model, pairs, "the likelihood controller")
    return [(scored.total - alone.total) / max(1, len(alone.values)) for scored in after]


def threshold_for(
    model: ChatModel, judged: Sequence[Judged], controller: Controller = "likelihood", keep: float = 0.95
) -> float:
    """The highest threshold under which at least the share `keep` of texts that answer are kept: for another model than the default's."""
    found = sorted(scores(model, [text], question, controller)[0] for question, text in judged)
    lost = len(found) - math.ceil(keep * len(found) - 1e-9)
    return float(found[lost]) - 1e-6 if found else THRESHOLDS[controller]
