"""The prompt stage of recipes: exact budgets on what is read, manifests in the stats, order, refusals, scores of the text scorer."""

import dataclasses

import pytest
import torch
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.bench.variants import variants
from longspan.engine.batch import Work, forward
from longspan.engine.method import PromptMethod
from longspan.engine.model import Model
from longspan.engine.prompt import Compressed, Kept, shorten
from longspan.engine.recipe import parse
from longspan.engine.registry import methods
from longspan.engine.textscore import TextScorer, coded, score_long, score_packed
from longspan.errors import BadInput

PROMPTS = [name for name, cls in methods().items() if issubclass(cls, PromptMethod)]
TEXT = "\n\n".join(
    f"The mill of place {i} is old. Its keeper wrote {i * 37 % 101}. Rain fell." for i in range(24)
)
QUESTION = "What did the keeper of the mill of place 7 write?"


@pytest.fixture(scope="module")
def lm():
    hf = tiny("llama", vocab_size=len(byte_level()), num_hidden_layers=2)
    return Model(hf, byte_level(), name="tiny", trained_window=4096)


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("budget", [0.5, 300])
def test_what_is_read_is_within_the_budget_and_comes_from_the_source(lm, name, budget):
    session = lm.session(f"{name}(budget={budget})").read(TEXT, question=QUESTION)
    (done,) = session.stats.shortened
    allowed = round(budget * len(lm.encode(TEXT))) if isinstance(budget, float) else budget
    assert done.budget == allowed and done.tokens == len(lm.encode(done.text)) <= allowed
    assert done.source_tokens == len(lm.encode(TEXT)) and done.method == name
    assert (
        session.ids == lm.encode(done.text, special=True) and session.length == session.stats.prefilled_tokens
    )
    assert done.manifest and all(
        done.text[k.out_start : k.out_end] == TEXT[k.start : k.end] for k in done.manifest
    )
    assert session.stats.seconds["shorten"] > 0


@pytest.mark.parametrize("name", PROMPTS)
def test_the_whole_budget_reads_the_text_itself(lm, name):
    session = lm.session(f"{name}(budget=1.0)").read(TEXT, question=QUESTION)
    assert session.ids == lm.session().read(TEXT).ids


def test_the_stages_act_in_order_whatever_the_writing(lm):
    recipe = parse("snapkv(budget=0.25, window=8) + longcodezip(budget=0.5)")
    assert str(recipe) == "longcodezip(budget=0.5) + snapkv(budget=0.25, window=8)"
    assert parse(str(recipe)) == recipe and recipe.aware and recipe.changes_prefill
    assert str(recipe.prompt) == "longcodezip(budget=0.5)"
    assert not recipe.after_prompt.changes_prefill
    session = lm.session(recipe).read(TEXT, question=QUESTION)
    read = session.stats.shortened[0].tokens
    heads = lm.geometry.kv_heads * len(lm.geometry.growing)
    assert read <= round(0.5 * len(lm.encode(TEXT)))
    assert session.growing_entries() == round(0.25 * session.length) * heads
    assert session.fork().ask(QUESTION, max_new_tokens=2).ids


def test_two_prompt_methods_follow_one_another_and_their_manifests_add_up(lm):
    session = lm.session("truncate(budget=0.5) + random_units(budget=0.5)").read(TEXT)
    (done,) = session.stats.shortened
    half = lm.session("truncate(budget=0.5)").read(TEXT).stats.shortened[0]
    assert done.method == "truncate + random_units" and done.source_tokens == half.source_tokens
    assert done.budget == round(0.5 * half.tokens)
    assert all(done.text[k.out_start : k.out_end] == TEXT[k.start : k.end] for k in done.manifest)
    assert sum(k.end - k.start for k in done.manifest) == len(done.text)
    assert max(k.end for k in done.manifest) <= max(k.end for k in half.manifest)


def test_composed_manifests_lead_through_glue_and_reordering():
    source = "abcdefgh"
    first = Compressed("gh|abc", (Kept(6, 8, 0, 2), Kept(0, 3, 3, 6)), 6, 9, 8, 2, "one")
    both = first.then(Compressed("h|ac", (Kept(1, 4, 0, 3), Kept(5, 6, 3, 4)), 4, 4, 6, 3, "two"))
    assert [(source[k.start : k.end], both.text[k.out_start : k.out_end]) for k in both.manifest] == [
        ("h", "h"),
        ("a", "a"),
        ("c", "c"),
    ]
    assert (both.calls, both.source_tokens, both.method) == (5, 8, "one + two")
    assert both.surviving(0, 3) == [(2, 3), (3, 4)] and both.holds(0, 3) == pytest.approx(2 / 3)
    assert both.source_of(2, 3) == (0, 1) and both.source_of(1, 2) is None


