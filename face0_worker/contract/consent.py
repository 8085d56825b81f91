"""What a person allowed, what somebody wants to do, and the pure rule that decides between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from face0_worker.contract.consent_terms import AgeBand, Terms
from face0_worker.contract.depictions import in_japanese, named

APPROVERS = 2  # different people


class Purpose(StrEnum):
    """What pictures may be used for; nothing is allowed that is not named (default deny).

    TRAINING is about the photos that somebody brings: a model may learn from them (in documents: `training_use`). The
    others are about what is made.
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

    `epoch` grows with every change that can take rights away; a commit names the epoch it was made under. `version`
    grows with every change, and `previous` is the sha256 of the version before ("": the first, or none is known).
    """

    id: str
    subject: str
    purposes: frozenset[Purpose]
    valid_from: datetime
    valid_until: datetime
    state: ConsentState = ConsentState.GRANTED
    epoch: int = 1
    revoked_at: datetime | None = None
    version: int = 1
    previous: str = ""
    terms: Terms = field(default_factory=Terms)

    @property
    def training_use(self) -> bool:
        """Whether a model may learn from the person's photos."""
        return Purpose.TRAINING in self.purposes


@dataclass(frozen=True)
class Use:
    """What somebody wants to do with a person's face.

    None: this question is not about it. "" for campaign, channel or territory: none was named, which a consent that
    restricts them refuses. `recipient`: somebody else who is to get the pictures; "": nobody else.
    """

    purpose: Purpose
    campaign: str | None = None
    channel: str | None = None
    territory: str | None = None
    product: str | None = None
    prompt: str | None = None
    recipient: str = ""

    def of_item(self, sku: str, prompt: str) -> Use:
        """Return the use of one item of a list."""
        return replace(self, product=sku, prompt=prompt)


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

    The order of the checks is part of the form: unknown, revoked, not yet valid, expired, wrong purpose, approvals,
    then what is about pictures only: campaign, product, channel, territory, recipient, depictions.
    """
    if record is None:
        return _refused(
            "unknown",
            "No such consent is known; grant one with `face0 consent grant`.",
            "該当する同意が見つかりません。`face0 consent grant` で登録してください。",
        )
    return _when(record, now) or _what(record, use) or _approved(record, use) or _where(record, use) or ALLOWED


def _refused(code: str, english: str, japanese: str) -> Decision:
    # one line each, whatever the names hold that somebody typed
    return Decision(False, code, " ".join(english.split()), " ".join(japanese.split()))


def _when(record: ConsentRecord, now: datetime) -> Decision | None:
    if record.state is ConsentState.REVOKED:
        when = f" on {record.revoked_at:%Y-%m-%d}" if record.revoked_at else ""
        return _refused(
            "revoked",
            f"Consent {record.id} was revoked{when}; no picture may be made or used under it.",
            f"同意 {record.id} は撤回されています。この同意に基づく画像の作成・利用はできません。",
        )
    if now < record.valid_from:
        return _refused(
            "not_yet_valid",
            f"Consent {record.id} is valid only from {record.valid_from:%Y-%m-%d %H:%M} UTC; wait until then.",
            f"同意 {record.id} の有効期間は {record.valid_from:%Y-%m-%d %H:%M} (UTC) からです。"
            "開始後に再度お試しください。",
        )
    if now >= record.valid_until:
        return _refused(
            "expired",
            f"Consent {record.id} expired on {record.valid_until:%Y-%m-%d %H:%M} UTC; ask for a new one.",
            f"同意 {record.id} は {record.valid_until:%Y-%m-%d %H:%M} (UTC) に期限切れとなりました。"
            "新しい同意を取得してください。",
        )
    return None


def _what(record: ConsentRecord, use: Use) -> Decision | None:
    if use.purpose in record.purposes:
        return None
    allowed = ", ".join(sorted(record.purposes))
    return _refused(
        "wrong_purpose",
        f"Consent {record.id} allows {allowed or 'nothing'}, not {use.purpose}; "
        "ask the person for a consent that names it.",
        f"同意 {record.id} の許諾範囲は {allowed or 'なし'} であり、{use.purpose} は含まれません。"
        "この目的を含む同意を取得してください。",
    )


def needs_approval(record: ConsentRecord, purpose: Purpose) -> bool:
    """Whether two people must have approved the consent before it allows `purpose`: ads, and any use of a minor."""
    band = record.terms.age_band
    return band.minor or (purpose is Purpose.AD and band is not AgeBand.NOBODY)


def _approved(record: ConsentRecord, use: Use) -> Decision | None:
    missing = APPROVERS - len(record.terms.approvers)
    if missing <= 0 or not needs_approval(record, use.purpose):
        return None
    why, why_ja = ("the person is a minor", "未成年者") if record.terms.age_band.minor else ("it is an ad", "広告利用")
    return _refused(
        "not_approved",
        f"Consent {record.id} needs {missing} more approval(s) by different people before this use ({why}); "
        f"approve it with `face0 consent approve {record.id}`.",
        f"同意 {record.id} をこの目的で使うには、異なる担当者による承認があと {missing} 件必要です({why_ja})。"
        f"`face0 consent approve {record.id}` で承認してください。",
    )


def _where(record: ConsentRecord, use: Use) -> Decision | None:
    if use.purpose is Purpose.TRAINING:
        return None
    terms = record.terms
    asked = (
        ("campaign", "キャンペーン", terms.campaigns, use.campaign),
        ("product", "商品", terms.products, use.product),
        ("channel", "媒体", terms.channels, use.channel),
        ("territory", "地域", terms.territories, use.territory),
    )
    for what, japanese, allowed, named_one in asked:
        if allowed is not None and named_one is not None and not includes(allowed, named_one):
            return _outside(record, what, japanese, allowed, named_one)
    return _recipient(record, use) or _depiction(record, use)


def _outside(record: ConsentRecord, what: str, what_ja: str, allowed: Iterable[str], asked: str) -> Decision:
    names = ", ".join(sorted(allowed))
    only_ja = f" {names} のみです" if names else "ありません"
    todo = f"name one of these with --{what}" if what != "product" else "take it out of the list"
    todo_ja = f"--{what} でいずれかを指定してください" if what != "product" else "リストから外してください"
    return _refused(
        f"wrong_{what}",
        f"Consent {record.id} allows these only for {what}: {names or 'none'}; asked for: {asked or 'none'}. "
        f"{todo.capitalize()}, or ask the person for more.",
        f"同意 {record.id} で許諾された{what_ja}は{only_ja}(指定: {asked or 'なし'})。{todo_ja}。",
    )


def _recipient(record: ConsentRecord, use: Use) -> Decision | None:
    terms = record.terms
    if not use.recipient or terms.sublicensing or includes(terms.recipients, use.recipient):
        return None
    return _refused(
        "wrong_recipient",
        f"Consent {record.id} does not allow handing pictures to {use.recipient}; it names "
        f"{', '.join(sorted(terms.recipients)) or 'nobody'}. Ask the person first.",
        f"同意 {record.id} では {use.recipient} への提供は許諾されていません。先に本人の同意を取得してください。",
    )


def _depiction(record: ConsentRecord, use: Use) -> Decision | None:
    found = named(record.terms.prohibited, use.prompt) if use.prompt else None
    if found is None:
        return None
    return _refused(
        "prohibited_depiction",
        f"Consent {record.id} forbids showing the person with {found}, which the prompt names; change the prompt.",
        f"同意 {record.id} では「{in_japanese(found)}」に関する描写が禁止されています。プロンプトを変更してください。",
    )


def includes(allowed: Iterable[str], asked: str) -> bool:
    """Whether a name is among those allowed; case does not matter, and `*` at an end stands for any rest."""
    asked = asked.strip().casefold()
    for one in allowed:
        name = one.strip().casefold()
        if (name.endswith("*") and asked.startswith(name[:-1])) or (asked and name == asked):
            return True
    return False
