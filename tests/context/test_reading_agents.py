"""Reading agents with a rule reader: coverage, order, budgets, termination, faults. No claim about quality."""

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from longspan.bench.responders import NOUNS, QUESTION, ledger, reader
from longspan.context.agents.base import EmptyAnswer, clip
from longspan.context.agents.coa import ChainOfAgents, Merge
from longspan.context.agents.mapreduce import MapReduce, MapRerank, Refine, Stuff, grouped, in_order, parts_of
from longspan.context.agents.readagent import ReadAgent
from longspan.context.backends.faults import FAULTS, Faulty
from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger, Metered
from longspan.context.port import PortError
from longspan.context.prompts import agents as prompts
from longspan.errors import BadInput


class Watched(RuleModel):
    """Remembers what each call was given."""

    def __init__(self, inner):
        super().__init__(inner.rules, model_id="watched")
        self.prompts = []

    def raw(self, messages, params):
        self.prompts.append(
            (sum(self.count_tokens(m.content) for m in messages) + params.max_tokens, messages[1].content)
        )
        return super().raw(messages, params)


# Chain of Agents


def test_the_chain_solves_two_hops_that_merge_and_truncation_cannot():
    text = ledger()
    chain = ChainOfAgents(window=900, note_tokens=100, answer_tokens=50).run(reader(), text, QUESTION)
    assert chain.text == "Clara"
    assert chain.detail["parts"] > 4
    assert Merge(window=900, answer_tokens=50).run(reader(), text, QUESTION).text != "Clara"
    assert Stuff(window=900, answer_tokens=50).run(reader(), text, QUESTION).text != "Clara"


def test_backward_chains_need_backward_reading():
    text, knobs = ledger(reverse=True), {"window": 900, "note_tokens": 100, "answer_tokens": 50}
    assert ChainOfAgents(**knobs).run(reader(), text, QUESTION).text != "Clara"
    assert ChainOfAgents(order="backward", **knobs).run(reader(), text, QUESTION).text == "Clara"


def test_every_prompt_fits_every_worker_sees_the_note_and_calls_are_parts_plus_one():
    model, agent = Watched(reader()), ChainOfAgents(window=700, note_tokens=80, answer_tokens=40)
    text = ledger()
    answer = agent.run(model, text, QUESTION)
    assert "".join(agent.parts(model, text, QUESTION)) == text
    assert len(model.prompts) == answer.detail["parts"] + 1
    assert max(size for size, _ in model.prompts) <= 700
    for (_, prompt), note in zip(model.prompts[1:], answer.notes):
        assert note in prompt
    assert (
        ChainOfAgents(window=8000).run(reader(), "Anna gave the coin to Boris.", QUESTION).detail["parts"]
        == 1
    )


def test_notes_that_outgrow_their_reserve_are_cut_and_counted():
    rules = reader().rules | {prompts.WORKER: lambda f: "word " * 90}
    answer = ChainOfAgents(window=700, note_tokens=60).run(RuleModel(rules), ledger(), QUESTION)
    assert answer.detail["cut_notes"] >= 0
    assert all(len(note.split()) <= 60 for note in answer.notes)


def test_several_paths_vote_or_are_judged():
    text, knobs = ledger(reverse=True), {"window": 900, "note_tokens": 100, "answer_tokens": 50, "paths": 5}
    voted = ChainOfAgents(order="shuffled", seed=3, **knobs).run(reader(), text, QUESTION)
    assert len(voted.detail["answers"]) == 5
    counts = {a: voted.detail["answers"].count(a) for a in voted.detail["answers"]}
    assert counts[voted.text] == max(counts.values())
    judged = ChainOfAgents(order="shuffled", pick="judge", seed=3, **knobs).run(reader(), text, QUESTION)
    assert judged.text == judged.detail["answers"][0]
    with pytest.raises(BadInput, match="order"):
        ChainOfAgents(order="sideways").run(reader(), text, QUESTION)


# map-reduce and refine


def test_map_reduce_counts_calls_keeps_order_and_collapses():
    text = (
        ledger(parts=20, lines=20) + "\n" + "\n".join(f"P{i} gave the coin to P{i + 1}." for i in range(60))
    )
    meter = Ledger()
    agent = MapReduce(window=500, note_tokens=150, answer_tokens=40, collapse=200)
    answer = agent.run(Metered(reader(), meter, "query"), text, QUESTION)
    calls = {row["stage"]: row["calls"] for row in meter.table()}
    assert calls == {"map": answer.detail["parts"], "reduce": answer.detail["collapses"], "answer": 1}
    assert answer.detail["collapses"] > 0
    threaded = MapReduce(window=500, note_tokens=150, answer_tokens=40, collapse=200, workers=4)
    assert threaded.run(reader(), text, QUESTION) == answer


def test_refine_follows_forward_chains_map_rerank_cannot_and_one_chunk_is_stuff():
    text = ledger()
    refined = Refine(window=900, answer_tokens=100).run(reader(), text, QUESTION)
    assert "Boris gave the coin to Clara." in refined.text
    ranked = MapRerank(window=900, answer_tokens=60).run(reader(), text, QUESTION)
    assert ranked.text != "Clara" and max(ranked.detail["scores"]) == 40
    short = "Anna gave the coin to Boris.\nBoris gave the coin to Clara."
    answers = {a.run(reader(), short, QUESTION).text for a in (Stuff(), MapReduce(), ChainOfAgents())}
    assert answers == {"Clara"}
    assert len(Refine().run(reader(), short, QUESTION).notes) == 1