def test_each_text_of_a_conversation_is_shortened_and_forks_and_files_keep_the_manifests(lm, tmp_path):
    session = lm.session("truncate(budget=0.5)").read(TEXT).read(TEXT[:400])
    assert len(session.stats.shortened) == 2
    assert session.fork().stats.shortened == session.stats.shortened
    session.save(tmp_path / "s")
    loaded = lm.load_session(tmp_path / "s")
    assert loaded.stats.shortened == session.stats.shortened and loaded.ids == session.ids


def test_refusals_are_one_clear_sentence(lm):
    aware = [name for name in PROMPTS if methods()[name].aware]
    assert set(aware) == {"bm25", "longcodezip", "longllmlingua", "specpc"}
    for name in aware:
        with pytest.raises(BadInput, match="none was given with the text"):
            lm.session(name).read(TEXT)
    with pytest.raises(BadInput, match="token ids were given; read the text itself"):
        lm.session("truncate + snapkv").read([5, 6, 7])
    with pytest.raises(BadInput, match="text is empty"):
        lm.session("truncate").read(" ")
    with pytest.raises(BadInput, match="no piece of this text fits"):
        lm.session("truncate(budget=3)").read(TEXT)
    with pytest.raises(BadInput, match="read it again under this recipe"):
        lm.session().read(TEXT).fork("truncate")
    for wrong, message in [("truncate(budget=2.5)", "above 1"), ("truncte", "did you mean truncate")]:
        with pytest.raises(BadInput, match=message):
            parse(wrong)


def test_a_text_beyond_the_window_is_read_once_it_is_short_enough(lm):
    small = Model(lm.hf, lm.tokenizer, name="small", trained_window=400)
    with pytest.raises(BadInput, match="more than the 400"):
        small.session().read(TEXT)
    for name in ("llmlingua", "longcodezip"):
        assert small.session(f"{name}(budget=300)").read(TEXT, question=QUESTION).length <= 301


def test_bytes_are_a_budget_too(lm):
    an_entry = lm.geometry.kv_elements_per_token * lm.dtype.itemsize
    session = lm.session(f'truncate(budget="{200 * an_entry}B")').read(TEXT)
    assert session.stats.shortened[0].budget == 200


def test_budgets_of_a_comparison_go_to_the_entries_not_to_the_prompt():
    found = variants(["truncate(budget=0.8) + snapkv", "bm25"], [0.5, 0.25], references=False)
    assert [str(v.recipe.prompt) for v in found] == ["truncate(budget=0.8)"] * 2 + [
        "bm25(budget=0.5)",
        "bm25(budget=0.25)",
    ]
    assert [v.share for v in found] == [0.5, 0.25] * 2
    assert found[0].question_modes((False, True)) == (False, True)
    assert found[2].question_modes((False, True)) == (True,) and found[2].question_modes((False,)) == (False,)
    assert not any(v.rereads for v in found)


# -- the scorer -------------------------------------------------------------------------------------------------------
def one_by_one(lm, pair):
    session, found = lm.session().feed(torch.tensor(pair.prefix)), []
    for token in pair.ids:
        found.append(float(session.next_logits().log_softmax(-1)[token]))
        (session.logits,) = forward(lm, [Work(session, torch.tensor([token]))])
    return found


def test_packed_and_long_scores_equal_one_token_at_a_time(lm):
    pairs = [
        coded(lm, *p)
        for p in [("The mill", " is old é"), ("", "Rain"), ("a", ""), (TEXT[:300], TEXT[300:600])]
    ]
    for pair, packed in zip(pairs, score_packed(lm, pairs), strict=True):
        assert packed == pytest.approx(one_by_one(lm, pair), abs=1e-3)
        assert score_long(lm, pair) == pytest.approx(packed, abs=1e-3)


def test_a_text_beyond_the_window_is_scored_in_runs(lm):
    small = Model(lm.hf, lm.tokenizer, name="small", trained_window=64)
    pair = coded(small, "The mill", TEXT[:200])
    values = score_long(small, pair)
    assert len(values) == len(pair.ids)
    first = 64 - len(pair.prefix)
    assert values[:first] == pytest.approx(one_by_one(lm, pair)[:first], abs=1e-3)
    later = dataclasses.replace(pair, prefix=pair.ids[first - 32 : first], ids=pair.ids[first : first + 32])
    assert values[first : first + 32] == pytest.approx(one_by_one(lm, later), abs=1e-3)
    tokens, offsets, scored = TextScorer(small).token_logprobs("", TEXT)
    assert "".join(tokens) == TEXT and len(scored) == len(offsets)


def test_shorten_needs_no_session(lm):
    done = shorten(parse("bm25(budget=0.2)").methods, lm, TEXT, QUESTION)
    assert "place 7" in done.text
