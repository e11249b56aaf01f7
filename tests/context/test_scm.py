"""SCM: planted facts against a last-turns window of equal size; the control loop's promises; the summary tree."""

import math
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Clock, embedder, episode

from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger, Limits
from longspan.context.memory.base import dated
from longspan.context.memory.scm import Scm, ScmKnobs, summary_tree
from longspan.context.memory.scm_control import can_answer, gains, margin, threshold_for, yes
from longspan.context.port import LimitReached, LogProbs
from longspan.context.prompts import scm as prompts
from longspan.context.stores.sqlite import SqliteStore
from longspan.errors import BadInput

TOPICS = [
    "harbour",
    "violin",
    "glacier",
    "bakery",
    "lantern",
    "orchard",
    "compass",
    "meadow",
    "tunnel",
    "parrot",
]


def shares_words(fields):
    words = set(fields["question"].lower().rstrip("?").split())
    return "Yes" if any(word in fields["text"].lower() for word in words & set(TOPICS)) else "No"


def model(control=shares_words):
    return RuleModel(
        {
            prompts.SUMMARISE_TURN: lambda f: " ".join(f["turn"].split()[:12]),
            prompts.NEEDS_MEMORY: lambda f: "No" if "hello" in f["message"] else "Yes",
            prompts.CAN_ANSWER: control,
            prompts.SUMMARISE_BLOCK: lambda f: " ".join(f["current"].split()[:5]),
            prompts.SUMMARISE_GROUP: lambda f: " ".join(f["summaries"].split()[:8]),
        }
    )


