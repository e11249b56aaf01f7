"""What policies have in common that spend their own budget, by their own rule, on another policy's scores (Ada-KV, CaM)."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from longspan.engine.method import CachePolicy, Method
from longspan.engine.needs import Needs
from longspan.engine.segments import SideSpec
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.cache.window import Window

ACTIONS = ("compress", "compress_all", "after_read", "after_tokens")


@dataclass(frozen=True)
class OverPolicy(CachePolicy):
    """base: the policy that scores (its own budget, schedule and allocator are not used); what it protects stays."""

    base: CachePolicy = field(default=Window())

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.base, CachePolicy):
            inside = self.base.name if isinstance(self.base, Method) else repr(self.base)
            raise BadInput(
                f"{inside} is not a policy that scores entries, which {self.name} needs as its base; give one such as snapkv."
            )
        if any(getattr(type(self.base), action) is not getattr(CachePolicy, action) for action in ACTIONS):
            raise BadInput(
                f"{self.base.name} does more than score entries, so {self.name} cannot use it as its base; give one such as snapkv."
            )

    @property
    def aware(self) -> bool:  # type: ignore[override]
        return self.base.aware

    @property
    def needs(self) -> Needs:
        return self.base.needs

    def side_specs(self, model: Any) -> dict[str, SideSpec]:
        return self.base.side_specs(model)

    def check(self, model: Any) -> None:
        self.base.check(model)

    @property
    def scorer(self) -> CachePolicy:
        """The base, at this policy's budget."""
        return dataclasses.replace(self.base, budget=self.budget)

    def score_all(self, session: Any) -> dict[int, Tensor]:
        return self.scorer.score_all(session)

    def score(self, view: LayerView) -> Tensor:
        scorer = self.scorer
        return scorer.protected(view, scorer.score(view))
