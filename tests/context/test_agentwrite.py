"""Long writing with a rule responder: plumbing, length, repetition, resuming. No claim about quality."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from longspan.bench.responders import prose, writer
from longspan.context.agents.agentwrite import (
    AgentWrite,
    Stuck,
    cut_to,
    tail,
    whole_sentences,
    without_repeats,
    write_file,
)
from longspan.context.agents.length import count_words, length_score, overlap, repetition
from longspan.context.agents.plan import Step, even_plan, fitted, parse_plan, share_out
from longspan.context.backends.faults import FAULTS, Faulty
from longspan.context.backends.rule import RuleModel
from longspan.context.ledger import Ledger, Limits, Metered
from longspan.context.port import Completion, PortError, Usage
from longspan.context.prompts import writing
from longspan.errors import BadInput

BRIEF = "A history of the lighthouse of Norrick for curious visitors."


@pytest.mark.parametrize(
    ("words", "error"),
    [
        *((120, 0.0), (120, 0.5), (1000, 0.0), (1000, 0.5), (5000, 0.0), (5000, 0.5), (20000, 0.0)),
        pytest.param(20000, 0.5, marks=pytest.mark.slow),
    ],
)
def test_the_asked_length_is_met_within_ten_per_cent_and_nothing_repeats(tmp_path, words, error):
    out = tmp_path / "text.md"
    seen = []
    written = write_file(
        AgentWrite(), writer(error), BRIEF, words, out, progress=lambda *row: seen.append(row)
    )
    text = out.read_text()
    assert abs(count_words(text) - words) <= 0.1 * words
    assert written.words == count_words(text) and written.skipped == 0
    assert written.score > 90
    sections = text.strip().split("\n\n")
    assert len({s.strip() for s in sections}) == len(sections)
    assert repetition(text) < 0.03
    assert [row[0] for row in seen] == list(range(1, written.parts + 1))
    assert os.listdir(tmp_path) == ["text.md"]


class Killed(BaseException):
    pass


class Dying(RuleModel):
    """Dies inside call number `at`, as a killed process does."""

    def __init__(self, inner, at):
        super().__init__(inner.rules, model_id=inner.model_id)
        self.at, self.count = at, 0

    def raw(self, messages, params):
        self.count += 1
        if self.count == self.at:
            raise Killed
        return super().raw(messages, params)


def test_a_kill_at_any_call_leaves_a_draft_that_ends_in_the_same_text(tmp_path):
    whole = tmp_path / "whole.md"
    write_file(AgentWrite(), writer(0.4), BRIEF, 3000, whole)
    for at in range(1, 30):
        out, model = tmp_path / f"{at}.md", Dying(writer(0.4), at)
        try:
            write_file(AgentWrite(), model, BRIEF, 3000, out)
            break
        except Killed:
            assert not out.exists()
        write_file(AgentWrite(), writer(0.4), BRIEF, 3000, out)
        assert out.read_bytes() == whole.read_bytes()
    assert at >= 6  # the loop really reached every section


@pytest.mark.parametrize("words", [1000, 5000, pytest.param(20000, marks=pytest.mark.slow)])
def test_a_process_that_dies_in_every_section_still_writes_the_same_text(tmp_path, words):
    """Each life finishes one section and is killed inside the call for the next: no section is asked for twice once it is there."""
    whole, out = tmp_path / "whole.md", tmp_path / "t.md"
    once = writer()
    written = write_file(AgentWrite(), once, BRIEF, words, whole)
    plans, lives, asked = once.calls.count("agentwrite.plan"), 0, []
    while not out.exists():
        lives += 1
        model = Dying(writer(), 2)
        try:
            write_file(AgentWrite(), model, BRIEF, words, out)
        except Killed:
            assert sorted(os.listdir(tmp_path)) == ["t.md.draft.json", "whole.md"]
        asked += model.calls
    assert lives == len(once.calls) == plans + written.parts
    assert sorted(asked) == sorted(once.calls)
    assert out.read_bytes() == whole.read_bytes()
    assert abs(count_words(out.read_text()) - words) <= 0.1 * words


@pytest.mark.parametrize("section", [1, 2, 3, 4, 5])
def test_a_killed_process_resumes(tmp_path, section):
    """A real SIGKILL after any section; the next run asks only for what is missing."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        kill = lambda part, *rest: os.kill(os.getpid(), signal.SIGKILL) if part == section else None  # noqa: E731
        write_file(AgentWrite(), writer(0.3), BRIEF, 3000, tmp_path / "t.md", progress=kill)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert os.listdir(tmp_path) == ["t.md.draft.json"]
    model = writer(0.3)
    write_file(AgentWrite(), model, BRIEF, 3000, tmp_path / "t.md")
    assert model.calls.count("agentwrite.plan") == 0
    assert model.calls.count("agentwrite.section") == 5 - section
    write_file(AgentWrite(), writer(0.3), BRIEF, 3000, tmp_path / "whole.md")
    assert (tmp_path / "t.md").read_bytes() == (tmp_path / "whole.md").read_bytes()


