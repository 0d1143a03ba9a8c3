"""The database below the job store: how it is opened, and what its failures are called."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

BUSY_TIMEOUT_S = 15.0
"""How long a writer waits for another one. SQLite has one writer at a time; each writes for milliseconds."""


class StoreError(RuntimeError):
    """The database cannot be opened, read or written. The message holds no path."""


class Database:
    """Short transactions on one database, from any thread.

    Raises:
        StoreError: no such database or driver, or it cannot be opened.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            sqlite = parsed.get_backend_name() == "sqlite"
            self._engine = create_engine(
                parsed,
                json_serializer=lambda value: orjson.dumps(value).decode(),
                json_deserializer=orjson.loads,
                pool_pre_ping=not sqlite,
                connect_args={"timeout": BUSY_TIMEOUT_S} if sqlite else {},
            )
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise StoreError(f"the job store's database URL cannot be used: {error}") from error
        if sqlite:
            _make_directory(parsed.database)
            _make_sqlite_wait_its_turn(self._engine)
        self._writing = self._engine.execution_options(batchd_writes=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one state of the database.

        Raises:
            StoreError: the database failed.
        """
        with _named_failures(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Write all or nothing.

        Raises:
            StoreError: the database failed: read-only, full, locked or gone.
            sqlalchemy.exc.IntegrityError: somebody else has the key.
        """
        with _named_failures(), self._writing.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._engine.dispose()


def _make_directory(database: str | None) -> None:
    if database is None or database == ":memory:":
        raise StoreError("the job store cannot be in memory: several processes share it")
    if database.startswith("file:"):  # SQLite's own notation, for those who know what they do
        return
    try:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the job store's directory cannot be made: {error.strerror}") from error


@contextmanager
def _named_failures() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise StoreError(f"the job store failed: {str(error.orig).splitlines()[0]}") from error
    except SQLAlchemyError as error:
        raise StoreError(f"the job store failed: {str(error).splitlines()[0]}") from error


def _make_sqlite_wait_its_turn(engine: Engine) -> None:
    """Let readers and one writer work at once, and let a writer wait at its first statement.

    A transaction that begins as a reader and then writes fails at once where another has written in between, whatever
    the timeout; one that begins IMMEDIATE waits. Python's sqlite3 must not begin transactions of its own for that.
    """

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):  # what was acknowledged survives a power cut
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("batchd_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
