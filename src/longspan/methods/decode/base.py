"""What decode selectors share: the budget in entries, pages chosen by a score, and layers that choose for those after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from longspan.engine.budget import Budget
from longspan.engine.method import DecodeSelector
from longspan.errors import BadInput
from longspan.ops.attention import grouped_scores
from longspan.ops.page_digest import top_pages
from longspan.ops.selection import Selection

if TYPE_CHECKING:
    from longspan.engine.view import LayerView


def budget_entries(view: LayerView, budget: float | int | str) -> int:
    """Entries a head that a token may read, at the session's present length."""
    return Budget.parse(budget).entries(view.seen, view.session.model.geometry, view.session.element_size)


@dataclass(frozen=True)
class PagedSelector(DecodeSelector):
    """A token reads whole pages: the first and the newest ones, then those with the highest score, within the budget.

    page: entries a page. budget: share, entries a head, or bytes that a token reads. sink_pages, recent_pages: always read.
    """

    page: int = 32
    budget: float | int | str = 0.25
    sink_pages: int = 1
    recent_pages: int = 1

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if self.page < 1 or min(self.sink_pages, self.recent_pages) < 0:
            raise BadInput(f"{self.name} takes page >= 1, and sink_pages and recent_pages >= 0.")

    def digest(self, view: LayerView, keys: Tensor) -> None:
        """Put into `view.state` what `scores` needs of the pages of keys (Hk, T, D)."""
        raise NotImplementedError

    def scores(self, view: LayerView, q: Tensor) -> Tensor:
        """Worth of every page to one query (Hq, 1, D): (Hk, P), or (1, P) for all heads alike."""
        raise NotImplementedError

    def index(self, view: LayerView) -> None:
        self.digest(view, view.prefix(min(view.run.store.lengths))[0])
        view.state["budget"] = budget_entries(view, self.budget)

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        count, wanted = view.run.indexed, view.state["budget"]
        if wanted >= count:
            return None
        ends = {"sink_pages": self.sink_pages, "recent_pages": self.recent_pages}
        found = top_pages(self.scores(view, q), max(1, wanted // self.page), count, self.page, **ends)
        if found.heads == view.geometry.kv_heads:
            return found
        return Selection(found.indices.expand(view.geometry.kv_heads, -1).contiguous(), count, self.page)


@dataclass(frozen=True)
class PlannedSelector(DecodeSelector):
    """Planner layers read everything and choose; the layers after a planner, up to the next one, read what it chose.

    planners: ranks of the planner layers among those that grow; () takes three, at a fifteenth, a third and two thirds of the depth (2, 10 and 20
    of 30), and the first layer alone in a model with fewer than six. Layers before the first planner read everything. The choice is refreshed at every token.
    """

    planners: tuple[int, ...] = ()
    budget: float | int | str = 0.25

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if not isinstance(self.planners, tuple) or any(
            not isinstance(p, int) or p < 0 for p in self.planners
        ):
            raise BadInput(
                f"planners={self.planners!r} of {self.name} lists ranks of layers, as in (2, 10, 20)."
            )

    def check(self, model: Any) -> None:
        depth = len(model.geometry.growing)
        if self.planners and max(self.planners) >= depth:
            raise BadInput(
                f"planner {max(self.planners)} of {self.name} is beyond the {depth} layers of this model that grow."
            )

    def planning(self, depth: int) -> tuple[int, ...]:
        """Ranks of the planners in a model with `depth` growing layers."""
        third = depth // 3
        return self.planners or ((round(depth / 15), third, 2 * third) if depth >= 6 else (0,))

    def index(self, view: LayerView) -> None:
        if any(method.action in ("drop", "merge") for method in view.session.recipe.of("cache")):
            raise BadInput(
                f"{self.name} shares one choice between layers, and a cache policy leaves different entries in each; use one of the two."
            )
        view.state["budget"] = budget_entries(view, self.budget)

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        planning, count = self.planning(len(view.session.growing_layers())), view.run.indexed
        if view.state["budget"] >= count or view.order < planning[0]:
            return None
        shared = view.session.run_state(self)
        if view.order in planning:
            keys = view.prefix(count)[0]
            shared["selection"] = self.plan(
                view, grouped_scores(q, keys, view.session.scale(view.layer)).squeeze(1)
            )
            return None
        return shared["selection"]

    def plan(self, view: LayerView, logits: Tensor) -> Selection:
        """What the following layers read, from this layer's logits (Hq, T)."""
        raise NotImplementedError