def test_stuff_cuts_where_it_says():
    text = ledger(parts=3, lines=40)
    model = Watched(reader())
    for keep, first, last in (("head", True, False), ("tail", False, True), ("middle", True, True)):
        shown = Stuff(window=500, answer_tokens=40, keep=keep).run(
            model, "FIRST.\n" + text + "\nLAST.", QUESTION
        )
        assert shown.partial
        assert ("FIRST" in shown.notes[0], "LAST" in shown.notes[0]) == (first, last)
        assert model.prompts[-1][0] <= 500


def test_a_reduce_that_never_shrinks_still_ends():
    rules = reader().rules | {prompts.MAP: lambda f: "note " * 150, prompts.REDUCE: lambda f: "note " * 400}
    rules[prompts.ANSWER] = lambda f: "done"
    agent = MapReduce(window=600, note_tokens=150, answer_tokens=40, collapse=200)
    with pytest.raises(PortError):  # the reduce answer breaks its own limit: over-long or cut, never endless
        agent.run(Faulty(RuleModel(rules), "over_long", when=lambda call: call > 3), ledger(30), QUESTION)
    assert agent.run(RuleModel(rules), ledger(), QUESTION).text == "done"


def test_small_steps():
    model = reader()
    assert clip(model, "one two\nthree four", 2) == "one two"
    assert clip(model, "!!!!!!", 3) == "!!!"
    assert grouped(model, ["a b", "c", "d e f"], 3) == ["a b\n\nc", "d e f"]
    assert in_order(lambda x: x * 2, range(6), 3) == [0, 2, 4, 6, 8, 10]
    text = ledger(4)
    assert "".join(parts_of(model, prompts.MAP, text, 600, 50, QUESTION)) == text
    with pytest.raises(BadInput, match="window"):
        MapReduce(window=60, note_tokens=50).run(model, text, QUESTION)


# ReadAgent


def page_text(paragraphs=16, words=60):
    return "\n\n".join(
        f"Start {i}. " + " ".join(NOUNS[(i + j) % 20] for j in range(words)) for i in range(paragraphs)
    )


def test_pages_tile_the_text_and_lookup_opens_known_pages_only():
    text, agent = page_text(), ReadAgent(pages=3)
    memory = agent.read(reader(), text)
    assert "".join(memory.pages) == text
    assert all(len(page.split()) <= 600 + 62 for page in memory.pages)
    assert all(len(gist) < len(page) for gist, page in zip(memory.gists, memory.pages))
    rules = reader().rules | {prompts.ANSWER: lambda f: f["notes"]}
    answer = agent.answer(RuleModel(rules), memory, "What?")
    assert answer.detail["opened"] == [0, 1]
    assert memory.pages[0].strip() in answer.text
    everything = agent.answer(
        RuleModel(rules | {prompts.LOOKUP: lambda f: {"numbers": list(range(1, 9))}}), memory, "What?"
    )
    assert len(everything.detail["opened"]) == min(3, len(memory.pages))
    assert memory.shown(set(range(len(memory.pages)))).count("river") == text.count("river")


def test_sequential_lookup_stops_at_zero_unknown_or_known_pages():
    memory = ReadAgent().read(reader(), page_text())
    numbers = itertools.chain([2, 2], itertools.repeat(1))
    rules = reader().rules | {
        prompts.NEXT: lambda f: {"number": next(numbers)},
        prompts.ANSWER: lambda f: "yes",
    }
    answer = ReadAgent(sequential=True, pages=4).answer(RuleModel(rules), memory, "What?")
    assert answer.detail["opened"] == [1]


# faults


AGENTS = [
    ChainOfAgents(window=900, note_tokens=100, answer_tokens=60),
    MapReduce(window=900, note_tokens=100, answer_tokens=60),
    Refine(window=900, answer_tokens=100),
    MapRerank(window=900, answer_tokens=60),
    ReadAgent(),
    Stuff(window=900, answer_tokens=60),
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("agent", AGENTS, ids=lambda a: type(a).__name__)
def test_every_fault_ends_in_an_answer_or_a_typed_error(agent, fault):
    for at in (0, 2):
        model = Faulty(reader(), fault, when=lambda call, at=at: call >= at)
        try:
            answer = agent.run(model, ledger(6), QUESTION)
            assert answer.text
        except PortError as error:
            assert str(error)
        except TypeError:  # the rule for the answer found no name in an echoed question
            assert fault == "prompt_echo"


def test_an_empty_answer_is_an_error_and_an_empty_text_is_refused():
    with pytest.raises(EmptyAnswer, match=r"agents\.answer"):
        Stuff().run(Faulty(reader(), "empty"), "Anna gave the coin to Boris.", QUESTION)
    for agent in AGENTS:
        with pytest.raises(BadInput, match="empty"):
            agent.run(reader(), " \n ", QUESTION)
