"""The tables of the review, and triggers that keep three of them append-only."""

from alembic import op
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, String, Text, UniqueConstraint

revision = "0001"
down_revision = None


def upgrade() -> None:
    """The tables are there."""
    _people()
    _candidates()
    _rules()
    _audit()
    _append_only(("evidence", "decisions", "audit"))


def _people() -> None:
    op.create_table(
        "people",
        Column("id", Integer, primary_key=True),
        Column("name", Text, nullable=False),
        Column("role", String(16), nullable=False),
        Column("password", Text, nullable=False),
        Column("active", Boolean, nullable=False),
        Column("created", Float, nullable=False),
        UniqueConstraint("name", name="uq_people_name"),
    )
    op.create_table(
        "invitations",
        Column("token", String(64), primary_key=True),
        Column("role", String(16), nullable=False),
        Column("expires", Float, nullable=False),
        Column("used", Float),
    )


def _candidates() -> None:
    op.create_table(
        "evidence",
        Column("hash", String(64), primary_key=True),
        Column("candidate", String(16), nullable=False, index=True),
        Column("content", Text, nullable=False),
        Column("made", Float, nullable=False),
    )
    op.create_table(
        "candidates",
        Column("id", String(16), primary_key=True),
        Column("study_id", Text, nullable=False, index=True),
        Column("checkpoint", Text, nullable=False),
        Column("model", String(64), nullable=False),
        Column("kind", Text, nullable=False),
        Column("site", Text, nullable=False),
        Column("decoy", Boolean, nullable=False),
        Column("priority", Integer, nullable=False),
        Column("evidence", String(64), ForeignKey("evidence.hash"), nullable=False),
        Column("standing", String(16), nullable=False, index=True),
        Column("decided", Integer, nullable=False),
        Column("added", Float, nullable=False),
    )
    op.create_table(
        "reservations",
        Column("candidate", String(16), ForeignKey("candidates.id"), primary_key=True),
        Column("person", Integer, ForeignKey("people.id"), primary_key=True),
        Column("until", Float, nullable=False),
    )
    op.create_table(
        "decisions",
        Column("number", Integer, primary_key=True),
        Column("candidate", String(16), ForeignKey("candidates.id"), nullable=False, index=True),
        Column("person", Integer, ForeignKey("people.id"), nullable=False, index=True),
        Column("purpose", String(16), nullable=False),
        Column("word", String(16), nullable=False),
        Column("reason", Text, nullable=False),
        Column("text", Text, nullable=False),
        Column("confidence", Integer, nullable=False),
        Column("evidence", String(64), ForeignKey("evidence.hash"), nullable=False),
        Column("form", Text, nullable=False),
        Column("missing", Text, nullable=False),
        Column("undoes", Integer, ForeignKey("decisions.number")),
        Column("at", Float, nullable=False),
        UniqueConstraint("form", name="uq_decisions_form"),
    )


def _rules() -> None:
    op.create_table(
        "rules",
        Column("id", Integer, primary_key=True),
        Column("state", String(8), nullable=False, index=True),
        Column("action", String(24), nullable=False),
        Column("statement", Text, nullable=False),
        Column("scope", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("expires", Float, nullable=False),
        Column("recheck_days", Integer, nullable=False),
        Column("checked", Float, nullable=False),
        Column("made", Float, nullable=False),
        Column("why", Text, nullable=False),
    )
    op.create_table(
        "rule_findings",
        Column("rule", Integer, ForeignKey("rules.id"), primary_key=True),
        Column("candidate", String(16), ForeignKey("candidates.id"), primary_key=True),
        Column("evidence", String(64), ForeignKey("evidence.hash"), nullable=False),
    )
    op.create_table(
        "rechecks",
        Column("id", Integer, primary_key=True),
        Column("rule", Integer, ForeignKey("rules.id"), nullable=False, index=True),
        Column("model", String(64), nullable=False),
        Column("outcome", String(8), nullable=False),
        Column("findings", Text, nullable=False),
        Column("at", Float, nullable=False),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("at", Float, nullable=False),
        Column("who", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("content", Text, nullable=False),
        Column("previous", String(64), nullable=False),
        Column("hash", String(64), nullable=False),
    )


def _append_only(tables: tuple[str, ...]) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in tables:
            for act in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in tables:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
        )
