"""How Alembic runs here: on the connection that `store.review` holds, inside its transaction."""

from alembic import context

from patchlight.store.review import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
