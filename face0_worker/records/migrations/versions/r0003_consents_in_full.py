"""Consents in full, erasures, catalogues by night, webhooks, derived pictures, and pictures held for a human."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
# An older program decides by purposes and time alone: a consent that restricts more shows it fewer purposes. What it
# revokes is erased by a newer program (schedule.py). It judges by no bars and holds nothing; the tables it never sees.
works_with = "0001"

SQL = """
-- what a consent says in full, and whose face it is
ALTER TABLE consents
    ADD COLUMN version integer NOT NULL DEFAULT 1,
    ADD COLUMN terms jsonb NOT NULL DEFAULT '{}';

CREATE TABLE consent_versions (
    consent_id text,
    version integer,
    document text NOT NULL,
    hash text NOT NULL,
    envelope bytea,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consent_id, version)
);

CREATE TABLE enrolments (
    consent_id text,
    digest text,
    face_key text NOT NULL,
    embedder_digest text NOT NULL,
    keyed_digest text NOT NULL,
    sealed_key bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consent_id, digest)
);

CREATE TABLE held_faces (
    id text PRIMARY KEY,
    consent_id text NOT NULL,
    digest text NOT NULL,
    face_key text NOT NULL,
    embedder_digest text NOT NULL,
    distance double precision,
    bar double precision,
    held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decision text NOT NULL DEFAULT '',
    decided_at timestamptz,
    CONSTRAINT held_once UNIQUE (consent_id, digest)
);

ALTER TABLE jobs
    ADD COLUMN campaign text NOT NULL DEFAULT '',
    ADD COLUMN channel text NOT NULL DEFAULT '',
    ADD COLUMN territory text NOT NULL DEFAULT '';

-- erasures, delivered copies, signed heads of the audit log
CREATE TABLE erasures (
    consent_id text PRIMARY KEY,
    cause text NOT NULL,
    epoch integer NOT NULL,
    step text NOT NULL DEFAULT 'key',
    counts jsonb NOT NULL DEFAULT '{}',
    requested_at timestamptz NOT NULL,
    certificate bytea,
    finished_at timestamptz
);
CREATE INDEX erasures_open ON erasures (requested_at) WHERE finished_at IS NULL;

CREATE TABLE deliveries (
    id bigserial PRIMARY KEY,
    consent_id text NOT NULL,
    job_id text NOT NULL,
    item_key text NOT NULL,
    picture_sha256 text NOT NULL,
    channel text NOT NULL,
    destination text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT one_delivery_per_place UNIQUE (consent_id, item_key, picture_sha256, channel, destination)
);

CREATE TABLE checkpoints (
    number integer PRIMARY KEY,
    seq bigint NOT NULL,
    hash text NOT NULL,
    envelope bytea NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    stored_at timestamptz
);

-- what was revoked before erasures were noted: each is erased again, which does nothing twice, and is certified
INSERT INTO erasures (consent_id, cause, epoch, requested_at)
    SELECT id, 'revoked', epoch, coalesce(revoked_at, now()) FROM consents WHERE state = 'revoked';

-- catalogues by night
CREATE TABLE catalogues (
    name text PRIMARY KEY,
    serial bigint NOT NULL DEFAULT '0',
    run_id text NOT NULL DEFAULT '',
    content text NOT NULL DEFAULT '',
    published_at timestamptz
);

CREATE TABLE catalogue_runs (
    id text PRIMARY KEY,
    catalogue text NOT NULL REFERENCES catalogues (name),
    state text NOT NULL DEFAULT 'running',
    content text NOT NULL,
    purpose text NOT NULL,
    deadline timestamptz,
    jobs jsonb NOT NULL DEFAULT '[]',
    counts jsonb NOT NULL DEFAULT '{}',
    manifest_key text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT catalogue_run_state CHECK (state IN
        ('running', 'published', 'unchanged', 'withheld', 'replaced'))
);
CREATE INDEX catalogue_runs_newest ON catalogue_runs (catalogue, started_at);
CREATE UNIQUE INDEX one_open_run_per_catalogue ON catalogue_runs (catalogue) WHERE state = 'running';

-- webhooks, and pictures made from pictures
CREATE TABLE webhooks (
    id text PRIMARY KEY,
    url text NOT NULL,
    events jsonb NOT NULL,
    secret bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz
);

CREATE TABLE webhook_deliveries (
    id text PRIMARY KEY,
    webhook_id text NOT NULL REFERENCES webhooks (id),
    kind text NOT NULL,
    body text NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    tries integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT now(),
    status integer,
    error text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT delivery_state CHECK (state IN ('waiting', 'delivered', 'dead'))
);
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (due_at) WHERE state = 'waiting';
CREATE INDEX ix_webhook_deliveries_webhook_id ON webhook_deliveries (webhook_id);

CREATE TABLE derivations (
    id text PRIMARY KEY,
    job_id text NOT NULL,
    item_key text NOT NULL,
    consent_id text NOT NULL,
    purpose text NOT NULL,
    form jsonb NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    tries integer NOT NULL DEFAULT 0,
    holder text NOT NULL DEFAULT '',
    due_at timestamptz NOT NULL DEFAULT now(),
    error text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT derivation_state CHECK (state IN ('waiting', 'done', 'failed'))
);
CREATE INDEX derivations_waiting ON derivations (due_at) WHERE state = 'waiting';
CREATE INDEX ix_derivations_consent_id ON derivations (consent_id);

-- the quality gate's bars, and pictures held for a human
ALTER TABLE jobs
    ADD COLUMN bars jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN reopened integer NOT NULL DEFAULT '0';
ALTER TABLE items ADD COLUMN renders integer NOT NULL DEFAULT '0';

CREATE TABLE held_pictures (
    item_id bigint PRIMARY KEY REFERENCES items (id),
    job_id text NOT NULL,
    consent_id text NOT NULL,
    held_key text NOT NULL DEFAULT '',
    seed bigint,
    verdict jsonb NOT NULL,
    held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decision text NOT NULL DEFAULT '',
    decided_by text NOT NULL DEFAULT '',
    decided_at timestamptz,
    holder text NOT NULL DEFAULT '',
    due_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    error text NOT NULL DEFAULT '',
    CONSTRAINT held_decision CHECK (decision IN ('', 'accepted', 'rejected'))
);
CREATE INDEX ix_held_pictures_consent_id ON held_pictures (consent_id);
CREATE INDEX held_pictures_undecided ON held_pictures (held_at) WHERE decision = '';
CREATE INDEX held_pictures_accepted ON held_pictures (due_at) WHERE decision = 'accepted' AND ended_at IS NULL;
"""


def upgrade() -> None:
    """Make tables, add columns with defaults, and note the erasures of before: few rows, none of a large table."""
    op.execute(SQL)
