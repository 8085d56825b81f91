"""What a consent says beyond purpose and time, as frozen values: the fields of ISO/IEC TS 27560 that face0 keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class AgeBand(StrEnum):
    """How old the person is, as coarsely as the rule needs it. NOBODY: a character; there is no person."""

    ADULT = "adult"
    AGED_16_17 = "16-17"
    AGED_13_15 = "13-15"
    UNDER_13 = "under-13"
    NOBODY = "nobody"

    @property
    def minor(self) -> bool:
        """Whether a guardian must agree, and two people must approve every use."""
        return self in (AgeBand.AGED_16_17, AgeBand.AGED_13_15, AgeBand.UNDER_13)


class DataKind(StrEnum):
    """What of a person is kept."""

    PHOTO = "photo"
    EMBEDDING = "embedding"
    PICTURES = "pictures"
    NAME = "name"
    CONTACT = "contact"


@dataclass(frozen=True)
class Guardian:
    """Who agreed for a minor: how they are related, and a pseudonym; the name is in the vault like the person's."""

    relation: str
    pseudonym: str


@dataclass(frozen=True)
class Notice:
    """The text the person was shown: where it stands, the sha256 of its bytes, its language (ja, en, ...)."""

    address: str
    sha256: str
    language: str


@dataclass(frozen=True)
class Given:
    """How the consent was given: `method` (signed form, web form, ...), when (UTC), on which device, before whom.

    `staff` is a staff number or login, `evidence` the sha256 of the signed form or recording, kept elsewhere.
    """

    method: str = ""
    at: datetime | None = None
    device: str = ""
    staff: str = ""
    evidence: str = ""


@dataclass(frozen=True)
class Retention:
    """For how many days after the consent's end each kind of data stays. None: as the setting retention_days says."""

    pictures: int | None = None
    photo: int | None = None
    embedding: int | None = None


@dataclass(frozen=True)
class Approval:
    """That somebody of the staff has looked at this consent and approves it. `by` is a staff number or login."""

    by: str
    at: datetime


@dataclass(frozen=True)
class Terms:
    """The rest of a consent. Where None stands for names, the use is not restricted; an empty set allows nothing.

    `controller` decides over the data and `recipients` may be handed pictures; `sublicensing` lets those hand them on
    and others receive them. A product is a SKU, or its beginning and `*`. A territory is a country code or a name.
    `prohibited` are categories of contract/depictions.py or words. `faces` are keyed digests of the enrolled faces.
    """

    age_band: AgeBand = AgeBand.ADULT
    guardian: Guardian | None = None
    controller: str = ""
    recipients: frozenset[str] = frozenset()
    sublicensing: bool = False
    notice: Notice | None = None
    products: frozenset[str] | None = None
    campaigns: frozenset[str] | None = None
    channels: frozenset[str] | None = None
    territories: frozenset[str] | None = None
    prohibited: frozenset[str] = frozenset()
    data_kinds: frozenset[DataKind] = frozenset({DataKind.PHOTO, DataKind.EMBEDDING, DataKind.PICTURES})
    retention: Retention = field(default_factory=Retention)
    given: Given = field(default_factory=Given)
    withdrawal: str = ""
    approvals: tuple[Approval, ...] = ()
    faces: tuple[str, ...] = ()

    @property
    def by_item(self) -> bool:
        """Whether each item of a list has to be asked about by itself."""
        return self.products is not None or bool(self.prohibited)

    @property
    def approvers(self) -> frozenset[str]:
        """Who has approved, each counted once."""
        return frozenset(approval.by for approval in self.approvals)
