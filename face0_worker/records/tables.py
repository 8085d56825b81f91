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

# keys of PostgreSQL's advisory locks, which only need to differ from one another
SCHEMA_LOCK, DISPATCH_LOCK, CHAIN_LOCK = 0xFACE00, 0xFACE01, 0xFACE02
