"""A worker that renders plain pictures and commits them through the real records; and consents for its jobs."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.job import RENDERER_VERSION
from face0_worker.contract.receipt import Receipt, Verdict
from face0_worker.queue.dispatch import dispatch
from face0_worker.records import attempts, commits, consents, offers
from face0_worker.records.attempts import Claim, ClaimedItem
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, mark_picture
from face0_worker.records.storage import picture_key
from producer.services import Services, keys_folder
from tests.ledgers import Broker

MODEL = hashlib.sha256(b"a model").hexdigest()


def grant(ledger: Ledger, consent_id: str = "c1", *, days: float = 1, purpose: Purpose = Purpose.CATALOGUE) -> str:
    """Grant a consent that ends in `days` days (negative: it has ended)."""
    now = datetime.now(UTC)
    begin, end = now - timedelta(days=9), now + timedelta(days=days)
    consents.grant(ledger, ConsentRecord(consent_id, "a pseudonym", frozenset({purpose}), begin, end))
    return consent_id


def offer(services: Services) -> None:
    """Offer MODEL, made for the installed face pack; an offer lives for half a minute."""
    facts = {"size": 64, "steps": 4, "precision": "float32", "embedder_digest": services.pack.digest}
    offers.offer_model(services.ledger, "w1", MODEL, "plain", facts)


def render_everything(services: Services, *, fail: str = "") -> int:
    """Render all that waits the way a worker of MODEL does, with plain pictures; the item of SKU `fail` fails."""
    offer(services)
    return commit_plain_pictures(services, fail=fail)


def commit_plain_pictures(services: Services, *, fail: str = "") -> int:
    """Commit a plain picture for all that waits for a model that is offered; return how many items there were."""
    broker, done = Broker(), 0
    signer = Signer.open(keys_folder(services.settings))
    while dispatch(services.ledger, broker.send, batch_size=8, window=2, queue_length=broker.length):
        for attempt_id in broker.take():
            claim = attempts.claim(services.ledger, attempt_id, "w1", lease_s=600)
            for item in claim.items if claim else ():
                _render(services, signer, claim, item, fail)
                done += 1
            if claim:
                attempts.finish_attempt(services.ledger, claim.attempt_id, claim.token)
    for item_key, key, receipt in commits.pending_receipts(services.ledger):
        services.storage.put(key, receipt)
        commits.mark_published(services.ledger, item_key)
    return done


def _render(services: Services, signer: Signer, claim: Claim | None, item: ClaimedItem, fail: str) -> None:
    assert claim is not None
    if item.spec.sku == fail:
        attempts.fail_item(services.ledger, claim.attempt_id, claim.token, item.item_id, "test", "it was asked to fail")
        return
    colour = np.random.default_rng(item.spec.seed).integers(0, 255, 3, np.uint8)
    pixels = np.broadcast_to(colour, (item.spec.height, item.spec.width, 3)).copy()
    data = mark_picture(pixels, reference=item.item_key)
    sha256 = hashlib.sha256(data).hexdigest()
    key = picture_key(item.subject.consent_id, item.item_key, sha256)
    verdict = Verdict(True, "", 0, None, float(pixels.mean() / 255), 0.0)
    receipt = Receipt(
        item_key=item.item_key,
        picture_key=key,
        picture_sha256=sha256,
        consent_id=item.subject.consent_id,
        committed_under_epoch=item.consent_epoch,
        purpose=item.purpose,
        job_id=item.job_id,
        model_digest=item.subject.model_digest,
        embedder_digest=item.subject.embedder_digest,
        seed=item.spec.seed,
        width=item.spec.width,
        height=item.spec.height,
        verdict=verdict,
        renderer_version=RENDERER_VERSION,
    )
    services.storage.put(key, data)
    commits.commit(services.ledger, claim.attempt_id, claim.token, item, key, sha256, signer.sign(receipt), verdict)
