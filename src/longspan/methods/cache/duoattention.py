"""DuoAttention: retrieval heads keep the whole cache, streaming heads keep sinks and a window; trained gates say which is which.

Source: DuoAttention, Xiao et al., ICLR 2025; code mit-han-lab/duo-attention. The gates come from `longspan calibrate duoattention`
(`duoattention_gates.py`). KV heads of all growing layers are ranked by them together; the budget then says how many are retrieval heads: every
head gets its `sink` + `recent` entries, the best-ranked get everything, and what is left over lengthens the window of the next in line, so the total
is exact. The original states the share of streaming heads instead (half, for grouped queries); at budget b and a long text that share is about 1 - b.

when="prefill" reads densely and then drops; when="chunk" is the deployed form: streaming heads never hold more than their window and the chunk,
while a text is read and, cut every `every` tokens, while an answer is written. Who is a retrieval head is settled at the first cut for the length
the text will have; a head that has been cut never becomes one again. Positions stay original. Nothing is reordered: heads have lengths of their own.

Many gates end at exactly 0 or 1. The code breaks such ties with random noise; here by the gate's mean over the training, then by layer and head.
The code trains with 128 sinks and 256 recent tokens and deploys with 64 and 256 at 32K tokens and more. Here texts are short: 8 and 32 in training
(kept in the artefact), 16 and 64 by default in use.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.engine import calibration
from longspan.engine.budget import Budget
from longspan.engine.method import CachePolicy, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.duoattention_gates import Plan, attention_reach, train_gates

RANKINGS = {"gates": ("gates", "mean_gates"), "reach": ("reach",)}


@register("duoattention")
@dataclass(frozen=True)
class DuoAttention(CachePolicy):
    """sink, recent: window of the streaming heads, in tokens. by: "gates" (trained) or "reach" (kvpress's score without training). steps: of
    `longspan calibrate`. folder: where the artefact lies, "" for the usual places."""

    source = Source("https://arxiv.org/abs/2410.10819", 2024, "https://github.com/mit-han-lab/duo-attention")
    system = "duoattention"

    sink: int = 16
    recent: int = 64
    by: str = "gates"
    steps: int = 28
    folder: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in RANKINGS:
            raise BadInput(f"by={self.by!r} of duoattention is not one of {', '.join(RANKINGS)}.")
        if self.allocator != "uniform":
            raise BadInput("duoattention itself decides what each head keeps; use allocator=uniform.")
        if self.recent < 1 or self.steps < 1:
            raise BadInput("duoattention takes recent >= 1 and steps >= 1.")

    def check(self, model: Any) -> None:
        self.ranking(model)

    def ranking(self, model: Any) -> list[int]:
        """KV heads of all growing layers, numbered layer by layer, the one that most needs its cache first."""
        facts = calibration.load("duoattention", model, self.folder or None).facts
        keys = [torch.tensor(facts[name]).flatten().tolist() for name in RANKINGS[self.by]]
        wanted = len(model.geometry.growing) * model.geometry.kv_heads
        if len(keys[0]) != wanted:
            raise BadInput(f"the gates of duoattention are not for {wanted} KV heads.")
        return sorted(range(wanted), key=lambda head: [-values[head] for values in keys])

    def compress_all(self, session: Any) -> None:
        """Bring every head to its window, its window and the remainder, or everything."""
        layers, heads = session.growing_layers(), session.model.geometry.kv_heads
        final = max(session.length, session.horizon)
        per_head = Budget.parse(self.budget).entries(final, session.model.geometry, session.element_size)
        window = min(self.sink + self.recent, final)
        if per_head < window:
            raise BadInput(
                f"The budget of duoattention is {per_head} entries a head, below the {window} that a streaming head holds "
                "(sink + recent); raise the budget or lower them."
            )
        state = session.run_state(self)
        if "ranking" not in state:
            state["ranking"] = self.ranking(session.model)
        counts, state["split"] = head_counts(
            len(state["ranking"]), per_head * heads * len(layers), final, window, state.get("split")
        )
        given = dict(zip(state["ranking"], counts, strict=True))
        for order, layer in enumerate(layers):
            view = session.view(layer, self)
            self.compress(view, [given[order * heads + head] for head in range(heads)])
        session.note_eviction()

    def compress(self, view: LayerView, counts: list[int]) -> None:  # type: ignore[override]
        """Keep the sinks and the newest of every head, counts[head] entries in all."""
        held = torch.tensor(view.run.store.lengths)
        wanted = torch.tensor(counts)
        if bool((held <= wanted).all()):
            return
        view.keep(window_of(held, wanted, self.sink).to(view.positions.device))

    def after_tokens(self, session: Any, new: int, reading: bool) -> None:
        if self.when == "chunk" and not reading:
            state = session.run_state(self)
            state["since"] = state.get("since", 0) + new
            if state["since"] >= self.every:
                state["since"] = 0
                self.compress_all(session)
        elif self.when == "chunk":
            self.compress_all(session)
        else:
            super().after_tokens(session, new, reading)

    def free_tokens(self, session: Any) -> int | None:
        if self.when == "prefill":
            return None
        return self.every - session.run_state(self).get("since", 0)

    def calibrate(self, model: Any, out: Path | None, progress: Any = None) -> Path:
        """Train the gates and write the artefact; an interrupted run is taken up where it was."""
        plan = Plan(steps=self.steps)
        learned = train_gates(model, plan, out, progress)
        facts = {
            "made_by": f'longspan calibrate "duoattention(steps={self.steps})" --model {model.name}',
            **vars(plan),
            **learned,
            "reach": [[round(value, 5) for value in row] for row in attention_reach(model).tolist()],
        }
        return calibration.save("duoattention", model, facts=facts, folder=out)


def head_counts(
    heads: int, total: int, length: int, window: int, before: tuple[int, int] | None = None
) -> tuple[list[int], tuple[int, int]]:
    """Entries of every head in order of rank, their sum exactly `total` (>= heads x window), and the split they follow.

    A split is the number of heads that keep all `length` entries and what the next one keeps beyond `window`, which the others keep. before: an
    earlier split; no head that was cut under it keeps everything again, and what it might have held is left unused.
    """
    if length == window:
        return [length] * heads, (heads, 0)
    whole, rest = divmod(total - heads * window, length - window)
    if before is not None and whole > before[0]:
        whole, rest = before
    return ([length] * whole + [window + rest] + [window] * heads)[:heads], (whole, rest)


def window_of(held: Tensor, wanted: Tensor, sink: int) -> Tensor:
    """Which of a head's entries stay, (Hk, T) bool: the first `sink` and the newest, wanted (Hk,) of held (Hk,) in all."""
    index = torch.arange(int(held.max())).unsqueeze(0)
    first = torch.minimum(wanted, torch.full_like(wanted, sink)).unsqueeze(1)
    newest = held.unsqueeze(1) - (wanted.unsqueeze(1) - first)
    return (index < held.unsqueeze(1)) & ((index < first) | (index >= newest))