def test_a_model_that_repeats_itself_never_gets_a_section_in_twice(tmp_path):
    written = write_file(AgentWrite(), writer(0.1, repeat_every=3), BRIEF, 3600, tmp_path / "t.md")
    sections = [s for s in written.text.split("\n\n")]
    assert len(set(sections)) == len(sections)
    assert repetition(written.text) < 0.03
    assert written.skipped == 2
    assert (
        abs(written.words - 3600) <= 360
    )  # the words of skipped parts went to the others and to added detail


def test_a_model_with_nothing_new_is_stuck_and_can_be_resumed(tmp_path):
    rules = dict.fromkeys((writing.SECTION, writing.MORE), lambda f: "The same sentence is here again.")
    model = RuleModel({writing.PLAN: writer().rules[writing.PLAN], **rules})
    with pytest.raises(Stuck, match="another model"):
        write_file(AgentWrite(), model, BRIEF, 4000, tmp_path / "t.md")
    assert not (tmp_path / "t.md").exists()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("first", [0, 1, 3])
def test_faults_end_in_a_text_or_a_typed_error_with_a_whole_draft(tmp_path, fault, first):
    out = tmp_path / "t.md"
    model = Faulty(writer(0.2), fault, when=lambda call: call == first)
    try:
        write_file(AgentWrite(), model, BRIEF, 2500, out)
    except PortError:
        assert not out.exists()
        same = writer(0.2)
        same.model_id = model.model_id
        write_file(AgentWrite(), same, BRIEF, 2500, out)
    assert abs(count_words(out.read_text()) - 2500) <= 250
    assert repetition(out.read_text()) < 0.05


def test_calls_are_one_plan_and_one_a_part_and_limits_hold(tmp_path):
    ledger = Ledger()
    written = write_file(AgentWrite(), Metered(writer(), ledger, "query"), BRIEF, 3000, tmp_path / "t.md")
    stages = {row["stage"]: row["calls"] for row in ledger.table()}
    assert stages == {"plan": 1, "write": written.parts}
    short = Metered(writer(), Ledger(Limits(calls=3)), "query")
    with pytest.raises(PortError, match="limit of 3"):
        write_file(AgentWrite(), short, BRIEF, 3000, tmp_path / "u.md")
    assert not (tmp_path / "u.md").exists()


def test_bad_input_is_refused_in_a_sentence(tmp_path):
    agent, model = AgentWrite(), writer()
    for brief, words in ((" \n", 500), ("?!", 500), (BRIEF, 0), (BRIEF, 10**6)):
        with pytest.raises(BadInput):
            write_file(agent, model, brief, words, tmp_path / "t.md")
    with pytest.raises(BadInput, match="folder"):
        write_file(agent, model, BRIEF, 500, tmp_path / "no" / "t.md")
    (tmp_path / "old.md").write_text("mine")
    with pytest.raises(BadInput, match="exists"):
        write_file(agent, model, BRIEF, 500, tmp_path / "old.md")
    assert (tmp_path / "old.md").read_text() == "mine"
    (tmp_path / "x.md.draft.json").write_text("{")
    with pytest.raises(BadInput, match="not a draft"):
        write_file(agent, model, BRIEF, 500, tmp_path / "x.md")
    assert model.calls == []


def test_a_draft_of_another_task_is_refused_and_restart_replaces_it(tmp_path):
    out = tmp_path / "t.md"
    with pytest.raises(Killed):
        write_file(AgentWrite(), Dying(writer(), 3), BRIEF, 2000, out)
    with pytest.raises(BadInput, match="another length"):
        write_file(AgentWrite(), writer(), BRIEF, 2400, out)
    with pytest.raises(BadInput, match="another brief"):
        write_file(AgentWrite(), writer(), "Something else entirely.", 2000, out)
    assert write_file(AgentWrite(), writer(), BRIEF, 2400, out, restart=True).asked == 2400


