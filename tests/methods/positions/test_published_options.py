"""Optional parts of published position methods: LM-Infinite's middle tokens, DPE's pairs of a head, Giraffe's xPos and combined bases."""

import math

import pytest
import torch
from tests.methods.artefacts import Bytes
from tests.tiny_models import tiny

from longspan.engine import calibration
from longspan.engine.model import Model
from longspan.engine.recipe import parse
from longspan.errors import BadInput
from longspan.methods.positions.dpe import pair_norms, strongest_pairs
from longspan.methods.positions.export import exported_config
from longspan.ops import strongest_keys
from longspan.ops.distance_attention import attend_in_passes
from longspan.ops.distance_maps import limited, plain, xpos_decay
from longspan.ops.frequency_maps import Frequencies, Rope, power, truncated
from longspan.ops.rotary import angles, rotate
from longspan.ops.strongest_keys import attend_strongest

WINDOW, LENGTH = 64, 150
MIDDLE = "lm_infinite(window=32, first=4, middle=3)"


@pytest.fixture(scope="module")
def model():
    return Model(tiny("llama", max_position_embeddings=WINDOW), None, trained_window=WINDOW)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 256, (LENGTH,), generator=torch.Generator().manual_seed(0))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stepwise(session, ids, steps: int):
    for token in ids[-steps:]:
        session.feed(token.view(1), reading=False)
    return session.next_logits()


# -- LM-Infinite: the middle ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("block", [1 << 24, 700])
def test_the_middle_is_the_published_selection(block, monkeypatch):
    """One softmax over the window, the first tokens at the limit, and the k strongest others at the inserted distance."""
    monkeypatch.setattr(strongest_keys, "LOGITS", block)
    window, first, limit, keep, insert = 8, 2, 8, 3, 5
    q, k, v = drawn(4, 40, 16), drawn(2, 40, 16, seed=1), drawn(2, 40, 6, seed=2)
    at, frequencies = torch.arange(40), Frequencies(Rope(16, 1e4, 8).frequencies)
    found, _ = attend_in_passes(
        q, k, v, at, at, limited(window, first, limit, keep, insert), frequencies, scale=0.25
    )

    def logits(distance: int | None):
        if distance is None:
            turned = [rotate(x, *angles(at, frequencies.inv_freq)) for x in (q, k)]
        else:
            turned = [rotate(q, *angles(torch.full_like(at, distance), frequencies.inv_freq)), k]
        return 0.25 * turned[0] @ turned[1].repeat_interleave(2, 0).transpose(-1, -2)

    distance = at.unsqueeze(-1) - at
    far, early = distance >= window, at < first
    wanted = logits(None).masked_fill((distance < 0) | far, -math.inf)
    wanted = torch.where(far & early, logits(limit), wanted)
    middle = logits(insert).masked_fill(~(far & ~early), -math.inf)
    least = middle.topk(keep).values[..., -1:]
    wanted = torch.where(far & ~early & (middle >= least), middle, wanted)
    assert torch.allclose(found, wanted.softmax(-1) @ v.repeat_interleave(2, 0), atol=1e-5)


def test_the_strongest_of_all_keys_are_all_keys():
    q, k, v = drawn(4, 3, 8), drawn(2, 9, 8, seed=1), drawn(2, 9, 5, seed=2)
    mask = torch.ones(3, 9, dtype=torch.bool).tril(4)
    mask[0] = False
    bias = drawn(2, 9, seed=3)
    out, lse = attend_strongest(q, k, v, 99, scale=0.3, mask=mask, bias=bias, softcap=5.0)
    raw = 0.3 * q @ k.repeat_interleave(2, 0).transpose(-1, -2)
    logits = (5 * torch.tanh(raw / 5) + bias.repeat_interleave(2, 0).unsqueeze(1)).masked_fill(
        ~mask, -math.inf
    )
    assert torch.allclose(out[:, 1:], logits[:, 1:].softmax(-1) @ v.repeat_interleave(2, 0), atol=1e-6)
    assert torch.equal(out[:, 0], torch.zeros(4, 5)) and bool((lse[:, 0] == -math.inf).all())
    one, _ = attend_strongest(0 * q, k, v, 1, scale=0.3, mask=mask)  # ties: the earlier key
    assert torch.allclose(one[:, 1], v[:, 0].repeat_interleave(2, 0))


