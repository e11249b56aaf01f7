"""The embedded store: one SQLite file with rows, FTS5 (BM25), float32 vectors as BLOB searched exactly, recursive CTEs.

Write-ahead log, one IMMEDIATE transaction a unit, foreign writers waited for. Each tenant has its own FTS5 table, named
by the number the store gave it, so that term statistics never cross tenants. Vectors of a tenant are cached as one matrix
until its generation changes. After a purge: secure_delete has zeroed the pages, FTS5 is rebuilt, the file vacuumed and
the log truncated, so that no byte of the text is left on disk.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from longspan.context.stores.base import NOW, AsOf, Record
from longspan.context.stores.sql import FOREVER, VISIBLE, SqlStore, _tenant, as_of, match_any, vector_bytes
from longspan.errors import BadInput

# Every entry brings a file from the version before to the next; the list is only ever appended to.
MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE tenants (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, generation INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE versions (
        row_id INTEGER PRIMARY KEY AUTOINCREMENT, tenant INTEGER NOT NULL REFERENCES tenants, id TEXT NOT NULL, kind TEXT NOT NULL,
        text TEXT NOT NULL, data TEXT NOT NULL, valid_from INTEGER, valid_to INTEGER, recorded_at INTEGER NOT NULL,
        retracted_at INTEGER, retracted_by TEXT, prompt TEXT NOT NULL, model TEXT NOT NULL, trust TEXT NOT NULL,
        session TEXT NOT NULL, subject TEXT NOT NULL, digest TEXT NOT NULL);
    CREATE INDEX versions_by_id ON versions (tenant, id);
    CREATE INDEX versions_by_kind ON versions (tenant, kind);
    CREATE TABLE provenance (row_id INTEGER NOT NULL, tenant INTEGER NOT NULL, source TEXT NOT NULL, needed INTEGER NOT NULL,
        PRIMARY KEY (row_id, source)) WITHOUT ROWID;
    CREATE INDEX provenance_by_source ON provenance (tenant, source);
    CREATE TABLE links (tenant INTEGER NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, kind TEXT NOT NULL,
        record TEXT NOT NULL, weight REAL NOT NULL, PRIMARY KEY (tenant, source, target, kind, record)) WITHOUT ROWID;
    CREATE TABLE vectors (row_id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
    """,
    """
    CREATE INDEX links_by_record ON links (tenant, record);
    CREATE INDEX versions_by_session ON versions (tenant, session);
    """,
)
APPLICATION_ID = 0x4C534D31  # "LSM1" in the file header: tells our files from other SQLite files