def test_unusable_plans_fall_back_to_equal_parts(tmp_path):
    model = writer(plan="I would rather talk about the weather.")
    written = write_file(AgentWrite(), model, BRIEF, 1800, tmp_path / "t.md")
    assert written.planned_by == "fallback"
    assert model.calls.count("agentwrite.plan") == 3
    assert abs(written.words - 1800) <= 180


def test_a_small_window_sees_the_end_of_the_text_and_every_prompt_fits(tmp_path):
    agent, sizes = AgentWrite(window=3000), []

    class Watched(RuleModel):
        def raw(self, messages, params):
            sizes.append(sum(self.count_tokens(m.content) for m in messages) + params.max_tokens)
            return super().raw(messages, params)

    model = Watched(writer().rules, model_id="watched")
    write_file(agent, model, BRIEF, 6000, tmp_path / "t.md")
    assert max(sizes[1:]) <= 3000
    assert tail(model, "one two\n\nthree four\n\nfive six", 4) == "…\n\nfive six"


# plans


def test_plan_lines_are_read_in_many_dresses():
    text = """Here is the plan:
    Paragraph 1 - Main Point: The keeper arrives - Word Count: 400 words
    - **Paragraph 2** - **Main Point:** [Storms of 1901] - **Word Count:** [1,200 words]
    3. The lamp (300 words)
    Section 4: Ships: 250 words
    Paragraph 5 - Main Point: the lamp - Word Count: 90 words
    Paragraph 6 - Main Point: no count here"""
    assert parse_plan(text) == [
        Step("The keeper arrives", 400),
        Step("Storms of 1901", 1200),
        Step("The lamp", 300),
        Step("Ships", 250),
    ]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40), st.integers(1, 20000))
def test_fitted_plans_sum_exactly_and_stay_writable(counts, words):
    steps = fitted([Step(f"point {i}", n) for i, n in enumerate(counts)], words, 200, 1000)
    assert sum(step.words for step in steps) == words
    assert all(step.words <= 1000 for step in steps)
    assert len(steps) == len({step.point for step in steps})


def test_shares_and_fallback_plans():
    assert [s.words for s in share_out([Step("a", 1), Step("b", 1), Step("c", 1)], 100)] == [34, 33, 33]
    plan = even_plan(BRIEF, 1000, 4)
    assert [s.words for s in plan] == [250] * 4 and len({s.point for s in plan}) == 4


# length and repetition


def test_length_score_anchors():
    assert length_score(1000, 1000) == 100
    assert length_score(1000, 2000) == pytest.approx(66.67, abs=0.01)
    assert length_score(1000, 500) == 50
    assert length_score(1000, 4000) == length_score(900, 300) == length_score(5, 0) == 0


def test_words_are_counted_in_every_script_and_repetition_is_seen():
    assert count_words("Don't count -- well-known 42 numbers: été.") == 6
    assert count_words("長い文章 is long") == 6
    assert repetition("one two three four " * 10) > 0.8
    assert overlap(prose(40, 1), prose(40, 1)) == 1 and overlap(prose(40, 1), prose(40, 2)) == 0


def test_cutting_keeps_whole_sentences_and_repeats_go():
    text = " ".join(f"This is sentence number {chr(97 + i)} of it." for i in range(10))
    cut = cut_to(text, 21, 0.1)
    assert count_words(cut) == 21 and cut.endswith("of it.")
    assert count_words(cut_to("word " * 50, 10, 0.1)) == 10
    assert count_words(cut_to("長い" * 50, 10, 0.1)) == 10
    assert whole_sentences("A whole one. And a cut") == "A whole one."
    assert (
        without_repeats("The sea was calm that day. A new line.", "Before. The sea was calm that day. After.")
        == "A new line."
    )


def test_a_cut_answer_loses_its_broken_sentence(tmp_path):
    model = writer()
    model.rules[writing.SECTION] = lambda f: Completion(
        prose(int(f["words"]), 5) + " And then it", Usage(), "length"
    )
    assert "And then it" not in write_file(AgentWrite(), model, BRIEF, 300, tmp_path / "t.md").text