def test_the_middle_reaches_over_forks_and_heads_that_keep_different_entries(model, ids):
    """A fork's text lies in several pieces, a policy's in one a head; the k strongest are those of all of them."""
    whole = model.session(MIDDLE, beyond_window=True).read(ids).next_logits()
    session = model.session(MIDDLE, beyond_window=True, chunk=40).read(ids[:100])
    forked = session.fork().fork()
    assert (stepwise(forked, ids, 50) - whole).abs().max() < 1e-4
    recipe = f"{MIDDLE} + knorm(budget=0.8, allocator=adaptive, floor=0.0)"
    ragged = model.session(recipe, beyond_window=True).read(ids[:-8])
    lengths = ragged.layers[0].store.lengths
    assert len(set(lengths)) > 1
    assert torch.isfinite(stepwise(ragged, ids, 8)).all()


def test_the_middle_is_read_in_its_layers_and_beyond_the_window_only(model, ids):
    def logits(recipe, text=ids):
        return model.session(recipe, beyond_window=True).read(text).next_logits()

    plain_one = logits("lm_infinite(window=32, first=4)")
    last = max(model.geometry.layers)
    beyond = f"lm_infinite(window=32, first=4, middle=3, from_layer=1, to_layer={last + 1})"
    assert torch.equal(logits(beyond), logits("lm_infinite(window=32, first=4, middle=3, from_layer=1)"))
    assert (logits(MIDDLE) - plain_one).abs().max() > 1e-2
    assert torch.equal(logits(MIDDLE, ids[:30]), logits("lm_infinite(window=32, first=4)", ids[:30]))
    upper = logits("lm_infinite(window=32, first=4, middle=3, from_layer=1)")
    lower = logits("lm_infinite(window=32, first=4, middle=3, to_layer=1)")
    assert (upper - lower).abs().max() > 1e-3
    with pytest.raises(BadInput, match="beyond this model's last layer"):
        model.session("lm_infinite(middle=3, from_layer=99)")


# -- DPE: the pairs of a head ------------------------------------------------------------------------------------------
def test_strongest_pairs_are_those_with_the_largest_mean():
    means = torch.tensor([[0.1, 0.9, 0.3, 0.9], [0.5, 0.5, 0.5, 0.5]])
    assert strongest_pairs(means, 2).tolist() == [[False, True, False, True], [True, True, False, False]]
    assert strongest_pairs(means, 4).all()


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_the_norm_of_a_pair_does_not_see_its_rotation(layout):
    x = drawn(2, 7, 8)
    turned = rotate(x, *angles(torch.arange(7), Rope(8, 1e4, 64).frequencies), layout)

    class Layer:
        start, trained = 0, Rope(8, 1e4, 64)

    Layer.layout = layout
    assert torch.allclose(pair_norms(x, Layer), pair_norms(turned, Layer), atol=1e-5)
    halves = x.view(2, 7, 2, 4) if layout == "half" else x.view(2, 7, 4, 2).transpose(-1, -2)
    assert torch.allclose(pair_norms(x, Layer), halves.square().sum(-2).sqrt())


def test_dpe_scales_the_pairs_that_its_artefact_names(ids, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "user_folder", lambda: tmp_path)
    model = Model(tiny("llama", max_position_embeddings=WINDOW), Bytes(), trained_window=WINDOW)
    pairs = model.geometry.layers[0].rope.trained.dim // 2
    recipe = "dpe(neighbours=16, scales=(2, 8, 4, 1), key_pairs={})"

    def logits(count):
        return model.session(recipe.format(count), beyond_window=True).read(ids).next_logits()

    with pytest.raises(BadInput, match="longspan calibrate dpe"):
        logits(3)
    with pytest.raises(BadInput, match=f"more than the {pairs} pairs"):
        logits(pairs + 1)
    steps = []
    parse("dpe").methods[0].calibrate(model, None, lambda *at: steps.append(at), samples=1)
    assert steps[-1] == (3, 3)
    means = calibration.load("dpe", model).tensors
    assert set(means) == {f"layer{i}" for i in model.geometry.layers}
    assert all(
        one.shape == (model.geometry.q_heads, pairs) and bool((one > 0).all()) for one in means.values()
    )
    assert (logits(pairs) - logits(0)).abs().max() < 1e-4  # all pairs chosen is no choice
    assert (logits(3) - logits(0)).abs().max() > 1e-3
    heads = strongest_pairs(means["layer0"], 3)
    assert len({tuple(row) for row in heads.tolist()}) > 1  # heads differ


