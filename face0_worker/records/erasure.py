"""Erase everything of a person: one durable state machine in the ledger, which any process can take up again.

`revocation.revoke` notes the erasure in its own transaction. `Eraser.run` then does the steps in order; each is safe
to repeat and is noted only when it is done, so that whoever is killed in the middle leaves no more than a step to do
again. Two that run at once do the same work twice and harm nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, func, select, update

from face0_worker.contract.errors import BadInput
from face0_worker.records import audit, traces
from face0_worker.records.ledger import Ledger, database_clock
from face0_worker.records.manifest import write_manifest
from face0_worker.records.provenance import Signer
from face0_worker.records.revocation import Cause
from face0_worker.records.storage import Storage, consent_prefixes, manifest_prefix
from face0_worker.records.tables import erasures, jobs
from face0_worker.records.tombstones import certificate_key, certify, write_tombstone
from face0_worker.records.vault import Vault


class Step(StrEnum):
    """What is to be done next. The order is part of the form: the key goes first, for all else is noise without it."""

    KEY = "key"
    TOMBSTONE = "tombstone"
    OBJECTS = "objects"
    MANIFESTS = "manifests"
    TRACES = "traces"
    SWEEP = "sweep"
    CERTIFICATE = "certificate"
    FINISHED = "finished"


_NEXT = dict(zip(Step, list(Step)[1:], strict=False))


@dataclass(frozen=True)
class Erasure:
    """Where an erasure stands. `age_s`: seconds since it was asked for, by the ledger's clock.

    `counts`: objects erased, objects that came late and were erased by the second sweep, manifests written anew,
    copies in the distribution register, and how often a restored backup made it begin again.
    """

    consent_id: str
    cause: Cause
    epoch: int
    step: Step
    counts: dict[str, int]
    requested_at: datetime
    finished_at: datetime | None
    certificate: bytes | None = field(repr=False)
    age_s: float

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.step is Step.FINISHED


def get(ledger: Ledger, consent_id: str) -> Erasure | None:
    """Return where the erasure of this person stands, None when none was asked for."""
    found = _select(ledger, erasures.c.consent_id == consent_id)
    return found[0] if found else None


def list_all(ledger: Ledger) -> list[Erasure]:
    """Return every erasure, oldest first."""
    return _select(ledger)


def unfinished(ledger: Ledger) -> list[Erasure]:
    """Return the erasures that have something left to do, oldest first."""
    return _select(ledger, erasures.c.finished_at.is_(None))


def _select(ledger: Ledger, *wanted: Any) -> list[Erasure]:
    age = func.extract("epoch", func.clock_timestamp() - erasures.c.requested_at).label("age_s")
    query = select(erasures, age).where(*wanted).order_by(erasures.c.requested_at, erasures.c.consent_id)
    with ledger.transaction() as connection:
        return [_erasure(row) for row in connection.execute(query)]


def _erasure(row: Row[Any]) -> Erasure:
    return Erasure(
        consent_id=row.consent_id,
        cause=Cause(row.cause),
        epoch=row.epoch,
        step=Step(row.step),
        counts=dict(row.counts),
        requested_at=row.requested_at,
        finished_at=row.finished_at,
        certificate=None if row.certificate is None else bytes(row.certificate),
        age_s=float(row.age_s),
    )


# what else shows a person's pictures and must be made anew without them: called with the consent's id, returns how many
Supersede = Callable[[str], int]


@dataclass(frozen=True)
class Eraser:
    """Does the steps. `settle_s`: after so long no writer that began before the revocation can still be writing.

    `told` is called with each step when its work is done and before that is noted.
    """

    ledger: Ledger
    storage: Storage
    vault: Vault
    signer: Signer
    settle_s: float
    supersede: Sequence[Supersede] = ()
    told: Callable[[Erasure], None] = lambda _: None

    def run(self, consent_id: str) -> Erasure:
        """Go on with an erasure until it is finished or must wait for its second sweep; return where it stands.

        Raises: BadInput: none was asked for. ServiceDown: something is away; calling it again goes on from there.
        """
        while True:
            now = get(self.ledger, consent_id)
            if now is None:
                raise BadInput("no erasure of this consent was asked for; `face0 consent revoke` does")
            if now.finished or not self.due(now):
                return now
            counts = self._work()[now.step](now)
            self.told(now)
            self._note(now, counts)

    def due(self, erasure: Erasure) -> bool:
        """Say whether the next step can be done now."""
        return not erasure.finished and (erasure.step is not Step.SWEEP or erasure.age_s >= self.settle_s)

    def _work(self) -> dict[Step, Callable[[Erasure], dict[str, int]]]:
        return {
            Step.KEY: self._destroy_key,
            Step.TOMBSTONE: self._set_tombstone,
            Step.OBJECTS: self._erase_objects,
            Step.MANIFESTS: self._supersede,
            Step.TRACES: self._forget_traces,
            Step.SWEEP: self._sweep,
            Step.CERTIFICATE: self._certify,
        }

    def _destroy_key(self, erasure: Erasure) -> dict[str, int]:
        self.vault.destroy(erasure.consent_id)
        return {}

    def _set_tombstone(self, erasure: Erasure) -> dict[str, int]:
        write_tombstone(
            self.storage, self.signer, erasure.consent_id, erasure.cause, erasure.epoch, erasure.requested_at
        )
        return {}

    def _erase_objects(self, erasure: Erasure) -> dict[str, int]:
        return {"objects": sum(self.storage.delete_prefix(prefix) for prefix in consent_prefixes(erasure.consent_id))}

    def _supersede(self, erasure: Erasure) -> dict[str, int]:
        """Write the manifests of this person's jobs anew; the old ones go with all their versions."""
        written = 0
        theirs = select(jobs.c.id, jobs.c.manifest_key).where(jobs.c.consent_id == erasure.consent_id)
        with self.ledger.transaction() as connection:
            rows = connection.execute(theirs.order_by(jobs.c.id)).all()
        for row in rows:
            self.storage.delete_prefix(manifest_prefix(row.id))
            if row.manifest_key is not None:  # else the dispatcher writes its first one, from the ledger as it is now
                write_manifest(self.ledger, self.storage, self.signer, row.id)
                written += 1
        return {"manifests": written + sum(again(erasure.consent_id) for again in self.supersede)}

    def _forget_traces(self, erasure: Erasure) -> dict[str, int]:
        with self.ledger.transaction() as connection:
            traces.forget(connection, erasure.consent_id)
            return {"copies": traces.count_copies(connection, erasure.consent_id)}

    def _sweep(self, erasure: Erasure) -> dict[str, int]:
        """Erase what was being written in the very moment of the revocation."""
        self._destroy_key(erasure)
        self._set_tombstone(erasure)
        late = self._erase_objects(erasure)["objects"]
        self._supersede(erasure)
        self._forget_traces(erasure)
        return {"late": late}

    def _certify(self, erasure: Erasure) -> dict[str, int]:
        envelope = erasure.certificate
        if envelope is None:
            with self.ledger.transaction() as connection:
                mine = (erasures.c.consent_id == erasure.consent_id) & erasures.c.certificate.is_(None)
                at = database_clock(connection)
                facts = {"requested_at": erasure.requested_at, "erased_at": at, "counts": erasure.counts}
                made = certify(self.signer, erasure.consent_id, erasure.cause, erasure.epoch, facts)
                connection.execute(update(erasures).where(mine).values(certificate=made))
                whole = select(erasures.c.certificate).where(erasures.c.consent_id == erasure.consent_id)
                envelope = bytes(connection.execute(whole).scalar_one() or made)
        # a restored store may hold an earlier one
        self.storage.put(certificate_key(erasure.consent_id), envelope, if_absent=False)
        return {}

    def _note(self, done: Erasure, counts: dict[str, int]) -> None:
        """Note that a step is done, unless somebody else has noted it; the last one with its audit event."""
        following = _NEXT[done.step]
        change: dict[str, Any] = {"step": following, "counts": {**done.counts, **counts}}
        if following is Step.FINISHED:
            change["finished_at"] = func.clock_timestamp()
        mine = (erasures.c.consent_id == done.consent_id) & (erasures.c.step == done.step)
        with self.ledger.transaction() as connection:
            noted = connection.execute(update(erasures).where(mine).values(change)).rowcount
            if noted and following is Step.FINISHED:
                facts = {"consent_id": done.consent_id, "epoch": done.epoch, "cause": done.cause}
                audit.append(connection, "erasure.finished", {**facts, **change["counts"]})


def restart(ledger: Ledger, consent_id: str) -> None:
    """Let a finished erasure begin again: something of it came back with a backup."""
    finished = (erasures.c.consent_id == consent_id) & erasures.c.finished_at.is_not(None)
    with ledger.transaction() as connection:
        row = connection.execute(select(erasures.c.counts, erasures.c.epoch).where(finished).with_for_update()).first()
        if row is None:
            return
        counts = {"replays": int(row.counts.get("replays", 0)) + 1}
        again = {"step": Step.KEY, "counts": counts, "certificate": None, "finished_at": None}
        connection.execute(update(erasures).where(finished).values(**again, requested_at=func.clock_timestamp()))
        audit.append(connection, "erasure.replayed", {"consent_id": consent_id, "epoch": row.epoch})
