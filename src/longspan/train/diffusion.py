"""Train a tiny masked-diffusion language model: a Llama that sees both sides, learning to fill masked tokens at any mask ratio.

Source: LLaDA (Nie et al., 2025, arXiv 2502.09992), as LongLLaDA (arXiv 2506.14429) extends it. A ratio t ~ U(0, 1] a sequence; each token is masked with
probability t; loss = sum over masked tokens of -log p / t, over all tokens. For tasks with answers, half of the sequences are drawn as in LLaDA's
instruction tuning: only answers are masked. transformers' own Llama is used, with an all-open attention mask; the vocabulary's end
mark, which no sample contains, is the mask token.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from longspan.train.tiny import Plan, Progress, advance, descend, draw_batch, run
from longspan.train.tiny_model import Shape, build, check_shape
from longspan.train.tiny_tasks import ANSWER, tokenizer

LEAST_RATIO = 1e-2


def mask_id() -> int:
    """The token that stands for "not written yet"."""
    return tokenizer().eos_token_id


def see_both_sides(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Logits (B, S, vocabulary) of ids (B, S), every position attending to every other."""
    open_mask = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1], device=ids.device)
    return model(input_ids=ids, attention_mask=open_mask, use_cache=False).logits


def draw_mask(kinds: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(masked bool (B, S), ratio t (B, 1)) for a batch; rows with answers mask only those, every other time."""
    rows = len(kinds)
    ratio = torch.rand(rows, 1, generator=generator) * (1 - LEAST_RATIO) + LEAST_RATIO
    masked = torch.rand(kinds.shape, generator=generator) < ratio
    answers = kinds == ANSWER
    only_answers = answers.any(1, keepdim=True) & (torch.rand(rows, 1, generator=generator) < 0.5)
    masked = torch.where(only_answers, masked & answers, masked)
    masked[:, 0] = False  # the start mark is given
    return masked, ratio


def diffusion_loss(
    logits: Tensor, ids: Tensor, kinds: Tensor, masked: Tensor, ratio: Tensor, answer_weight: float
) -> Tensor:
    """Sum of -log p of masked tokens over t, over the number of tokens; answers count `answer_weight` times."""
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(
        ids
    )
    weight = torch.where(kinds == ANSWER, answer_weight, 1.0) * masked / ratio
    return (nll * weight).sum() / ids.numel()


def train_diffusion(
    shape: Shape,
    plan: Plan,
    folder: Path,
    *,
    answer_weight: float = 4.0,
    minutes: float | None = None,
    on_step: Callable[[Progress, dict], None] | None = None,
) -> Progress:
    """Train until `plan.steps` or the wall-clock limit in minutes; resumes an unfinished run in `folder`, as `tiny.train`.

    Stages, batches and rate are the plan's; a stage lasts its share of the steps (there is no accuracy to pass it by).
    """
    check_shape(shape)
    model = build(shape, plan.seed, masked=True)

    def step(optimizer: torch.optim.Optimizer, progress: Progress) -> dict:
        return _step(model, optimizer, plan, progress, answer_weight)

    return run(model, shape, plan, Path(folder), step, minutes=minutes, on_step=on_step)


def _step(model, optimizer, plan: Plan, progress: Progress, answer_weight: float) -> dict:
    _, ids, kinds = draw_batch(plan, progress)
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + progress.step)
    masked, ratio = draw_mask(kinds, generator)
    logits = see_both_sides(model, ids.masked_fill(masked, mask_id()))
    loss = diffusion_loss(logits, ids, kinds, masked, ratio, answer_weight)
    descend(model, optimizer, plan, progress.step, loss)
    answers = masked & (kinds == ANSWER)
    right = logits.detach()[answers].argmax(-1) == ids[answers]
    advance(plan, progress, ids.numel())
    return {
        "length": ids.shape[1],
        "loss": float(loss.detach()),
        "answers_right": float(right.float().mean()) if len(right) else 0.0,
    }
