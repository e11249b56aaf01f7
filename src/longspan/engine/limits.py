"""Will this text fit this session? What `admission` needs to know, taken from the model, the recipe and what the session holds.

Only a policy that acts on every chunk lowers the peak; one that acts after the read, and a quantiser (which codes what has been read), do
not. A position method extends the window to its `reach`; so does a policy that numbers entries inside the cache and cuts on every chunk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from longspan.engine import admission
from longspan.engine.budget import Budget
from longspan.engine.method import CachePolicy
from longspan.engine.registry import methods
from longspan.errors import BadInput
from longspan.ops.attention import PLAIN_BLOCK_ELEMENTS

if TYPE_CHECKING:
    from longspan.engine.model import Model
    from longspan.engine.session import Session

MASS_BLOCK = 256  # rows of one block of the column-mass recompute


def admit_text(session: Session, new_tokens: int) -> None:
    """Raise BadInput when `new_tokens` more tokens exceed the model's window under the recipe, or free memory."""
    tokens = session.length + new_tokens
    if not session.beyond_window:
        _check_window(session, tokens)
    plan = memory_plan(session, tokens)
    held = sum(sum(run.store.bytes()) for run in session.layers.values())
    dense = session.model.geometry.dense_elements(tokens) * session.element_size
    free = admission.free_memory(session.model.device) + held
    admission.admit(plan, free=free, trained_window=None, full_cache=dense, code_bits=())


def _check_window(session: Session, tokens: int) -> None:
    trained = session.model.geometry.trained_window
    method = session.recipe.one("positions")
    if method is not None:
        method.check_trained(trained)
    reached = reach(session, trained)
    if tokens <= reached:
        return
    if method is not None:
        raise BadInput(
            f"{tokens:,} tokens are more than the {reached:,.0f} that {method.spell()} reaches on a model trained for {trained:,} positions; "
            "raise its knobs, or shorten the text."
        )
    raise BadInput(
        f"{tokens:,} tokens are more than the {trained:,} positions this model was trained for; shorten the text, or add a position "
        f"method that reaches further: {', '.join(extenders(session.model, tokens))}."
    )


def reach(session: Session, trained: int) -> float:
    """Longest text, in tokens, that the session's recipe is meant for on a model trained at `trained`."""
    method = session.recipe.one("positions")
    if method is not None:
        return method.reach(trained)
    for policy in session.recipe.of("cache"):
        mode = getattr(policy, "position_mode", "original")
        if mode == "capped":
            return float("inf")
        if mode == "cache" and policy.when == "chunk":
            budget = Budget.parse(policy.budget)
            kept = budget.entries(1 << 40, session.model.geometry, session.element_size)
            if budget.share is None and kept + session.chunk <= trained:
                return float("inf")
    return trained


def extenders(model: Model, tokens: int) -> list[str]:
    """Position methods that, with nothing but their defaults, bring `model` to `tokens`."""
    found = []
    for name, cls in methods().items():
        if cls.stage != "positions":
            continue
        try:
            method: Any = cls()
            method.check(model)
            method.check_trained(model.geometry.trained_window)
        except (BadInput, TypeError):  # needs knobs, an artefact, or another model
            continue
        if tokens <= method.reach(model.geometry.trained_window):
            found.append(name)
    return found


def memory_plan(session: Session, tokens: int) -> admission.MemoryPlan:
    """Peak bytes of bringing `session` to `tokens` tokens, weights not counted."""
    model, needs, chunk = session.model, session.needs, session.chunk
    geometry, size = model.geometry, session.element_size
    config = model.hf.config.get_text_config(decoder=True)
    layers = tuple(geometry.layers.values())
    group = max(layer.group for layer in layers)
    plan = admission.plan_memory(
        admission.ModelSizes(layers, geometry.hidden, _intermediate(config), geometry.vocab),
        tokens,
        dtype=model.dtype,
        chunk=chunk,
        budget=_share_while_reading(session, tokens),
        side_bytes=4 + (4 * group if needs.column_mass or needs.decode_mass else 0),
        logit_rows=chunk if needs.token_logprobs else 1,
    )
    heads = max(layer.q_heads for layer in layers)
    rows = min(chunk, tokens)
    extra = 0
    if any(softcap is not None for _, softcap in model.calls.values()):
        extra += 12 * min(heads * rows * tokens, PLAIN_BLOCK_ELEMENTS)
    if needs.column_mass or needs.decode_mass:
        extra += 8 * heads * min(rows, MASS_BLOCK) * tokens
    kept_states = tokens if needs.hidden < 0 else min(needs.hidden, tokens)
    states = kept_states * geometry.hidden * size * len(geometry.growing)
    return replace(plan, cache=plan.cache + states, workspace=plan.workspace + extra)


def _share_while_reading(session: Session, tokens: int) -> float:
    for policy in session.recipe.of("cache"):
        if isinstance(policy, CachePolicy) and policy.when == "chunk":
            return (
                Budget.parse(policy.budget).entries(tokens, session.model.geometry, session.element_size)
                / tokens
            )
    return 1.0


def _intermediate(config: Any) -> int:
    """Active MLP width of one token: the dense MLP or all chosen experts, whichever is wider."""
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    wide = max(wide) if isinstance(wide, list | tuple) else wide
    expert = getattr(config, "moe_intermediate_size", None) or wide
    chosen = getattr(config, "num_experts_per_tok", None) or 0
    return max(wide, expert * chosen)
