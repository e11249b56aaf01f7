"""SpecKV and the drafts it guesses with, on tiny random models."""

import pytest
import torch
from tests.engine.models import IDS, MORE, eager_logits, engine_model
from tests.tiny_models import tiny

from longspan.engine.drafts import draft_of, drafting, greedy_guess, same_tokenizer
from longspan.engine.model import Model, load
from longspan.engine.needs import Needs
from longspan.errors import BadInput
from longspan.methods.cache.speckv import lookahead_scores

GUESS = tuple(MORE[:6].tolist())


def read(recipe: str, arch: str = "llama", ids=IDS):
    return engine_model(arch).session(recipe, chunk=32).read(ids)


def kept(session):
    return [session.layers[i].store.padded().positions for i in session.growing_layers()]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(kept(one), kept(other), strict=True))


# -- drafts --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3", "gpt_neox", "starcoder2"])
def test_an_early_exit_is_the_first_layers_with_the_models_own_head(arch):
    model = engine_model(arch)
    draft = draft_of(model, "self:2")
    whole = tiny(arch)
    config = whole.config
    layers = whole.get_decoder().layers
    with torch.no_grad():
        states = whole(input_ids=IDS[:40].unsqueeze(0), use_cache=False, output_hidden_states=True)
        inner = whole.get_decoder()
        norm = getattr(inner, "norm", None) or inner.final_layer_norm
        head = whole.get_output_embeddings()
        wanted = head(norm(states.hidden_states[2][0, -1])) * getattr(config, "logit_scale", 1.0)
    assert len(layers) == config.num_hidden_layers > 2
    torch.testing.assert_close(
        draft.session(chunk=16).read(IDS[:40]).next_logits(), wanted, atol=2e-4, rtol=1e-3
    )
    assert draft_of(model, "self:2") is draft
    assert len(model.geometry.layers) == config.num_hidden_layers  # the model itself kept all its layers
    torch.testing.assert_close(
        model.session(chunk=16).read(IDS).next_logits(),
        eager_logits(arch)[len(IDS) - 1],
        atol=3e-4,
        rtol=1e-3,
    )


def test_an_early_exit_shares_the_weights_and_goes_on_from_the_targets_cache():
    model = engine_model("llama")
    draft = draft_of(model, "self:2")
    assert draft.hf.get_decoder().layers[1] is model.hf.get_decoder().layers[1]
    session = read("full")
    twin = drafting(session, draft)
    alone = draft.session(chunk=32).read(IDS)
    assert twin.meter.prefilled_tokens == 0
    assert torch.equal(greedy_guess(twin, 7), greedy_guess(alone, 7))
    assert session.length == len(IDS) and len(session.layers) == 3


def test_rounded_weights_lie_on_a_grid_of_the_bits():
    model = engine_model("llama")
    draft = draft_of(model, "self:2bit")
    weight = draft.hf.get_decoder().layers[0].self_attn.q_proj.weight
    assert all(len(row.unique()) <= 4 for row in weight.view(-1, 32)[:40])
    plain, exact = draft_of(model, "self:8bit").session().read(IDS), read("full")
    assert not torch.equal(weight, model.hf.get_decoder().layers[0].self_attn.q_proj.weight)
    gap = [(s.next_logits() - exact.next_logits()).abs().mean() for s in (plain, draft.session().read(IDS))]
    assert 0 < gap[0] < gap[1]


def test_a_guess_is_greedy_and_its_first_token_is_no_stop_token(monkeypatch):
    session = read("full")
    best, second = session.next_logits().topk(2).indices.tolist()
    assert greedy_guess(session.fork(), 1).tolist() == [best]
    monkeypatch.setattr(session.model.hf.generation_config, "eos_token_id", best)
    assert greedy_guess(session.fork(), 1).tolist() == [second]


def test_wrong_drafts_are_refused():
    model = engine_model("llama")
    for draft, words in (
        ("self:3", "from 1 to 2"),
        ("self:5bit", "self:4bit"),
        ("nosuchmodel", "nosuchmodel"),
    ):
        with pytest.raises(BadInput, match=words):
            model.session(f"speckv(draft={draft!r})")
    other = Model(tiny("llama", vocab_size=128), None, name="small")
    assert same_tokenizer(model, engine_model("qwen3")) and not same_tokenizer(model, other)


def test_a_draft_with_another_tokenizer_is_refused(tmp_path):
    from tests.small_tokenizers import byte_level, sentencepiece_like

    folders = []
    for number, tokenizer in enumerate((byte_level(), sentencepiece_like())):
        size = 512
        folders.append(str(tmp_path / str(number)))
        tiny("llama", vocab_size=size, tie_word_embeddings=False).save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])
    model = load(folders[0], device="cpu")
    with pytest.raises(BadInput, match="different tokenizers"):
        model.session(f"speckv(draft={folders[1]!r})")
    assert draft_of(model, folders[0]).geometry.vocab == 512


