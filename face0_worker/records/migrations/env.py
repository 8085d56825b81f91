"""What Alembic reads to migrate: on the connection, and in the transaction, that `schema.upgrade` has opened."""

from __future__ import annotations

from alembic import context

from face0_worker.records.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
