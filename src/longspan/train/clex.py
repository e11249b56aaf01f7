"""Train a tiny model together with CLEX's equation: random factor t a step, random positions inside t windows, the model's own short length.

Source: CLEX, ICLR 2024, arXiv 2310.16450. All weights train. The up-projection starts like a linear layer, the down-projection at zero, so training starts from NTK scaling by 2t - 1. A
coarser solver step than at test time (0.1 against 0.01) keeps it cheap; both are fixed-step Runge-Kutta 4.

`calibrate` is the cheap half: it trains the equation alone on a model whose weights stay (ours, not the paper's), so that any Llama-type model gets an artefact
under its own hash, as `longspan calibrate clex` needs. It learns from prose alone: on a tiny model it lowered the loss past the window a little below the untrained
equation's and lost some recall there.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longspan.engine import calibration
from longspan.engine.model import Model, load
from longspan.errors import BadInput
from longspan.ops.frequency_maps import Rope
from longspan.ops.neural_frequencies import solve
from longspan.ops.rotary import angles
from longspan.ops.sampled_positions import continuous_positions
from longspan.train.tiny import Plan, Progress, descend, draw_batch, losses
from longspan.train.tiny_model import export, load_tiny
from longspan.train.tiny_tasks import documentation


class SolvedRotary(nn.Module):
    """Takes the place of a Llama's rotary module while training: cos and sin of frequencies that carry gradients."""

    def __init__(self, rope: Rope, width: int, step: float):
        super().__init__()
        pairs = rope.dim // 2
        self.rope, self.step = rope, step
        self.up = nn.Parameter(torch.empty(width, pairs))
        self.down = nn.Parameter(torch.zeros(pairs, width))
        nn.init.kaiming_uniform_(self.up, a=math.sqrt(5))
        self.factor = 1

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, (B, S, dim), as transformers' Llama expects them."""
        inv_freq = solve(self.rope, self.factor, self.up, self.down, step=self.step)
        cos, sin = angles(position_ids, inv_freq)
        return torch.cat((cos, cos), -1).to(x.dtype), torch.cat((sin, sin), -1).to(x.dtype)


def train_clex(
    start_from: Path,
    folder: Path,
    plan: Plan,
    *,
    largest: int = 4,
    width_factor: int = 1,
    solver_step: float = 0.1,
    artefacts: Path | None = None,
) -> dict[str, float]:
    """Continue the model in `start_from` for `plan.steps` steps at the last stage's length; write model and artefact.

    width_factor: hidden width over the head dimension. artefacts: folder of the artefact, the user's cache when None. Returns the last losses.
    """
    torch.manual_seed(plan.seed)
    model = load_tiny(start_from).train()
    plain = model.model.rotary_emb
    config = model.config
    dim = config.hidden_size // config.num_attention_heads
    rope = Rope(dim, config.rope_parameters["rope_theta"], config.max_position_embeddings)
    rotary = model.model.rotary_emb = SolvedRotary(rope, width_factor * dim, solver_step)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0)
    length = plan.stages[-1]
    facts: dict[str, float] = {}
    for step in range(plan.steps):
        _, ids, kinds = draw_batch(replace(plan, stages=(length,)), Progress(step=step))
        positions, rotary.factor = continuous_positions(
            length, rope.window, largest, torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        )
        answer_loss, prose_loss, _ = losses(model, ids, kinds, positions.expand(len(ids), -1))
        descend(model, optimizer, plan, step, answer_loss + plan.prose_weight * prose_loss)
        facts = {"answer_nll": float(answer_loss.detach()), "prose_nll": float(prose_loss.detach())}
    network = {"up": rotary.up.detach(), "down": rotary.down.detach()}
    model.model.rotary_emb = plain
    folder.mkdir(parents=True, exist_ok=True)
    export(model, folder)
    facts_of_run = {
        "steps": plan.steps,
        "largest": largest,
        "length": length,
        "solver_step": solver_step,
        "seed": plan.seed,
    }
    calibration.save("clex", load(str(folder)), tensors=network, facts=facts_of_run, folder=artefacts)
    return facts


def calibrate(
    method: Any,
    model: Model,
    out: Path | None,
    progress: Callable[[int, int], None] | None = None,
    *,
    steps: int = 100,
    rate: float = 2e-4,
    solver_step: float = 0.1,
    seed: int = 0,
) -> Path:
    """Train `method`'s equation on documentation prose, the model's weights frozen, and write the artefact; returns its path.

    Each step reads one text of t windows at its true positions, t ~ U{2..`method.largest`}: under random positions in a short text, frozen weights would
    ask for plain interpolation, which is wrong at test. So a step costs as much as the length it serves. Raises BadInput for a model whose rotation is not one plain
    RoPE shared by all layers, or without a tokenizer.
    """
    peer = _trainable_copy(model)
    ropes = {layer.rope.trained for layer in model.geometry.layers.values()}
    if model.tokenizer is None or len(ropes) != 1 or not hasattr(peer.base_model, "rotary_emb"):
        raise BadInput(
            f"clex is trained on a model with a tokenizer and one plain rotation for all layers, which {model.name or 'this one'} has not; "
            "use clex(trained=false), which needs no artefact."
        )
    (rope,) = ropes
    rope = Rope(rope.dim, rope.base, method.window or rope.window)
    ids = torch.tensor(model.encode(documentation()))
    torch.manual_seed(seed)
    rotary = peer.base_model.rotary_emb = SolvedRotary(rope, rope.dim, solver_step).to(model.device)
    optimizer = torch.optim.AdamW(rotary.parameters(), lr=rate, weight_decay=0.0)
    losses_seen = []
    for step in range(steps):
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rotary.factor = int(torch.randint(2, max(2, method.largest) + 1, (1,), generator=draw))
        length = min(rotary.factor * rope.window, len(ids) - 1)
        start = int(torch.randint(0, len(ids) - length, (1,), generator=draw))
        batch = ids[start : start + length].unsqueeze(0).to(model.device)
        logits = peer(input_ids=batch, use_cache=False).logits[0, :-1]
        loss = nn.functional.cross_entropy(logits.float(), batch[0, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(rotary.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses_seen.append(float(loss.detach()))
        if progress is not None:
            progress(step + 1, steps)
    half = max(1, len(losses_seen) // 2)
    facts = {
        "made_by": f"longspan calibrate {method.spell()} --model {model.name}",
        "steps": steps,
        "largest": method.largest,
        "window": rope.window,
        "solver_step": solver_step,
        "seed": seed,
        "nll_first_half": sum(losses_seen[:half]) / half,
        "nll_second_half": sum(losses_seen[-half:]) / half,
    }
    network = {"up": rotary.up.detach(), "down": rotary.down.detach()}
    return calibration.save("clex", model, tensors=network, facts=facts, folder=out)


def _trainable_copy(model: Model) -> Any:
    """transformers' own model on the same weights, under its own attention, nothing of it trainable."""
    config = copy.deepcopy(model.hf.config)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        peer = type(model.hf)(config)
    peer.load_state_dict(model.hf.state_dict(), assign=True, strict=False)
    peer.tie_weights()
    return peer.requires_grad_(False).eval()
