"""SCM's check: planted facts in sixty turns against the last turns of the same size, and the controller on a real model.

The flow runs with a rule controller (an upper bound). The controller itself is honest on a small model: it compares log p("A") with
log p("B"), plain, calibrated by a text that says nothing, and summed over three wordings as well; beside it the likelihood of the question
after the text (no yes or no is asked), BM25 and chance on the same turns.
"""

from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.bench.worlds.clock import Clock
from longspan.bench.worlds.dialogue import TOPICS, dialogue, judgements
from longspan.context.backends.local import Local
from longspan.context.backends.rule import RuleModel
from longspan.context.memory.base import dated
from longspan.context.memory.scm import Scm, ScmKnobs, calibrated, margin
from longspan.context.prompts import scm as prompts
from longspan.context.retrieval.bm25 import BM25
from longspan.context.retrieval.embedders import Hashing
from longspan.context.stores.sqlite import SqliteStore

BUDGET = 60
JUDGEMENTS = 15


@check(
    "scm",
    system="scm",
    claim="recalled turns and a yes/no controller keep old facts in a prompt where a window of the same size forgets them",
    file="src/longspan/context/memory/scm.py",
)
def scm(bench: Bench) -> Outcome:
    outcome = Outcome()
    memory = Scm(SqliteStore(":memory:"), _rules(), Hashing(64), clock=Clock(), knobs=ScmKnobs(top=6))
    memory.remember("t", dialogue())
    turns = memory.store.get("t", kind="episode")
    window, size = [], 0
    for turn in reversed(turns):
        size += memory.count(dated(turn))
        if size > BUDGET:
            break
        window.append(turn.text)
    recalled = [memory.recall("t", f"What is the secret of the {topic}?", BUDGET) for topic in TOPICS]
    facts = [f"the {topic} is number {6 * number}" for number, topic in enumerate(TOPICS)]
    kept = sum(fact in packed.text for fact, packed in zip(facts, recalled, strict=True)) / len(TOPICS)
    last = sum(fact in "\n".join(window) for fact in facts) / len(TOPICS)
    outcome.figures |= {
        "responder of the flow": "rule (upper bound)",
        "fact in prompt": kept,
        "fact in the last turns": last,
    }
    outcome.shows("memory beats the last turns of equal size", kept >= 0.9 > last)
    outcome.must("prompts keep the budget", all(packed.tokens <= BUDGET for packed in recalled))
    everything = Scm(memory.store, _rules(), Hashing(64), clock=Clock(), knobs=ScmKnobs(top=100))
    outcome.must(
        "a top beyond the history recalls all turns", len(everything.recall("t", "x", 9000).manifest) == 60
    )
    _controller(bench, outcome)
    return outcome


def _controller(bench: Bench, outcome: Outcome) -> None:
    """Area under the ROC curve of each form of the controller and of BM25: answering turns against the two others."""
    local = Local(bench.model())
    ways = {
        "controller": lambda text, question: margin(local, prompts.CAN_ANSWER, text=text, question=question),
        "calibrated": lambda text, question: calibrated(local, text, question, (prompts.CAN_ANSWER,)),
        "calibrated, three wordings": lambda text, question: calibrated(local, text, question),
        "question likelihood": lambda text, question: (
            local.logprobs(f"{text}\n\nQuestion:", f" {question}").total
        ),
    }
    scores: dict[str, list[list[float]]] = {name: [[], [], []] for name in (*ways, "BM25")}
    for question, *texts in judgements(JUDGEMENTS):
        words = BM25(texts).scores(question)
        for kind, text in enumerate(texts):
            scores["BM25"][kind].append(float(words[kind]))
            for name, way in ways.items():
                scores[name][kind].append(way(text, question))
    for name, found in scores.items():
        for kind, other in ((1, "same person"), (2, "another person")):
            outcome.figures[f"{name} AUC, {other}"] = _auc(found[0], found[kind])
    said = [value for row in scores["controller"] for value in row]
    outcome.figures["share of yes"] = sum(value > 0 for value in said) / len(said)
    best = "calibrated, three wordings"
    outcome.shows(
        "the calibrated controller ranks clearly above chance (AUC at least 0.6)",
        min(outcome.figures[f"{best} AUC, {other}"] for other in ("same person", "another person")) >= 0.6,
    )


def _auc(positive: list[float], negative: list[float]) -> float:
    """Probability that a positive scores above a negative, ties half."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def _rules() -> RuleModel:
    def can_answer(fields: dict[str, str]) -> str:
        asked = set(fields["question"].lower().rstrip("?").split()) & set(TOPICS)
        return "A" if any(word in fields["text"].lower() for word in asked) else "B"

    return RuleModel({prompts.CAN_ANSWER: can_answer, prompts.NEEDS_MEMORY: lambda fields: "A"})
