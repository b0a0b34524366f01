"""Who is signed in to the workbench."""

from alembic import op
from sqlalchemy import Column, Float, ForeignKey, Integer, String

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """The table of sessions is there."""
    op.create_table(
        "sessions",
        Column("token", String(64), primary_key=True),
        Column("person", Integer, ForeignKey("people.id"), nullable=False),
        Column("expires", Float, nullable=False),
    )
