"""LoCoCo: the fusion's arithmetic, reading with a fixed memory, the convolutions' training, the artefact."""

import pytest
import torch
import torch.nn.functional as F
from tests.engine.models import IDS, MORE, engine_model
from tests.methods.artefacts import lococo
from tests.tiny_models import tiny

from longspan.engine import calibration
from longspan.engine.batch import Work, forward
from longspan.engine.model import Model
from longspan.errors import BadInput
from longspan.methods.cache import lococo_fusion
from longspan.methods.cache.lococo_fusion import Plan, Reader, fuse, text, train_fusion


def cache(length=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, length, 4, generator=generator), torch.randn(2, length, 4, generator=generator)
    mass = torch.rand(2, length, generator=generator)
    return k, v, mass, 3 * torch.arange(length).expand(2, -1)


def filters(fused=5, kernel=3):
    return torch.randn(fused, 8, kernel, generator=torch.Generator().manual_seed(1))


def read(recipe, folder, chunk=16, ids=IDS):
    return engine_model().session(f"lococo({recipe}, folder='{folder}')", chunk=chunk).read(ids)


def lengths(session) -> set[int]:
    return {n for layer in session.growing_layers() for n in session.layers[layer].store.lengths}


def test_without_convolution_it_is_heavy_hitter_selection_to_the_bit():
    k, v, mass, positions = cache()
    new_k, new_v, new_positions, _ = fuse(k, v, mass, positions, filters(), 0.0, 10)
    best = mass.topk(10).indices.sort(1).values
    for found, wanted in ((new_k, k), (new_v, v)):
        assert torch.equal(found, torch.stack([wanted[h, best[h]] for h in range(2)]))
    assert torch.equal(new_positions, 3 * best)