def memory(responder=None, **knobs):
    made = Scm(
        SqliteStore(":memory:"), responder or model(), embedder(), clock=Clock(), knobs=ScmKnobs(**knobs)
    )
    turns = []
    for number in range(60):
        topic = TOPICS[number // 6] if number % 6 == 0 else None
        text = (
            f"The secret of the {topic} is number {number}."
            if topic
            else f"Talk about nothing much, part {number}."
        )
        turns.append(episode(text, number, speaker="Ada", session="s"))
    made.remember("t", turns)
    return made


def test_planted_facts_are_recalled_where_a_window_of_equal_size_forgets():
    made, budget = memory(), 60
    turns = made.store.get("t", kind="episode")
    hits = window = 0
    for number, topic in enumerate(TOPICS):
        packed = made.recall("t", f"What is the secret of the {topic}?", budget)
        assert packed.tokens <= budget
        hits += f"the {topic} is number {6 * number}" in packed.text
        tail, size = [], 0
        for turn in reversed(turns):
            size += made.count(dated(turn))
            if size > budget:
                break
            tail.append(turn.text)
        window += f"the {topic} is number" in "\n".join(tail)
    assert hits == 10 and window <= 1


def test_when_everything_fits_the_controller_is_not_asked():
    made, ledger = memory(), Ledger()
    packed = made.recall("t", "secret of the violin?", 5000, ledger=ledger)
    assert ledger.total("query").calls == 0 and len(packed.manifest) == 7
    places = [packed.text.find(packed.text[e.start : e.end]) for e in packed.manifest]
    assert places == sorted(places) and packed.text.split("\n")[-1].endswith("part 59.")


def test_top_beyond_the_history_returns_all_and_recency_prefers_the_new():
    assert len(memory(top=100).recall("t", "anything", 9000).manifest) == 60
    turns = memory(recency=100.0, top=3).recall("t", "violin", 9000)
    assert [e for e in turns.text.split("\n") if "part 5" in e or "part 58" in e][-1].endswith("part 59.")


@given(st.integers(0, 120), st.sampled_from(["Yes", "No", "nonsense", ""]))
@settings(max_examples=25, deadline=None)
def test_the_loop_always_ends_within_the_budget(budget, letter):
    made = memory(model(control=lambda f: letter or " "), summarise_above=4)
    assert made.recall("t", "secret of the violin?", budget).tokens <= budget


def test_the_gate_skips_memory_and_a_local_model_decides_by_log_probabilities():
    made = memory(gate=True)
    assert len(made.recall("t", "hello there", 500).manifest) == 1
    assert len(made.recall("t", "secret of the violin", 500).manifest) == 7

    class Scoring(RuleModel):
        capabilities = frozenset({"logprobs"})

        def choose(self, messages, options):
            said = "hello" not in messages[1].content
            return (math.log(0.6), math.log(0.4)) if said else (math.log(0.4), math.log(0.6))

        def logprobs(self, prefix_text, continuation_text):
            return LogProbs((), (), ())

    made = memory(Scoring({prompts.SUMMARISE_TURN: lambda f: "x"}), gate=True)
    assert len(made.recall("t", "hello there", 500).manifest) == 1
    assert len(made.recall("t", "violin", 500).manifest) == 7


class Predicting(RuleModel):
    """Finds a question likelier, by two nats a word, for every word of it that the text before holds. Would say no to all that is asked."""

    capabilities = frozenset({"logprobs"})

    def choose(self, messages, options):
        return 0.0, 1.0

    def logprobs(self, prefix_text, continuation_text):
        self.calls.append("logprobs")
        words = continuation_text.lower().rstrip("?").split()
        known = set(prefix_text.lower().replace(".", " ").split())
        ends = list(accumulate((len(word) + 1 for word in words[:-1]), initial=0))
        spans = tuple(zip(ends, [*ends[1:], len(continuation_text)], strict=True))
        return LogProbs(tuple(words), spans, tuple(-1.0 if word in known else -3.0 for word in words))


def test_a_text_gains_what_it_adds_to_the_likelihood_of_the_question():
    model = Predicting({})
    question = "Where is the harbour?"
    assert gains(model, ["Nothing.", "The harbour is north.", "The harbour."], question) == [0.0, 1.5, 1.0]
    assert can_answer(model, ["Nothing.", "The harbour is north."], question, "likelihood", 1.25) == [
        False,
        True,
    ]
    assert can_answer(model, ["The harbour is north."], question, "ask", 1.25) == [False]
    assert gains(model, [], question) == []
    judged = [(question, "The harbour is north.")] * 18 + [(question, "The harbour."), (question, "Nothing.")]
    assert threshold_for(model, judged) == pytest.approx(1.0, abs=1e-5)
    assert threshold_for(model, judged, "ask") == pytest.approx(-1.0, abs=1e-5)
    assert threshold_for(model, judged, keep=0.9) == pytest.approx(1.5, abs=1e-5)
    with pytest.raises(BadInput, match="log-probabilities"):
        gains(RuleModel({}), ["a"], question)


def test_the_controller_decides_which_turns_stay_and_every_score_is_counted():
    kept, ledger = memory(Predicting({}), threshold=0.6), Ledger()
    packed = kept.recall("t", "secret of the violin?", 60, ledger=ledger)
    assert "violin is number 6" in packed.text and packed.tokens <= 60
    rows = {row["stage"]: row for row in ledger.table()}
    assert (
        rows["control"]["calls"] == kept.model.calls.count("logprobs") == 6
    )  # five turns and the question alone
    assert rows["control"]["prompt_tokens"] > 0
    asked = memory(Predicting({}), controller="ask").recall("t", "secret of the violin?", 60)
    assert len(asked.manifest) == 2  # the most similar, which is never judged, and the last turn
    assert len(packed.manifest) > 2
    with pytest.raises(LimitReached):
        kept.recall("t", "secret of the violin?", 60, ledger=Ledger(Limits(calls=3)))
    with pytest.raises(BadInput, match="likelihood"):
        ScmKnobs(controller="likelyhood")


def test_an_asked_model_sees_examples_before_the_data_and_answers_in_words():
    shown = prompts.CAN_ANSWER.render(text="The violin is 12.", question="What?")
    assert [m.role for m in shown] == ["system", *["user", "assistant"] * 4, "user"]
    assert prompts.CAN_ANSWER.fields(shown) == {"text": "The violin is 12.", "question": "What?"}
    assert {m.content for m in shown if m.role == "assistant"} == {"Yes", "No"}
    assert prompts.CAN_ANSWER.id != replace(prompts.CAN_ANSWER, examples=()).id

    class Leaning(Predicting):
        def choose(self, messages, options):
            return (3.0, 1.0) if "harbour" in messages[-1].content else (1.0, 3.0)

    assert margin(Leaning({}), prompts.CAN_ANSWER, text="The harbour is 12.", question="What?") == 2.0
    assert not yes(Leaning({}), prompts.CAN_ANSWER, text="The violin is 12.", question="What?")
    assert yes(
        RuleModel({prompts.CAN_ANSWER: lambda f: "Yes, it does."}), prompts.CAN_ANSWER, text="a", question="b"
    )


def test_long_turns_get_a_summary_with_provenance_that_is_forgotten_with_them():
    from longspan.context.stores.base import Selector

    made = memory(summarise_above=4)
    summaries = made.store.get("t", kind="turn_summary")
    assert len(summaries) == 60 and all(
        len(s.sources) == 1 and s.prompt.startswith("scm.") for s in summaries
    )
    made.forget("t", Selector(ids=(summaries[0].sources[0],)))
    assert len(made.store.get("t", kind="turn_summary")) == 59


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_the_summary_tree_ends_and_one_item_is_itself(count):
    blocks = [f"block {n} " + "word " * 30 for n in range(count)]
    responder = model()
    made = summary_tree(responder, blocks, group_tokens=12)
    assert (made == blocks[0]) == (count == 1)
    assert responder.calls.count("scm.summarise_block") == (count if count > 1 else 0)
