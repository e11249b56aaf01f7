"""MMInference: MInference for texts with images: heads that read the same place of every frame, and heads whose pattern changes where an image begins.

Source: MMInference, Li et al., ICML 2025, arXiv 2504.16083; announced in microsoft/MInference, its code was not seen. On top of MInference's vertical-slash:
- grid: with a stride of s tokens (a frame, a row of patches) a head's attention lies on keys at a few places j mod s, or on those with a few residues (i - j) mod s.
  The first is a set of columns; for the second, rows are put together by i mod s, so that what crosses every tile becomes small dense blocks.
- boundary: columns and diagonals are chosen once ("one"), for image and text keys apart ("key"), for image and text queries apart ("query") or for
  each of the four pairs ("both"), each from the last queries of its own kind. Rows of one kind are put together.
Without images in the text it is MInference. Every head also reads its first 30 tokens and its nearest 100, and text rows of a grid head read as with "query".

The stride is found online: the largest one whose best place (or residue) holds nearly as much of the image probes' attention as that of any stride tried. Images of
one model differ in size, so nothing is fixed offline; strides=() tries the lengths and periods of the marked image spans, and 8 to 128 when there is one image.
The paper chooses a head's class offline by output error at equal work; here online by the attention that each class would keep on the probes with equally many
entries a row (vertical + slash), and where two classes keep nearly the same, by the pairs that they really cost: diagonals that cross every block are the
dear ones. Chunks are probed one by one.

Which positions are images the session says (`mark_images`), else the model's image or video token does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from longspan.engine.method import CachePolicy, Method, PrefillPattern, Source
from longspan.engine.registry import register
from longspan.engine.view import LayerView
from longspan.errors import BadInput
from longspan.methods.prefill.minference import MInference
from longspan.methods.prefill.mminference_heads import BOUNDARIES, ChunkHeads
from longspan.ops.row_units import UnitMask
from longspan.ops.tiles import TileMask

STRIDES = range(8, 129)


@register("mminference")
@dataclass(frozen=True)
class MMInference(PrefillPattern):
    """vertical, slash, probe, tile: as minference. boundary: "auto" (each head's own), "one", "key", "query" or "both". grid: whether heads may
    take the grid shape. strides: tokens, tried for the grid; () for those of the image spans."""

    source = Source("https://arxiv.org/abs/2504.16083", 2025, "https://github.com/microsoft/MInference")
    system = "mminference"
    reads: ClassVar[str] = "by_chunk"  # every chunk is probed for itself

    vertical: float = 1000.0
    slash: float = 6096.0
    probe: int = 64
    tile: int = 64
    boundary: str = "auto"
    grid: bool = True
    strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.boundary not in ("auto", *BOUNDARIES):
            raise BadInput(
                f"boundary={self.boundary!r} of mminference is not one of auto, {', '.join(BOUNDARIES)}."
            )
        if not isinstance(self.strides, tuple) or any(not isinstance(s, int) or s < 2 for s in self.strides):
            raise BadInput(f"strides={self.strides!r} of mminference lists tokens from 2 up, as in (16, 49).")
        self.plain()

    def plain(self) -> MInference:
        """What it is where there are no images."""
        return MInference(vertical=self.vertical, slash=self.slash, probe=self.probe, tile=self.tile)

    def refuses(self, other: Method) -> str | None:
        if isinstance(other, CachePolicy) and other.when == "chunk":
            return "mminference needs every token in its place while a text is read; use a policy that acts after it."
        return None

    def tiles(self, view: LayerView, q: Tensor, k: Tensor) -> TileMask | UnitMask | None:
        images = image_positions(view, q.shape[1], k.shape[1])
        if images is None or not bool(images.any()):
            return self.plain().tiles(view, q, k)
        scale = view.session.scale(view.layer)
        found = ChunkHeads(self, q, k, scale, images.to(q.device), self._strides(view, images))
        return found.mask()

    def _strides(self, view: LayerView, images: Tensor) -> list[int]:
        """Strides to try, below half of the keys."""
        edges = (images.int().diff(prepend=images.new_zeros(1).int()) == 1).nonzero().flatten().tolist()
        if self.strides:
            tried = set(self.strides)
        elif len(edges) < 3:
            tried = set(STRIDES)
        else:
            stops = (images.int().diff(append=images.new_zeros(1).int()) == -1).nonzero().flatten().tolist()
            tried = {stop + 1 - start for start, stop in zip(edges, stops, strict=True)}
            tried |= {later - earlier for earlier, later in pairwise(edges)}
        return sorted(s for s in tried if 2 <= s <= len(images) // 2)


def image_positions(view: LayerView, queries: int, total: int) -> Tensor | None:
    """Which of the `total` tokens up to the newest that is read now are images, (total,) bool; None when nobody says. BadInput when entries are missing."""
    session: Any = view.session
    if session.length + queries != total:
        raise BadInput(
            "mminference needs every token in its place, and a cache policy has dropped some; read with it alone."
        )
    marked = torch.zeros(total, dtype=torch.bool)
    if session.image_spans is not None:
        for first, end in session.image_spans:
            marked[first:end] = True
    else:
        config = session.model.hf.config
        kinds = [
            token
            for name in ("image_token_id", "video_token_id")
            if (token := getattr(config, name, None)) is not None
        ]
        if not kinds:
            return None
        ids = torch.cat((torch.tensor(session.ids, dtype=torch.long), session.arriving.cpu()))
        marked = torch.isin(ids, torch.tensor(kinds))
    return marked
