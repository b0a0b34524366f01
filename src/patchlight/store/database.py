"""The one SQLite database of a workspace: its tables, and how it is opened."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
)

from patchlight.errors import EnvironmentProblem

SCHEMA = 1
BUSY_SECONDS = 30.0

# Constraint names are fixed so that a later migration can name what it changes.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)

# Times are seconds since 1970, UTC.
workspace = Table("workspace", metadata, Column("schema", Integer, primary_key=True), Column("created", Float))

studies = Table(
    "studies",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("yaml", Text, nullable=False),
    Column("file", Text, nullable=False),
    Column("begun", Float, nullable=False),
)

units = Table(
    "units",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("stage", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("state", String(8), nullable=False),  # planned, done or failed
    Column("result", Text),  # the manifest: canonical JSON with `meta` and the digests of the stored files
    Column("digest", String(64)),  # SHA-256 of the manifest
    Column("reason", Text),
    Column("traceback", Text),
    Column("seconds", Float),
    Column("finished", Float),
    Column("host", Text),
)

study_units = Table(
    "study_units",
    metadata,
    Column("study", ForeignKey("studies.hash"), primary_key=True),
    Column("unit", ForeignKey("units.hash"), primary_key=True),
    Column("ordinal", Integer, nullable=False),
)

driver = Table(
    "driver",
    metadata,
    Column("id", Integer, primary_key=True),  # always 1: a workspace has one driver
    Column("token", String(32), nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", Float, nullable=False),
    Column("heartbeat", Float, nullable=False),
)


def open_database(file: Path) -> Engine:
    """An engine on `file`, created with its tables where missing; every commit is on disk when it returns.

    Raises `EnvironmentProblem` `store-newer` where a newer Patchlight has made the file.
    """
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    try:
        _require_schema(engine, file)
    except BaseException:
        engine.dispose()
        raise
    return engine


def reading(engine: Engine) -> AbstractContextManager[Connection]:
    """A context manager that yields a connection which sees one state of the database."""
    return engine.begin()


def writing(engine: Engine) -> AbstractContextManager[Connection]:
    """A context manager that yields a connection in a transaction that holds the write lock from its start.

    It commits at its end and rolls back on any exception, KeyboardInterrupt included.
    """
    return engine.execution_options(patchlight_writes=True).begin()


def _require_schema(engine: Engine, file: Path) -> None:
    with writing(engine) as connection:
        metadata.create_all(connection)
        found = connection.scalar(select(workspace.c.schema))
        if found is None:
            connection.execute(insert(workspace).values(schema=SCHEMA, created=time.time()))
        elif found != SCHEMA:
            raise EnvironmentProblem(
                "store-newer",
                f"this workspace has schema {found}; this Patchlight knows schema {SCHEMA}",
                where=str(file),
                fix="install a newer Patchlight, or use another workspace",
            )


def _prepare(connection: Any, _record: object) -> None:
    # The driver's own transaction handling is switched off: `_begin` says when one starts and of which sort.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("patchlight_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
