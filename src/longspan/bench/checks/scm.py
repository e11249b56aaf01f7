"""SCM's check: planted facts in sixty turns against the last turns of the same size, and both controllers on a real model.

The flow runs with a rule controller (an upper bound) and again with the model as the controller, measured and asked. The judgements are
turns that answer a question, turns of the same person that do not, and turns about another person; the threshold comes from other facts
(`OTHER_FACTS`). Asked means the words yes and no after four examples; the paper's form, two letters without an example, stands beside it,
and BM25 and chance (0.5) on the same turns.
"""

from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.bench.worlds.clock import Clock
from longspan.bench.worlds.dialogue import OTHER_FACTS, TOPICS, dialogue, judgements
from longspan.context.backends.local import Local
from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger
from longspan.context.memory.base import dated
from longspan.context.memory.scm import Scm, ScmKnobs
from longspan.context.memory.scm_control import CONTROLLERS, THRESHOLDS, margin, scores, threshold_for
from longspan.context.prompts import scm as prompts
from longspan.context.retrieval.bm25 import BM25
from longspan.context.retrieval.embedders import Hashing
from longspan.context.stores.sqlite import SqliteStore

BUDGET = 60
JUDGEMENTS = 15
FITTED = 24  # other facts, one answering turn each
OTHERS = ((1, "same person"), (2, "another person"))
RANKS = {"likelihood": 0.75, "ask": 0.6}  # area under the curve that "ranks" means; chance is 0.5


@check(
    "scm",
    system="scm",
    claim="recalled turns and a controller keep old facts in a prompt where a window of the same size forgets them; the model itself can be "
    "the controller, asked with examples or by how much a turn adds to the likelihood of the question",
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
    recalled = [memory.recall("t", _question(topic), BUDGET) for topic in TOPICS]
    kept = _kept([packed.text for packed in recalled])
    last = _kept(["\n".join(window)] * len(TOPICS))
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
    local = Local(bench.model())
    _flow(outcome, local, last)
    _judge(outcome, local)
    return outcome


def _flow(outcome: Outcome, local: Local, last: float) -> None:
    """The same sixty turns with the model as the controller, in as many tokens as the last five turns have: less than it recalls."""
    for controller in CONTROLLERS:
        memory = Scm(
            SqliteStore(":memory:"), local, Hashing(64), clock=Clock(), knobs=ScmKnobs(controller=controller)
        )
        memory.remember("t", dialogue())
        ledger = Ledger()
        budget = sum(
            local.count_tokens(dated(turn)) + 1 for turn in memory.store.get("t", kind="episode")[-5:]
        )
        packed = [memory.recall("t", _question(topic), budget, ledger=ledger) for topic in TOPICS]
        kept = _kept([one.text for one in packed])
        outcome.figures |= {
            f"flow, {controller}: fact in prompt": kept,
            f"flow, {controller}: tokens of a prompt, of at most {budget}": _mean(
                [one.tokens for one in packed]
            ),
            f"flow, {controller}: model calls a question": ledger.total("query").calls / len(TOPICS),
        }
        outcome.must(
            f"flow, {controller}: prompts keep the budget", all(one.tokens <= budget for one in packed)
        )
        if controller == ScmKnobs().controller:
            outcome.shows(
                f"with the model as the controller ({controller}) memory beats the last turns",
                kept >= 0.9 > last,
            )


def _judge(outcome: Outcome, local: Local) -> None:
    """Area under the ROC curve of each controller and of BM25, all questions together, and what the controllers' own thresholds keep."""
    judged = judgements(JUDGEMENTS)
    found = {
        name: [scores(local, texts, question, name) for question, *texts in judged] for name in CONTROLLERS
    }
    found["ask, letters without examples"] = [
        [
            margin(local, prompts.CAN_ANSWER_LETTERS, ("A", "B"), text=text, question=question)
            for text in texts
        ]
        for question, *texts in judged
    ]
    found["BM25"] = [[float(score) for score in BM25(texts).scores(question)] for question, *texts in judged]
    figures = outcome.figures
    for name, rows in found.items():
        for kind, other in OTHERS:
            figures[f"{name}: AUC, {other}"] = _auc([row[0] for row in rows], [row[kind] for row in rows])
    others = [(question, text) for question, text, *_ in judgements(FITTED, seed=1, facts=OTHER_FACTS)]
    for name in CONTROLLERS:
        rows = found[name]
        fitted = threshold_for(local, others, name)
        for what, threshold in (("default", THRESHOLDS[name]), ("fitted to other facts", fitted)):
            kept = " / ".join(f"{_mean([row[kind] > threshold for row in rows]):.2f}" for kind in range(3))
            figures[f"{name}: kept of answering / same person / another, threshold {what}"] = (
                f"{kept} at {threshold:.2f} nats"
            )
    for name in CONTROLLERS:
        lowest = min(figures[f"{name}: AUC, {other}"] for _, other in OTHERS)
        outcome.shows(
            f"{name}: ranks answering turns first (AUC at least {RANKS[name]})", lowest >= RANKS[name]
        )
    likely, threshold = found["likelihood"], THRESHOLDS["likelihood"]
    outcome.shows(
        "likelihood: the default threshold keeps 90% of the answering turns and drops more than half of the others",
        _mean([row[0] > threshold for row in likely]) >= 0.9
        and _mean([value > threshold for row in likely for value in row[1:]]) < 0.5,
    )


def _question(topic: str) -> str:
    return f"What is the secret of the {topic}?"


def _kept(texts: list[str]) -> float:
    """Share of topics whose fact is in its text."""
    facts = [f"the {topic} is number {6 * number}" for number, topic in enumerate(TOPICS)]
    return _mean([fact in text for fact, text in zip(facts, texts, strict=True)])


def _mean(values: list) -> float:
    return sum(values) / len(values)


def _auc(positive: list[float], negative: list[float]) -> float:
    """Probability that a positive scores above a negative, ties half."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def _rules() -> RuleModel:
    def can_answer(fields: dict[str, str]) -> str:
        asked = set(fields["question"].lower().rstrip("?").split()) & set(TOPICS)
        return "Yes" if any(word in fields["text"].lower() for word in asked) else "No"

    return RuleModel({prompts.CAN_ANSWER: can_answer})