def test_a_fusion_by_hand():
    """One head at a time, in loops."""
    k, v, mass, positions = cache()
    size, mix, kernels = 10, 0.3, filters()
    new_k, new_v, new_positions, weights = fuse(k, v, mass, positions, kernels, mix, size)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))
    for h in range(2):
        order = mass[h].argsort(descending=True).tolist()
        copied, rest, best = sorted(order[:5]), sorted(order[5:]), sorted(order[5:10])
        sequence = torch.cat((k[h, rest], v[h, rest]), 1)
        padded = F.pad(sequence.T, (1, 1))
        found = {}
        for row, filter in enumerate(kernels):
            line = torch.tensor([float((padded[:, t : t + 3] * filter).sum()) for t in range(len(rest))])
            share = mix * line.clamp(min=0).softmax(0)
            share[rest.index(best[row])] += 1 - mix
            found[best[row]] = (share @ k[h, rest], share @ v[h, rest])
        found |= {i: (k[h, i], v[h, i]) for i in copied}
        for slot, i in enumerate(sorted(found)):
            torch.testing.assert_close(new_k[h, slot], found[i][0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(new_v[h, slot], found[i][1], atol=1e-5, rtol=1e-4)
            assert int(new_positions[h, slot]) == 3 * i


def test_heads_do_not_depend_on_each_other():
    k, v, mass, positions = cache()
    both = fuse(k, v, mass, positions, filters(), 0.5, 10)
    swapped = fuse(k.flip(0), v.flip(0), mass.flip(0), positions, filters(), 0.5, 10)
    for one, two in zip(both, swapped, strict=True):
        torch.testing.assert_close(one, two.flip(0))


def test_the_newest_can_be_forced_in():
    k, v, mass, positions = cache()
    new_k, _, new_positions, _ = fuse(k, v, mass, positions, filters(), 0.5, 10, newest=4)
    assert new_positions[:, -4:].tolist() == [[78, 81, 84, 87]] * 2 and torch.equal(new_k[:, -4:], k[:, -4:])


def test_memory_is_the_budget_and_the_peak_a_chunk_more(folder):
    session = read("budget=24", folder, ids=torch.cat([IDS] * 4))
    assert lengths(session) == {24}
    assert session.stats.peak_entries <= (24 + 16 + 16) * 6


def test_within_the_buffer_nothing_is_fused(folder):
    session = read("budget=24, buffer=16", folder, ids=IDS[:40])
    plain = engine_model().session(chunk=16).read(IDS[:40])
    assert lengths(session) == {40}
    torch.testing.assert_close(session.score(MORE), plain.score(MORE), atol=1e-4, rtol=1e-3)


def test_without_convolution_a_session_keeps_what_had_the_most_attention_in_its_last_chunk(folder):
    session = read("budget=24, mix=0.0, buffer=0", folder, chunk=48, ids=IDS[:48])
    plain = engine_model().session("h2o(budget=1.0)", chunk=48).read(IDS[:48])
    for layer in session.growing_layers():
        held = plain.layers[layer].store.padded()
        best = held.side["mass"].sum(-1).topk(24).indices.sort(1).values
        found = session.layers[layer].store.padded()
        assert torch.equal(found.positions.long(), best)
        assert torch.equal(found.k, torch.stack([held.k[h, best[h]] for h in range(2)]))


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_a_session_reads_as_the_training_does(arch, tmp_path):
    lm = engine_model(arch)
    lococo(lm, tmp_path)
    session = lm.session(f"lococo(budget=24, buffer=4, folder='{tmp_path}')", chunk=32).read(IDS)
    tensors = calibration.load("lococo", lm, tmp_path).tensors
    kernels = tensors["codes"].float() * tensors["scales"].float()
    trained = Reader(lm, kernels, tensors["mix"], 24, 4)
    with torch.no_grad():
        for start in (0, 32, 64):
            trained.chunk(IDS[start : start + 32])
        wanted = trained.chunk(MORE)
    (found,) = forward(lm, [Work(session, MORE, "all")])
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)


def test_training_lowers_the_loss_and_touches_nothing_else(reader, tmp_path, monkeypatch):
    always = text(reader, 97, "one")
    monkeypatch.setattr(lococo_fusion, "text", lambda lm, tokens, seed: always[:tokens])
    plan = Plan(steps=30, chunks=4, block=24, size=16, fused=8, buffer=4, kernel=3, rate=0.01)
    kernels, mix, losses = train_fusion(reader, plan, tmp_path)
    assert kernels.shape == (3, 8, 32, 3) and len(losses) == 30
    assert min(losses[-3:]) < losses[0] - 0.01
    assert len(set(mix.tolist())) == 3 and not bool((mix == 0.5).any())
    assert all(parameter.grad is None for parameter in reader.hf.parameters())


def test_an_artefact_comes_back_as_it_was_trained(reader, tmp_path, monkeypatch):
    from longspan.methods.cache import lococo as file

    monkeypatch.setattr(
        file, "Plan", lambda steps: Plan(steps=steps, chunks=2, block=24, size=16, fused=8, buffer=4)
    )
    method = file.LoCoCo(steps=2)
    path = method.calibrate(reader, tmp_path)
    kernels, mix, _ = train_fusion(
        reader, Plan(steps=2, chunks=2, block=24, size=16, fused=8, buffer=4), tmp_path
    )
    held, held_mix = file.LoCoCo(folder=str(tmp_path))._trained(reader)
    assert float((held - kernels).abs().max() / kernels.abs().max()) < 0.01 and torch.equal(held_mix, mix)
    assert path.suffix == ".safetensors" and path.stat().st_size < 3 * kernels.numel()


def test_bad_input_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="longspan calibrate lococo"):
        engine_model().session("lococo")
    for knobs in ("mix=2.0", "keep_share=1.5", "buffer=-1", "allocator=adaptive", "sink=4"):
        with pytest.raises(BadInput):
            engine_model().session(f"lococo({knobs}, folder='{folder}')")
    other = Model(tiny("phi3"), None, name="tiny-llama", model_hash="else", trained_window=4096)
    with pytest.raises(BadInput, match="other weights"):
        other.session(f"lococo(folder='{folder}')")


def test_a_saved_session_goes_on_as_before(folder, tmp_path):
    lm = engine_model()
    session = lm.session(f"lococo(budget=24, buffer=4, folder='{folder}')", chunk=16).read(IDS)
    session.save(tmp_path / "session")
    again = lm.load_session(tmp_path / "session")
    for one in (session, again):
        one.read(torch.cat((MORE, IDS[:30])))
    assert torch.equal(session.score(MORE), again.score(MORE))
