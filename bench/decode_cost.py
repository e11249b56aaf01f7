"""Decoding time a token beside the bandwidth bound, and the peak of policies that compress after every chunk.

    python bench/decode_cost.py [--length 8000] [--rounds 7] [--part decode peak] [--only NAME ...]

decode  every recipe continues the same text of `length` tokens, a few tokens at a time in turns, so that a busy moment touches all alike;
        time a token is the median over the turns with its 95% interval (bootstrap), the speed-up is that of the full cache over it. The bound
        is (W + KV) / (W + r KV): a step reads all weights (W bytes) and all entries (KV bytes, of which the share r is left) once, and
        nothing faster than memory can help. Several short turns, one process, one run.
peak    every registered policy that can act after each chunk reads the text with a budget of 1,024 entries in chunks of 512; the most
        entries a head held at any time must be within budget + chunk (protected entries are part of the budget here). What a policy feeds on a fork to score with
        comes on top for a moment: finch's question, which is no entry of the text, and epicache's prompt, whose tokens are added to the bound.

Device and dtype are the model's own choice (CUDA in bfloat16 where there is one). Times belong on an idle machine. Results:
bench/results/decode_cost_cpu.json (or _cuda); parts and policies that are in it are replaced, the others stay.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch

import longspan
from longspan.bench.haystacks import open_haystack
from longspan.bench.run import machine
from longspan.engine.batch import Work, forward
from longspan.engine.method import CachePolicy
from longspan.engine.needs import Needs
from longspan.engine.recipe import parse
from longspan.engine.registry import methods
from longspan.errors import BadInput

SHARES = (0.25, 0.0625)
RECIPES = ("window(budget={b})", "keydiff(budget={b})", "snapkv(budget={b})", "adakv(budget={b})")
WARM, STEPS = 2, 8  # tokens of a turn: not timed, timed
BUDGET, CHUNK = 1024, 512
RESULTS = Path(__file__).parent / "results"
QUESTION = "What is told here?"  # for policies that read with the question


def text_ids(lm, tokens):
    units = open_haystack("prose").units
    ids = []
    count = tokens // 16
    while len(ids) < tokens:
        ids = lm.encode("".join(units[i % len(units)] for i in range(count)), special=True)
        count *= 2
    return torch.tensor(ids[:tokens])


def synchronise(lm):
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)


@torch.no_grad()
def turn(session):
    """Seconds a token of a few greedy steps on a fork; the session stays as it was."""
    fork = session.fork()
    logits = fork.next_logits()
    for step in range(WARM + STEPS):
        if step == WARM:
            synchronise(fork.model)
            started = time.perf_counter()
        (logits,) = forward(fork.model, [Work(fork, logits.argmax().view(1))])
    synchronise(fork.model)
    return (time.perf_counter() - started) / STEPS


def median_interval(values, reference=None, draws=2000):
    """(median, low, high) of `values`, or of the ratio of medians reference / values; the turns are resampled together."""
    rng, n = random.Random(0), len(values)

    def figure(chosen):
        own = statistics.median(values[i] for i in chosen)
        return own if reference is None else statistics.median(reference[i] for i in chosen) / own

    drawn = sorted(figure([rng.randrange(n) for _ in range(n)]) for _ in range(draws))
    return figure(range(n)), drawn[int(0.025 * draws)], drawn[int(0.975 * draws)]


def decode(lm, length, rounds):
    recipes = ["full", *(recipe.format(b=share) for share in SHARES for recipe in RECIPES)]
    needs = Needs()
    for recipe in recipes:
        needs = needs | parse(recipe).needs
    base = lm.session(collect=needs, beyond_window=True).feed(text_ids(lm, length))
    sessions = {}
    for recipe in recipes:
        sessions[recipe] = base.fork(parse(recipe))
        sessions[recipe].finish_read()
    times = {recipe: [] for recipe in recipes}
    for number in range(rounds):
        for recipe in recipes if number % 2 == 0 else recipes[::-1]:
            times[recipe].append(turn(sessions[recipe]))
        print(f"turn {number + 1} of {rounds}", flush=True)
    weights, dense = lm.weight_bytes, sessions["full"].stats.cache_bytes
    rows = []
    for recipe in recipes:
        stats = sessions[recipe].stats
        share = stats.cache_bytes / dense
        seconds = median_interval(times[recipe])
        gain = median_interval(times[recipe], times["full"])
        rows.append(
            {
                "recipe": recipe,
                "share_of_kv": round(share, 4),
                "ms_per_token": [round(1000 * x, 2) for x in seconds],
                "speed_up": [round(x, 3) for x in gain],
                "bound": round((weights + dense) / (weights + share * dense), 3),
                "read_gb_per_s": round((weights + share * dense) / seconds[0] / 1e9, 2),
            }
        )
        print(rows[-1], flush=True)
    return {"length": length, "turns": rounds, "tokens_a_turn": STEPS, "weight_bytes": weights, "kv_bytes": dense, "rows": rows}  # fmt: skip


def by_chunks(lm):
    """Policies that compress after every chunk under a fixed budget, as recipes; others with the reason."""
    found, refused = {}, {}
    for name, cls in methods().items():
        if not (isinstance(cls, type) and issubclass(cls, CachePolicy)):
            continue
        knobs = {"budget": BUDGET, "when": "chunk"} | ({"question": QUESTION} if name == "finch" else {})
        try:
            method = cls(**knobs)
            method.check(lm)
            found[name] = parse(method)
        except (BadInput, TypeError) as error:
            refused[name] = str(error)
    return found, refused


def peak(lm, length, only, stored, write):
    found, stored["refused"] = by_chunks(lm)
    ids, heads = text_ids(lm, length), len(lm.geometry.growing) * lm.geometry.kv_heads
    sliding = sum(layer.window is not None for layer in lm.geometry.layers.values())
    for name, recipe in found.items():
        if only and name not in only:
            continue
        started = time.perf_counter()
        try:
            session = lm.session(recipe, chunk=CHUNK, beyond_window=True).read(ids)
        except BadInput as error:
            stored["refused"][name] = str(error)
            continue
        most = session.stats.peak_entries / heads if not sliding else None
        method = recipe.methods[0]
        prompt = len(method.prompt_ids(session)) if hasattr(method, "prompt_ids") else 0  # epicache's own
        bound = BUDGET + CHUNK + prompt
        stored["rows"][name] = {
            "recipe": str(recipe),
            "length": length,
            "peak_entries_a_head": most,
            "bound": bound,
            "within": None if most is None else most <= bound,
            "entries_a_head_at_the_end": session.growing_entries() / heads,
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(stored["rows"][name], flush=True)
        write()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device")
    parser.add_argument("--length", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--part", nargs="*", choices=("decode", "peak"), default=["decode", "peak"])
    parser.add_argument("--only", nargs="*", help="policies of the peak part")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lm = longspan.load(given.model, device=given.device)
    out = given.out or RESULTS / f"decode_cost_{lm.device.type}.json"
    stored = json.loads(out.read_text()) if out.exists() else {}
    stored |= {"model": given.model, "machine": machine(), "dtype": str(lm.dtype).removeprefix("torch.")}

    def write():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(stored, indent=1) + "\n")

    if "decode" in given.part:
        stored["decode"] = decode(lm, given.length, given.rounds)
        write()
    if "peak" in given.part:
        peak(lm, given.length, given.only, stored.setdefault("peak", {"rows": {}, "refused": {}}), write)
        write()


if __name__ == "__main__":
    main()
