"""MMInference's choice for one chunk of one layer: what probes of both kinds of rows see, what each class of head would keep of it, and the mask.

Dimension letters: Hq query heads, S queries of the chunk, T keys, R rows of a probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from longspan.methods.prefill.minference import FORCED_COLUMNS, FORCED_DISTANCES, _tokens
from longspan.ops.attention import NEG_INF, grouped_scores
from longspan.ops.row_units import Unit, UnitMask, cut
from longspan.ops.tile_patterns import from_window_sink
from longspan.ops.tiles import TileMask

if TYPE_CHECKING:
    from longspan.methods.prefill.mminference import MMInference

BOUNDARIES = ("one", "key", "query", "both")
NEARLY = 0.9  # of the best stride's mass


class Lines(NamedTuple):
    """What the rows of one kind read: columns (Hq, T) and distances (Hq, 2, T) of text and of image keys, bool."""

    columns: Tensor
    distances: Tensor


class Grid(NamedTuple):
    """Of every head: stride, places (of "columns": j mod s; of "residues": (i - j) mod s), which of the two, and the probe mass kept (Hq,)."""

    strides: list[int]
    places: list[Tensor]
    residues: list[bool]
    kept: Tensor


class ChunkHeads:
    """One chunk of one layer: probes of both kinds of rows, what each class would keep, and the mask of the classes chosen."""

    def __init__(
        self, method: MMInference, q: Tensor, k: Tensor, scale: float, images: Tensor, strides: list[int]
    ):
        self.method, self.strides = method, strides
        self.heads, self.queries, self.total = q.shape[0], q.shape[1], k.shape[1]
        self.offset = self.total - self.queries
        self.images = images
        self.keys = torch.arange(self.total, device=q.device)
        of_row = images[self.offset :]
        self.rows = [(of_row == kind).nonzero().flatten() for kind in (False, True)]
        self.q, self.k, self.scale = q, k, scale
        self.probes = [self._probe(rows[-method.probe :]) for rows in self.rows]
        self.vertical = min(self.total, _tokens(method.vertical, self.total))
        self.slash = min(self.total, max(1, _tokens(method.slash, self.total)))

    def _probe(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Attention (Hq, R, T) of some rows of the chunk without what every head reads, and their positions (R,)."""
        positions = rows + self.offset
        away = positions.unsqueeze(1) - self.keys
        scores = grouped_scores(self.q[:, rows], self.k, self.scale).masked_fill_(away < 0, NEG_INF)
        always = (self.keys < FORCED_COLUMNS) | (away < FORCED_DISTANCES)
        return scores.softmax(-1).masked_fill_(always, 0.0), positions

    # -- columns and diagonals -------------------------------------------------------------------------------------
    def lines(self, probe: tuple[Tensor, Tensor], apart: bool) -> Lines:
        """The columns and distances with most of the probe's mass; apart: text and image keys share them out by their numbers of keys."""
        mass, positions = probe
        by_key = mass.sum(1)
        columns = torch.zeros_like(by_key, dtype=torch.bool)
        distances = torch.zeros(self.heads, 2, self.total, dtype=torch.bool, device=mass.device)
        for kind, group in enumerate((~self.images, self.images)):
            share = float(group.float().mean())
            if not apart:
                group, share = torch.ones_like(group), 1.0
            count = min(int(group.sum()), round(self.vertical * share))
            best = by_key.masked_fill(~group, -1.0).topk(count, -1).indices
            columns.scatter_(1, best, True)
            along = distance_sums(mass * group, positions)
            distances[:, kind].scatter_(1, along.topk(self.slash, -1).indices, True)
        return Lines(columns, distances)

    def kept(self, lines: Lines, kind: int) -> Tensor:
        """Mass of the probe of one kind of rows that lies on lines, mean over its rows: (Hq,)."""
        mass, positions = self.probes[kind]
        away = (positions.unsqueeze(1) - self.keys).clamp(min=0)
        on = torch.where(self.images, lines.distances[:, 1][:, away], lines.distances[:, 0][:, away])
        return (mass * (on | lines.columns.unsqueeze(1))).sum(-1).mean(1)

    def boundary_lines(self, boundary: str) -> list[Lines | None]:
        """What text rows and image rows read under a boundary class; None where the chunk has none of a kind."""
        apart = boundary in ("key", "both")
        if boundary in ("query", "both"):
            return [
                self.lines(probe, apart) if len(rows) else None
                for probe, rows in zip(self.probes, self.rows, strict=True)
            ]
        last = self._probe(
            torch.arange(max(0, self.queries - self.method.probe), self.queries, device=self.q.device)
        )
        one = self.lines(last, apart)
        return [one if len(rows) else None for rows in self.rows]

    # -- grids -----------------------------------------------------------------------------------------------------
    def grids(self) -> Grid:
        """The best grid of every head for the image rows of the chunk."""
        mass, positions = self.probes[1]
        sums = torch.stack(
            (mass.sum(1), distance_sums(mass, positions))
        )  # by place and by residue: (2, Hq, T)
        best = torch.stack([fold(sums, stride).amax(-1) for stride in self.strides], -1)  # (2, Hq, strides)
        order = torch.arange(1, len(self.strides) + 1, device=best.device)
        chosen = ((best >= NEARLY * best.amax(-1, keepdim=True)) * order).argmax(-1)
        budget = self.vertical + self.slash
        strides, places, residues, kept = [], [], [], []
        for head in range(self.heads):
            found = []
            for kind in (0, 1):
                stride = self.strides[int(chosen[kind, head])]
                count = min(stride, max(1, int(budget * stride / self.total)))
                top = fold(sums[kind, head], stride).topk(count)
                found.append((float(top.values.sum()) / mass.shape[1], stride, top.indices, bool(kind)))
            worth, stride, place, by_residue = max(found, key=lambda one: one[0])
            strides.append(stride)
            places.append(place)
            residues.append(by_residue)
            kept.append(worth)
        return Grid(strides, places, residues, torch.tensor(kept, device=mass.device))

    # -- the mask --------------------------------------------------------------------------------------------------
    def mask(self) -> TileMask | UnitMask:
        method = self.method
        names = BOUNDARIES if method.boundary == "auto" else (method.boundary,)
        options = {name: self.boundary_lines(name) for name in names}
        here = [kind for kind in (0, 1) if len(self.rows[kind])]
        weight = torch.tensor([len(self.rows[kind]) for kind in here], device=self.q.device).float()
        kept = torch.stack(
            [
                torch.stack([self.kept(lines[kind], kind) for kind in here], -1) @ (weight / weight.sum())  # type: ignore[arg-type]
                for lines in options.values()
            ]
        )
        boundary = kept.argmax(0).tolist()
        grids = self.grids() if method.grid and len(self.rows[1]) and self.strides else None
        on_images = None
        if grids is not None:
            on_images = torch.stack([self.kept(lines[1], 1) for lines in options.values()]).amax(0)  # type: ignore[arg-type]
        apart = self.boundary_lines("query") if grids is not None else []
        base = from_window_sink(
            self.heads,
            self.queries,
            self.total,
            sink=FORCED_COLUMNS,
            window=FORCED_DISTANCES,
            query_tile=method.tile,
            key_tile=method.tile,
            device=self.q.device,
        )
        units: list[Unit] = []
        for head in range(self.heads):
            lines = options[names[boundary[head]]]
            of_head = [unit for kind in here for unit in self._line_units(head, kind, lines[kind])]  # type: ignore[arg-type]
            if grids is not None and float(grids.kept[head]) >= NEARLY * float(on_images[head]):  # type: ignore[index]
                gridded = self._grid_units(head, grids)
                if len(self.rows[0]):
                    gridded += self._line_units(head, 0, apart[0])  # type: ignore[arg-type]
                if float(grids.kept[head]) > float(on_images[head]) / NEARLY or _pairs(gridded) < _pairs(
                    of_head
                ):  # type: ignore[index]
                    of_head = gridded
            units += of_head
        return UnitMask(base, tuple(units))

    def _line_units(self, head: int, kind: int, lines: Lines) -> list[Unit]:
        """Rows of one kind, `tile` at a time, and what their columns and diagonals cross."""
        found = []
        along = [lines.distances[head, key_kind].nonzero().flatten() for key_kind in (0, 1)]
        for part in self.rows[kind].split(self.method.tile):
            hit = lines.columns[head].clone()
            for key_kind, distances in enumerate(along):
                crossed = (part.unsqueeze(1) + self.offset - distances).flatten()
                crossed = crossed[crossed >= 0]
                hit[crossed[self.images[crossed] == bool(key_kind)]] = True
            found += cut(head, part, hit.nonzero().flatten(), self.offset, self.method.tile)
        return found

    def _grid_units(self, head: int, grids: Grid) -> list[Unit]:
        """Image rows and the keys at the chosen places of the grid; by residue, rows at the same place stand together."""
        stride, places, rows = grids.strides[head], grids.places[head], self.rows[1]
        place_of_key = self.keys % stride
        if not grids.residues[head]:
            keys = torch.isin(place_of_key, places).nonzero().flatten()
            return list(cut(head, rows, keys, self.offset, self.method.tile))
        found, place_of_row = [], (rows + self.offset) % stride
        for place in range(stride):
            wanted = (place - places) % stride
            keys = torch.isin(place_of_key, wanted).nonzero().flatten()
            mine = rows[place_of_row == place]
            if len(mine):
                found += cut(head, mine, keys, self.offset, self.method.tile)
        return found


def _pairs(units: list[Unit]) -> int:
    return sum(len(rows) * len(keys) for _, rows, keys in units)


def distance_sums(mass: Tensor, positions: Tensor) -> Tensor:
    """Attention rows (H, R, T) at any positions (R,) summed by distance from query to key: (H, T)."""
    heads, _, total = mass.shape
    away = (positions.unsqueeze(1) - torch.arange(total, device=mass.device)).clamp(min=0)
    return torch.zeros(heads, total, device=mass.device).scatter_add_(
        1, away.flatten().expand(heads, -1), mass.flatten(1)
    )


def fold(sums: Tensor, stride: int) -> Tensor:
    """Sums (..., T) over all t at the same place t mod stride: (..., stride)."""
    whole = torch.nn.functional.pad(sums, (0, -sums.shape[-1] % stride))
    return whole.unflatten(-1, (-1, stride)).sum(-2)
