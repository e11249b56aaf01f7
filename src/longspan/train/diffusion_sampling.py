"""Write with a masked-diffusion model: block by block, the most confident masks first; and its Monte-Carlo loss by position.

Source: LLaDA's sampler as LongLLaDA runs it (arXiv 2506.14429; code OpenMOSS/LongLLaDA). The answer starts as masks, in blocks; every step is one forward over
everything, with no cache, and unmasks the step's quota of the block's most confident positions (mask count // steps, the remainder to the
first steps). Temperature: Gumbel noise in fp64, exp(l) / (-ln U)^temperature; lower precision loses quality. Guidance: u + (cfg + 1)(c - u), u seeing a masked prompt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from longspan.errors import BadInput
from longspan.train.diffusion import mask_id, see_both_sides


@dataclass(frozen=True)
class Written:
    """ids: int64 (answer tokens,). unmasked: how many tokens each step wrote."""

    ids: Tensor
    unmasked: tuple[int, ...]


def quotas(masks: int, steps: int) -> list[int]:
    """Tokens to unmask at each step: equal shares, the remainder one each to the first steps."""
    share, rest = divmod(masks, steps)
    return [share + (number < rest) for number in range(steps)]


@torch.no_grad()
def write(
    model: LlamaForCausalLM,
    prompt: Tensor,
    tokens: int,
    *,
    steps: int = 32,
    block: int = 32,
    temperature: float = 0.0,
    cfg: float = 0.0,
    seed: int = 2025,
) -> Written:
    """Continue prompt (S,) by at least `tokens` tokens, rounded up to whole blocks. steps: forwards in all, at most one a token."""
    if min(tokens, steps, block) < 1:
        raise BadInput(f"tokens, steps and block must be at least 1, not {tokens}, {steps} and {block}.")
    blocks = -(-tokens // block)
    length = blocks * block
    each = max(1, min(steps, length) // blocks)
    draw = torch.Generator().manual_seed(seed)
    ids = torch.cat((prompt, torch.full((length,), mask_id()))).unsqueeze(0)
    counts = []
    for number in range(blocks):
        end = len(prompt) + (number + 1) * block
        for quota in quotas(block, each):
            logits = _guided(model, ids, len(prompt), cfg)[0]
            masked = ids[0] == mask_id()
            logits[:, mask_id()] = -torch.inf  # a mask is never an answer
            best = _noised(logits, temperature, draw).argmax(-1)
            confidence = logits.double().softmax(-1).gather(-1, best.unsqueeze(-1))[:, 0]
            confidence[~masked] = -torch.inf
            confidence[end:] = -torch.inf
            chosen = confidence.topk(quota).indices
            ids[0, chosen] = best[chosen]
            counts.append(len(chosen))
    return Written(ids[0, len(prompt) :], tuple(counts))


def _guided(model: LlamaForCausalLM, ids: Tensor, prompt: int, cfg: float) -> Tensor:
    if not cfg:
        return see_both_sides(model, ids)
    blind = ids.clone()
    blind[:, :prompt] = mask_id()
    given, unconditional = see_both_sides(model, torch.cat((ids, blind))).chunk(2)
    return unconditional + (cfg + 1) * (given - unconditional)


def _noised(logits: Tensor, temperature: float, draw: torch.Generator) -> Tensor:
    if not temperature:
        return logits
    uniform = torch.rand(logits.shape, dtype=torch.float64, generator=draw).clamp(min=1e-300)
    return logits.double().exp() / (-uniform.log()) ** temperature


@torch.no_grad()
def block_nll(
    model: LlamaForCausalLM, ids: Tensor, *, block: int = 32, draws: int = 8, seed: int = 0
) -> list[tuple[int, float]]:
    """[(first position of a block, nats a masked token)]: each block after its whole prefix, k ~ U{1..block} of its tokens masked, mean over draws.

    ids (B, S). A Monte-Carlo bound's ingredient, noisy and not comparable with a causal model's loss: compare positions of one model.
    """
    draw = torch.Generator().manual_seed(seed)
    found = []
    for start in range(block, ids.shape[1] - block + 1, block):
        rows = ids[:, : start + block].repeat_interleave(draws, 0)
        order = torch.rand(len(rows), block, generator=draw).argsort(1)
        masked = order < torch.randint(1, block + 1, (len(rows), 1), generator=draw)
        seen = rows.clone()
        seen[:, start:] = rows[:, start:].masked_fill(masked, mask_id())
        logprobs = see_both_sides(model, seen)[:, start:].float().log_softmax(-1)
        nll = -logprobs.gather(-1, rows[:, start:].unsqueeze(-1))[..., 0]
        found.append((start, float(((nll * masked).sum(1) / masked.sum(1)).mean())))
    return found
