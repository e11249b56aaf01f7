"""Shared by the checks of position methods past a trained window: one tiny model trained on the spot, the baselines of the same run, exact properties."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from longspan.bench import tiny_trained
from longspan.bench.extension import Reach, reach
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome
from longspan.engine.model import Model
from longspan.engine.recipe import parse
from longspan.ops.frequency_maps import Rope

WINDOW = tiny_trained.WINDOW
LENGTHS = (512, 1024, 2048)
LLAMA2, SMOLLM2 = Rope(128, 1e4, 4096), Rope(64, 1e5, 8192)
_MEASURED: WeakKeyDictionary[Bench, dict[tuple, Reach]] = WeakKeyDictionary()


def baselines(length: int) -> dict[str, str]:
    """none, PI and YaRN at the factor that `length` asks for."""
    factor = max(1, length // WINDOW)
    return {"none": "full", "pi": f"pi(factor={factor})", "yarn": f"yarn(factor={factor})"}


def measured(bench: Bench, folder: Path, recipe: str, length: int) -> Reach:
    """`reach` of a trained folder under a recipe, once a run."""
    held = _MEASURED.setdefault(bench, {})
    key = (str(folder), recipe, length)
    if key not in held:
        held[key] = reach(bench.model(str(folder)), recipe, length)
    return held[key]


def compare(
    bench: Bench,
    outcome: Outcome,
    rows: Mapping[str, tuple[Path, Mapping[int, str]]],
    lengths: Sequence[int] = LENGTHS,
) -> dict[tuple[str, int], Reach]:
    """Measure named (folder, recipe by length) rows and put loss beyond the window and recall by length into the figures."""
    found = {}
    for name, (folder, recipes) in rows.items():
        one = {length: measured(bench, folder, recipes[length], length) for length in lengths}
        found |= {(name, length): value for length, value in one.items()}
        at = "/".join(map(str, lengths))
        nll = "/".join(f"{value.beyond(WINDOW):.2f}" for value in one.values())
        recall = "/".join(f"{value.accuracy:.2f}" for value in one.values())
        nats = "/".join(f"{value.gold_nats:.2f}" for value in one.values())
        outcome.figures[f"trained at {WINDOW}, at {at}: {name}"] = (
            f"NLL beyond {nll}, recall {recall}, gold nats {nats}"
        )
    return found


def zero_shot(
    bench: Bench,
    outcome: Outcome,
    named: Mapping[str, Mapping[int, str]],
    lengths: Sequence[int] = LENGTHS,
    more: Mapping[str, tuple[Path, Mapping[int, str]]] | None = None,
) -> dict[tuple[str, int], Reach]:
    """`compare` on the shared model without tuning, beside none, PI and YaRN; `more` adds rows of other models."""
    folder = tiny_trained.base()
    base = {
        name: (folder, {length: baselines(length)[name] for length in lengths}) for name in baselines(512)
    }
    own = {name: (folder, recipes) for name, recipes in named.items()}
    return compare(bench, outcome, {**base, **own, **(more or {})}, lengths)


def fixed(recipe: str, lengths: Sequence[int] = LENGTHS) -> dict[int, str]:
    """A recipe that is the same at every length, or one with {s} for length over window."""
    return {length: recipe.replace("{s}", str(max(1, length // WINDOW))) for length in lengths}


# -- exact properties ---------------------------------------------------------------------------------------------
def must_be_a_map(bench: Bench, outcome: Outcome, recipe: str, neutral: str, sentence: str) -> None:
    """What every map of frequencies has to be: nothing at its neutral setting, a function of the distance alone, the same in one read and token by token."""
    must_be_neutral(bench, outcome, neutral, sentence)
    must_depend_on_distance(bench, outcome, recipe)
    must_decode_as_read(bench, outcome, recipe)


def must_be_neutral(bench: Bench, outcome: Outcome, recipe: str, sentence: str) -> None:
    """The recipe's frequencies are SmolLM2's own, to the bit."""
    (method,) = parse(recipe).methods
    rope = bench.model().geometry.layers[0].rope
    found = method.frequencies(rope, 2 * rope.trained.window)
    outcome.must(
        f"{sentence}: frequencies equal to the bit",
        torch.equal(found.inv_freq, rope.frequencies.inv_freq)
        and found.attention_factor == rope.frequencies.attention_factor,
    )


@torch.no_grad()
def must_decode_as_read(
    bench: Bench, outcome: Outcome, recipe: str, *, tokens: int = 600, steps: int = 24
) -> None:
    """Reading in one go and token by token give the same logits: 1e-4 on the tiny model, which the text takes past its window; SmolLM2's as a figure."""
    tiny = bench.model(str(tiny_trained.base()))
    gap = incremental_gap(tiny, recipe, torch.arange(tokens) % 200 + 5, steps)
    outcome.figures[f"{recipe}: one-shot against token by token, largest logit difference, tiny model"] = (
        f"{gap:.1e}"
    )
    outcome.must(f"{recipe}: decoding equals one-shot reading (1e-4)", gap < 1e-4)
    real = incremental_gap(bench.model(), recipe, bench.passage(160), 8)
    outcome.figures[f"{recipe}: the same, smollm2-135m"] = f"{real:.1e}"


def incremental_gap(model: Model, recipe: str, ids: torch.Tensor, steps: int) -> float:
    """Largest difference of the last logits between reading `ids` at once and feeding the last `steps` one at a time."""
    whole = model.session(recipe, beyond_window=True).read(ids).next_logits()
    session = model.session(recipe, beyond_window=True, chunk=97).expect(len(ids))
    session.read(ids[:-steps])
    for token in ids[-steps:]:
        session.feed(token.view(1), reading=False)
    return float((session.next_logits() - whole).abs().max())


def must_depend_on_distance(bench: Bench, outcome: Outcome, recipe: str, shift: int = 1000) -> None:
    """q.k under the recipe's frequencies does not change when both positions move by the same amount (fp32, 1e-3 of the largest score)."""
    (method,) = parse(recipe).methods
    rope = bench.model().geometry.layers[0].rope
    found = method.frequencies(rope, 4 * rope.trained.window)
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(4, 64, 2 * len(found.inv_freq), generator=draw) for _ in range(2))
    m, n = torch.arange(64) * 37 + 64, torch.arange(64)
    scores = [
        rope.rotate(q, m + at, found) @ rope.rotate(k, n + at, found).transpose(-1, -2) for at in (0, shift)
    ]
    gap = float((scores[0] - scores[1]).abs().max() / scores[0].abs().max())
    outcome.must("q.k depends on the distance alone", gap < 1e-3)


def last_logits_gap(bench: Bench, model: str, one: str, other: str, tokens: int = 300) -> float:
    """Largest difference of the next-token logits of two recipes after the same text."""
    lm = bench.model(model)
    ids = bench.passage(tokens) if model == "smollm2-135m" else torch.arange(tokens) % 200 + 5
    first, second = (
        lm.session(recipe, beyond_window=True).read(ids).next_logits() for recipe in (one, other)
    )
    return float((first - second).abs().max())
