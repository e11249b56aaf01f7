"""ArkVale: pages are evicted to a slower tier but leave a bounding volume of their keys behind, by which they can be recalled.

Source: ArkVale, Chen et al., NeurIPS 2024, code pku-liang/ArkVale. Volume of a page: the axis-aligned cuboid (channel-wise minimum and maximum, Quest's
bound) or the ball around the mean key, whose bound on a logit is q . c + |q| r. The pages with the largest bound are read; first and newest pages are
always among them. This engine has one tier, so nothing moves; `recalls` counts the pages that a fast tier of the budget's size would have had to fetch.
Constants are from memory of the paper: knobs.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from longspan.engine.method import Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.decode.base import PagedSelector
from longspan.ops.attention import grouped_scores
from longspan.ops.page_digest import PageDigest
from longspan.ops.selection import Selection
from longspan.ops.tile_scores import tile_means


@register("arkvale")
@dataclass(frozen=True)
class ArkVale(PagedSelector):
    """page: entries a page. volume: "ball" or "cuboid". budget: share, entries a head, or bytes that a token reads. sink_pages, recent_pages: always
    read. Bounds of a query group are reduced by their largest."""

    source = Source("https://github.com/pku-liang/ArkVale", 2024, "https://github.com/pku-liang/ArkVale")

    dense_layers: int = 2
    volume: str = "ball"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.volume not in ("ball", "cuboid"):
            raise BadInput(f"volume={self.volume!r} of arkvale is neither ball nor cuboid.")

    def digest(self, view: LayerView, keys: Tensor) -> None:
        if self.volume == "cuboid":
            digest = PageDigest(self.page)
            digest.update(keys)
            view.state["digest"] = digest
        else:
            view.state["centre"], view.state["radius"] = balls(keys, self.page)

    def scores(self, view: LayerView, q: Tensor) -> Tensor:
        """Upper bounds of the unscaled logits in every page, (Hk, P), the largest in each query group."""
        if self.volume == "cuboid":
            return view.state["digest"].scores(q, "max")
        centre, radius = view.state["centre"], view.state["radius"]
        at_centre = grouped_scores(q, centre, 1.0).view(centre.shape[0], -1, centre.shape[1])
        length = q.float().norm(dim=-1).view(centre.shape[0], -1, 1)
        return (at_centre + length * radius.unsqueeze(1)).amax(1)

    def select(self, view: LayerView, q: Tensor) -> Selection | None:
        chosen = super().select(view, q)
        if chosen is not None:
            fetched = recalls(view.state.get("held"), chosen.indices)
            view.state.update(held=chosen.indices, recalls=view.state.get("recalls", 0) + fetched)
        return chosen


def balls(keys: Tensor, page: int) -> tuple[Tensor, Tensor]:
    """Mean key (Hk, P, D) and the largest distance from it (Hk, P) of every page of keys (Hk, T, D)."""
    centre = tile_means(keys, page)
    away = (keys.float() - centre.repeat_interleave(page, 1)[:, : keys.shape[1]]).norm(dim=-1)
    return centre, pad(away, (0, -keys.shape[1] % page)).unflatten(1, (-1, page)).amax(2)


def recalls(held: Tensor | None, chosen: Tensor) -> int:
    """Chosen pages (Hk, n) that are not among those `held` (Hk, m)."""
    if held is None:
        return chosen.numel()
    return int((~(chosen.unsqueeze(2) == held.unsqueeze(1)).any(2)).sum())
