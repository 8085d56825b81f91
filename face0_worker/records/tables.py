"""The ledger's tables on PostgreSQL: what must survive. Rules live in the rooms beside it, not here.

A change here needs a revision in migrations/versions that brings existing ledgers to it (docs/ledger.md).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    or_,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from face0_worker.contract.job import ItemState

metadata = MetaData()

# grows for ever, so a later claim always has the larger token (promise P4)
fencing_tokens = Sequence("fencing_tokens", metadata=metadata)


def _time(name: str, *, nullable: bool = True, default: bool = False) -> Column[object]:
    server_default = func.now() if default else None
    return Column(name, DateTime(timezone=True), nullable=nullable and not default, server_default=server_default)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


consents = Table(
    "consents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("purposes", JSONB, nullable=False),
    _time("valid_from", nullable=False),
    _time("valid_until", nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    _time("granted_at", default=True),
    _time("revoked_at"),
    _text("reason"),
    Column("version", Integer, nullable=False, server_default="1"),
    # what the rule needs beyond the columns above; empty of a consent that was granted before revision 0003
    Column("terms", JSONB, nullable=False, server_default=text("'{}'")),
)

consent_versions = Table(
    "consent_versions",
    metadata,
    Column("consent_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    # canonical JSON as text: hash and signature are over these very bytes
    Column("document", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("envelope", LargeBinary),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("consent_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("face_key", Text, nullable=False),
    Column("embedder_digest", Text, nullable=False),
    Column("keyed_digest", Text, nullable=False),
    # what the digest is keyed with, sealed under the consent's data key
    Column("sealed_key", LargeBinary, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)

held_faces = Table(
    "held_faces",
    metadata,
    Column("id", Text, primary_key=True),
    Column("consent_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("face_key", Text, nullable=False),
    Column("embedder_digest", Text, nullable=False),
    Column("distance", Double),
    Column("bar", Double),
    Column("held_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    _text("decision"),
    _time("decided_at"),
    UniqueConstraint("consent_id", "digest", name="held_once"),
)

models = Table(
    "models",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("facts", JSONB, nullable=False),
    _time("seen_at", default=True),
    _flag("withdrawn"),
    # unknown of a worker that offered before revision 0002
    Column("first_seen_at", DateTime(timezone=True), server_default=func.now()),
    _text("host"),
    _text("device"),
    _text("version"),
)

faces = Table(
    "faces",
    metadata,
    Column("consent_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("face_key", Text, nullable=False),
    _time("created_at", default=True),
)

# No foreign key to consents: its FOR KEY SHARE would hold a revocation for as long as a million-row submit takes.
# create_job locks the consent FOR SHARE as its last step instead.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("consent_id", Text, nullable=False, index=True),
    Column("face_digest", Text, nullable=False),
    Column("model_digest", Text, nullable=False),
    Column("embedder_digest", Text, nullable=False),
    Column("face_policy", Text, nullable=False),
    Column("face_key", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    _text("catalogue"),
    _text("submitter"),
    Column("idempotency_key", Text),
    Column("content", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default="active"),
    # when this job was last served, in units of dispatched items; the least recently served is next
    Column("last_turn", BigInteger, nullable=False, server_default="0", index=True),
    _time("created_at", default=True),
    _time("finished_at"),
    Column("manifest_key", Text),
    _text("campaign"),
    _text("channel"),
    _text("territory"),
    # what the quality gate asks of its pictures: contract.bars
    Column("bars", JSONB, nullable=False, server_default=text("'{}'")),
    # how often its manifest became out of date: by a retry, or by a picture that a human accepted
    _count("reopened"),
    UniqueConstraint("submitter", "idempotency_key", name="one_job_per_idempotency_key"),
    CheckConstraint("state IN ('active', 'paused', 'cancelled', 'finished')", name="job_state"),
)
Index("jobs_submitter_turn", jobs.c.submitter, jobs.c.last_turn)
Index("jobs_open", jobs.c.model_digest, jobs.c.priority, postgresql_where=jobs.c.state == "active")
Index("jobs_without_manifest", jobs.c.id, postgresql_where=jobs.c.manifest_key.is_(None))

attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model_digest", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="dispatched"),
    _flag("solo"),
    Column("worker_id", Text),
    Column("token", BigInteger),
    _time("lease_until"),
    _time("created_at", default=True),
    _time("sent_at"),
    _time("claimed_at"),
    _time("ended_at"),
    CheckConstraint("state IN ('dispatched', 'claimed', 'finished', 'lost')", name="attempt_state"),
)
OUTSTANDING = attempts.c.state.in_([literal_column("'dispatched'"), literal_column("'claimed'")])
Index("attempts_outstanding", attempts.c.model_digest, attempts.c.state, postgresql_where=OUTSTANDING)

items = Table(
    "items",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("item_key", Text, nullable=False),
    Column("sku", Text, nullable=False),
    _text("variant"),
    Column("spec", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    _flag("kept"),
    _count("attempts"),
    _count("crashes"),
    _flag("solo"),
    Column("attempt_id", Text, ForeignKey("attempts.id")),
    Column("consent_epoch", Integer),
    Column("picture_key", Text),
    Column("picture_sha256", Text),
    Column("error_code", Text),
    Column("error", Text),
    # pictures that were made for it, second chances included
    _count("renders"),
    UniqueConstraint("job_id", "position", name="one_item_per_position"),
    CheckConstraint(f"state IN ({', '.join(repr(str(state)) for state in ItemState)})", name="item_state"),
)
# Written into the statements as literals: with parameters a prepared statement can't use the partial indices below.
WAITING = items.c.state == literal_column("'waiting'")
IN_FLIGHT = items.c.state.in_([literal_column("'dispatched'"), literal_column("'running'")])
OPEN = or_(WAITING, IN_FLIGHT)
Index("items_waiting", items.c.job_id, items.c.position, postgresql_where=WAITING)
Index("items_waiting_key", items.c.item_key, postgresql_where=WAITING)
Index("items_in_flight", items.c.job_id, postgresql_where=IN_FLIGHT)
Index("items_in_flight_key", items.c.item_key, postgresql_where=IN_FLIGHT)
Index("items_in_flight_attempt", items.c.attempt_id, postgresql_where=IN_FLIGHT)

commits = Table(
    "commits",
    metadata,
    Column("item_key", Text, primary_key=True),
    Column("item_id", BigInteger, ForeignKey("items.id"), nullable=False),
    Column("job_id", Text, nullable=False),
    Column("attempt_id", Text, nullable=False),
    Column("consent_id", Text, nullable=False, index=True),
    Column("consent_epoch", Integer, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("picture_key", Text, nullable=False),
    Column("picture_sha256", Text, nullable=False, index=True),
    Column("receipt_key", Text, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Column("verdict", JSONB, nullable=False),
    Column("committed_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    _time("published_at"),
    _time("purged_at"),
)
Index(
    "commits_to_publish",
    commits.c.committed_at,
    postgresql_where=commits.c.published_at.is_(None) & commits.c.purged_at.is_(None),
)

audit_outbox = Table(
    "audit_outbox",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("body", JSONB, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("outbox_id", BigInteger, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    # canonical JSON as text: the hash is over these very bytes
    Column("body", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

catalogues = Table(
    "catalogues",
    metadata,
    Column("name", Text, primary_key=True),
    # grows with every switch of the pointer
    Column("serial", BigInteger, nullable=False, server_default="0"),
    # the run whose manifest the pointer names, and what that run asked for; empty where some of it is missing
    _text("run_id"),
    _text("content"),
    _time("published_at"),
)

catalogue_runs = Table(
    "catalogue_runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("catalogue", Text, ForeignKey("catalogues.name"), nullable=False),
    Column("state", Text, nullable=False, server_default="running"),
    Column("content", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    _time("deadline"),
    # ids in the order of the manifest
    Column("jobs", JSONB, nullable=False, server_default="[]"),
    Column("counts", JSONB, nullable=False, server_default="{}"),
    _text("manifest_key"),
    _time("started_at", default=True),
    _time("ended_at"),
    CheckConstraint(
        "state IN ('running', 'published', 'unchanged', 'withheld', 'replaced')", name="catalogue_run_state"
    ),
)
Index("catalogue_runs_newest", catalogue_runs.c.catalogue, catalogue_runs.c.started_at)
Index(
    "one_open_run_per_catalogue",
    catalogue_runs.c.catalogue,
    unique=True,
    postgresql_where=catalogue_runs.c.state == literal_column("'running'"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("events", JSONB, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    _time("created_at", default=True),
    _time("removed_at"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("webhook_id", Text, ForeignKey("webhooks.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    # as text: the signature is over these very bytes
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    _count("tries"),
    _time("due_at", default=True),
    Column("status", Integer),
    _text("error"),
    _time("created_at", default=True),
    _time("ended_at"),
    CheckConstraint("state IN ('waiting', 'delivered', 'dead')", name="delivery_state"),
)
UNDELIVERED = webhook_deliveries.c.state == literal_column("'waiting'")
Index("webhook_deliveries_waiting", webhook_deliveries.c.due_at, postgresql_where=UNDELIVERED)

derivations = Table(
    "derivations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job_id", Text, nullable=False),
    Column("item_key", Text, nullable=False),
    Column("consent_id", Text, nullable=False, index=True),
    Column("purpose", Text, nullable=False),
    Column("form", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    _count("tries"),
    _text("holder"),
    _time("due_at", default=True),
    _text("error"),
    _time("created_at", default=True),
    _time("ended_at"),
    CheckConstraint("state IN ('waiting', 'done', 'failed')", name="derivation_state"),
)
UNMADE = derivations.c.state == literal_column("'waiting'")
Index("derivations_waiting", derivations.c.due_at, postgresql_where=UNMADE)

erasures = Table(
    "erasures",
    metadata,
    Column("consent_id", Text, primary_key=True),
    Column("cause", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("step", Text, nullable=False, server_default="key"),
    Column("counts", JSONB, nullable=False, server_default="{}"),
    _time("requested_at", nullable=False),
    Column("certificate", LargeBinary),
    _time("finished_at"),
)
Index("erasures_open", erasures.c.requested_at, postgresql_where=erasures.c.finished_at.is_(None))

# where copies of pictures went, so that a withdrawal can name every one of them
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("consent_id", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("item_key", Text, nullable=False),
    Column("picture_sha256", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    UniqueConstraint(
        "consent_id", "item_key", "picture_sha256", "channel", "destination", name="one_delivery_per_place"
    ),
)

# signed heads of the chain: the bytes stand here until they stand in storage, as receipts do
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    _time("made_at", default=True),
    _time("stored_at"),
)

held_pictures = Table(
    "held_pictures",
    metadata,
    Column("item_id", BigInteger, ForeignKey("items.id"), primary_key=True, autoincrement=False),
    Column("job_id", Text, nullable=False),
    Column("consent_id", Text, nullable=False, index=True),
    # empty: it stands committed, or its object is erased; a committed picture's seed stands in its receipt
    _text("held_key"),
    Column("seed", BigInteger),
    Column("verdict", JSONB, nullable=False),
    Column("held_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    _text("decision"),
    _text("decided_by"),
    _time("decided_at"),
    # who carries an acceptance out now, and until when
    _text("holder"),
    _time("due_at", default=True),
    _time("ended_at"),
    _text("error"),
    CheckConstraint("decision IN ('', 'accepted', 'rejected')", name="held_decision"),
)
UNDECIDED = held_pictures.c.decision == literal_column("''")
TO_COMMIT = (held_pictures.c.decision == literal_column("'accepted'")) & held_pictures.c.ended_at.is_(None)
Index("held_pictures_undecided", held_pictures.c.held_at, postgresql_where=UNDECIDED)
Index("held_pictures_accepted", held_pictures.c.due_at, postgresql_where=TO_COMMIT)

# keys of PostgreSQL's advisory locks, which only need to differ from one another
SCHEMA_LOCK, DISPATCH_LOCK, CHAIN_LOCK = 0xFACE00, 0xFACE01, 0xFACE02
