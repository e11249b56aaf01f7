"""SpecPC: ranking, neighbourhoods, budgets; the draft's rows on a tiny random model."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.engine.model import Model
from longspan.engine.tail_attention import tail_attention
from longspan.engine.textscore import TextScorer
from longspan.errors import BadInput
from longspan.methods.prompt.specpc import SpecPC, around, smoothed

TEXT = "the river then bends. " * 6 + "the code is 4711. " + "then the end of the pen. " * 5
IDS = torch.randint(5, 250, (60,), generator=torch.Generator().manual_seed(3))


class ByHand:
    """Every character a token; attention where `peaks` say (a rule, no model)."""

    def __init__(self, peaks=()):
        self.peaks = peaks

    def count_tokens(self, text):
        return len(text)

    def token_logprobs(self, prefix, text):
        raise AssertionError("specpc asks for no log-probabilities")

    def tail_attention(self, text, question, draft, rows, *, guessed, first_layer, how):
        weights = np.full((rows + guessed, len(text)), 1e-6)
        for at, weight in self.peaks:
            weights[-1, at] = weight
        return tuple((i, i + 1) for i in range(len(text))), weights


def slow_order(method, importance, tail):
    """The sheet's steps 4 to 7, one position at a time."""
    count, kernel = len(importance), method.kernel
    left, span = (kernel - 1) // 2, method.neighbours or kernel
    padded = [0.0] * left + list(importance) + [0.0] * (kernel - 1 - left)
    pooled = [max(padded[i : i + kernel]) for i in range(count)]
    taken = list(range(count - tail, count))
    for at in sorted(range(count), key=lambda i: (-pooled[i], i)):
        offsets = sorted(range(-((span - 1) // 2), span - (span - 1) // 2), key=lambda o: (abs(o), o))
        taken += [min(count - 1, max(0, at + o)) for o in offsets]
    return list(dict.fromkeys(taken))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(0, 9),
    st.integers(0, 12),
)
def test_the_order_is_the_sheets_steps(values, kernel, neighbours, tail):
    method = SpecPC(kernel=kernel, neighbours=neighbours)
    values = np.array(values, dtype=float)
    tail = min(tail, len(values))
    assert method.order(values, tail).tolist() == slow_order(method, values, tail)
    assert method.order(values * 3.0, tail).tolist() == method.order(values, tail).tolist()


def test_one_by_one_is_the_plain_top():
    values = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])
    order = SpecPC(kernel=1, neighbours=1).order(values, 2)
    assert order.tolist() == [4, 5, 1, 3, 2, 0]


def test_an_even_kernel_reaches_further_to_the_right():
    assert smoothed(np.array([0.0, 0, 1, 0, 0]), 2).tolist() == [0, 1, 1, 0, 0]
    assert around(np.array([2, 0, 1, 3, 4]), 4)[:4].tolist() == [2, 1, 3, 4]


def test_later_rows_count_more_and_guessed_rows_count_whole():
    rows = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    assert SpecPC(sink=0).importance(rows.copy()).tolist() == [0, 0.5, 1]
    assert SpecPC(sink=0, lookahead=2).importance(rows.copy()).tolist() == [0, 1, 1]
    assert SpecPC(sink=0, weighted=False).importance(rows.copy()).tolist() == [1, 1, 1]
    assert SpecPC(sink=1, weighted=False).importance(rows.copy()).tolist() == [0, 1, 1]


@pytest.mark.parametrize("budget", [8, 20, 60, 150])
def test_the_budget_is_spent_exactly_around_the_peak_and_the_tail_stays(budget):
    at = TEXT.index("4711")
    out = SpecPC(window=5, kernel=7).compress(TEXT, "", budget, ByHand([(at + 1, 0.9)]))
    assert out.tokens == budget == len(out.text) and out.calls == 1
    assert out.text.endswith(TEXT[-5:])
    assert (out.holds(at, at + 4) == 1.0) == (budget >= 20)
    starts = [k.start for k in out.manifest]
    assert starts == sorted(starts)
    assert all(out.text[k.out_start : k.out_end] == TEXT[k.start : k.end] for k in out.manifest)


