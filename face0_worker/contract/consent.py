"""What a person allowed, what somebody wants to do, and the pure rule that decides between them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Purpose(StrEnum):
    """What pictures may be used for; nothing is allowed that is not named (default deny).

    TRAINING is about the photos that somebody brings: a model may learn from them. The others are about what is made.
    """

    CATALOGUE = "catalogue"
    AD = "ad"
    SOCIAL = "social"
    INTERNAL_POC = "internal_poc"
    TRAINING = "training"


PICTURES = tuple(purpose for purpose in Purpose if purpose is not Purpose.TRAINING)  # what a job may be for


class ConsentState(StrEnum):
    """Where a consent stands. A revoked consent never becomes granted again; a new one is given."""

    GRANTED = "granted"
    REVOKED = "revoked"


@dataclass(frozen=True)
class ConsentRecord:
    """One person's consent, by pseudonym; all times are timezone-aware UTC.

    `epoch` grows with every change that can take rights away; a commit names the epoch it was made under.
    """

    id: str
    subject: str
    purposes: frozenset[Purpose]
    valid_from: datetime
    valid_until: datetime
    state: ConsentState = ConsentState.GRANTED
    epoch: int = 1
    revoked_at: datetime | None = None


@dataclass(frozen=True)
class Use:
    """What somebody wants to do with a person's face: the purpose of the pictures."""

    purpose: Purpose


@dataclass(frozen=True)
class Decision:
    """The answer to a use. When refused, `code` is for machines and the sentences are for people."""

    allowed: bool
    code: str
    english: str
    japanese: str


ALLOWED = Decision(True, "allowed", "The consent allows this use.", "この利用は同意の範囲内です。")


def decide(record: ConsentRecord | None, use: Use, now: datetime) -> Decision:
    """Decide whether `use` is allowed at `now`. Pure and total: every input gives a Decision.

    The order of the checks is part of the form: unknown, revoked, not yet valid, expired, wrong purpose.
    """
    if record is None:
        return Decision(
            False,
            "unknown",
            "No such consent is known; grant one with `face0 consent grant`.",
            "該当する同意が見つかりません。`face0 consent grant` で登録してください。",
        )
    if record.state is ConsentState.REVOKED:
        when = f" on {record.revoked_at:%Y-%m-%d}" if record.revoked_at else ""
        return Decision(
            False,
            "revoked",
            f"Consent {record.id} was revoked{when}; no picture may be made or used under it.",
            f"同意 {record.id} は撤回されています。この同意に基づく画像の作成・利用はできません。",
        )
    if now < record.valid_from:
        return Decision(
            False,
            "not_yet_valid",
            f"Consent {record.id} is valid only from {record.valid_from:%Y-%m-%d %H:%M} UTC.",
            f"同意 {record.id} の有効期間は {record.valid_from:%Y-%m-%d %H:%M} (UTC) からです。",
        )
    if now >= record.valid_until:
        return Decision(
            False,
            "expired",
            f"Consent {record.id} expired on {record.valid_until:%Y-%m-%d %H:%M} UTC; ask for a new one.",
            f"同意 {record.id} は {record.valid_until:%Y-%m-%d %H:%M} (UTC) に期限切れとなりました。",
        )
    if use.purpose not in record.purposes:
        allowed = ", ".join(sorted(record.purposes)) or "nothing"
        return Decision(
            False,
            "wrong_purpose",
            f"Consent {record.id} allows {allowed}, not {use.purpose}.",
            f"同意 {record.id} の許諾範囲は {allowed} であり、{use.purpose} は含まれません。",
        )
    return ALLOWED
