"""The property suite that every registered method of a stage runs, by its stage contract. A new method is in it by being registered.

Tiny random Llama, 96 tokens. A method whose default knobs do not fit a tiny model says smaller ones in `small_knobs.py`; one that cannot run without
an artefact, or on this model, is listed in `NEEDS_MORE` with the reason and proved in its own test file.
"""

import pytest
import torch
from tests.engine.models import IDS, MORE, eager_score, engine_model, stepwise
from tests.methods.artefacts import MAKERS
from tests.methods.small_knobs import WHOLE, spell

from longspan.engine.batch import Work, forward
from longspan.engine.generate import score
from longspan.engine.method import CachePolicy, DecodeSelector, Method, PrefillPattern
from longspan.engine.recipe import parse
from longspan.engine.registry import methods
from longspan.errors import BadInput

NEEDS_MORE: dict[str, str] = {}


@pytest.fixture(autouse=True, scope="module")
def artefacts(tmp_path_factory):
    """What methods read that need an offline pass, for the tiny models of this file."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGSPAN_CACHE", str(folder))
        for arch in ("llama", "gemma3", "gpt_oss"):
            for make in MAKERS.values():
                make(engine_model(arch), folder / "calibration")
        yield


def known(stage: type[Method] | str) -> list[str]:
    found = []
    for name, cls in methods().items():
        fits = cls.stage == stage if isinstance(stage, str) else issubclass(cls, stage)
        if fits and name not in NEEDS_MORE:
            found.append(name)
    return found


def read(recipe: str, chunk: int = 32):
    return engine_model().session(recipe, chunk=chunk).read(IDS)


def positions(session) -> list:
    found = []
    for layer in session.growing_layers():
        padded = session.layers[layer].store.padded()
        valid = (
            padded.valid if padded.valid is not None else torch.ones_like(padded.positions, dtype=torch.bool)
        )
        found.append([padded.positions[h][valid[h]].tolist() for h in range(padded.positions.shape[0])])
    return found


POLICIES = known(CachePolicy)
DROPPING = [name for name in POLICIES if methods()[name].action == "drop"]
SELECTORS = known(DecodeSelector)
RUNNABLE = known("cache") + SELECTORS + known(PrefillPattern)


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_whole_budget_is_the_unmodified_model(name):
    recipe = spell(name, WHOLE.get(name, "budget=1.0"))
    (method,) = parse(recipe).methods
    for chunk in (96, 13 if method.chunk_step == 1 else 2 * method.chunk_step):
        torch.testing.assert_close(read(recipe, chunk).score(MORE), eager_score(), atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("name", DROPPING)
@pytest.mark.parametrize("budget", [0.5, 0.23, 17])
def test_totals_are_exact(name, budget):
    session = read(spell(name, f"budget={budget}"))
    per_head = round(budget * len(IDS)) if isinstance(budget, float) else budget
    geometry = session.model.geometry
    assert session.growing_entries() == per_head * geometry.kv_heads * len(geometry.growing)


@pytest.mark.parametrize("name", DROPPING)
def test_protected_entries_are_kept(name):
    for layer in positions(read(spell(name, "budget=0.3, sink=3, recent=5"))):
        for head in layer:
            assert {0, 1, 2, 91, 92, 93, 94, 95} <= set(head)


@pytest.mark.parametrize("name", RUNNABLE)
def test_reading_twice_gives_the_same_cache(name):
    knobs = "budget=0.4" if "budget" in methods()[name].__dataclass_fields__ else ""
    first, second = read(spell(name, knobs)), read(spell(name, knobs))
    assert positions(first) == positions(second)
    assert torch.equal(first.score(MORE), second.score(MORE))


@pytest.mark.parametrize("name", RUNNABLE)
def test_score_is_one_step_at_a_time(name):
    knobs = "budget=0.4" if "budget" in methods()[name].__dataclass_fields__ else ""
    session = read(spell(name, knobs))
    torch.testing.assert_close(session.score(MORE), stepwise(session, MORE), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_pack_equals_singles(name):
    knobs = "budget=0.4" if "budget" in methods()[name].__dataclass_fields__ else ""
    session = read(spell(name, knobs))
    other = engine_model().session("full").read(IDS[:50])
    alone = session.score(MORE), other.score(MORE)
    packed = score([(session, MORE), (other, MORE)])
    for one, two in zip(alone, packed, strict=True):
        torch.testing.assert_close(one, two, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_fork_leaves_its_origin_untouched(name):
    knobs = "budget=0.4" if "budget" in methods()[name].__dataclass_fields__ else ""
    session = read(spell(name, knobs))
    before, kept = session.score(MORE), positions(session)
    fork = session.fork()
    logits = fork.next_logits()
    for _ in range(6):
        (logits,) = forward(fork.model, [Work(fork, logits.argmax().view(1))])
    assert torch.equal(session.score(MORE), before)
    assert positions(session) == kept


@pytest.mark.parametrize("name", SELECTORS)
def test_a_rollback_into_what_was_indexed_indexes_again(name):
    forgotten = IDS[-7:]
    session = read(spell(name, "budget=0.4"))
    try:
        session.rollback(len(forgotten))
    except BadInput as refusal:  # the index was made from queries that are forgotten
        assert "fork() before" in str(refusal) and session.length == len(IDS)
        return
    rest = len(IDS) - len(forgotten)
    assert all(run.indexed <= rest for run in session.layers.values())
    assert torch.isfinite(session.score(MORE)).all()
    whole = read(spell(name, "budget=1.0")).rollback(len(forgotten))
    torch.testing.assert_close(
        whole.score(forgotten), read("full").rollback(7).score(forgotten), atol=3e-4, rtol=1e-3
    )


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_reads_less_than_it_holds(name):
    session = read(spell(name, "budget=0.25"))
    fork = session.fork()
    for token in MORE:
        forward(fork.model, [Work(fork, token.view(1))])
    assert 0.0 < fork.stats.decode_density < 1.0
    assert fork.stats.entries == (len(IDS) + len(MORE)) * fork.model.geometry.kv_heads * len(
        fork.model.geometry.growing
    )


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("arch", ["gemma3", "gpt_oss"])
def test_sliding_layers_are_never_compressed(name, arch):
    model = engine_model(arch)
    session = model.session(spell(name, "budget=0.3"), chunk=32).read(IDS)
    plain = model.session(chunk=32).read(IDS)
    for index, layer in session.layers.items():
        if not layer.grows:
            assert layer.store.lengths == plain.layers[index].store.lengths
    assert torch.isfinite(session.score(MORE)).all()
