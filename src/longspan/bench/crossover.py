"""Measure from which length on each sparse kernel beats dense attention on this machine: the attention call alone, by density and length.

Prefill is timed as the engine calls it: a chunk of queries at the end of the keys, dense being the past without a mask merged with the causal
chunk. Masks hold the sink, the diagonal and random tiles, shared by the query group. Decode: one token, random pages of 16, dense being the
packed query group over all entries; layers are walked so that K and V come from memory, as in a model. Estimators are not timed: they differ by
method and come on top. Dense and sparse take turns and a figure is the median of the rounds' ratios, so a busy neighbour hits both alike; the
load is recorded, and a busy machine is better measured again.

Dimension letters: Hq query heads, Hk KV heads, S queries, T keys, D head dim.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from longspan.engine.crossover import DECODE, PREFILL, crossover_length, store
from longspan.errors import BadInput
from longspan.ops.attention import attend, merge
from longspan.ops.selection import Selection
from longspan.ops.sparse_decode import decode
from longspan.ops.sparse_decode import default_backend as decode_backend
from longspan.ops.sparse_prefill import default_backend as prefill_backend
from longspan.ops.sparse_prefill import prefill
from longspan.ops.tile_patterns import from_blocks

PAGE = 16
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Grid:
    """What is measured. densities: of the causal pairs (prefill), of the entries (decode). walk_bytes: K and V between two visits of a decode layer."""

    prefill_lengths: Sequence[int] = (768, 1024, 2048, 4096, 8192, 16384)
    decode_lengths: Sequence[int] = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    densities: Sequence[float] = (0.5, 0.25, 0.125, 0.0625)
    query_heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    chunk: int = 512
    tile: int = 128
    rounds: int = 7
    walk_bytes: int = 256 << 20
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


def check_grid(grid: Grid) -> None:
    """BadInput for what cannot be measured."""
    if grid.query_heads % grid.kv_heads:
        raise BadInput(
            f"{grid.query_heads} query heads do not divide into groups over {grid.kv_heads} KV heads."
        )
    if min(grid.prefill_lengths) <= grid.chunk:
        raise BadInput(f"prefill lengths must be longer than the chunk of {grid.chunk} queries.")
    if not all(0 < density < 1 for density in grid.densities):
        raise BadInput("densities must lie between 0 and 1.")


def calibrate_kernels(
    grid: Grid | None = None, progress: Progress | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure the default kernels of the device and store the table for this machine; returns its path and what it says."""
    grid = grid or Grid()
    check_grid(grid)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    load = os.getloadavg()[0]
    total = len(grid.prefill_lengths) + len(grid.decode_lengths)
    with torch.inference_mode():
        for length in grid.prefill_lengths:
            rows += measure_prefill(grid, length)
            if progress is not None:
                progress(len({(r["phase"], r["keys"]) for r in rows}), total)
        for length in grid.decode_lengths:
            rows += measure_decode(grid, length)
            if progress is not None:
                progress(len({(r["phase"], r["keys"]) for r in rows}), total)
    settings = {k: str(v) if isinstance(v, torch.dtype) else v for k, v in asdict(grid).items()}
    facts = {
        "crossover": crossovers(rows),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
        "grid": settings,
        "measured": rows,
    }
    return store(grid.device, facts), facts


def crossovers(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, int | None]]]:
    """Measured rows as phase -> backend -> density -> shortest length from which sparse won."""
    found: dict[str, dict[str, dict[str, int | None]]] = {}
    for phase, backend, density in dict.fromkeys((r["phase"], r["backend"], r["asked"]) for r in rows):
        mine = [r for r in rows if (r["phase"], r["backend"], r["asked"]) == (phase, backend, density)]
        length = crossover_length([(r["keys"], r["speedup"] > 1.0) for r in mine])
        found.setdefault(phase, {}).setdefault(backend, {})[str(density)] = length
    return found


def measure_prefill(grid: Grid, keys: int) -> list[dict[str, Any]]:
    """One chunk of queries at the end of `keys` keys, at every density."""
    place = {"dtype": grid.dtype, "device": grid.device}
    q = torch.randn(grid.query_heads, grid.chunk, grid.head_dim, **place)
    k, v = torch.randn(2, grid.kv_heads, keys, grid.head_dim, **place)
    past, scale = keys - grid.chunk, grid.head_dim**-0.5
    backend = prefill_backend(q)

    def dense() -> object:
        return merge(
            [
                attend(q, k[:, :past], v[:, :past], scale=scale),
                attend(q, k[:, past:], v[:, past:], causal=True, scale=scale),
            ]
        )

    calls: dict[str, Callable[[], object]] = {"dense": dense}
    masks = {}
    for density in grid.densities:
        shape = (grid.kv_heads, math.ceil(grid.chunk / grid.tile), math.ceil(keys / grid.tile))
        count = max(1, round(density * shape[2]))
        mask = from_blocks(
            torch.rand(shape), count, grid.chunk, keys, query_tile=grid.tile, key_tile=grid.tile, sink_tiles=1
        ).to(grid.device)
        masks[str(density)] = mask
        calls[str(density)] = lambda mask=mask: prefill(q, k, v, mask, scale=scale, backend=backend)
    times = alternate(calls, grid)
    return [
        _row(PREFILL, backend, keys, density, masks[str(density)].density(), times)
        for density in grid.densities
    ]


def measure_decode(grid: Grid, entries: int) -> list[dict[str, Any]]:
    """One token over `entries` entries, at every density."""
    place = {"dtype": grid.dtype, "device": grid.device}
    layer_bytes = 2 * grid.kv_heads * entries * grid.head_dim * grid.dtype.itemsize
    layers = max(2, grid.walk_bytes // layer_bytes)
    caches = torch.randn(layers, 2, grid.kv_heads, entries, grid.head_dim, **place)
    q = torch.randn(grid.query_heads, 1, grid.head_dim, **place)
    backend, scale = decode_backend(q), grid.head_dim**-0.5
    pages = entries // PAGE
    calls: dict[str, Callable[[], object]] = {
        "dense": lambda: [attend(q, cache[0], cache[1], scale=scale) for cache in caches]
    }
    read = {}
    for density in grid.densities:
        count = max(1, round(density * pages))
        chosen = torch.rand(grid.kv_heads, pages, device=grid.device).topk(count, dim=1).indices
        selection = Selection(chosen.sort(1).values, entries, PAGE)
        read[density] = count * PAGE / entries
        calls[str(density)] = lambda selection=selection: [
            decode(q, cache[0], cache[1], selection, scale=scale, backend=backend) for cache in caches
        ]
    times = alternate(calls, grid)
    return [_row(DECODE, backend, entries, density, read[density], times) for density in grid.densities]


def alternate(calls: dict[str, Callable[[], object]], grid: Grid) -> dict[str, list[float]]:
    """Seconds of every call, one entry a round, the calls taking turns; one round before them is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(grid.rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if grid.device == "cuda":
                torch.cuda.synchronize()
            if number:
                times[name].append(time.perf_counter() - started)
    return times


def _row(
    phase: str, backend: str, keys: int, asked: float, density: float, times: dict[str, list[float]]
) -> dict[str, Any]:
    ratios = [dense / sparse for dense, sparse in zip(times["dense"], times[str(asked)], strict=True)]
    return {
        "phase": phase,
        "backend": backend,
        "keys": keys,
        "asked": asked,
        "density": round(density, 4),
        "speedup": round(statistics.median(ratios), 3),
        "ideal": round(1 / density, 2),
    }