class SqliteStore(SqlStore):
    """`path` may be ":memory:". `wait` is how many seconds a writer waits for others. Safe to share between threads."""

    tables = ("vectors", *SqlStore.tables)

    def __init__(self, path: str | Path, wait: float = 60.0):
        self.path = str(path)
        self._lock = threading.RLock()
        self._matrices: dict[tuple[int, tuple[str, ...]], tuple[int, np.ndarray, np.ndarray, np.ndarray]] = {}
        try:
            self._db = sqlite3.connect(self.path, timeout=wait, isolation_level=None, check_same_thread=False)
            self._open()
        except sqlite3.DatabaseError as error:
            raise BadInput(f"{self.path} is not a Longspan memory file ({error})") from error

    def _open(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        ours = self._db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        tables = self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if tables and not ours:
            raise BadInput(f"{self.path} is an SQLite file of another program, not a Longspan memory")
        self._refuse_newer(version, len(MIGRATIONS))
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA secure_delete = ON")
        if version < len(MIGRATIONS):
            self._migrate()
        self._resume()

    def _migrate(self) -> None:
        with self._writing():
            # Read again under the lock: another process may have migrated since.
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            for number in range(version, len(MIGRATIONS)):
                for statement in filter(str.strip, MIGRATIONS[number].split(";")):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    @property
    def schema_version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    def search_text(
        self, tenant: str, query: str, *, kinds: Sequence[str], limit: int, at: AsOf = NOW
    ) -> list[tuple[Record, float]]:
        """FTS5's BM25 (k1 1.2, b 0.75, Porter stems); scores are positive, larger is better."""
        match = match_any(query)
        with self._reading():
            number = self._number(tenant)
            if number < 0 or not match:
                return []
            name = _fts(number)
            sql = (
                f"SELECT v.row_id, -rank FROM {name} JOIN versions v ON v.row_id = {name}.rowid "
                f"WHERE {name} MATCH :match AND v.kind IN {self._each('kinds')} AND {VISIBLE} "
                "ORDER BY rank, v.row_id LIMIT :limit"
            )
            rows = self._run(sql, match=match, kinds=json.dumps(list(kinds)), limit=limit, **as_of(at))
            return self._by_rows([(row, score) for row, score in rows])

    def search_vector(
        self,
        tenant: str,
        vector: np.ndarray,
        *,
        kinds: Sequence[str],
        limit: int,
        at: AsOf = NOW,
        above: float = -1.0,
    ) -> list[tuple[Record, float]]:
        with self._reading():
            number = self._number(tenant)
            rows, matrix, times = self._matrix(number, tuple(sorted(kinds)))
            if not len(rows):
                return []
            scores = matrix @ np.asarray(vector, dtype=np.float32)
            keep = np.flatnonzero(_visible(times, at) & (scores >= above))
            if len(keep) > limit:
                # The limit-th best score bounds what has to be sorted; ties are all kept until then.
                worst = np.partition(scores[keep], len(keep) - limit)[len(keep) - limit]
                keep = keep[scores[keep] >= worst]
            order = keep[np.lexsort((rows[keep], -scores[keep]))][:limit]
            return self._by_rows([(int(rows[i]), float(scores[i])) for i in order])

    def _matrix(self, number: int, kinds: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n,) version rows, (n, d) vectors and (4, n) times of all versions of these kinds.

        Times are recorded, retracted, valid from, valid to; those that are open lie beyond every instant.
        """
        generation = self._run("SELECT generation FROM tenants WHERE number = :tenant", tenant=number)
        current = generation[0][0] if generation else -1
        cached = self._matrices.get((number, kinds))
        if cached is None or cached[0] != current:
            chosen = {"tenant": number, "kinds": json.dumps(kinds)}
            found = self._run(
                "SELECT v.row_id, v.recorded_at, COALESCE(v.retracted_at, :ever), COALESCE(v.valid_from, -:ever), "
                "COALESCE(v.valid_to, :ever) FROM versions v JOIN vectors x ON x.row_id = v.row_id "
                f"WHERE v.tenant = :tenant AND v.kind IN {self._each('kinds')} ORDER BY v.row_id",
                ever=FOREVER + 1,
                **chosen,
            )
            rows, *times = np.array(found, dtype=np.int64).reshape(len(found), 5).T
            # Vectors never change and row numbers are never used twice, so only those after the last are read.
            old = cached[1] if cached is not None else rows[:0]
            kept = cached[2] if len(old) and np.array_equal(rows[: len(old)], old) else None
            blobs = self._run(
                "SELECT x.vector FROM versions v JOIN vectors x ON x.row_id = v.row_id WHERE v.tenant = :tenant "
                f"AND v.kind IN {self._each('kinds')} AND v.row_id > :after ORDER BY v.row_id",
                after=-1 if kept is None else int(old[-1]),
                **chosen,
            )
            fresh = np.frombuffer(b"".join(blob for (blob,) in blobs), dtype="<f4")
            fresh = fresh.reshape(len(blobs), -1) if blobs else np.zeros((0, 0), np.float32)
            matrix = fresh if kept is None else np.concatenate([kept, fresh]) if len(fresh) else kept
            cached = (current, rows, matrix, np.array(times))
            self._matrices[number, kinds] = cached
        return cached[1:]

    def _run(self, sql: str, **parameters: Any) -> list[Any]:
        return self._db.execute(sql, parameters).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A snapshot: several statements see the same state."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _each(self, name: str, of: type = str) -> str:
        return f"(SELECT value FROM json_each(:{name}))"

    def _tenant_row(self, tenant: str) -> tuple[int, int]:
        sql = "SELECT number, generation FROM tenants WHERE name = :tenant"
        rows = self._run(sql, tenant=_tenant(tenant))
        if not rows:
            self._run("INSERT INTO tenants (name) VALUES (:tenant)", tenant=tenant)
            rows = self._run(sql, tenant=tenant)
            name = _fts(rows[0][0])
            self._db.execute(f"CREATE VIRTUAL TABLE {name} USING fts5(text, tokenize='porter unicode61')")
        return tuple(rows[0])

    def _prepare_vectors(self, dimensions: int) -> None:
        """Any dimension fits a BLOB."""

    def _index(self, number: int, row: int, record: Record) -> None:
        self._run(
            f"INSERT INTO {_fts(number)} (rowid, text) VALUES (:row, :text)", row=row, text=self._text(row)
        )
        if record.vector is not None:
            blob = vector_bytes(record.vector)
            self._run("INSERT INTO vectors (row_id, vector) VALUES (:row, :blob)", row=row, blob=blob)

    def _text(self, row: int) -> str:
        return self._run("SELECT text FROM versions WHERE row_id = :row", row=row)[0][0]

    def _remove_rows(self, number: int, rows: str) -> None:
        self._run(f"DELETE FROM {_fts(number)} WHERE rowid IN {self._each('rows', int)}", rows=rows)
        super()._remove_rows(number, rows)

    def _erase_traces(self, number: int) -> None:
        with self._lock:
            self._matrices = {key: value for key, value in self._matrices.items() if key[0] != number}
            with self._writing():
                self._db.execute(f"INSERT INTO {_fts(number)} ({_fts(number)}) VALUES ('rebuild')")
            try:
                self._db.execute("VACUUM")
                busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError:
                busy = 1
            if busy:
                raise BadInput(
                    f"everything was deleted, but another process is reading {self.path}, so old bytes may remain in its log; "
                    "close it and open this memory again"
                )
            self._erased(number)


def _visible(times: np.ndarray, at: AsOf) -> np.ndarray:
    """(n,) whether each version is visible; the same condition as `sql.VISIBLE`."""
    asked = as_of(at)
    recorded, retracted, begins, ends = times
    seen = (recorded <= asked["recorded"]) & (retracted > asked["recorded"])
    return seen if asked["any_time"] else seen & (begins <= asked["valid"]) & (ends > asked["valid"])


def _fts(number: int) -> str:
    """The name of a tenant's FTS5 table: made of the integer that the store itself gave out, never of data."""
    return f"text_of_{int(number)}"
