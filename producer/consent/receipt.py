"""The receipt a person gets for a consent: signed JSON with the fields of ISO/IEC TS 27560, and a page to print."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from face0_worker.contract.consent import ConsentRecord, ConsentState, Purpose
from face0_worker.contract.consent_document import STATEMENT_TYPE, plain
from face0_worker.records.consent_versions import Proof, Version
from producer.consent.words import lines

RECEIPT_TYPE = "https://face0.dev/consent-receipt/v1"
# the nearest terms of the W3C Data Privacy Vocabulary
_DPV = {
    Purpose.CATALOGUE: "dpv:Marketing",
    Purpose.AD: "dpv:Advertising",
    Purpose.SOCIAL: "dpv:SocialMediaMarketing",
    Purpose.INTERNAL_POC: "dpv:ResearchAndDevelopment",
    Purpose.TRAINING: "dpv:ResearchAndDevelopment",
}


def receipt_statement(record: ConsentRecord, versions: list[Version], now: datetime) -> dict[str, Any]:
    """Return the receipt as an in-toto Statement v1 about the consent's newest version. It holds no name or contact."""
    newest = versions[-1].hash if versions else ""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": record.id, "digest": {"sha256": newest}}],
        "predicateType": RECEIPT_TYPE,
        "predicate": _receipt(record, versions, now),
    }


def _receipt(record: ConsentRecord, versions: list[Version], now: datetime) -> dict[str, Any]:
    terms = plain(record.terms)
    status = _status(record, now)
    return {
        "header": {
            "record_identifier": record.id,
            "record_version": record.version,
            "previous_version_sha256": record.previous,
            "issued_at": plain(now),
            "legal_basis": "dpv:Consent",
        },
        "pii_principal": {"pseudonym": record.subject, "age_band": terms["age_band"], "guardian": terms["guardian"]},
        "pii_controller": terms["controller"],
        "recipients": {"named": terms["recipients"], "sublicensing": terms["sublicensing"]},
        "privacy_notice": terms["notice"],
        "purposes": [
            {"purpose": str(purpose), "dpv": _DPV[purpose]} for purpose in sorted(record.purposes - {Purpose.TRAINING})
        ],
        "training_use": record.training_use,
        "restrictions": {
            name: terms[name] for name in ("products", "campaigns", "channels", "territories", "prohibited")
        },
        "pii_types": terms["data_kinds"],
        "retention_days_after_end": terms["retention"],
        "validity": {"from": plain(record.valid_from), "until": plain(record.valid_until)},
        "collection": terms["given"],
        "withdrawal_method": terms["withdrawal"],
        "approvals": len(record.terms.approvals),
        "enrolled_faces": terms["faces"],
        "state": status,
        "epoch": record.epoch,
        "events": [{**version.document["event"], "version": version.number} for version in versions] + _revoked(record),
    }


def _status(record: ConsentRecord, now: datetime) -> str:
    if record.state is ConsentState.REVOKED:
        return "dpv:ConsentWithdrawn"
    return "dpv:ConsentExpired" if now >= record.valid_until else "dpv:ConsentGiven"


def _revoked(record: ConsentRecord) -> list[dict[str, Any]]:
    return [{"kind": "revoked", "at": plain(record.revoked_at), "by": ""}] if record.revoked_at else []


def receipt_page(record: ConsentRecord, proof: Proof, now: datetime) -> str:
    """Return the receipt as one HTML page without scripts or anything from elsewhere, to print."""
    # here, not above: most commands never make a page
    from jinja2 import Environment, PackageLoader, select_autoescape

    pages = Environment(loader=PackageLoader("producer"), autoescape=select_autoescape())
    page = pages.get_template("consent_receipt.html")
    return page.render(record=record, lines=list(lines(record)), proof=proof, now=now.astimezone())


def receipt_text(record: ConsentRecord, proof: Proof, now: datetime) -> str:
    """Return the receipt as plain text, English and Japanese beside each other."""
    rows = [f"{english} / {japanese}: {value}" for _, english, japanese, value in lines(record)]
    head = f"Consent receipt / 同意の控え  {now.astimezone():%Y-%m-%d %H:%M %Z}"
    return "\n".join([head, *rows, f"signature / 署名: {proof.state} ({proof.sentence})"])