# -- Giraffe: xPos and combined bases ------------------------------------------------------------------------------
def test_xpos_golden_values():
    """zeta_i = (2i + 0.4 d) / (1.4 d): 2/7 for the fastest pair, (d - 2 + 0.4 d) / (1.4 d) for the slowest."""
    for dim in (64, 128):
        zeta = (xpos_decay(dim, 512) * 512).exp()
        assert float(zeta[0]) == pytest.approx(2 / 7, rel=1e-5)
        assert float(zeta[-1]) == pytest.approx((1.4 * dim - 2) / (1.4 * dim), rel=1e-6)
        assert bool((zeta.diff() > 0).all())


def test_xpos_is_the_reference_with_its_centred_positions():
    """Query times zeta^(p / B), key by its inverse, p counted from the middle of the text, as the reference writes it."""
    length, base, dim = 90, 32, 16
    q, k, v = (drawn(2, length, dim, seed=seed).double() for seed in range(3))
    at = torch.arange(length)
    frequencies = Rope(dim, 1e4, 64).frequencies
    found, _ = attend_in_passes(
        q.float(),
        k.float(),
        v.float(),
        at,
        at,
        plain(xpos_decay(dim, base)),
        Frequencies(frequencies),
        scale=0.2,
    )
    zeta = (2 * torch.arange(dim // 2) + 0.4 * dim) / (1.4 * dim)
    grown = zeta.double() ** ((at - length // 2).unsqueeze(-1) / base)
    turn = at.double().unsqueeze(-1) * frequencies.double()
    cos, sin = turn.cos(), turn.sin()

    def scaled(x, by):
        first, second = x.chunk(2, -1)
        return torch.cat(((first * cos - second * sin) * by, (second * cos + first * sin) * by), -1)

    logits = 0.2 * scaled(q, grown) @ scaled(k, 1 / grown).transpose(-1, -2)
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    assert torch.allclose(found.double(), logits.masked_fill(~seen, -math.inf).softmax(-1) @ v, atol=1e-5)


def test_xpos_stays_finite_where_the_reference_overflows():
    """zeta^(-n / B) of a far key passes fp32's range; counted from the query it only vanishes."""
    at = torch.arange(0, 200_000, 1000)
    x, last = drawn(1, len(at), 8), at[-1:]
    out, lse = attend_in_passes(
        x[:, -1:],
        x,
        x,
        last,
        at,
        plain(xpos_decay(8, 256)),
        Frequencies(Rope(8, 1e4, 64).frequencies),
        scale=1.0,
    )
    assert torch.isfinite(out).all() and torch.isfinite(lse).all()
    assert float(xpos_decay(8, 256)[0]) * -int(at[-1]) > math.log(torch.finfo(torch.float32).max)


def test_bases_compose_in_the_published_order():
    rope = Rope(64, 1e5, 8192)
    scaled = power(rope, 0.5).inv_freq / 4
    found = parse("giraffe(factor=4, power=0.5, truncate=2048, xpos=512)").methods[0].map(rope, 4)
    cut = 2 * math.pi / 2048
    kept, stopped = found.inv_freq == scaled, found.inv_freq == 0
    assert torch.equal(kept, scaled >= cut) and torch.equal(stopped, scaled < cut / 8)
    assert torch.allclose(found.inv_freq[~kept & ~stopped], torch.tensor(cut / 16))
    assert torch.equal(
        parse("giraffe(truncate=2048)").methods[0].map(rope, 1).inv_freq, truncated(rope, 2048).inv_freq
    )


def test_a_config_has_no_place_for_xpos():
    with pytest.raises(BadInput, match="export giraffe without xpos"):
        exported_config(tiny("llama").config, parse("giraffe(factor=2, xpos=512)").methods[0])