def test_a_question_takes_the_place_of_the_texts_tail():
    out = SpecPC(window=8, kernel=3).compress(TEXT, "what?", 20, ByHand([(30, 0.5), (60, 0.4)]))
    assert max(k.end for k in out.manifest) <= len(TEXT)
    assert out.holds(len(TEXT) - 1, len(TEXT)) == 1.0  # "\n\nwhat?" is 7 of the 8
    assert out.holds(len(TEXT) - 8, len(TEXT) - 1) == 0.0


def test_a_budget_that_holds_everything_is_the_identity_without_a_reading():
    out = SpecPC().compress(TEXT, "", len(TEXT), ByHand())
    assert out.text == TEXT and out.calls == 0


@settings(max_examples=20, deadline=None)
@given(st.text(alphabet="the n,é.", min_size=1, max_size=60), st.integers(1, 30))
def test_any_text_fits_any_budget(text, budget):
    if not text.strip():
        return
    out = SpecPC(window=2, kernel=3).compress(text, "", budget, TextScorer(_model()))
    assert out.tokens <= budget
    assert all(out.text[k.out_start : k.out_end] == text[k.start : k.end] for k in out.manifest)


def _model(cache=[]):  # noqa: B006
    if not cache:
        cache.append(Model(tiny("llama", vocab_size=512), byte_level(), name="bytes", trained_window=512))
    return cache[0]


@pytest.mark.parametrize("how", ["max", "sum"])
def test_rows_are_those_of_eager_attention(how):
    model = Model(tiny("llama"), None, name="tiny", trained_window=4096)
    with torch.no_grad():
        found = tiny("llama")(input_ids=IDS.unsqueeze(0), use_cache=False, output_attentions=True).attentions
    rows = torch.stack(found[1:])[:, 0, :, -20:]  # layers 1 and 2
    wanted = rows.amax((0, 1)) if how == "max" else rows.sum((0, 1))
    ours = tail_attention(model, IDS.tolist(), 20, first_layer=1, how=how)
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-3)
    more = tail_attention(model, IDS.tolist(), 20, guessed=3, first_layer=1, how=how)
    assert more.shape == (23, 60)
    torch.testing.assert_close(more[:20], ours, atol=1e-4, rtol=1e-3)


def test_a_recipe_shortens_by_a_drafts_attention():
    model = _model()
    for draft in ("self", "self:1"):
        recipe = f"specpc(budget=0.5, window=8, kernel=4, first_layer=1, draft='{draft}')"
        session = model.session(recipe).read(TEXT, question="what is the code?", chat=False)
        (done,) = session.stats.shortened
        assert done.tokens == done.budget == round(0.5 * done.source_tokens)
        assert session.length in (done.tokens, done.tokens + 1)  # a mark may open the text
    with pytest.raises(BadInput, match="question"):
        model.session("specpc(window=8)").read(TEXT)


def test_both_systems_follow_one_another_in_a_recipe():
    model = _model()
    recipe = "speckv(budget=20, window=4, lookahead=3) + specpc(budget=0.5, window=8, kernel=4)"
    session = model.session(recipe).read(TEXT, question="what is the code?", chat=False)
    assert session.growing_entries() == 20 * 2 * 3 and session.length < len(model.encode(TEXT))


def test_a_chat_model_in_this_process_can_draft_and_an_endpoint_cannot():
    from longspan.context.backends.local import Local
    from longspan.context.scorer import PortScorer

    model, method = _model(), SpecPC(window=8, kernel=4, first_layer=1)
    ours = method.compress(TEXT, "the code?", 60, PortScorer(Local(model)))
    assert ours == method.compress(TEXT, "the code?", 60, TextScorer(model))

    class Endpoint:
        model_id = "far-away"

        def count_tokens(self, text):
            return len(text)

    with pytest.raises(BadInput, match="far-away does not show"):
        method.compress(TEXT, "the code?", 60, PortScorer(Endpoint()))


def test_a_scorer_without_attention_and_bad_knobs_are_refused():
    class Blind:
        def count_tokens(self, text):
            return len(text)

    with pytest.raises(BadInput, match="attention"):
        SpecPC().compress(TEXT, "", 10, Blind())
    for knobs in ({"window": 0}, {"kernel": 0}, {"lookahead": 0}, {"sink": -1}, {"reduce": "min"}):
        with pytest.raises(BadInput, match="specpc"):
            SpecPC(**knobs)
    assert all(a < b for a, b in itertools.pairwise(sorted(SpecPC().order(np.ones(9), 3).tolist())))
