"""SirLLM: in an endless dialogue keep the sinks and the tokens that surprised the model, with a surprise that fades turn by turn.

Source: SirLLM, Yao et al., ACL 2024; code Zoeyyao27/SirLLM. The "token entropy" of both paper and code is the surprisal
e_t = -log p(x_t | what came before), one number a token, shared by all layers and heads. After every turn e <- decay * e for older tokens. Kept:
sink, newest `recent`, then the largest e; what the three leave free goes to the newest. A turn is one read text (`read`, or a question and its
answer followed by the next `read`).

Differences of the code, behind first="turn_max": it has no logit for a turn's first token and gives it the turn's largest e; the paper's
definition, here the default, is that token's own surprisal. The code also evicts before a turn so that the turn fits (peak: the budget), here
eviction follows it (peak: budget + turn; when="chunk" bounds it by a chunk). The reference numbers positions inside the cache:
positions="cache". Chat marks are rare and would win, so special tokens count as unsurprising unless skip_special=false.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longspan.engine.method import CachePolicy, Source
from longspan.engine.needs import Needs
from longspan.engine.registry import register
from longspan.errors import BadInput


@register("sirllm")
@dataclass(frozen=True)
class SirLLM(CachePolicy):
    """decay: factor on e for every turn that has passed (code: 1 grocery, 0.7 dialogue, 0.9 game). recent: newest tokens always kept (0 in the
    published runs). first: "known" or "turn_max". positions: "original" or "cache"."""

    source = Source("https://arxiv.org/abs/2405.12528", 2024, "https://github.com/Zoeyyao27/SirLLM")

    sink: int = 4
    decay: float = 1.0
    first: str = "known"
    positions: str = "original"
    skip_special: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.decay <= 1.0:
            raise BadInput(f"decay={self.decay} of sirllm must lie between 0 and 1.")
        if self.first not in ("known", "turn_max") or self.positions not in ("original", "cache"):
            raise BadInput("sirllm takes first=known or turn_max, and positions=original or cache.")
        if self.allocator != "uniform":
            raise BadInput("sirllm has one score a token for all layers and heads; use allocator=uniform.")

    @property
    def position_mode(self) -> str:
        return self.positions

    @property
    def needs(self) -> Needs:
        return Needs(token_logprobs=True)

    def after_read(self, session: Any) -> None:
        super().after_read(session)
        state = session.run_state(self)
        state["turns"] = (*state.get("turns", ()), session.length)

    def score_all(self, session: Any) -> dict[int, Tensor]:
        surprise = self.surprise(session)
        views = {layer: session.view(layer, self) for layer in session.growing_layers()}
        # what is equal goes to the newer
        return {layer: view.at_positions(surprise) + 1e-9 * view.positions for layer, view in views.items()}

    def surprise(self, session: Any) -> Tensor:
        """Faded surprisal of every token seen, (seen,) nats."""
        found = -session.token_logprobs()
        if self.skip_special and session.model.tokenizer is not None:
            special = torch.tensor(session.model.tokenizer.all_special_ids, device=found.device)
            found = found.masked_fill(
                torch.isin(torch.tensor(session.ids, device=found.device), special), 0.0
            )
        ends = torch.tensor(session.run_state(self).get("turns", ()), dtype=torch.long)
        index = torch.arange(len(found))
        turn = torch.searchsorted(ends, index, right=True)
        if self.first == "turn_max":
            largest = found.new_zeros(len(ends) + 1).scatter_reduce_(0, turn.to(found.device), found, "amax")
            firsts = torch.cat((ends.new_zeros(1), ends))
            firsts = firsts[firsts < len(found)]
            found = found.index_copy(0, firsts.to(found.device), largest[: len(firsts)])
        passed = (len(ends) - turn).to(found.device)
        return found * self.decay**passed
