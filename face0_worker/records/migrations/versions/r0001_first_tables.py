"""The tables as they were when the ledger's versions began to be counted."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
# the oldest program that works with a ledger of this revision, named by its own revision
works_with = "0001"

SQL = """
CREATE SEQUENCE fencing_tokens;

CREATE TABLE consents (
    id text PRIMARY KEY,
    subject text NOT NULL,
    purposes jsonb NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    state text NOT NULL,
    epoch integer NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    reason text NOT NULL DEFAULT ''
);

CREATE TABLE models (
    worker_id text,
    digest text,
    name text NOT NULL,
    facts jsonb NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    withdrawn boolean NOT NULL DEFAULT false,
    PRIMARY KEY (worker_id, digest)
);

CREATE TABLE faces (
    consent_id text,
    digest text,
    face_key text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consent_id, digest)
);

CREATE TABLE jobs (
    id text PRIMARY KEY,
    consent_id text NOT NULL,
    face_digest text NOT NULL,
    model_digest text NOT NULL,
    embedder_digest text NOT NULL,
    face_policy text NOT NULL,
    face_key text NOT NULL,
    purpose text NOT NULL,
    priority smallint NOT NULL,
    catalogue text NOT NULL DEFAULT '',
    submitter text NOT NULL DEFAULT '',
    idempotency_key text,
    content text NOT NULL,
    total integer NOT NULL,
    state text NOT NULL DEFAULT 'active',
    last_turn bigint NOT NULL DEFAULT '0',
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    manifest_key text,
    CONSTRAINT one_job_per_idempotency_key UNIQUE (submitter, idempotency_key),
    CONSTRAINT job_state CHECK (state IN ('active', 'paused', 'cancelled', 'finished'))
);
CREATE INDEX ix_jobs_consent_id ON jobs (consent_id);
CREATE INDEX ix_jobs_last_turn ON jobs (last_turn);
CREATE INDEX jobs_submitter_turn ON jobs (submitter, last_turn);
CREATE INDEX jobs_open ON jobs (model_digest, priority) WHERE state = 'active';
CREATE INDEX jobs_without_manifest ON jobs (id) WHERE manifest_key IS NULL;

CREATE TABLE attempts (
    id text PRIMARY KEY,
    model_digest text NOT NULL,
    state text NOT NULL DEFAULT 'dispatched',
    solo boolean NOT NULL DEFAULT false,
    worker_id text,
    token bigint,
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at timestamptz,
    claimed_at timestamptz,
    ended_at timestamptz,
    CONSTRAINT attempt_state CHECK (state IN ('dispatched', 'claimed', 'finished', 'lost'))
);
CREATE INDEX attempts_outstanding ON attempts (model_digest, state) WHERE state IN ('dispatched', 'claimed');

CREATE TABLE items (
    id bigserial PRIMARY KEY,
    job_id text NOT NULL REFERENCES jobs (id),
    position integer NOT NULL,
    item_key text NOT NULL,
    sku text NOT NULL,
    variant text NOT NULL DEFAULT '',
    spec jsonb NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    kept boolean NOT NULL DEFAULT false,
    attempts integer NOT NULL DEFAULT '0',
    crashes integer NOT NULL DEFAULT '0',
    solo boolean NOT NULL DEFAULT false,
    attempt_id text REFERENCES attempts (id),
    consent_epoch integer,
    picture_key text,
    picture_sha256 text,
    error_code text,
    error text,
    CONSTRAINT one_item_per_position UNIQUE (job_id, position),
    CONSTRAINT item_state CHECK (state IN
        ('waiting', 'dispatched', 'running', 'done', 'failed', 'rejected', 'cancelled', 'purged'))
);
CREATE INDEX items_waiting ON items (job_id, position) WHERE state = 'waiting';
CREATE INDEX items_waiting_key ON items (item_key) WHERE state = 'waiting';
CREATE INDEX items_in_flight ON items (job_id) WHERE state IN ('dispatched', 'running');
CREATE INDEX items_in_flight_key ON items (item_key) WHERE state IN ('dispatched', 'running');
CREATE INDEX items_in_flight_attempt ON items (attempt_id) WHERE state IN ('dispatched', 'running');

CREATE TABLE commits (
    item_key text PRIMARY KEY,
    item_id bigint NOT NULL REFERENCES items (id),
    job_id text NOT NULL,
    attempt_id text NOT NULL,
    consent_id text NOT NULL,
    consent_epoch integer NOT NULL,
    purpose text NOT NULL,
    picture_key text NOT NULL,
    picture_sha256 text NOT NULL,
    receipt_key text NOT NULL,
    receipt bytea NOT NULL,
    verdict jsonb NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz,
    purged_at timestamptz
);
CREATE INDEX ix_commits_consent_id ON commits (consent_id);
CREATE INDEX ix_commits_picture_sha256 ON commits (picture_sha256);
CREATE INDEX commits_to_publish ON commits (committed_at) WHERE published_at IS NULL AND purged_at IS NULL;

CREATE TABLE audit_outbox (
    id bigserial PRIMARY KEY,
    kind text NOT NULL,
    body jsonb NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE audit_events (
    seq bigint PRIMARY KEY,
    outbox_id bigint NOT NULL UNIQUE,
    kind text NOT NULL,
    body text NOT NULL,
    at text NOT NULL,
    previous text NOT NULL,
    hash text NOT NULL
);
"""


def upgrade() -> None:
    """Make the tables in an empty database."""
    op.execute(SQL)
