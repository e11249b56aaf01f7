"""SmolLM2 past its 8K window: prose loss by position for no extension and the position methods.

    python bench/positions_smollm2.py measure [--lengths 12288] [--windows 2] [--device cuda --dtype float32]
    python bench/positions_smollm2.py table

Resumable by cell (method, length, stretch of prose): each is written to bench/results/positions_smollm2.json when it is done. --seconds ends a slice after that
time with exit code 3 while cells are left. A cell at 12288 tokens takes some minutes on two CPU cores; with --device cuda add --lengths 16384 32768 65536.

Prose is the haystack of the benchmarks (public-domain novels where LONGSPAN_DATA holds some, else Python's own reference), the same stretches for every method. Loss
is nats a token, in bins of 512 positions. Factors are the smallest power of two that covers the length. DPE's divisors are not detected here: the
list is the published one for Llama-3-8B (8K to 128K), and one that grows to twice the factor as a milder hand-made rival.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import longspan
from longspan.bench.checks._streams import text_ids
from longspan.bench.haystacks import open_haystack
from longspan.engine.needs import Needs
from longspan.methods.positions.base import smallest_factor

OUT = Path("bench/results/positions_smollm2.json")
WINDOW, BIN, UNFINISHED = 8192, 512, 3


def recipes(length: int) -> dict[str, str]:
    """The methods at the factor that `length` asks for."""
    s = smallest_factor(length, WINDOW)
    group = max(2, 2 * s)
    mild = (1, 1, s, s, group, group, group, group)
    return {
        "none": "full",
        "pi": f"pi(factor={s})",
        "yarn": f"yarn(factor={s})",
        "dynamic_ntk": "dynamic_ntk",
        "self_extend": f"self_extend(neighbours=1024, group={group})",
        "dpe": "dpe(neighbours=1024)",
        "dpe (mild)": f"dpe(neighbours=1024, scales={mild})",
    }


def load_rows() -> list[dict]:
    return json.loads(OUT.read_text(encoding="utf-8"))["rows"] if OUT.is_file() else []


def save(rows: list[dict]) -> None:
    OUT.parent.mkdir(parents=True, exist_ok=True)
    part = OUT.with_suffix(".part")
    part.write_text(
        json.dumps({"window": WINDOW, "bin": BIN, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    part.replace(OUT)


def key(row: dict) -> tuple:
    return row["method"], row["recipe"], row["length"], row["stretch"], row["haystack_digest"], row["dtype"]


def measure(options: argparse.Namespace) -> bool:
    """Measure what is missing; False when the time ran out first."""
    end = None if options.seconds is None else time.monotonic() + options.seconds
    rows = load_rows()
    done = {key(row) for row in rows}
    lm = longspan.load("smollm2-135m", device=options.device, dtype=options.dtype)
    facts = {
        "haystack_digest": open_haystack("prose").digest,
        "dtype": str(lm.dtype).removeprefix("torch."),
    }
    for length in options.lengths:
        for stretch in range(options.windows):
            ids = text_ids(lm, length, window=stretch)
            for name, recipe in recipes(length).items():
                row: dict[str, Any] = {
                    "method": name, "recipe": recipe, "length": length, "stretch": stretch, **facts,
                }  # fmt: skip
                if (options.methods and name not in options.methods) or key(row) in done:
                    continue
                if end is not None and time.monotonic() >= end:
                    return False
                row |= one_cell(lm, recipe, ids)
                rows.append(row)
                save(rows)
                beyond = [nll for start, nll in row["nll_by_position"] if start >= WINDOW]
                shown = f"{sum(beyond) / len(beyond):.3f}" if beyond else "-"
                print(f"{length} {stretch} {name:12} NLL beyond {shown}, {row['seconds']:.0f} s", flush=True)
    return True


def one_cell(lm: Any, recipe: str, ids: torch.Tensor) -> dict:
    """Read `ids` under a recipe; loss by position, and how long it took on what."""
    started = time.monotonic()
    session = lm.session(recipe, collect=Needs(token_logprobs=True), beyond_window=True).read(ids)
    nll = -session.token_logprobs()[1:].cpu()
    course = [[start, float(nll[start : start + BIN].mean())] for start in range(0, len(nll), BIN)]
    where = torch.cuda.get_device_name() if lm.device.type == "cuda" else platform.processor() or "cpu"
    return {
        "nll_by_position": course,
        "seconds": round(time.monotonic() - started, 1),
        "device": where,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table() -> None:
    """Mean loss inside the window, in its last quarter, and beyond it, for each length, with the difference to no extension on the same stretches."""
    rows = load_rows()
    for length in sorted({row["length"] for row in rows}):
        at_length = [row for row in rows if row["length"] == length]
        plain = {row["stretch"]: row for row in at_length if row["method"] == "none"}
        print(f"\n{length} tokens, {len(plain)} stretches; nats a token\n")
        print("| method | to 8192 | 6144 to 8192 | beyond 8192 | beyond, against none |")
        print("|---|---|---|---|---|")
        for name in dict.fromkeys(row["method"] for row in at_length):
            mine = [row for row in at_length if row["method"] == name]
            parts = [[mean(row, *ends) for row in mine] for ends in ((0, 8192), (6144, 8192), (8192, length))]
            change = [
                mean(row, 8192, length) - mean(plain[row["stretch"]], 8192, length)
                for row in mine
                if row["stretch"] in plain
            ]
            cells = [f"{sum(part) / len(part):.3f}" for part in parts]
            cells.append(f"{sum(change) / len(change):+.3f}" if change else "")
            print(f"| {name} | {' | '.join(cells)} |")


def mean(row: dict, start: int, stop: int) -> float:
    values = [nll for at, nll in row["nll_by_position"] if start <= at < stop]
    return sum(values) / len(values) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("measure", "table"))
    parser.add_argument("--lengths", type=int, nargs="+", default=[12288])
    parser.add_argument("--windows", type=int, default=2, help="stretches of prose a length")
    parser.add_argument("--methods", nargs="+", default=[], help="all when not given")
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", default=None)
    parser.add_argument(
        "--seconds", type=float, default=None, help="end the slice after this wall-clock time"
    )
    options = parser.parse_args()
    if options.part == "table":
        table()
    elif not measure(options):
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    main()
