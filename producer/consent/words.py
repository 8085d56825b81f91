"""A consent's fields in words, English and Japanese: what `show` and the receipt print and the release forms ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from face0_worker.contract.consent import ConsentRecord, ConsentState, Purpose
from face0_worker.contract.consent_terms import AgeBand, DataKind
from face0_worker.contract.depictions import in_japanese
from producer.show import local

# in the order in which they are read
WORDS: dict[str, tuple[str, str]] = {
    "id": ("consent", "同意番号"),
    "subject": ("person (pseudonym)", "本人(仮名)"),
    "age_band": ("age", "年齢区分"),
    "guardian": ("guardian", "親権者等"),
    "controller": ("controller", "管理者"),
    "state": ("state", "状態"),
    "purposes": ("purposes", "利用目的"),
    "training_use": ("training of AI models", "AI モデルの学習"),
    "valid_from": ("valid from", "有効期間の開始"),
    "valid_until": ("valid until", "有効期間の終了"),
    "products": ("products", "商品"),
    "campaigns": ("campaigns", "キャンペーン"),
    "channels": ("channels", "媒体"),
    "territories": ("territories", "地域"),
    "prohibited": ("never shown with", "禁止する描写"),
    "recipients": ("recipients", "提供先"),
    "sublicensing": ("sublicensing", "再許諾"),
    "data_kinds": ("personal data", "個人データの種類"),
    "retention": ("kept after the end", "終了後の保存"),
    "notice": ("notice shown", "説明文書"),
    "given": ("given", "同意の取得方法"),
    "withdrawal": ("how to withdraw", "撤回の方法"),
    "approvals": ("approved by", "承認者"),
    "faces": ("enrolled faces", "登録された顔"),
    "version": ("version", "版"),
    "epoch": ("epoch", "エポック"),
}

PURPOSES_JA = {
    Purpose.CATALOGUE: "商品カタログ",
    Purpose.AD: "広告",
    Purpose.SOCIAL: "SNS",
    Purpose.INTERNAL_POC: "社内検証",
    Purpose.TRAINING: "AI モデルの学習",
}
STATES_JA = {ConsentState.GRANTED: "同意済み", ConsentState.REVOKED: "撤回済み"}
AGES_JA = {
    AgeBand.ADULT: "成人",
    AgeBand.AGED_16_17: "16〜17歳",
    AgeBand.AGED_13_15: "13〜15歳",
    AgeBand.UNDER_13: "13歳未満",
    AgeBand.NOBODY: "実在しない人物",
}
KINDS_JA = {
    DataKind.PHOTO: "写真",
    DataKind.EMBEDDING: "顔特徴データ",
    DataKind.PICTURES: "画像",
    DataKind.NAME: "氏名",
    DataKind.CONTACT: "連絡先",
}


def lines(record: ConsentRecord) -> Iterator[tuple[str, str, str, str]]:
    """Yield (field, English label, Japanese label, value) of what a consent says; empty fields are left out."""
    for field, (english, japanese) in WORDS.items():
        value = _value(record, field)
        if value:
            yield field, english, japanese, value


def _value(record: ConsentRecord, field: str) -> str:
    terms = record.terms
    if field in _SPECIAL:
        return _SPECIAL[field](record)
    value: Any = getattr(record, field) if hasattr(record, field) else getattr(terms, field)
    if field in ("products", "campaigns", "channels", "territories"):
        return "not restricted / 制限なし" if value is None else ", ".join(sorted(value)) or "none / なし"
    if isinstance(value, frozenset):
        return ", ".join(sorted(str(one) for one in value))
    if isinstance(value, bool):
        return "yes / はい" if value else "no / いいえ"
    return str(value) if value else ""


def end_of(record: ConsentRecord) -> str:
    """Return the end as people say it: the last day, where the time ends at midnight."""
    end = record.valid_until.astimezone()
    if (end.hour, end.minute) == (0, 0):
        return f"the end of {end - timedelta(days=1):%Y-%m-%d}"
    return local(record.valid_until)


def state_of(record: ConsentRecord) -> str:
    """Return the state, with the time of a revocation."""
    if record.state is ConsentState.REVOKED and record.revoked_at:
        return f"revoked on {local(record.revoked_at)}"
    return str(record.state)


def _guardian(record: ConsentRecord) -> str:
    guardian = record.terms.guardian
    return f"{guardian.relation} ({guardian.pseudonym})" if guardian else ""


def _retention(record: ConsentRecord) -> str:
    kept = vars(record.terms.retention)
    said = [
        f"{what} {days} days / {KINDS_JA[DataKind(what)]} {days} 日" for what, days in kept.items() if days is not None
    ]
    return ", ".join(said) or "as the installation is set / 既定の期間"


def _notice(record: ConsentRecord) -> str:
    notice = record.terms.notice
    return f"{notice.address} ({notice.language}, sha256 {notice.sha256[:12]})" if notice else ""


def _given(record: ConsentRecord) -> str:
    given = record.terms.given
    parts = [given.method, local(given.at) if given.at else "", given.device]
    parts += [
        f"staff {given.staff}" if given.staff else "",
        f"evidence {given.evidence[:12]}" if given.evidence else "",
    ]
    return ", ".join(part for part in parts if part)


_SPECIAL: dict[str, Callable[[ConsentRecord], str]] = {
    "state": lambda record: f"{state_of(record)} / {STATES_JA[record.state]}",
    "guardian": _guardian,
    "retention": _retention,
    "notice": _notice,
    "given": _given,
    "age_band": lambda record: f"{record.terms.age_band} / {AGES_JA[record.terms.age_band]}",
    "purposes": lambda record: ", ".join(
        f"{purpose} / {PURPOSES_JA[purpose]}" for purpose in sorted(record.purposes - {Purpose.TRAINING})
    ),
    "prohibited": lambda record: ", ".join(
        one if one == in_japanese(one) else f"{one} / {in_japanese(one)}" for one in sorted(record.terms.prohibited)
    ),
    "data_kinds": lambda record: ", ".join(f"{kind} / {KINDS_JA[kind]}" for kind in sorted(record.terms.data_kinds)),
    "valid_from": lambda record: local(record.valid_from),
    "valid_until": end_of,
    "approvals": lambda record: ", ".join(f"{one.by} ({local(one.at)})" for one in record.terms.approvals),
    "faces": lambda record: f"{len(record.terms.faces)}" if record.terms.faces else "",
}
