"""The job store's tables. What is not searched for stands in a JSON column, which may gain keys without migration."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
)
from sqlalchemy.exc import IntegrityError

from batchd_server.training.store_database import Database, StoreError

METADATA = MetaData()

JOBS = Table(
    "jobs",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the order of creation
    Column("id", String(64), nullable=False, unique=True),
    Column("idempotency_key", String(255), unique=True),
    Column("spec", JSON, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("wanted", String(16), nullable=False),
    Column("reason", Text),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("progress", JSON, nullable=False),
    sqlite_autoincrement=True,
)

JOB_EVENTS = Table(
    "job_events",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("data", JSON, nullable=False),
    Index("job_events_of_job", "job_id", "id"),
    sqlite_autoincrement=True,  # an id is never given twice, so that a reader can go on after one
)

JOB_METRICS = Table(
    "job_metrics",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("figures", JSON, nullable=False),
)

JOB_COMMITS = Table(
    "job_commits",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("record", JSON, nullable=False),
)

JOB_CHECKPOINTS = Table(
    "job_checkpoints",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("validation_accuracy", Double),
    Column("best", Boolean, nullable=False),
)

DATASETS = Table(
    "datasets",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("format", String(32), nullable=False),
    Column("path", Text),
    Column("bytes", BigInteger, nullable=False),
    Column("examples", BigInteger, nullable=False),
    Column("created", Double, nullable=False),
    Column("sha256", String(64)),
)


def make_tables(database: Database) -> None:
    """Make the tables that are not there. Where none is missing, nothing is written.

    Raises:
        StoreError: the database cannot be read or written.
    """
    with database.reading() as connection:
        missing = METADATA.tables.keys() - set(inspect(connection).get_table_names())
    if not missing:
        return
    try:
        _make(database)
    except (IntegrityError, StoreError):  # another process made one in this moment; SQLite would have waited
        _make(database)


def _make(database: Database) -> None:
    with database.writing() as connection:
        METADATA.create_all(connection)
