"""The run folder: facts of a run in run.json, one measured row a line in results.jsonl.

Append-only, so that a killed run loses at most the row being written: a row counts once its line ends with a newline and has
been flushed to the disk. `open_run(..., resume=True)` drops an unfinished last line, and `finished` names the cells that need
not be measured again. Rows are data first; tables, intervals and pictures are made from them later and elsewhere.

Row keys and their units are in `ROW_TYPES`; a key that does not apply to a row is absent or null.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from longspan.errors import BadInput

SCHEMA = 1
FACTS_FILE, ROWS_FILE = "run.json", "results.jsonl"

#: Facts that must agree when a run is resumed: rows of two models, templates or seeds cannot be compared.
IDENTITY = ("model", "model_hash", "template_hash", "seed")

#: Row key -> column type in the Parquet export ("json": nested, stored as JSON text).
ROW_TYPES = {
    "cell": "string",  # stable id of what was measured, see `cell_id`
    "recipe": "string",
    "method": "string",  # short label of the recipe without its budget
    "role": "string",  # method | ceiling | floor | oracle
    "budget": "float64",  # share kept, null where the recipe has none
    "task": "string",
    "haystack": "string",  # filler | prose
    "length": "int64",  # target tokens of the context
    "context_tokens": "int64",  # of the text that was given
    "read_tokens": "int64",  # of it read: fewer after a prompt method
    "depth": "float64",  # 0 start .. 1 end of the context
    "sample": "int64",
    "seed": "int64",
    "cluster": "string",  # rows with the same text are resampled together; absent: every item on its own
    "aware": "bool",  # question seen before compression; null: irrelevant for this recipe
    "answer_mode": "string",  # generate | rank | perplexity
    "score": "float64",  # 0..1
    "answer": "string",
    "gold": "json",
    "gold_logprob": "float64",  # nats, summed over the gold answer's tokens
    "gold_tokens": "int64",
    "margin": "float64",  # nats, gold minus best wrong candidate
    "entries": "int64",
    "cache_bytes": "int64",
    "side_bytes": "int64",
    "dense_bytes": "int64",
    "peak_entries": "int64",
    "peak_memory_bytes": "int64",
    "prefilled_tokens": "int64",
    "ttft_s": "float64",
    "method_s": "float64",  # of ttft_s, the methods' own work once the text had been read
    "time_per_token_s": "float64",
    "new_tokens": "int64",
    "finish_reason": "string",
    "prefill_density": "float64",  # share of the causal pairs that reading computed
    "decode_density": "float64",  # share of the held entries that decoding read
    "dense_fallback": "float64",  # share of a sparse method's calls answered densely, below the crossover of `longspan calibrate kernels`
    "by_chunk": "int64",  # tokens a chunk, where a method of the recipe takes every chunk for itself
    "needle_retention": "float64",  # share of the evidence's entries kept
    "kept": "json",  # {"bins", "rows": layers x bins share kept, "evidence": optional [[start, end]] as shares}
    "nll_by_position": "json",  # [[position, nats], ...]
    "error": "string",
}


def cell_id(**identity: Any) -> str:
    """Stable id of one measurement, from everything that decides its outcome (recipe, item, seed, mode...)."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Results:
    """An open run folder. Use as a context manager; made by `open_run`."""

    def __init__(self, folder: Path, facts: dict[str, Any]):
        self.folder, self.facts = folder, facts
        self.path = folder / ROWS_FILE
        self._file = open(self.path, "r+b" if self.path.exists() else "w+b")  # noqa: SIM115  closed by close()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise BadInput(
                f"{folder} is being written by another run: wait for it or choose another folder"
            ) from error
        rows, self._size = _parse(self._file.read(), self.path)
        self._file.truncate(self._size)
        self._file.seek(self._size)
        self.finished: set[str] = {row["cell"] for row in rows}
        self.count = len(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and flush it to the disk before returning.

        Raises ValueError for a row without a cell id or with a number JSON cannot hold, BadInput when the disk is full.
        """
        if not row.get("cell"):
            raise ValueError("a result row needs a cell id")
        line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with _disk_full(self.path, self.count):
            try:
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError:
                self._drop_partial_line()
                raise
        self._size += len(line)
        self.count += 1
        self.finished.add(row["cell"])

    def _drop_partial_line(self) -> None:
        # The buffered writer would try its unwritten rest again on close, so go under it.
        descriptor = os.dup(self._file.fileno())
        try:
            self._file.close()
        except OSError:
            pass
        finally:
            os.ftruncate(descriptor, self._size)
            os.close(descriptor)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ):
        self.close()


def open_run(folder: str | Path, facts: Mapping[str, Any], *, resume: bool = False) -> Results:
    """Open `folder` for appending, creating it when it is new.

    With `resume` an existing run is continued: its facts stay, and it must have the same schema and `IDENTITY` facts.
    Without it a folder that already holds results is refused, so that no run overwrites another.
    """
    folder = Path(folder)
    known = check_folder(folder, resume=resume)
    if known is not None:
        for name in IDENTITY:
            if name in facts and facts[name] != known.get(name):
                raise BadInput(
                    f"{folder} was run with {name} {known.get(name)!r}, not {facts[name]!r}: choose another --out"
                )
        return Results(folder, known)
    written = {"schema": SCHEMA, **facts}
    with _disk_full(folder, 0):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise BadInput(
                f"cannot make the run folder {folder} ({error.strerror}): choose another --out"
            ) from None
        _write_whole(folder / FACTS_FILE, json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    return Results(folder, written)


def check_folder(folder: str | Path, *, resume: bool) -> dict[str, Any] | None:
    """Facts of the run that `folder` holds, or None when it can take a new one; BadInput where results would be overwritten."""
    folder = Path(folder)
    if (folder / FACTS_FILE).exists():
        known = load_facts(folder)
        if not resume:
            raise BadInput(
                f"{folder} already holds a run: add --resume to continue it, or choose another --out"
            )
        return known
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file, not a run folder: choose another --out")
    if (folder / ROWS_FILE).exists():
        raise BadInput(f"{folder} holds {ROWS_FILE} without {FACTS_FILE}: choose another --out")
    return None


def load_facts(folder: str | Path) -> dict[str, Any]:
    """run.json of a folder, refused with a sentence when it is absent, broken or of another schema."""
    path = Path(folder) / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"{folder} is not a run folder (no {FACTS_FILE}): give the --out folder of a compare run"
        ) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a run's facts ({error}): the folder is damaged") from error
    schema = facts.get("schema") if isinstance(facts, dict) else None
    if schema != SCHEMA:
        raise BadInput(
            f"{folder} was written with results schema {schema}, this version reads {SCHEMA}: "
            "use the longspan version that wrote it, or run compare again into a new folder"
        )
    return facts


def load(folder: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Facts and rows of a run folder, also of one still being written (an unfinished last line is left out)."""
    facts = load_facts(folder)
    path = Path(folder) / ROWS_FILE
    rows, _ = _parse(path.read_bytes(), path) if path.exists() else ([], 0)
    return facts, _standing(rows)


def _standing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows less the failures (`of` a cell) that a later attempt at the same cell has replaced, by an answer or another failure."""
    last = {row.get("of") or row["cell"]: row["cell"] for row in rows}
    return [row for row in rows if not row.get("of") or last[row["of"]] == row["cell"]]


def export_parquet(folder: str | Path, path: str | Path) -> Path:
    """Write the rows as one Parquet table with the columns of `ROW_TYPES`; other keys go to a JSON column `extra`."""
    import pyarrow as pa
    from pyarrow import parquet

    facts, rows = load(folder)
    columns: dict[str, Any] = {}
    for name, kind in ROW_TYPES.items():
        values = [row.get(name) for row in rows]
        if kind == "json":
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        arrow = {"string": pa.string(), "json": pa.string(), "bool": pa.bool_()}.get(kind)
        columns[name] = pa.array(values, type=arrow or getattr(pa, kind)())
    extra = [{key: value for key, value in row.items() if key not in ROW_TYPES} for row in rows]
    columns["extra"] = pa.array([json.dumps(value) if value else None for value in extra], type=pa.string())
    table = pa.table(columns).replace_schema_metadata({"longspan": json.dumps(facts)})
    with _disk_full(Path(path), len(rows)):
        parquet.write_table(table, path, compression="zstd")
    return Path(path)


def _parse(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows of a results file and the number of bytes that are whole lines."""
    rows: list[dict[str, Any]] = []
    size = data.rfind(b"\n") + 1
    lines = data[:size].splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "cell" not in row:
                raise ValueError("no cell id")
        except ValueError as error:
            if number == len(lines):  # a crash of the machine can leave a whole line of garbage at the end
                return rows, size - len(line) - 1
            raise BadInput(
                f"{path} line {number} is not a result row ({error}): delete that line and resume"
            ) from error
        rows.append(row)
    return rows, size


def _write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none of it."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


@contextmanager
def _disk_full(path: Path, count: int) -> Iterator[None]:
    """Turn a full disk into one sentence that says what is safe."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(
            f"the disk is full while writing {path}: the {count} results so far are valid; free some space and "
            "run again with --resume"
        ) from error
