"""The exact parts of the position methods' checks hold, and their measuring steps find what is put in."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.bench.checks import _extension, abf, clex, dprope, giraffe, longllada, mrope_plus
from longspan.bench.extension import Reach, Recall
from longspan.bench.scorers import score
from longspan.bench.task import get_task
from longspan.bench.tasks.giraffe import altered, replaced
from longspan.bench.verify import Outcome, checks
from longspan.engine.model import Model
from longspan.engine.needs import Needs
from longspan.train.tiny_tasks import tokenizer

EXACT = [
    giraffe._bases,
    giraffe._positions,
    lambda outcome: giraffe._tasks(outcome, tokenizer()),
    dprope._goldens,
    clex._closed_form,
    longllada._lambdas,
    mrope_plus._map,
    mrope_plus._vision,
    mrope_plus._frames,
]


@pytest.mark.parametrize("part", EXACT, ids=lambda part: getattr(part, "__name__", "part"))
def test_exact_properties_hold(part):
    outcome = Outcome()
    part(outcome)
    assert outcome.properties and all(holds for _, holds in outcome.properties), outcome.properties


def test_every_position_system_has_a_check():
    proved = {one.system for one in checks().values()}
    wanted = "giraffe dpe clex e2-llm dprope long-scaling-abf lm-infinite giraffe-vlm longllada".split()
    assert set(wanted) <= proved


def test_the_power_law_is_found_and_its_absence_too():
    contexts = np.array(abf.CONTEXTS)
    r2, beta, alpha, gamma = abf.power_law(contexts, (25.4 / contexts) ** 0.45 + 1.56)
    assert r2 > 0.999 and abs(beta - 0.45) < 0.05 and abs(gamma - 1.56) < 0.1 and alpha > 0
    r2, beta, *_ = abf.power_law(contexts, np.array([1.80, 1.79, 1.77, 1.78, 1.77, 1.78]))
    assert r2 < 0.95  # what a model shows that stops using its context
    assert abf.power_law(contexts, 1 + contexts / 1000)[1] < 0  # growing is no law either


def test_loss_by_context_scores_the_same_tokens_each_time():
    """Only what comes before them differs, so a text that repeats its past is cheaper the more of it is seen."""
    from tests.tiny_models import tiny

    model = Model(tiny("llama", max_position_embeddings=2048), None, trained_window=2048)
    ids = torch.randint(3, 256, (abf.CONTEXTS[-1] + abf.TARGETS,), generator=torch.Generator().manual_seed(0))
    found = abf.loss_by_context(model, [ids])
    session = model.session(None, collect=Needs(token_logprobs=True)).read(ids[-64:])
    assert found.shape == (len(abf.CONTEXTS),)
    assert found[0] == pytest.approx(-float(session.token_logprobs()[-32:].mean()), rel=1e-5)


def test_the_loss_beyond_the_window_leaves_out_what_is_inside():
    reach = Reach(512, (1.0, 1.0, 3.0, 5.0), {0.5: Recall(1.0, 0.1), 0.9: Recall(0.0, 3.0)})
    assert reach.beyond(256) == 4.0 and reach.accuracy == 0.5 and reach.gold_nats == pytest.approx(1.55)
    assert _extension.fixed("pi(factor={s})", (512, 2048)) == {512: "pi(factor=2)", 2048: "pi(factor=8)"}


# -- Giraffe's tasks --------------------------------------------------------------------------------------------------
@given(number=st.integers(0, 10**6), seed=st.integers(0, 99))
def test_altered_numbers_follow_the_rule(number, seed):
    found = altered(str(number), random.Random(seed), taken=set())
    assert found != str(number)
    if 1000 <= number <= 2100:
        assert abs(int(found) - number) <= 10
    else:
        assert len(found) == len(str(number))


def test_only_whole_numbers_are_replaced():
    assert replaced("In 1990, 11990 of 1990s; 1990.", "1990", "1987") == "In 1987, 11990 of 1987s; 1987."


@pytest.mark.parametrize("name", ["ffqa", "altqa"])
def test_rows_take_turns_in_place_and_side(name):
    items = get_task(name).make(12, 1500, tokenizer(), seed=2)
    sides = [item.metadata["question_before"] for item in items]
    assert sides == [False, True] * 6
    places = [item.metadata["place"] for item in items]
    assert places == 2 * [
        "first tenth",
        "first tenth",
        "anywhere",
        "anywhere",
        "last tenth",
        "last tenth",
    ]
    for item in items:
        text = item.evidence_text()[0]
        assert item.answers[0] in text
        assert ("Question:" in item.context) == item.metadata["question_before"]
        low, high = {"first tenth": (0, 0.25), "anywhere": (0, 1), "last tenth": (0.75, 1)}[
            item.metadata["place"]
        ]
        assert low <= item.depth <= high
        assert score(item, f"I think {item.answers[0]}.") == 1 and score(
            item, item.answers[0].swapcase()
        ) == (name == "altqa")


def test_lines_are_scored_by_their_first_number():
    item = get_task("longchat_lines").make(1, 1000, tokenizer(), seed=3)[0]
    number = item.answers[0]
    assert item.context.count(f"<{number}>") == 1
    assert score(item, f"It is <{number}>, I am 7 percent sure") == 1
    assert score(item, f"line 7 holds {number}") == 0 and score(item, f"{number}1") == 0
