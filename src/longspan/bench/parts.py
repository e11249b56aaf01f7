"""A resumable run of small measurements: every part at every seed, each row on disk before the next is measured.

A script names its parts (functions of a model and a seed that return {method: {figure: number}}) and calls `main`. The file holds all rows
and their means; rows that are in it are not measured again, and a file of another model is begun anew.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from longspan.bench.attribution_probe import summary
from longspan.bench.run import machine
from longspan.context.backends.local import Local

Part = Callable[[Local, int], dict]


def main(title: str, parts: Mapping[str, Part], out: Path) -> tuple[dict, argparse.Namespace]:
    """Read the command line, measure what is missing, and return the stored results and the options."""
    options = argparse.ArgumentParser(description=title)
    options.add_argument("--model", default="smollm2-135m")
    options.add_argument("--samples", type=int, default=6, help="seeds 0 to this")
    options.add_argument("--part", nargs="*", choices=list(parts), default=list(parts))
    options.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="begin no further row after this long; run again to go on",
    )
    options.add_argument("--out", type=Path, default=out)
    given = options.parse_args()
    chosen = {name: parts[name] for name in given.part}
    return measure(Local(given.model), given.model, chosen, given.samples, given.seconds, given.out), given


def measure(
    model: Local, name: str, parts: Mapping[str, Part], samples: int, seconds: float, out: Path
) -> dict:
    """Rows of `parts` for seeds below `samples`, stored in `out`, until `seconds` have passed."""
    stored = json.loads(out.read_text()) if out.exists() else {}
    if stored.get("model") != name:
        stored = {"model": name, "parts": {}}
    stored["machine"] = machine()
    started = time.perf_counter()
    for seed in range(samples):
        for part, run in parts.items():
            rows = stored["parts"].setdefault(part, {}).setdefault("rows", {})
            if str(seed) in rows or time.perf_counter() - started > seconds:
                continue
            rows[str(seed)] = run(model, seed)
            stored["parts"][part] |= {"samples": len(rows), "methods": summary(list(rows.values()))}
            write(out, stored)
            print(part, seed, json.dumps(rows[str(seed)]), flush=True)
    return stored


def write(out: Path, stored: dict) -> None:
    """Replace the file at once, so that a kill leaves the old one or the new one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.new")
    fresh.write_text(json.dumps(stored, indent=1) + "\n")
    fresh.replace(out)
