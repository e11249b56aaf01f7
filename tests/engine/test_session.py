"""Sessions: reading, scoring, forks, rollback, statistics; against the unmodified model where there is one."""

import pytest
import torch
from tests.engine.models import IDS, MORE, eager_score, engine_model, stepwise
from tests.tiny_models import tiny

from longspan.engine.batch import Work, forward
from longspan.engine.generate import score
from longspan.engine.needs import Needs
from longspan.errors import BadInput

ARCHS = ["llama", "gemma2", "gemma3", "gpt_oss", "deepseek_v3"]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("chunk", [7, 96])
def test_score_equals_the_plain_model_whatever_the_chunk(arch, chunk):
    session = engine_model(arch).session(chunk=chunk).read(IDS)
    torch.testing.assert_close(session.score(MORE), eager_score(arch), atol=2e-4, rtol=1e-4)


def test_a_shortened_cache_never_shows_a_token_its_future():
    session = engine_model().session("keydiff(budget=0.3)").read(IDS)
    torch.testing.assert_close(session.score(MORE), stepwise(session, MORE), atol=1e-4, rtol=1e-4)
    changed = MORE.clone()
    changed[-1] = (changed[-1] + 1) % 200 + 5
    assert torch.equal(session.score(MORE)[:-1], session.score(changed)[:-1])


def test_score_leaves_the_session_as_it_was():
    session = engine_model().session().read(IDS)
    before = session.stats
    session.score(MORE)
    assert session.length == len(IDS) and session.stats.entries == before.entries
    assert torch.equal(session.score(MORE), session.score(MORE))


def test_packed_scores_equal_single_ones():
    model = engine_model()
    sessions = [
        model.session("snapkv(budget=0.5, window=8)").read(IDS),
        model.session().read(IDS[:40]),
        model.session("oracle(budget=0.3)").read(IDS),
    ]
    packed = score([(session, MORE) for session in sessions])
    for session, found in zip(sessions, packed, strict=True):
        torch.testing.assert_close(found, session.score(MORE), atol=1e-4, rtol=1e-4)


def test_forks_share_the_context_and_read_it_once_for_all():
    base = engine_model().session().read(IDS)
    forks = [base.fork() for _ in range(3)]
    first = [fork.layers[0].store.segments[0] for fork in forks]
    assert all(segment is first[0] for segment in first)
    alone = [forward(base.model, [Work(base.fork(), token.view(1))])[0] for token in MORE[:3]]
    together = forward(
        base.model, [Work(fork, token.view(1)) for fork, token in zip(forks, MORE[:3], strict=True)]
    )
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_fork_and_rollback_restore_the_same_bits():
    session = engine_model("gemma3").session().read(IDS)
    expected = session.score(MORE)
    session.feed(MORE[:4], reading=False)
    session.rollback(4)
    assert torch.equal(session.score(MORE), expected)
    session.feed(MORE[:6], reading=False).rollback(3)
    assert session.ids == IDS.tolist() + MORE[:3].tolist()
    whole = engine_model("gemma3").session().read(torch.cat((IDS, MORE[:3])))
    torch.testing.assert_close(session.next_logits(), whole.next_logits(), atol=1e-4, rtol=1e-4)


def test_rolling_back_over_an_eviction_is_refused_with_the_way_out():
    session = engine_model().session("snapkv(budget=0.5, window=8)").read(IDS)
    with pytest.raises(BadInput, match="fork"):
        session.rollback(1)
    session.feed(MORE[:3], reading=False).rollback(3)
    assert session.length == len(IDS)


def test_statistics_equal_eager_attention():
    needs = Needs(window_queries=8, column_mass=True, hidden=-1, token_logprobs=True)
    model = engine_model()
    session = model.session(collect=needs, chunk=17)
    session.feed(IDS)
    hf = tiny("llama")
    with torch.no_grad():
        out = hf(
            input_ids=IDS.unsqueeze(0), output_attentions=True, output_hidden_states=True, use_cache=False
        )
    method = model.session("h2o").recipe.methods[0]
    for layer in session.growing_layers():
        view = session.view(layer, method)
        eager = out.attentions[layer][0]
        torch.testing.assert_close(view.attention_rows(), eager[:, -8:], atol=1e-4, rtol=1e-3)
        group = view.geometry.group
        mass = eager.sum(1).view(-1, group, len(IDS)).transpose(1, 2)
        torch.testing.assert_close(view.column_mass, mass, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(view.hidden, out.hidden_states[layer][0], atol=1e-4, rtol=1e-4)
    rows = out.logits[0, :-1].log_softmax(-1).gather(1, IDS[1:].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(session.token_logprobs()[1:], rows, atol=1e-4, rtol=1e-4)


def test_unrotated_keys_are_the_ones_before_rotation():
    from longspan.engine.positions import PositionMap

    model = engine_model("glm4")
    rotated = model.session().feed(IDS)
    raw = model.session()
    raw.map = PositionMap(None, None, False, True)
    for layer in raw.layers.values():
        layer.map = raw.map
    raw.feed(IDS)
    method = model.session("keydiff").recipe.methods[0]
    for layer in rotated.growing_layers():
        a, b = rotated.view(layer, method), raw.view(layer, method)
        torch.testing.assert_close(a.unrotated_keys, b.unrotated_keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a.keys, b.keys, atol=1e-4, rtol=1e-4)


def test_counters_say_what_was_read_and_held():
    model = engine_model()
    session = model.session("window(budget=24, when=chunk)", chunk=16).read(IDS)
    layers = len(model.geometry.growing) * model.geometry.kv_heads
    stats = session.stats
    assert stats.prefilled_tokens == stats.tokens_read == len(IDS)
    assert stats.entries == 24 * layers
    assert stats.peak_entries <= (24 + 16) * layers
    assert stats.cache_bytes >= stats.entries * 2 * model.geometry.head_dim * 4


@pytest.mark.parametrize(
    "ids,message", [([], "nothing to read"), ([10**9], "Token ids"), ("   ", "nothing to read")]
)
def test_bad_texts_are_named(ids, message):
    with pytest.raises(BadInput, match=message):
        engine_model().session().read(ids)


def test_reading_a_long_text_allocates_each_layer_once():
    session = engine_model().session(chunk=16)
    pointers = []

    def look(done, total):
        pointers.append([run.store.tail.k.data_ptr() for run in session.layers.values()])

    session.read(IDS, progress=look)
    assert len(pointers) == 6 and all(row == pointers[0] for row in pointers)


def test_a_sliding_layer_holds_its_window_once_a_text_is_read():
    session = engine_model("gemma2").session(chunk=48).read(IDS)
    following = engine_model("gemma2").session(chunk=48).feed(torch.cat((IDS, MORE)))
    sliding = [run for run in session.layers.values() if run.geometry.window is not None]
    assert sliding
    for run in sliding:
        assert run.store.lengths == (run.geometry.window + 64,) * run.geometry.kv_heads
    session.feed(MORE)
    torch.testing.assert_close(session.next_logits(), following.next_logits(), atol=1e-5, rtol=1e-5)
