"""Which pictures are to be brought: those of a job or of a published catalogue, all of them or the newer ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select

from face0_worker.contract.consent import Use
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import ItemState
from face0_worker.records.catalogue_pointer import read_entries, read_pointer
from face0_worker.records.progress import job_items, job_status
from face0_worker.records.provenance import open_public_key
from face0_worker.records.tables import commits
from face0_worker.records.tables import items as items_table
from producer.delivery.names import DEFAULT, file_names
from producer.services import Services, keys_folder

_CHUNK = 5000


@dataclass(frozen=True)
class Wanted:
    """One picture to bring, by the list's words for it; `name` is its file's, without ending."""

    position: int
    sku: str
    variant: str
    item_key: str
    picture_sha256: str
    consent_id: str
    use: Use
    job_id: str
    kept: bool
    name: str = ""


@dataclass(frozen=True)
class Selection:
    """Pictures to bring, in the order of their list. `about` says of what, as the files beside them tell it.

    `person`: the one consent that all stand under, and the use; its refusal is the answer for all.
    `total`: how many the list has, also of those that are not finished. `part`: only the newer ones.
    """

    about: dict[str, str]
    wanted: tuple[Wanted, ...]
    person: tuple[str, Use] | None
    total: int = 0
    part: bool = False

    def newer(self, services: Services, since: str) -> Selection:
        """Return those that were made after a time, or that an earlier job has not: `since` is one or the other.

        Raises: BadInput: neither a time nor a known job.
        """
        when = _time(since)
        if when is None:
            try:
                job_status(services.ledger, since)
            except BadInput as error:
                raise BadInput(
                    f"--since {since}: neither a time, as in 2026-11-27 or 2026-11-27T06:00, nor a known job"
                ) from error
            old = {row.item_key for row in job_items(services.ledger, since, {ItemState.DONE})}
            return self._part(one for one in self.wanted if one.item_key not in old)
        new = _made_since(services, when, [one.item_key for one in self.wanted])
        return self._part(one for one in self.wanted if one.item_key in new)

    def first(self, most: int) -> Selection:
        """Return at most the first so many."""
        return replace(self, wanted=self.wanted[:most])

    def _part(self, wanted: Iterable[Wanted]) -> Selection:
        chosen = tuple(wanted)
        return replace(self, part=True, wanted=chosen, total=len(chosen))


def of_job(services: Services, job_id: str, template: str = DEFAULT) -> Selection:
    """Return a job's finished pictures. Names depend on the whole list, so they stay the same while a job goes on.

    Raises: BadInput: no such job, or a template that names what is not there.
    """
    job = job_status(services.ledger, job_id)
    rows = list(job_items(services.ledger, job_id))
    called = [(row.position, row.sku, row.variant) for row in rows]
    names = file_names(called, template, job=job_id, catalogue=job.catalogue)
    wanted = (
        Wanted(
            position=row.position,
            sku=row.sku,
            variant=row.variant,
            item_key=row.item_key,
            picture_sha256=row.picture_sha256 or "",
            consent_id=job.consent_id,
            use=job.use,
            job_id=job_id,
            kept=row.kept,
            name=names[row.position],
        )
        for row in rows
        if row.state is ItemState.DONE
    )
    return Selection({"job": job_id}, tuple(wanted), (job.consent_id, job.use), len(rows))


def of_catalogue(services: Services, catalogue: str, template: str = DEFAULT) -> Selection:
    """Return the pictures of a catalogue as it is published now, of all its people.

    Raises: BadInput: nothing is published under this name. VerificationFailed: its manifest was changed.
    """
    public_key = open_public_key(keys_folder(services.settings) / "signing.pub")
    pointer = read_pointer(services.storage, public_key, catalogue)
    if pointer is None:
        raise BadInput(f"nothing is published under the catalogue {catalogue}; `face0 nightly run` publishes one")
    entries = list(read_entries(services.storage, public_key, pointer.manifest))
    called = [(number, one.sku, one.variant) for number, one in enumerate(entries)]
    names = file_names(called, template, job=pointer.run_id, catalogue=catalogue)
    jobs = _jobs_of(services, [one.item_key for one in entries])
    wanted = (
        Wanted(
            position=number,
            sku=one.sku,
            variant=one.variant,
            item_key=one.item_key,
            picture_sha256=one.picture_sha256,
            consent_id=one.consent_id,
            use=pointer.use,
            job_id=jobs.get(one.item_key, ""),
            kept=one.kept,
            name=names[number],
        )
        for number, one in enumerate(entries)
    )
    return Selection({"catalogue": catalogue, "run": pointer.run_id}, tuple(wanted), None, len(entries))


def _time(text: str) -> datetime | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when.astimezone()  # one without a zone is meant as this machine's clock shows it


def _made_since(services: Services, when: datetime, item_keys: list[str]) -> set[str]:
    found: set[str] = set()
    with services.ledger.transaction() as connection:
        for start in range(0, len(item_keys), _CHUNK):
            mine = commits.c.item_key.in_(item_keys[start : start + _CHUNK])
            found.update(
                connection.execute(select(commits.c.item_key).where(mine, commits.c.committed_at > when)).scalars()
            )
    return found


def _jobs_of(services: Services, item_keys: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    with services.ledger.transaction() as connection:
        for start in range(0, len(item_keys), _CHUNK):
            mine = commits.c.item_key.in_(item_keys[start : start + _CHUNK])
            rows = connection.execute(select(commits.c.item_key, commits.c.job_id).where(mine))
            found.update({row.item_key: row.job_id for row in rows})
    return found


def prompts(services: Services, wanted: Iterable[Wanted]) -> dict[str, str]:
    """Return the prompt of each, by item key."""
    keys = [one.item_key for one in wanted]
    prompt = items_table.c.spec["prompt"].astext.label("prompt")
    query = (
        select(items_table.c.item_key, prompt)
        .join(commits, commits.c.item_id == items_table.c.id)
        .where(commits.c.item_key.in_(keys))
    )
    with services.ledger.transaction() as connection:
        return {row.item_key: row.prompt for row in connection.execute(query)}
