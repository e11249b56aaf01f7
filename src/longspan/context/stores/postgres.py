"""The server store: PostgreSQL with pgvector, any DSN; the same protocol and the same tests as the embedded store.

Writers of one tenant queue on that tenant's row. Text search is a tsvector (English) ranked by ts_rank_cd, which has no
corpus statistics and so nothing to leak between tenants; vectors are compared exactly (`<=>`, no approximate index).
After a purge the tables are rewritten (VACUUM FULL), so that no deleted bytes stay in table files. The server's
write-ahead log and backups follow the server's own retention and are outside a client's reach.
"""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from longspan.context.stores.base import NOW, AsOf, Record
from longspan.context.stores.sql import VISIBLE, SqlStore, _tenant, as_of, match_any
from longspan.errors import BadInput

MIGRATIONS = (
    """
    CREATE TABLE tenants (number INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        generation BIGINT NOT NULL DEFAULT 0);
    CREATE TABLE versions (
        row_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant INTEGER NOT NULL REFERENCES tenants,
        id TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL, valid_from BIGINT, valid_to BIGINT,
        recorded_at BIGINT NOT NULL, retracted_at BIGINT, retracted_by TEXT, prompt TEXT NOT NULL, model TEXT NOT NULL,
        trust TEXT NOT NULL, session TEXT NOT NULL, subject TEXT NOT NULL, digest TEXT NOT NULL, terms TSVECTOR,
        vector VECTOR);
    CREATE INDEX versions_by_id ON versions (tenant, id);
    CREATE INDEX versions_by_kind ON versions (tenant, kind);
    CREATE INDEX versions_by_terms ON versions USING GIN (terms);
    CREATE TABLE provenance (row_id BIGINT NOT NULL, tenant INTEGER NOT NULL, source TEXT NOT NULL, needed INTEGER NOT NULL,
        PRIMARY KEY (row_id, source));
    CREATE INDEX provenance_by_source ON provenance (tenant, source);
    CREATE TABLE links (tenant INTEGER NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, kind TEXT NOT NULL,
        record TEXT NOT NULL, weight DOUBLE PRECISION NOT NULL, PRIMARY KEY (tenant, source, target, kind, record));
    """,
    """
    CREATE INDEX links_by_record ON links (tenant, record);
    CREATE INDEX versions_by_session ON versions (tenant, session);
    """,
)
_NAMED = re.compile(r"(?<!:):([a-z_]+)\b")


class PostgresStore(SqlStore):
    """`dsn` is any libpq connection string; the tables live in `schema`, made when missing. Safe between threads."""

    def __init__(self, dsn: str, schema: str = "longspan"):
        try:
            import psycopg
            from psycopg import sql
        except ImportError as error:
            raise BadInput("a PostgreSQL store needs psycopg: pip install 'psycopg[binary]'") from error

        self._lock = threading.RLock()
        self.path = schema
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", schema):
            raise BadInput(f"{schema!r} is not a schema name; use lower-case letters, digits and underscores")
        try:
            self._db = psycopg.connect(dsn, autocommit=True)
        except psycopg.OperationalError as error:
            raise BadInput(f"the database cannot be reached: {str(error).splitlines()[0]}") from error
        self._db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        name = sql.Identifier(schema)
        self._db.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
        self._db.execute(sql.SQL("SET search_path TO {}, public").format(name))
        self._migrate()
        self._resume()

    def _migrate(self) -> None:
        self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        with self._writing():
            self._db.execute("LOCK TABLE meta IN EXCLUSIVE MODE")
            version = self.schema_version
            self._refuse_newer(version, len(MIGRATIONS))
            for script in MIGRATIONS[version:]:
                self._db.execute(script)
            self._run(
                "INSERT INTO meta (name, value) VALUES ('version', :value) ON CONFLICT (name) DO UPDATE SET value = :value",
                value=str(len(MIGRATIONS)),
            )

    @property
    def schema_version(self) -> int:
        rows = self._run("SELECT value FROM meta WHERE name = 'version'")
        return int(rows[0][0]) if rows else 0

    def search_text(
        self, tenant: str, query: str, *, kinds: Sequence[str], limit: int, at: AsOf = NOW
    ) -> list[tuple[Record, float]]:
        words = match_any(query)
        if not words:
            return []
        sql = (
            "SELECT v.row_id, ts_rank_cd(v.terms, q.terms) AS score FROM versions v, "
            "(SELECT websearch_to_tsquery('english', :words) AS terms) q WHERE v.tenant = :tenant "
            f"AND v.kind IN {self._each('kinds')} AND v.terms @@ q.terms AND {VISIBLE} "
            "ORDER BY score DESC, v.row_id LIMIT :limit"
        )
        with self._reading():
            rows = self._run(
                sql,
                words=words,
                tenant=self._number(tenant),
                kinds=json.dumps(list(kinds)),
                limit=limit,
                **as_of(at),
            )
            return self._by_rows([(row, float(score)) for row, score in rows])

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
        sql = (
            "SELECT row_id, score FROM (SELECT v.row_id, 1 - (v.vector <=> CAST(:vector AS vector)) AS score "
            f"FROM versions v WHERE v.tenant = :tenant AND v.vector IS NOT NULL AND v.kind IN {self._each('kinds')} "
            f"AND {VISIBLE}) found WHERE score >= :above ORDER BY score DESC, row_id LIMIT :limit"
        )
        with self._reading():
            rows = self._run(
                sql,
                vector=_literal(vector),
                tenant=self._number(tenant),
                kinds=json.dumps(list(kinds)),
                above=above,
                limit=limit,
                **as_of(at),
            )
            return self._by_rows([(row, float(score)) for row, score in rows])

    def _run(self, sql: str, **parameters: Any) -> list[Any]:
        cursor = self._db.execute(_NAMED.sub(r"%(\1)s", sql.replace("%", "%%")), parameters or {})
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._db.transaction():
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, self._db.transaction():
            yield

    def _each(self, name: str, of: type = str) -> str:
        value = "CAST(value AS BIGINT)" if of is int else "value"
        return f"(SELECT {value} AS value FROM jsonb_array_elements_text(CAST(:{name} AS jsonb)))"

    def _tenant_row(self, tenant: str) -> tuple[int, int]:
        self._run(
            "INSERT INTO tenants (name) VALUES (:tenant) ON CONFLICT DO NOTHING", tenant=_tenant(tenant)
        )
        return self._run(
            "SELECT number, generation FROM tenants WHERE name = :tenant FOR UPDATE", tenant=tenant
        )[0]

    def _prepare_vectors(self, dimensions: int) -> None:
        if dimensions > 16000:
            raise BadInput(f"pgvector holds up to 16000 dimensions, not {dimensions}")

    def _index(self, number: int, row: int, record: Record) -> None:
        self._run(
            "UPDATE versions SET terms = to_tsvector('english', LEFT(text, 200000)), "
            "vector = CAST(:vector AS vector) WHERE row_id = :row",
            row=row,
            vector=None if record.vector is None else _literal(record.vector),
        )

    def _erase_traces(self, number: int) -> None:
        with self._lock:
            for table in ("versions", "provenance", "links"):
                self._db.execute(f"VACUUM FULL {table}")
            self._erased(number)


def _literal(vector: np.ndarray) -> str:
    """pgvector's text form; repr of a float32 round-trips."""
    return "[" + ",".join(repr(float(value)) for value in np.asarray(vector, dtype=np.float32)) + "]"
