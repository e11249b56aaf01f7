"""LongLLaDA's check: a tiny masked-diffusion model beside its causal twin, both trained at 128 tokens here: loss by position, recall near the end, and what the base's lambda adds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from longspan.bench import tiny_trained
from longspan.bench.checks._extension import must_be_a_map
from longspan.bench.testbed import Bench
from longspan.bench.verify import Outcome, check
from longspan.engine.recipe import parse
from longspan.methods.positions.export import exported_config
from longspan.ops.frequency_maps import Rope, critical_dimension, diffusion_base_factor
from longspan.train.diffusion import mask_id, see_both_sides
from longspan.train.diffusion_sampling import block_nll, quotas, write
from longspan.train.tiny_model import load_tiny
from longspan.train.tiny_tasks import needle, sample

WINDOW, FOLDS, BLOCK = 128, (1, 2, 3, 4, 6), 32
DEPTHS, PROMPTS, STRETCHES = (0.05, 0.25, 0.5, 0.75, 0.95), 12, 12
LLADA, LLAMA3 = Rope(128, 5e5, 4096), Rope(128, 5e5, 8192)
LAMBDAS = {LLADA: {8192: 4, 16384: 14, 24576: 31, 32768: 55}, LLAMA3: {16384: 4, 32768: 13}}


@dataclass(frozen=True)
class Kind:
    """A trained folder and how it is asked."""

    folder: Path
    diffusion: bool


@check(
    "longllada",
    system="longllada",
    claim="a diffusion model stays fluent past its window and recalls what lies near the end, where a causal one fails; a larger base extends both",
    file="src/longspan/methods/positions/longllada.py",
)
def longllada(bench: Bench) -> Outcome:
    outcome = Outcome()
    _lambdas(outcome)
    must_be_a_map(bench, outcome, "longllada(factor=4)", "longllada(factor=1)", "lambda = 1")
    kinds = {
        "diffusion": Kind(tiny_trained.diffusion_or_twin(True), True),
        "causal": Kind(tiny_trained.diffusion_or_twin(False), False),
    }
    _sampler(outcome, load_tiny(kinds["diffusion"].folder))
    growth, recall = {}, {}
    for name, kind in kinds.items():
        plain = load_tiny(kind.folder)
        course = loss_by_fold(kind, plain)
        growth[name] = {fold: course[fold] / course[1] - 1 for fold in FOLDS}
        outcome.figures[f"{name}: nats a token at 1/2/3/4/6 windows"] = "/".join(
            f"{v:.2f}" for v in course.values()
        )
        for fold in (2, 4):
            length = fold * WINDOW
            models = {"": plain, ", lambda": extended(kind.folder, fold)}
            for suffix, model in models.items():
                found = recall[name + suffix, fold] = recall_by_depth(kind, model, length)
                outcome.figures[f"{name}{suffix}, {length} tokens: recall at depth 5/25/50/75/95%"] = (
                    "/".join(f"{share:.2f}" for share, _ in found.values())
                )
            if fold == 4:
                course = {
                    suffix: loss_by_fold(kind, model, (fold,))[fold] for suffix, model in models.items()
                }
                outcome.figures[f"{name}, {length} tokens, loss without and with lambda"] = (
                    f"{course['']:.2f}, {course[', lambda']:.2f}"
                )
    worst = {name: max(values.values()) for name, values in growth.items()}
    outcome.figures["largest growth of the loss up to six windows: diffusion, causal"] = (
        f"{worst['diffusion']:+.0%}, {worst['causal']:+.0%}"
    )
    outcome.shows(
        "diffusion: the loss stays within 20% of that at one window, to six", worst["diffusion"] < 0.2
    )
    outcome.shows("causal: the loss grows more", worst["causal"] > worst["diffusion"])
    near = recall["diffusion", 4][0.95][0]
    far = recall["diffusion", 4][0.05][0]
    outcome.shows(
        "diffusion at four windows recalls near the end and not at the start (local perception)",
        near > 0.5 > far,
    )
    outcome.shows(
        "diffusion recalls more than the causal twin at two windows, near the end",
        recall["diffusion", 2][0.95][0] > recall["causal", 2][0.95][0],
    )
    for name in kinds:
        for fold in (2, 4):
            before, after = mean_recall(recall[name, fold]), mean_recall(recall[f"{name}, lambda", fold])
            outcome.shows(
                f"{name}: lambda improves recall at {fold} windows ({before:.2f} to {after:.2f})",
                after > before,
            )
    return outcome


def extended(folder: Path, fold: int) -> LlamaForCausalLM:
    """The model with the base of `fold` windows written into its config."""
    model = load_tiny(folder)
    config = exported_config(model.config, parse(f"longllada(factor={fold})").methods[0])
    return LlamaForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()


def mean_recall(found: dict[float, tuple[float, float]]) -> float:
    return float(np.mean([share for share, _ in found.values()]))


@torch.no_grad()
def loss_by_fold(kind: Kind, model: Any, folds: tuple[int, ...] = FOLDS) -> dict[int, float]:
    """Nats a token of the last `WINDOW` tokens before each multiple of the window, on held-out prose.

    Causal: next-token loss. Diffusion: masked tokens of a block after its whole prefix. Each is compared with itself only.
    """
    length = max(folds) * WINDOW
    rng = np.random.default_rng(7)
    ids = torch.from_numpy(
        np.stack([sample("text", length, rng, held_out=True).ids for _ in range(STRETCHES)])
    )
    if kind.diffusion:
        course = block_nll(model, ids, block=BLOCK, draws=4)
    else:
        logprobs = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        nll = -logprobs.gather(-1, ids[:, 1:].unsqueeze(-1))[..., 0].mean(0)
        course = [
            (start, float(nll[start - 1 : start - 1 + BLOCK].mean())) for start in range(BLOCK, length, BLOCK)
        ]
    return {
        fold: float(
            np.mean([value for start, value in course if (fold - 1) * WINDOW <= start < fold * WINDOW])
        )
        for fold in folds
    }


@torch.no_grad()
def recall_by_depth(kind: Kind, model: Any, length: int) -> dict[float, tuple[float, float]]:
    """{depth: (share answered, mean gold nats)} of one record among three distractors, asked at the end; the answer is one token."""
    found = {}
    for depth in DEPTHS:
        drawn = [
            needle(length, depth, np.random.default_rng([length, int(100 * depth), n]))
            for n in range(PROMPTS)
        ]
        ids = torch.from_numpy(np.stack([one.ids for one in drawn]))
        gold = ids[:, -1].clone()
        if kind.diffusion:
            ids[:, -1] = mask_id()
            logits = see_both_sides(model, ids)[:, -1]
        else:
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits[:, -1]
        nats = -logits.log_softmax(-1).gather(-1, gold.unsqueeze(-1))
        found[depth] = (float((logits.argmax(-1) == gold).float().mean()), float(nats.mean()))
    return found


def _lambdas(outcome: Outcome) -> None:
    outcome.must(
        "critical dimensions of LLaDA, Llama-3 and SmolLM2: 64, 70, 40",
        [critical_dimension(rope) for rope in (LLADA, LLAMA3, Rope(64, 1e5, 8192))] == [64, 70, 40],
    )
    method = parse("longllada").methods[0]
    for rope, wanted in LAMBDAS.items():
        found = {target: method.multiplier(rope, target / rope.window) for target in wanted}
        exact = "/".join(f"{diffusion_base_factor(rope, target):.2f}" for target in wanted)
        outcome.figures[f"lambda, trained {rope.window}, before rounding up"] = exact
        outcome.must(f"trained {rope.window}: lambda {list(wanted.values())} as released", found == wanted)


def _sampler(outcome: Outcome, model: LlamaForCausalLM) -> None:
    outcome.must(
        "quotas add up to the masks, the remainder first",
        all(
            sum(quotas(n, s)) == n and quotas(n, s) == sorted(quotas(n, s), reverse=True)
            for n in (7, 32)
            for s in (1, 3, 7)
        ),
    )
    prompt = torch.from_numpy(sample("text", 96, np.random.default_rng(1), held_out=True).ids)
    slow = write(model, prompt, 32, steps=32, block=16)
    outcome.must("as many steps as tokens: each step unmasks exactly one", slow.unmasked == (1,) * 32)
    fast = write(model, prompt, 30, steps=8, block=16, temperature=0.5, cfg=1.0)
    outcome.must(
        "30 tokens in blocks of 16 are 32, none a mask",
        len(fast.ids) == 32 and not bool((fast.ids == mask_id()).any()),
    )
    outcome.must(
        "temperature 0 writes the same text again",
        torch.equal(slow.ids, write(model, prompt, 32, steps=32, block=16).ids),
    )
