"""What methods declare about their use holds for every registered method, and any other use is refused with a sentence.

Tiny random Llama, 96 tokens. Policies run under each of their schedules.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from tests.engine.models import IDS, MORE, engine_model
from tests.methods.artefacts import MAKERS
from tests.methods.small_knobs import WHOLE, spell
from tests.small_tokenizers import byte_level
from tests.tiny_models import tiny

from longspan.engine.batch import Work, forward
from longspan.engine.catalogue import describe
from longspan.engine.geometry import Geometry
from longspan.engine.method import READS, CachePolicy, Method, PrefillPattern
from longspan.engine.model import Model
from longspan.engine.recipe import parse
from longspan.engine.registry import methods
from longspan.engine.rope import LayerRope
from longspan.errors import BadInput

CLOSE = {"atol": 3e-4, "rtol": 1e-3}
GIVEN = {"longrope": f"long={(1.5,) * 8}", "clex": "trained=false", "dpe": "keys=mean"}
PROMPTS = [name for name, cls in methods().items() if cls.stage == "prompt"]
READERS = [name for name, cls in methods().items() if cls.stage != "prompt"]
TEXT = "def first(a):\n    return a + 1\n\n\n" + " ".join(
    f"Line {i} says that {i * i} is near." for i in range(9)
)


def recipes(name: str) -> list[str]:
    """The recipes under which a method is tried: a share of the cache where it has a budget, and every schedule it takes."""
    cls = methods()[name]
    fields = cls.__dataclass_fields__
    knobs = GIVEN.get(name, "") if name in GIVEN and set_knobs(GIVEN[name]) <= set(fields) else ""
    if "budget" in fields:
        knobs = f"{knobs}, budget=0.4"
    if not issubclass(cls, CachePolicy):
        return [spell(name, knobs)]
    found = []
    for when in ("prefill", "chunk", "steps"):
        try:
            parse(recipe := spell(name, f"{knobs}, when={when}, every=4"))
        except BadInput:  # a schedule that the method does not take
            continue
        found.append(recipe)
    return found


def set_knobs(text: str) -> set[str]:
    return {text.partition("=")[0]}


CASES = [recipe for name in READERS for recipe in recipes(name)]
LAST = [recipes(name)[-1] for name in READERS]  # of policies, the schedule that acts most often


@pytest.fixture(autouse=True, scope="module")
def artefacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGSPAN_CACHE", str(folder))
        for make in MAKERS.values():
            make(engine_model(), folder / "calibration")
        yield


def read(recipe: str, chunk: int = 96):
    return engine_model().session(recipe, chunk=chunk).read(IDS)


def only(recipe: str) -> Method:
    (method,) = parse(recipe).methods
    return method


# -- chunks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("recipe", CASES)
def test_how_a_text_is_cut_matters_to_those_alone_that_say_so(recipe):
    method = only(recipe)
    whole = read(recipe).score(MORE)
    chunks = (64, 37) if method.chunk_step == 1 else (64, 16)
    cut = [read(recipe, chunk) for chunk in chunks]
    if method.chunk_safe:
        for session in cut:
            torch.testing.assert_close(session.score(MORE), whole, **CLOSE)
            assert session.stats.by_chunk == ()
    else:
        assert method.reads == "by_chunk"
        assert any(not torch.allclose(session.score(MORE), whole, **CLOSE) for session in cut)
        assert cut[0].stats.by_chunk == (method.name,)


@pytest.mark.parametrize("name", [n for n in READERS if issubclass(methods()[n], PrefillPattern)])
def test_chunks_that_cut_tiles_are_refused(name):
    (recipe,) = recipes(name)
    step = only(recipe).chunk_step
    if step == 1:
        read(recipe, 13)
        return
    with pytest.raises(
        BadInput, match=rf"{name} works on tiles of {step} tokens.*session\(chunk={2 * step}\)"
    ):
        read(recipe, step + 3)
    engine_model().session(recipe, chunk=step + 3).read(IDS[: step + 3])  # one chunk cuts nothing


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_methods_shorten_alike_however_the_short_text_is_read(name):
    hf = tiny("llama", vocab_size=len(byte_level()), num_hidden_layers=2)
    lm = Model(hf, byte_level(), name="bytes", trained_window=4096)
    short = [
        lm.session(f"{name}(budget=0.5)", chunk=chunk).read(TEXT, question="Which number is near?")
        for chunk in (512, 16)
    ]
    assert only(name).chunk_safe and short[0].ids == short[1].ids
    assert short[0].length < len(lm.encode(TEXT))
    torch.testing.assert_close(short[0].score(MORE), short[1].score(MORE), **CLOSE)


@dataclass(frozen=True)
class Declares(Method):
    """A method that does nothing and asks for much."""

    name: ClassVar[str] = "careful"
    stage: ClassVar[str] = "cache"

    reads: str = "any"  # type: ignore[misc]
    batch_safe: bool = True  # type: ignore[misc]
    turn_safe: bool = True  # type: ignore[misc]
    pre_rope: bool = False  # type: ignore[misc]


def test_a_text_that_must_come_whole_is_not_read_in_pieces():
    lm = engine_model()
    with pytest.raises(BadInput, match=r"careful has to see a text as a whole, and 96 tokens.*chunk=96\)"):
        lm.session(Declares(reads="whole"), chunk=64).read(IDS)
    session = lm.session(Declares(reads="whole"), chunk=64).read(IDS[:64])
    session.feed(IDS[64:], reading=False)  # a question is no text
    session.read(IDS[:64])
    session.feed(IDS[:40])
    with pytest.raises(BadInput, match="80 tokens would come in chunks of 64"):
        session.feed(IDS[:40])


# -- batches -----------------------------------------------------------------------------------------------------------
def packed(sessions: list, texts: list[torch.Tensor], tokens: torch.Tensor) -> list[torch.Tensor]:
    """Logits after the text and after every one of `tokens`, of sessions that read and step in common forwards, (n + 1, vocab) each."""
    model = sessions[0].model
    found = [
        [logits]
        for logits in forward(model, [Work(s, t, "last", True) for s, t in zip(sessions, texts, strict=True)])
    ]
    for session, logits in zip(sessions, found, strict=True):
        session.logits = logits[0]
        session.finish_read()
    for token in tokens:
        for rows, logits in zip(
            found, forward(model, [Work(s, token.view(1)) for s in sessions]), strict=True
        ):
            rows.append(logits)
    return [torch.stack(rows) for rows in found]


@pytest.mark.parametrize("recipe", LAST)
def test_sessions_that_share_forwards_equal_each_alone(recipe):
    assert only(recipe).batch_safe
    texts, tokens = [IDS[:70], IDS[:70], IDS[:50], IDS], MORE[:4]
    kinds = [recipe, recipe, "full", recipe]  # two in step, one dense, one longer
    together = packed([engine_model().session(kind) for kind in kinds], texts, tokens)
    torch.testing.assert_close(together[0], together[1], atol=3e-3, rtol=1e-3)
    for number in (1, 3):
        (alone,) = packed([engine_model().session(recipe)], [texts[number]], tokens)
        torch.testing.assert_close(together[number], alone, atol=3e-3, rtol=1e-3)


def test_a_session_that_runs_alone_is_not_packed():
    lm = engine_model()
    alone, other = lm.session(Declares(batch_safe=False)).read(IDS), lm.session().read(IDS)
    assert len(alone.score(MORE)) == len(MORE)
    before = alone.length, other.length
    with pytest.raises(BadInput, match="careful runs one session at a time, and 2 were given"):
        forward(lm, [Work(other, MORE[:1]), Work(alone, MORE[:1])])
    assert (alone.length, other.length) == before


# -- turns -------------------------------------------------------------------------------------------------------------
def two_turns(recipe: str):
    """A text, a question, an answer of three tokens, and a second text: IDS in all."""
    session = engine_model().session(recipe, chunk=96).read(IDS[:56])
    session.feed(IDS[56:61], reading=False)
    for token in IDS[61:64]:
        forward(session.model, [Work(session, token.view(1))])
    return session.read(IDS[64:])


@pytest.mark.parametrize(
    "name", [n for n in READERS if "budget" in methods()[n].__dataclass_fields__ or n in WHOLE]
)
def test_a_second_turn_with_the_whole_budget_is_the_unmodified_model(name):
    recipe = spell(name, WHOLE.get(name, "budget=1.0"))
    assert only(recipe).turn_safe
    expected = read("full").score(MORE)
    torch.testing.assert_close(two_turns(recipe).score(MORE), expected, **CLOSE)


@pytest.mark.parametrize("recipe", CASES)
def test_a_second_turn_keeps_the_budget(recipe):
    method = only(recipe)
    assert method.turn_safe
    session = two_turns(recipe)
    assert session.length == len(IDS)
    assert torch.isfinite(session.score(MORE)).all()
    geometry = session.model.geometry
    if isinstance(method, CachePolicy) and method.action in ("drop", "merge"):
        assert session.growing_entries() <= round(0.4 * len(IDS)) * geometry.kv_heads * len(geometry.growing)
    if session.selector is not None:
        assert all(run.indexed == len(IDS) for run in session.layers.values())
    if session.map is not None and method.stage == "positions":
        torch.testing.assert_close(session.score(MORE), read(recipe).score(MORE), **CLOSE)


def test_a_second_text_is_refused_where_one_is_all_there_can_be():
    session = engine_model().session(Declares(turn_safe=False)).read(IDS)
    session.feed(MORE, reading=False)
    before = session.length
    with pytest.raises(BadInput, match="careful serves one text, and this session has read one"):
        session.read(IDS)
    assert session.length == before
    twin = session.fork()
    with pytest.raises(BadInput, match="session of its own"):
        twin.read(IDS)


# -- rotation ----------------------------------------------------------------------------------------------------------
class Untouchable(LayerRope):
    """A rotation of an unknown kind, which nobody may ask for."""

    def _asked(self, *_, **__):
        raise AssertionError("a method turned keys or queries whose rotation the engine does not know")

    rotate = unrotate = mean_rotate = _asked


def strange() -> Model:
    """The tiny model as if its rotation had not been recognised."""
    known = engine_model()
    model = copy.copy(known)
    layers = {}
    for index, layer in known.geometry.layers.items():
        rope = Untouchable(layer.rope.frequencies, "unknown", 0, layer.rope.trained)
        layers[index] = dataclasses.replace(layer, rope=rope)
    model.geometry = Geometry(
        layers, known.geometry.hidden, known.geometry.vocab, known.geometry.trained_window
    )
    return model


@pytest.mark.parametrize("recipe", [*CASES, "chelsea(recent=8, space=pre_rope)", "keydiff(rope=none)",
                                    "adakv(base=keydiff(rope=none))", "double_sparsity(offload=true)",
                                    "actqkv(probe=mean)", "window(positions=cache)"])  # fmt: skip
def test_unknown_rotations_are_refused_by_those_alone_that_undo_them(recipe):
    method = only(recipe)
    if method.pre_rope:
        reason = "changes rotary" if method.stage == "positions" else "needs keys or queries before rotation"
        with pytest.raises(BadInput, match=f"{method.name} {reason}"):
            strange().session(recipe)
        if method.stage != "positions":
            plain = strange().session()
            with pytest.raises(BadInput, match="before rotation"):
                plain.fork(recipe)
        return
    session = strange().session(recipe, chunk=32).read(IDS)
    assert torch.isfinite(session.score(MORE)).all()


# -- what is listed ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(methods()))
def test_every_declaration_is_listed(name):
    listed = describe(methods()[name])
    assert listed["reads"] in READS and listed["chunk_safe"] == (listed["reads"] == "any")
    assert listed["chunk_step"] >= 1
    for flag in ("batch_safe", "turn_safe", "pre_rope"):
        assert isinstance(listed[flag], bool)
    try:
        plain = methods()[name]()
    except BadInput:
        return
    assert all(
        listed[flag] == getattr(plain, flag) for flag in ("reads", "chunk_step", "turn_safe", "pre_rope")
    )
