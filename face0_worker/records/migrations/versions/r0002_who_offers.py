"""Which machine offers a model, with what, and since when: an operator must find the worker that he reads about."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
# its statements name their columns, so columns with a default are nothing to it
works_with = "0001"

SQL = """
ALTER TABLE models
    -- the default comes after the column: of a worker that is known already nobody knows it
    ADD COLUMN first_seen_at timestamptz,
    ALTER COLUMN first_seen_at SET DEFAULT now(),
    ADD COLUMN host text NOT NULL DEFAULT '',
    ADD COLUMN device text NOT NULL DEFAULT '',
    ADD COLUMN version text NOT NULL DEFAULT '';
"""


def upgrade() -> None:
    """Add the columns; none of them is written to the rows that exist, so this takes no time."""
    op.execute(SQL)