# -- the policy ----------------------------------------------------------------------------------------------------------
def test_without_a_guess_it_is_the_tails_largest_attention():
    session = engine_model("llama").session(None, collect=Needs(window_queries=9), chunk=32).feed(IDS)
    method = session.fork("speckv(lookahead=0, window=9, pool=1)").recipe.methods[0]
    found = lookahead_scores(method, session)
    for layer, scores in found.items():
        view = session.view(layer, method)
        rows = view.attention_rows(view.window_queries(9)).view(2, 2, 9, -1).amax((1, 2))
        torch.testing.assert_close(scores[:, :87], rows[:, :87], atol=1e-5, rtol=1e-4)


def test_one_row_of_the_tail_is_snapkv():
    """With one query and the same reduction over the group the two methods are one."""
    same_knobs = "budget=0.3, window=1, pool=7, pooling=max"
    assert same(read(f"speckv(lookahead=0, {same_knobs})"), read(f"snapkv(group=max, {same_knobs})"))
    mean = "budget=0.3, window=8, pool=5, pooling=avg"
    assert same(read(f"speckv(lookahead=0, reduce=mean, {mean})"), read(f"snapkv({mean})"))


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_scores_are_those_of_the_unmodified_models_attention_over_the_guess(reduce):
    with torch.no_grad():
        out = tiny("llama")(
            input_ids=torch.cat((IDS, MORE[:6])).unsqueeze(0), use_cache=False, output_attentions=True
        )
    session = engine_model("llama").session(None, collect=Needs(window_queries=8), chunk=32).feed(IDS)
    recipe = f"speckv(guess={GUESS}, window=8, pool=1, reduce={reduce})"
    for layer, scores in lookahead_scores(session.fork(recipe).recipe.methods[0], session).items():
        rows = out.attentions[layer][0, :, len(IDS) - 8 :, :88].reshape(2, 2 * 14, 88)
        wanted = rows.amax(1) if reduce == "max" else rows.mean(1)
        torch.testing.assert_close(scores[:, :88], wanted, atol=1e-5, rtol=1e-3)


def test_its_own_guess_given_by_hand_is_the_same_choice():
    writer = read("full").fork()
    ids = tuple(greedy_guess(writer, 6).tolist())
    drafted = read("speckv(budget=0.3, window=8, lookahead=6)")
    assert same(drafted, read(f"speckv(budget=0.3, window=8, guess={ids})"))
    assert not same(drafted, read(f"speckv(budget=0.3, window=8, guess={GUESS})"))


def test_any_draft_leaves_the_length_and_the_window():
    for draft in ("self", "self:1", "self:4bit"):
        session = read(f"speckv(budget=0.3, window=8, lookahead=5, draft='{draft}')")
        assert session.length == len(IDS) and session.ids == IDS.tolist()
        assert session.next_positions(1, torch.device("cpu")).tolist() == [96]
        assert all(row[-8:].tolist() == list(range(88, 96)) for layer in kept(session) for row in layer)


def test_plain_gives_its_share_to_the_tails_choice():
    knobs = f"window=2, pool=1, reduce=mean, guess={tuple(MORE.tolist())}"
    tail = read("speckv(budget=38, window=2, pool=1, reduce=mean, lookahead=0)")
    best = read("speckv(budget=20, window=2, pool=1, reduce=mean, lookahead=0)")
    ahead, half, every = (read(f"speckv(budget=38, plain={share}, {knobs})") for share in (0.0, 0.5, 1.0))
    assert same(every, tail) and not same(half, ahead)

    def holds(session) -> bool:  # the 18 best by the tail, half of the 36 entries beside the window
        pairs = zip(kept(session), kept(best), strict=True)
        return all(set(b.tolist()) <= set(a.tolist()) for s, f in pairs for a, b in zip(s, f, strict=True))

    assert holds(half) and not holds(ahead)


def test_a_second_text_is_guessed_about_again():
    session = read("speckv(budget=0.5, window=8, lookahead=4)")
    session.read(IDS[:32])
    assert session.growing_entries() == 64 * 2 * 3
    assert torch.isfinite(session.score(MORE)).all()


def test_bad_knobs_are_refused():
    for knobs, words in (
        ("window=0", "window"),
        ("pool=4", "odd"),
        ("reduce=sum", "reduce"),
        ("plain=2.0", "plain"),
        ("when=chunk", "when=prefill"),
    ):
        with pytest.raises(BadInput, match=words):
            read(f"speckv({knobs})")
