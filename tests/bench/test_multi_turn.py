"""How the multi-turn check reads its turns: the same needle asked first and later, against the full cache."""

import pytest

from longspan.bench.checks.multi_turn import Turn, losses, ranked


def talk(order, nll, first=lambda turn: True):
    return [Turn(needle, turn, nll(needle, turn), first(turn)) for turn, needle in enumerate(order, start=1)]


ORDERS = ([0, 1, 2, 3, 4], [2, 3, 4, 0, 1], [4, 0, 1, 2, 3])


def test_a_policy_that_treats_all_turns_alike_does_not_fall_however_hard_its_needles():
    found = [
        {"full": talk(order, lambda n, t: 0.1 * n), "even": talk(order, lambda n, t: 3.0 * n + 0.1 * n)}
        for order in ORDERS
    ]
    early, late = losses(found, "even")
    assert early == pytest.approx(late) == pytest.approx(3.0 * (0 + 2 + 4) / 3)


def test_a_policy_that_serves_the_first_question_only_falls():
    found = [
        {
            "full": talk(order, lambda n, t: 0.5),
            "first": talk(order, lambda n, t: 0.5 if t == 1 else 9.0, lambda turn: turn == 1),
        }
        for order in ORDERS
    ]
    assert losses(found, "first") == pytest.approx((0.0, 8.5))
    assert (ranked(found, "first", False), ranked(found, "first", True)) == (1.0, 0.0)
