"""EpiCache: scores from a forgotten prompt, layer budgets, bounded peaks, episodes of a conversation; on tiny random models."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tests.engine.models import IDS, MORE, engine_model
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.engine import calibration
from longspan.engine.allocate import sensitivity_shares
from longspan.engine.budget import split_exactly
from longspan.engine.model import Model
from longspan.errors import BadInput
from longspan.methods.cache.epicache import EpiCache, calibration_sizes, key_similarity, prompted_scores
from longspan.methods.cache.episodes import Episodes, cluster, token_means, windows

PROMPT = (9, 11, 13)
FACTS = {"sensitivity": [0.99, 0.5, 0.2]}


def read(recipe: str, chunk: int = 32, ids=IDS, arch: str = "llama"):
    return engine_model(arch).session(recipe, chunk=chunk).read(ids)


def held(session):
    return [session.layers[i].store.entries for i in session.growing_layers()]


# -- budgets ---------------------------------------------------------------------------------------------------------------
@example([0.0, 0.0, 0.0, 1.0, 1.0], 1.0, 1.0)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40), st.floats(0.0, 4.0), st.floats(0.0, 1.0))
def test_shares_sum_to_one_and_none_is_below_the_floor(sensitivity, sharpness, floor):
    found = sensitivity_shares(sensitivity, sharpness, floor)
    assert sum(found) == pytest.approx(1.0)
    assert all(share >= floor / len(found) - 1e-9 for share in found)
    order = sorted(range(len(found)), key=lambda i: sensitivity[i])
    assert all(
        found[a] >= found[b] - 1e-9 for a, b in itertools.pairwise(order)
    )  # steadier keys, smaller share


def test_shares_are_the_formula():
    assert sensitivity_shares([0.0, 0.5, 1.0], 1.0, 0.0) == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert sensitivity_shares([0.0, 0.5, 1.0], 1.0, 0.25) == pytest.approx([11 / 18, 11 / 36, 1 / 12])
    assert sensitivity_shares([0.7, 0.7], 1.1, 0.25) == [0.5, 0.5]


@given(
    st.lists(st.tuples(st.floats(0.01, 5.0), st.integers(0, 60)), min_size=1, max_size=12),
    st.integers(0, 400),
)
def test_a_split_fills_every_part_at_most_to_its_own_limit(parts, total):
    shares, limits = [s for s, _ in parts], [m for _, m in parts]
    found = split_exactly(total, shares, len(parts), limits)
    assert sum(found) == min(total, sum(limits))
    assert all(0 <= got <= limit for got, limit in zip(found, limits, strict=True))
    if total <= sum(limits):
        assert split_exactly(total, shares, len(parts), 1000) == split_exactly(
            total, shares, len(parts), [1000] * len(parts)
        )


@pytest.mark.parametrize("budget", [20, 0.3])
def test_layers_hold_their_sensitivity_budgets(tmp_path, budget):
    calibration.save("epicache", engine_model("llama"), facts=FACTS, folder=tmp_path)
    session = read(f"epicache(budget={budget}, layers=sensitivity, prompt={PROMPT}, folder='{tmp_path}')")
    per_head = budget if isinstance(budget, int) else round(budget * 96)
    shares = sensitivity_shares(FACTS["sensitivity"], 1.1, 0.25)
    wanted = split_exactly(per_head * 2 * 3, shares, 3, 1000)
    assert held(session) == wanted and wanted[0] < wanted[1] < wanted[2]


def test_a_missing_artefact_is_refused():
    with pytest.raises(BadInput, match="longspan calibrate epicache"):
        engine_model("llama").session("epicache(layers=sensitivity)")


# -- the policy --------------------------------------------------------------------------------------------------------------
def test_scores_are_the_prompts_largest_attention_over_cached_keys_alone():
    session = engine_model("llama").session(None, chunk=32).feed(IDS)
    before = [session.layers[i].store.padded().k.clone() for i in session.growing_layers()]
    found = prompted_scores(EpiCache(prompt=PROMPT), session)
    with torch.no_grad():
        ids = torch.cat((IDS, torch.tensor(PROMPT)))
        attention = tiny("llama")(
            input_ids=ids.unsqueeze(0), use_cache=False, output_attentions=True
        ).attentions
    for layer, scores in found.items():
        rows = attention[layer][0, :, 96:, :96]
        rows = rows / rows.sum(-1, keepdim=True)
        torch.testing.assert_close(scores, rows.reshape(2, 2 * 3, 96).amax(1), atol=1e-5, rtol=1e-3)
    after = [session.layers[i].store.padded().k for i in session.growing_layers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) and session.length == 96


def test_a_prompt_longer_than_a_block_is_scored_in_pieces():
    session = engine_model("llama").session(None, chunk=96).feed(IDS)
    short = engine_model("llama").session(None, chunk=8).feed(IDS)
    prompt = tuple(IDS[:20].tolist())
    one, two = (prompted_scores(EpiCache(prompt=prompt), s) for s in (session, short))
    for layer in one:
        torch.testing.assert_close(one[layer], two[layer], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("allocator", ["adaptive", "uniform"])
@pytest.mark.parametrize("chunk", [7, 16, 32])
@pytest.mark.parametrize("length", [40, 96])
def test_the_peak_is_budget_block_and_prompt(allocator, chunk, length):
    session = read(f"epicache(budget=20, allocator={allocator}, prompt={PROMPT})", chunk, IDS[:length])
    assert session.stats.peak_entries <= (20 + chunk + len(PROMPT)) * 2 * 3
    assert held(session) == [40] * 3
    positions = [session.layers[i].store.padded() for i in session.growing_layers()]
    for padded in positions:
        for head in range(2):
            row = (
                padded.positions[head] if padded.valid is None else padded.positions[head][padded.valid[head]]
            )
            assert row[:4].tolist() == [0, 1, 2, 3]
            assert len(row) == 20 or allocator == "adaptive"


def test_another_episode_keeps_other_entries():
    one, two = (read(f"epicache(budget=24, prompt={p})") for p in ((9, 11, 13), tuple(MORE.tolist())))
    assert not torch.allclose(one.score(MORE), two.score(MORE), atol=1e-3)


def test_bad_knobs_are_refused():
    for knobs, words in (("prompt=''", "prompt"), ("layers=error", "sensitivity"), ("least=2.0", "least")):
        with pytest.raises(BadInput, match=words):
            read(f"epicache({knobs})")


# -- calibration -------------------------------------------------------------------------------------------------------------
def test_keys_agree_where_a_block_sees_all_and_in_the_first_layer():
    model = engine_model("llama")
    assert key_similarity(model, IDS, 96, 4) == pytest.approx([1.0] * 3, abs=1e-4)
    found = key_similarity(model, IDS, 24, 4)
    assert found[0] == pytest.approx(1.0, abs=1e-4) and max(found[1:]) < 0.999


def test_blocks_are_the_block_mask():
    """Keys of the second layer, against a model that is given the mask: first tokens, half the block before, the block itself."""
    from longspan.methods.cache.epicache import _Blocks

    block, first = 24, 4
    at = torch.arange(96)
    sees = (at[None] <= at[:, None]) & (
        (at[None] < first) | (at[None] >= at[:, None] // block * block - block // 2)
    )
    mask = torch.zeros(96, 96).masked_fill(~sees, float("-inf"))[None, None]
    with torch.no_grad():
        out = tiny("llama")(input_ids=IDS.unsqueeze(0), attention_mask=mask, use_cache=True)
    method = _Blocks(budget=first + block // 2, sink=first, when="chunk")
    session = engine_model("llama").session(method, chunk=block).feed(IDS)
    for layer in (1, 2):
        keys = torch.cat(session.view(layer, method).state["keys"], 1)
        torch.testing.assert_close(keys, out.past_key_values.layers[layer].keys[0], atol=2e-4, rtol=1e-3)


def test_the_calibration_text_fits_the_window():
    assert calibration_sizes(8192) == (4096, 1024, 32)
    assert calibration_sizes(512) == (512, 128, 4)


# -- episodes ----------------------------------------------------------------------------------------------------------------
TALK = [("ann" if i % 2 else "bob", f"the {'pen' if i < 8 else 'den'} is {i}. then.") for i in range(16)]


def by_topic(texts):
    return np.array([[t.count("pen"), t.count("den"), 0.1] for t in texts], dtype=np.float32)


@pytest.fixture(scope="module")
def model():
    return Model(tiny("llama", vocab_size=512), byte_level(), name="bytes", trained_window=4096)


@pytest.fixture(scope="module")
def talk(model):
    return Episodes(
        model,
        TALK,
        EpiCache(budget=48, prompt="\n\nend?"),
        encoder=by_topic,
        episodes=2,
        medoids=1,
        window=4,
        block=64,
    )


def test_windows_cut_long_utterances_into_sentences():
    long = ("bob", "This is one sentence. " * 30)
    found = windows([("ann", "hi"), long, ("ann", "bye")], 4)
    assert len(found) == 8 and found[0].count("said") == 4
    assert found[0].startswith('ann said, "hi"\nbob said, "This is one sentence."')


def test_clusters_find_separate_groups_and_order_their_windows():
    rng = np.random.default_rng(0)
    centres = np.eye(8)[:3]
    rows = (
        np.repeat(centres, [6, 3, 5], axis=0) + rng.normal(0, 0.05, (14, 8)) * np.linspace(0, 1, 14)[:, None]
    )
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = cluster(rows, 3)
    assert sorted(len(m) for m in found.medoids) == [3, 5, 6]
    for episode, members in enumerate(found.medoids):
        near = rows[list(members)] @ found.centroids[episode]
        assert (np.diff(near) <= 1e-6).all()
        assert all(found.labels[i] == episode for i in members)
    assert found.nearest(centres[1].astype(np.float32)) == found.labels[7]
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1.0, atol=1e-5)
    assert len(cluster(rows[:2], 5).medoids) == 2


def test_a_question_goes_to_its_episode_and_answers_do_not_touch_each_other(talk):
    assert {talk.episode_of("where is the pen?"), talk.episode_of("where is the den?")} == {0, 1}
    first = talk.ask("which pen?", max_new_tokens=4, ignore_eos=True).ids
    talk.ask("which den?", max_new_tokens=4, ignore_eos=True)
    assert talk.ask("which pen?", max_new_tokens=4, ignore_eos=True).ids == first
    pen, den = talk.session_for("pen"), talk.session_for("den")
    assert pen is not den and pen.ids == den.ids
    assert "pen" in pen.recipe.methods[0].episode and "den" in den.recipe.methods[0].episode


def test_no_cache_of_an_episode_exceeds_its_bound(talk):
    longest = max(len(s.recipe.methods[0].prompt_ids(s)) for s in talk.sessions)
    assert talk.peak_entries <= (48 + 64 + longest) * 2 * 3
    assert all(s.growing_entries() == 48 * 2 * 3 for s in talk.sessions)


def test_a_whole_budget_answers_as_the_full_cache_does(model):
    whole = Episodes(model, TALK, EpiCache(budget=1.0), episodes=2, block=64)  # by the model's own embeddings
    text = "\n".join(f'{s} said, "{t}"' for s, t in TALK)
    plain = model.session(chunk=64).read(text)
    torch.testing.assert_close(whole.sessions[0].next_logits(), plain.next_logits(), atol=2e-4, rtol=1e-3)
    rows = token_means(model)(["then", "the pen"])
    wanted = model.hf.get_input_embeddings().weight[torch.tensor(model.encode("the pen"))].mean(0)
    np.testing.assert_allclose(rows[1], wanted, atol=1e-6)


def test_more_of_a_conversation_joins_the_nearest_episode(model):
    talk = Episodes(
        model, TALK, EpiCache(budget=48), encoder=by_topic, episodes=2, medoids=1, window=4, block=64
    )
    before, pen = talk.clusters, talk.episode_of("pen")
    talk.read([("ann", "the pen is new."), ("bob", "the pen. then the pen.")])
    assert talk.clusters.labels == (*before.labels, pen) and len(talk.windows) == 5
    assert (talk.clusters.centroids == before.centroids).all()
    wanted = model.session(chunk=64).read("\n".join(f'{s} said, "{t}"' for s, t in TALK)).length
    assert all(s.length > wanted and s.growing_entries() == 48 * 2 * 3 for s in talk.sessions)


def test_an_empty_conversation_is_refused(model):
    with pytest.raises(BadInput, match="no utterances"):
        Episodes(model, [], EpiCache())
