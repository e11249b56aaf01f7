"""The store in SQL, shared by both databases: named parameters only, no data ever in the statement text.

Tables: `tenants` (name, number, generation), `versions` (one row a version of a record), `provenance` (version row,
source id), `links`, `meta`. What differs between databases (lists as parameters, text search, vectors, locking) are the
methods at the end that raise NotImplementedError.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from longspan.context.retrieval.bm25 import STOP_WORDS
from longspan.context.stores.base import (
    NOW,
    AsOf,
    Link,
    Record,
    clean,
    instant,
    micros,
)
from longspan.context.stores.purging import Purging
from longspan.context.stores.writing import Writing
from longspan.errors import BadInput

FOREVER = 2**62
_WORD = re.compile(r"\w+")
COLUMNS = (
    "v.id, v.kind, v.text, v.data, v.valid_from, v.valid_to, v.recorded_at, v.retracted_at, v.prompt, v.model, v.trust, "
    "v.session, v.subject, v.row_id"
)
VISIBLE = (
    "v.recorded_at <= :recorded AND (v.retracted_at IS NULL OR v.retracted_at > :recorded) AND "
    "(:any_time = 1 OR ((v.valid_from IS NULL OR v.valid_from <= :valid) AND (v.valid_to IS NULL OR v.valid_to > :valid)))"
)


def as_of(at: AsOf) -> dict[str, int]:
    return {
        "recorded": FOREVER if at.recorded is None else micros(at.recorded),  # type: ignore[dict-item]
        "valid": 0 if at.valid is None else micros(at.valid),  # type: ignore[dict-item]
        "any_time": int(at.valid is None),
    }


class SqlStore(Writing, Purging):
    """Implements `stores.base.Store` over `_run(sql, **parameters) -> list of rows` and the dialect methods. A store has a
    connection `_db`, a `_lock` around it and a `path` that names it in messages."""

    path: str
    _db: Any
    _lock: Any

    embedder: tuple[str, int] | None = None
    tables: tuple[str, ...] = (
        "provenance",
        "versions",
    )  # those with one or more rows a version, keyed by `row_id`

    # -- opening

    def _refuse_newer(self, version: int, known: int) -> None:
        if version > known:
            raise BadInput(
                f"{self.path} has schema version {version}, but this Longspan knows up to {known}; update Longspan"
            )

    def _resume(self) -> None:
        """Finish a purge that was cut off between its transaction and the cleaning, and learn the bound embedder."""
        for (number,) in self._run("SELECT value FROM meta WHERE name LIKE 'erasing:%'"):
            self._erase_traces(int(number))
        rows = self._run("SELECT value FROM meta WHERE name = 'embedder'")
        self.embedder = tuple(json.loads(rows[0][0])) if rows else None

    def _erased(self, number: int) -> None:
        self._run("DELETE FROM meta WHERE name = :name", name=f"erasing:{number}")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # -- reading

    def bind_embedder(self, embedder_id: str, dimensions: int) -> None:
        wanted = json.dumps([embedder_id, dimensions])
        with self._writing():
            rows = self._run("SELECT value FROM meta WHERE name = 'embedder'")
            if not rows:
                self._run("INSERT INTO meta (name, value) VALUES ('embedder', :value)", value=wanted)
                self._prepare_vectors(dimensions)
            elif rows[0][0] != wanted:
                raise BadInput(
                    f"this memory was filled with the embedder {json.loads(rows[0][0])[0]!r} and cannot be searched with "
                    f"{embedder_id!r}; open it with that embedder or start a new memory"
                )
        self.embedder = (embedder_id, dimensions)

    def bind(self, name: str, value: str, keep: bool = False) -> str:
        with self._writing():
            rows = self._run("SELECT value FROM meta WHERE name = :name", name=name)
            if not rows:
                self._run("INSERT INTO meta (name, value) VALUES (:name, :value)", name=name, value=value)
                return value
        if rows[0][0] != value and not keep:
            raise BadInput(
                f"this memory was made with the {name} {rows[0][0]!r}, not {value!r}; open it with that"
            )
        return rows[0][0]

    def generation(self, tenant: str) -> int:
        with self._reading():
            rows = self._run("SELECT generation FROM tenants WHERE name = :tenant", tenant=_tenant(tenant))
        return rows[0][0] if rows else 0

    def get(
        self,
        tenant: str,
        ids: Sequence[str] | None = None,
        *,
        kind: str | None = None,
        session: str | None = None,
        at: AsOf = NOW,
        newest: int | None = None,
    ) -> list[Record]:
        only = f"AND v.id IN {self._each('ids')}" if ids is not None else ""
        sql = (
            f"SELECT {COLUMNS} FROM versions v WHERE v.tenant = :tenant AND {VISIBLE} {only} "
            "AND (:kind = '' OR v.kind = :kind) AND (:session = '' OR v.session = :session) "
            "ORDER BY COALESCE(v.valid_from, v.recorded_at) DESC, v.row_id DESC LIMIT :newest"
        )
        with self._reading():
            rows = self._run(
                sql,
                tenant=self._number(tenant),
                kind=kind or "",
                session=session or "",
                newest=FOREVER if newest is None else newest,
                **({"ids": json.dumps(list(ids))} if ids is not None else {}),
                **as_of(at),
            )
            return self._records(rows[::-1])

    def versions(self, tenant: str, id: str) -> list[Record]:
        sql = f"SELECT {COLUMNS} FROM versions v WHERE v.tenant = :tenant AND v.id = :id ORDER BY v.row_id"
        with self._reading():
            return self._records(self._run(sql, tenant=self._number(tenant), id=id))

    def links(
        self,
        tenant: str,
        *,
        kinds: Sequence[str] | None = None,
        source: str | None = None,
        target: str | None = None,
        at: AsOf = NOW,
    ) -> list[Link]:
        only = f"AND l.kind IN {self._each('kinds')}" if kinds is not None else ""
        only += " AND l.source = :source" if source is not None else ""
        only += " AND l.target = :target" if target is not None else ""
        sql = (
            "SELECT l.source, l.target, l.kind, l.record, l.weight FROM links l JOIN versions v "
            f"ON v.tenant = l.tenant AND v.id = l.record WHERE l.tenant = :tenant AND {VISIBLE} {only} "
            "ORDER BY l.source, l.target, l.kind, l.record"
        )
        ends = {
            "source": source,
            "target": target,
            "kinds": None if kinds is None else json.dumps(list(kinds)),
        }
        more = {name: value for name, value in ends.items() if value is not None}
        with self._reading():
            return [Link(*row) for row in self._run(sql, tenant=self._number(tenant), **as_of(at), **more)]

    def neighbours(
        self,
        tenant: str,
        ids: Sequence[str],
        *,
        depth: int,
        kinds: Sequence[str] | None = None,
        at: AsOf = NOW,
    ) -> dict[str, int]:
        only = f"AND l.kind IN {self._each('kinds')}" if kinds is not None else ""
        sql = (
            "WITH RECURSIVE edge(a, b) AS (SELECT l.source, l.target FROM links l JOIN versions v "
            f"ON v.tenant = l.tenant AND v.id = l.record WHERE l.tenant = :tenant AND {VISIBLE} {only}), "
            "both_ways(a, b) AS (SELECT a, b FROM edge UNION SELECT b, a FROM edge), "
            f"walk(id, distance) AS (SELECT value, 0 FROM {self._each('ids')} AS given "
            "UNION SELECT both_ways.b, walk.distance + 1 FROM walk JOIN both_ways ON both_ways.a = walk.id "
            "WHERE walk.distance < :depth) "
            "SELECT id, MIN(distance) FROM walk GROUP BY id ORDER BY 2, 1"
        )
        more = {} if kinds is None else {"kinds": json.dumps(list(kinds))}
        with self._reading():
            rows = self._run(
                sql, tenant=self._number(tenant), depth=depth, ids=json.dumps(list(ids)), **as_of(at), **more
            )
        return dict(map(tuple, rows))

    def _records(self, rows: Sequence[Sequence[Any]]) -> list[Record]:
        wanted = json.dumps([row[-1] for row in rows])
        found: dict[tuple[int, int], list[str]] = {}
        sql = (
            f"SELECT row_id, needed, source FROM provenance WHERE row_id IN {self._each('rows', int)} "
            "ORDER BY row_id, source"
        )
        for row, needed, source in self._run(sql, rows=wanted) if rows else ():
            found.setdefault((row, needed), []).append(source)
        return [
            Record(
                id=row[0],
                kind=row[1],
                text=row[2],
                data=json.loads(row[3]),
                sources=tuple(found.get((row[-1], 1), ())),
                support=tuple(found.get((row[-1], 0), ())),
                valid_from=instant(row[4]),
                valid_to=instant(row[5]),
                recorded_at=instant(row[6]),
                retracted_at=instant(row[7]),
                prompt=row[8],
                model=row[9],
                trust=row[10],
                session=row[11],
                subject=row[12],
            )
            for row in rows
        ]

    def _by_rows(self, row_scores: Sequence[tuple[int, float]]) -> list[tuple[Record, float]]:
        """Records of version rows, in the given order, with their scores."""
        sql = f"SELECT {COLUMNS} FROM versions v WHERE v.row_id IN {self._each('rows', int)}"
        found = self._run(sql, rows=json.dumps([row for row, _ in row_scores])) if row_scores else []
        records = dict(zip((row[-1] for row in found), self._records(found)))
        return [(records[row], score) for row, score in row_scores]

    def _exists(self, number: int, id: str) -> bool:
        sql = "SELECT 1 FROM versions WHERE tenant = :tenant AND id = :id LIMIT 1"
        return bool(self._run(sql, tenant=number, id=id))

    def _number(self, tenant: str) -> int:
        rows = self._run("SELECT number FROM tenants WHERE name = :tenant", tenant=_tenant(tenant))
        return rows[0][0] if rows else -1

    def _bump(self, number: int) -> None:
        self._run("UPDATE tenants SET generation = generation + 1 WHERE number = :tenant", tenant=number)

    def _column(self, sql: str, **parameters: Any) -> list[Any]:
        return [row[0] for row in self._run(sql, **parameters)]

    # -- what a database provides

    def _run(self, sql: str, **parameters: Any) -> list[Any]:
        raise NotImplementedError

    @contextmanager
    def _reading(self) -> Iterator[None]:
        raise NotImplementedError
        yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: commit on return, roll back on any exception."""
        raise NotImplementedError
        yield

    def _each(self, name: str, of: type = str) -> str:
        """A subquery with one column `value` over the JSON list in parameter `name`."""
        raise NotImplementedError

    def _tenant_row(self, tenant: str) -> tuple[int, int]:
        """(number, generation) of a tenant, made when new, locked against other writers."""
        raise NotImplementedError

    def _prepare_vectors(self, dimensions: int) -> None:
        raise NotImplementedError

    def _index(self, number: int, row: int, record: Record) -> None:
        """Enter one version into text and vector search."""
        raise NotImplementedError

    def _remove_rows(self, number: int, rows: str) -> None:
        """Delete version rows (a JSON list) from every table and index."""
        for table in self.tables:
            self._run(f"DELETE FROM {table} WHERE row_id IN {self._each('rows', int)}", rows=rows)

    def _erase_traces(self, number: int) -> None:
        """After a purge: make deleted bytes disappear from files and logs."""
        raise NotImplementedError


def _tenant(tenant: str) -> str:
    if not isinstance(tenant, str) or not tenant or clean(tenant) != tenant:
        raise BadInput("a tenant id is needed: text that is not empty and that UTF-8 can hold")
    return tenant


def match_any(query: str, terms: int = 128) -> str:
    """Any content word of `query`, as FTS5 and PostgreSQL's web search both read it: every word is quoted, so no operator gets
    through."""
    words = [word for word in _WORD.findall(query) if word.lower() not in STOP_WORDS]
    return " OR ".join(f'"{word}"' for word in dict.fromkeys(words[:terms]))


def vector_bytes(vector: np.ndarray) -> bytes:
    """Little-endian float32, the same on every machine."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()
