"""SpecKV's check: votes of a guessed answer against those of the prompt alone, with a perfect, a real, a rounded and a random draft."""

import torch

from longspan.bench.checks._common import kept, must_total, needle_figures, nll, shows_better
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.session import Session

BUDGETS = (0.25, 0.1)
SAMPLES = 3
KNOBS = "window=8, lookahead=12"
RECIPES = {
    "guess": f"speckv(budget={{}}, {KNOBS})",
    "prompt alone": "speckv(budget={}, window=8, lookahead=0)",
    "snapkv": "snapkv(budget={}, window=8, pool=7, pooling=max)",
    "random": "random(budget={})",
    "window": "window(budget={})",
}


@check(
    "speckv",
    system="speckv+specpc",
    claim="the queries of a guessed answer choose better what stays than the prompt's last queries",
    file="src/longspan/methods/cache/speckv.py",
)
def speckv(bench: Bench) -> Outcome:
    outcome = Outcome()
    samples = min(SAMPLES, bench.samples)
    spelled = {(name, b): recipe.format(b) for name, recipe in RECIPES.items() for b in BUDGETS}
    rounded = f"speckv(budget=0.1, {KNOBS}, draft='self:3bit')"  # reads every prompt itself: at one budget
    inside = needle_figures(
        bench, ["full", *spelled.values(), rounded], outcome, sides=(True,), samples=samples
    )
    after = [spelled[name, 0.25] for name in ("guess", "snapkv", "random", "window")]
    needle_figures(bench, ["full", *after], outcome, sides=(False,), samples=samples)
    for haystack in ("filler", "prose"):
        table = inside[haystack, True]
        for b in BUDGETS:
            for other in ("snapkv", "random", "window"):
                shows_better(outcome, f"{haystack} at {b:.0%}", table, spelled["guess", b], spelled[other, b])
            gain = nll(table, spelled["prompt alone", b]) - nll(table, spelled["guess", b])
            outcome.figures[f"{haystack} at {b:.0%}: gain of the guess over the prompt alone, nats"] = round(
                gain, 2
            )
        _recall(bench, haystack, outcome)

    lm = bench.model()
    session = bench.dense("prose", 0, True).fork(spelled["guess", 0.25])
    session.finish_read()
    must_total(outcome, session, 0.25)
    last = torch.arange(session.length - 8, session.length, dtype=torch.int32)
    outcome.must("the prompt's tail stays", all(torch.equal(row[-8:], last) for row in kept(session)))
    short = bench.passage(160)
    whole = lm.session("speckv(budget=1.0)").read(short).next_logits()
    outcome.must(
        "the whole budget is dense reading", torch.allclose(whole, lm.session().read(short).next_logits())
    )
    outcome.figures["share of the methods' seconds before the first token"] = round(_share(bench), 2)
    return outcome


def _recall(bench: Bench, haystack: str, outcome: Outcome) -> None:
    """How much of what the true answer's queries would keep (10% of the entries) each choice holds, over all layers and heads."""
    prompt = bench.prompt(haystack, 0)
    answer = tuple(torch.cat((prompt.lead, prompt.gold)).tolist())
    noise = torch.randint(
        5, bench.model().geometry.vocab, (len(answer),), generator=torch.Generator().manual_seed(1)
    )
    recipes = {
        "guess": f"speckv(budget=0.1, {KNOBS})",
        "random tokens": f"speckv(budget=0.1, window=8, guess={tuple(noise.tolist())})",
        "prompt alone": "speckv(budget=0.1, window=8, lookahead=0)",
    }
    true = _kept(bench, haystack, f"speckv(budget=0.1, window=8, guess={answer})")
    found = {name: _overlap(_kept(bench, haystack, recipe), true) for name, recipe in recipes.items()}
    for name, share in found.items():
        outcome.figures[f"{haystack}: share of the true answer's choice that is kept: {name}"] = round(
            share, 3
        )
    outcome.shows(
        f"{haystack}: the guess keeps more of the true answer's choice than the prompt alone",
        found["guess"] > found["prompt alone"],
    )
    outcome.shows(
        f"{haystack}: random tokens for a guess keep no more of it than a real guess",
        found["random tokens"] <= found["guess"],
    )


def _kept(bench: Bench, haystack: str, recipe: str) -> list[torch.Tensor]:
    session = bench.dense(haystack, 0, True).fork(recipe)
    session.finish_read()
    return kept(session)


def _overlap(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    shares = [float(torch.isin(a, b).float().mean()) for a, b in zip(one, other, strict=True)]
    return sum(shares) / len(shares)


def _share(bench: Bench) -> float:
    """Seconds spent on guess and choice as a share of reading a 512-token text and choosing."""
    session: Session = bench.model().session(f"speckv(budget=0.25, {KNOBS})").read(bench.passage(512))
    seconds = session.stats.seconds
    return seconds["methods"] / (seconds["methods"] + seconds["prefill"])
