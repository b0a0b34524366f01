"""The tables of the review: in a workspace's own SQLite, or in a team's PostgreSQL; Alembic brings them up to date."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from sqlalchemy import (
    Boolean,
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
    UniqueConstraint,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.store.database import open_database, writing
from patchlight.store.faults import told_clearly

DATABASE = "patchlight.sqlite"
VERSION_TABLE = "review_version"
LOCK = 7_246_190_331  # the number of the one lock on PostgreSQL that every writer takes

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)

people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("password", Text, nullable=False),  # argon2id
    Column("active", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    UniqueConstraint("name"),
)

invitations = Table(
    "invitations",
    metadata,
    Column("token", String(64), primary_key=True),  # SHA-256: who reads the database cannot use the link
    Column("role", String(16), nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Float),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token", String(64), primary_key=True),  # SHA-256, as of invitations
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("expires", Float, nullable=False),
)

evidence = Table(
    "evidence",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("candidate", String(16), nullable=False, index=True),
    Column("content", Text, nullable=False),  # canonical JSON
    Column("made", Float, nullable=False),
)

candidates = Table(
    "candidates",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("study_id", Text, nullable=False, index=True),
    Column("checkpoint", Text, nullable=False),
    Column("model", String(64), nullable=False),
    Column("kind", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("decoy", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("evidence", ForeignKey("evidence.hash"), nullable=False),
    Column("standing", String(16), nullable=False, index=True),
    Column("decided", Integer, nullable=False),  # people whose decision on this evidence stands
    Column("added", Float, nullable=False),
)

reservations = Table(
    "reservations",
    metadata,
    Column("candidate", ForeignKey("candidates.id"), primary_key=True),
    Column("person", ForeignKey("people.id"), primary_key=True),
    Column("until", Float, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("candidate", ForeignKey("candidates.id"), nullable=False, index=True),
    Column("person", ForeignKey("people.id"), nullable=False, index=True),
    Column("purpose", String(16), nullable=False),
    Column("word", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("confidence", Integer, nullable=False),
    Column("evidence", ForeignKey("evidence.hash"), nullable=False),
    Column("form", Text, nullable=False),
    Column("missing", Text, nullable=False),  # a JSON list
    Column("undoes", ForeignKey("decisions.number")),
    Column("at", Float, nullable=False),
    UniqueConstraint("form"),
)

rules = Table(
    "rules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("state", String(8), nullable=False, index=True),
    Column("action", String(24), nullable=False),
    Column("statement", Text, nullable=False),
    Column("scope", Text, nullable=False),  # JSON: domain, kind, facts, model
    Column("owner", Text, nullable=False),
    Column("expires", Float, nullable=False),
    Column("recheck_days", Integer, nullable=False),
    Column("checked", Float, nullable=False),
    Column("made", Float, nullable=False),
    Column("why", Text, nullable=False),  # of its state
)

rule_findings = Table(
    "rule_findings",
    metadata,
    Column("rule", ForeignKey("rules.id"), primary_key=True),
    Column("candidate", ForeignKey("candidates.id"), primary_key=True),
    Column("evidence", ForeignKey("evidence.hash"), nullable=False),
)

rechecks = Table(
    "rechecks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rule", ForeignKey("rules.id"), nullable=False, index=True),
    Column("model", String(64), nullable=False),
    Column("outcome", String(8), nullable=False),
    Column("findings", Text, nullable=False),  # JSON
    Column("at", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("content", Text, nullable=False),  # canonical JSON
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

APPEND_ONLY = ("evidence", "decisions", "audit")
"""Tables whose rows the database itself refuses to change or delete."""


def open_review(where: Path | str) -> Engine:
    """An engine on the review tables, up to date: in a workspace folder, or at a `postgresql+psycopg://` URL.

    Every commit is on disk when it returns; whoever writes waits for the writer before. Raises `InputError`
    `store-database-url` for another URL, `EnvironmentProblem` where the database cannot be reached or is newer.
    """
    if isinstance(where, Path):
        with told_clearly(where):
            engine = open_database(where.resolve() / DATABASE)
            _upgrade(engine, str(where))
        return engine
    engine = _server(where)
    try:
        _upgrade(engine, engine.url.render_as_string())
    except OperationalError as error:
        engine.dispose()
        raise EnvironmentProblem(
            "store-database-unreachable",
            f"the database cannot be reached: {str(error.orig).strip()}",
            where=engine.url.render_as_string(),
            fix="check the address, the name and the password in the URL, and that the server runs",
        ) from error
    return engine


def _server(url: str) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise _wrong_url() from error
    if engine.dialect.name != "postgresql":
        raise _wrong_url()
    event.listen(engine, "begin", _wait_for_the_writer)
    return engine


def _wrong_url() -> InputError:
    return InputError(
        "store-database-url",
        "this database URL cannot be used",
        fix="give postgresql+psycopg://NAME:PASSWORD@HOST/DATABASE, and install it: pip install 'patchlight[team]'",
    )


def _wait_for_the_writer(connection: Connection) -> None:
    # The audit chain has one end: two writers at once would both hang their entry on the same one.
    if connection.get_execution_options().get("patchlight_writes", False):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def _upgrade(engine: Engine, where: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    with as_file(files("patchlight.store") / "migrations") as scripts, writing(engine) as connection:
        config = Config()
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise EnvironmentProblem(
                "store-newer",
                f"the review tables were made by another Patchlight: {error}",
                where=where,
                fix="install a newer Patchlight, or use another workspace",
            ) from error
