"""Sessions that decode alike step together: same answers as alone, through every way of leaving the shared buffer."""

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model

from longspan.engine.batch import Batch, Work, forward
from longspan.engine.joint import Joint
from longspan.engine.segments import SideSpec, Tail

RECIPES = (
    "keydiff(budget=0.5)",
    "random(budget=0.5)",
    "window(budget=0.5)",
    "tova(budget=0.5)",
    "knorm(budget=0.5)",
)


def sessions(arch="llama"):
    return [engine_model(arch).session(recipe).read(IDS) for recipe in RECIPES]


def steps(group, tokens):
    """Logits of each session after each of the tokens, stepping all of them together."""
    found = []
    for token in tokens:
        works = [Work(session, token.view(1)) for session in group]
        found.append(torch.stack(forward(group[0].model, works)))
    return torch.stack(found, 1)


def alone(tokens, arch="llama"):
    return torch.cat([steps([session], tokens) for session in sessions(arch)])


def joints(session):
    return {id(run.store.tail.joint) for run in session.layers.values() if run.store.tail.joint is not None}


def attention_calls(monkeypatch, action):
    import longspan.engine.batch as batch
    import longspan.engine.layer as layer

    calls = []
    for module in (batch, layer):
        real = module.attend
        monkeypatch.setattr(module, "attend", lambda *a, real=real, **k: calls.append(1) or real(*a, **k))
    action()
    return len(calls)


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt_oss"])
def test_steps_together_equal_steps_alone(arch):
    group = sessions(arch)
    torch.testing.assert_close(steps(group, MORE), alone(MORE, arch), atol=2e-4, rtol=2e-4)


def test_one_attention_call_a_layer_serves_all_sessions_of_equal_length(monkeypatch):
    group = sessions()
    layers = len(group[0].layers)
    assert attention_calls(monkeypatch, lambda: steps(group, MORE[:3])) == 3 * layers
    assert len({frozenset(joints(session)) for session in group}) == 1


def test_members_that_stop_roll_back_or_fork_do_not_disturb_the_others():
    expected = alone(MORE)
    group = sessions()
    first = steps(group, MORE[:3])
    torch.testing.assert_close(first, expected[:, :3], atol=2e-4, rtol=2e-4)
    saved = group[4].fork()
    rest = [group[0], group[1], group[3]]  # one in the middle and the last one stop
    torch.testing.assert_close(steps(rest, MORE[3:]), expected[[0, 1, 3], 3:], atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(steps([group[2]], MORE[3:]), expected[2:3, 3:], atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(steps([saved], MORE[3:]), expected[4:5, 3:], atol=2e-4, rtol=2e-4)
    group[0].rollback(4)
    torch.testing.assert_close(
        steps([group[0], group[3]], MORE[6:]),
        torch.stack([expected[0, 6:], steps_after(3)]),
        atol=2e-4,
        rtol=2e-4,
    )


def steps_after(number):
    """The session `number` fed MORE and then MORE[6:] again, alone."""
    session = sessions()[number]
    return steps([session], torch.cat((MORE, MORE[6:])))[0, len(MORE) :]


def test_outgrowing_the_buffer_keeps_every_entry():
    group, tokens = sessions()[:2], torch.cat([MORE] * 9)
    expected = torch.cat([steps([session], tokens) for session in sessions()[:2]])
    torch.testing.assert_close(steps(group, tokens), expected, atol=5e-4, rtol=5e-4)
    assert group[0].entries() == sessions()[0].entries() + len(tokens) * 2 * len(group[0].layers)


def test_side_values_move_with_the_entries():
    tails = [Tail({"mark": SideSpec(fill=-1.0)}) for _ in range(2)]
    for number, tail in enumerate(tails):
        tail.append(torch.full((2, 3, 4), float(number)), torch.zeros(2, 3, 4), torch.arange(3))
        tail.side["mark"][:, :3] = number
    joint = Joint(tails)
    keys, _ = joint.append(tails, torch.full((2, 2, 4), 9.0), torch.zeros(2, 2, 4), torch.tensor([3, 7]))
    assert keys.shape == (4, 4, 4) and keys[3, :, 0].tolist() == [1.0, 1.0, 1.0, 9.0]
    assert [tail.segment().side["mark"][0].tolist() for tail in tails] == [[0, 0, 0, -1], [1, 1, 1, -1]]
    assert [tail.segment().side["position"][0].tolist() for tail in tails] == [[0, 1, 2, 3], [0, 1, 2, 7]]


def test_a_reading_chunk_beside_decoding_sessions_is_left_alone():
    group = sessions()
    reader = engine_model().session()
    works = [Work(session, MORE[:1]) for session in group] + [Work(reader, IDS, reading=True)]
    found = forward(group[0].model, works)
    torch.testing.assert_close(torch.stack(found[:-1]), alone(MORE[:1])[:, 0], atol=2e-4, rtol=2e-4)
    expected = engine_model().session().read(IDS).next_logits()
    torch.testing.assert_close(found[-1], expected, atol=2e-4, rtol=2e-4)
    assert isinstance(Batch(works).slices[-1], slice)
