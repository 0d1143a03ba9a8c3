"""The database below the job store: how it is opened, and what its failures are called."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from batchd_server.training.trouble import Trouble, of_disk, of_sqlite

BUSY_TIMEOUT_S = 15.0
"""How long a writer waits for another one. SQLite has one writer at a time; each writes for milliseconds."""


class StoreError(RuntimeError):
    """The database cannot be opened, read or written. The message holds no path; `trouble` says what it comes to."""

    def __init__(self, message: str, trouble: Trouble = Trouble.STORE_FAILED) -> None:
        super().__init__(message)
        self.trouble = trouble


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
        self._file = _file_of(parsed.database) if sqlite else None
        self._identity: tuple[int, int] | None = None  # of the file that the connections have open
        self._joined = threading.local()
        if sqlite:
            _make_directory(self._file)
            _make_sqlite_wait_its_turn(self._engine)
        self._writing = self._engine.execution_options(batchd_writes=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one state of the database.

        Raises:
            StoreError: the database failed.
        """
        joined: Connection | None = getattr(self._joined, "connection", None)
        if joined is not None:
            yield joined
            return
        with self._named_failures(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Write all or nothing; within `together`, with all else that is written there.

        Raises:
            StoreError: the database failed: read-only, full, locked or gone.
            sqlalchemy.exc.IntegrityError: somebody else has the key.
        """
        joined: Connection | None = getattr(self._joined, "connection", None)
        if joined is not None:
            yield joined
            return
        with self._named_failures(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one transaction of what this thread reads and writes within.

        Raises:
            StoreError: the database failed. Nothing has been written.
        """
        with self.writing() as connection:
            self._joined.connection = connection
            try:
                yield
            finally:
                self._joined.connection = None

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._engine.dispose()

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        self._check_file()
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise self._failure(error) from error
        except SQLAlchemyError as error:
            raise StoreError(f"the job store failed: {_first_line(error)}") from error
        except ValueError as error:  # what a record is made of is not what was written
            raise StoreError(f"the job store holds nonsense: {_first_line(error)}", Trouble.STORE_DAMAGED) from error

    def _failure(self, error: DBAPIError) -> StoreError:
        trouble = Trouble.STORE_FAILED if self._file is None else of_sqlite(error.orig, self._file.parent)
        disk = trouble in (Trouble.DISK_FULL, Trouble.DISK_READ_ONLY, Trouble.STORE_LOCKED)
        return StoreError(f"the job store failed: {trouble.reason if disk else _first_line(error.orig)}", trouble)

    def _check_file(self) -> None:
        """Make sure that the file is still the one that was opened: SQLite would go on writing to one that is gone.

        Raises:
            StoreError: it is not.
        """
        if self._file is None:
            return
        try:
            found = self._file.stat()
            identity = (found.st_dev, found.st_ino)
        except FileNotFoundError:
            identity = None
        except OSError as error:  # it may be there
            trouble = of_disk(error) or Trouble.STORE_FAILED
            raise StoreError(f"the job store's file cannot be looked at: {error.strerror}", trouble) from error
        if self._identity is None:
            self._identity = identity  # None: the first connection makes it
        elif identity is None:
            for suffix in ("-wal", "-shm"):  # of no use to a database that is made anew, and a danger to it
                with contextlib.suppress(OSError):
                    Path(f"{self._file}{suffix}").unlink()
            raise StoreError("the job store's file has been deleted", Trouble.STORE_DAMAGED)
        elif identity != self._identity:
            raise StoreError("the job store's file has been replaced", Trouble.STORE_DAMAGED)


def _first_line(error: BaseException | None) -> str:
    return next(iter(str(error).splitlines()), "")


def _file_of(database: str | None) -> Path | None:
    if database is None or database == ":memory:":
        raise StoreError("the job store cannot be in memory: several processes share it")
    # "file:" is SQLite's own notation, for those who know what they do
    return None if database.startswith("file:") else Path(database)


def _make_directory(file: Path | None) -> None:
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        trouble = of_disk(error)
        why = error.strerror if trouble is None else trouble.reason
        raise StoreError(f"the job store's directory cannot be made: {why}", trouble or Trouble.STORE_FAILED) from error


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
