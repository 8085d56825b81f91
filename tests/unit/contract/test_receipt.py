"""A receipt reads back from its in-toto statement, whose subject is the picture's digest."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.job import canonical_json
from face0_worker.contract.receipt import PREDICATE_TYPE, Receipt, Verdict

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
shares = st.floats(0, 1)
verdicts = st.builds(
    Verdict,
    accepted=st.booleans(),
    reason=texts,
    faces=st.integers(0, 5),
    identity=st.none() | st.floats(-1, 1),
    brightness=shares,
    contrast=shares,
    precision=st.sampled_from(["", "float32", "float16"]),
    rerendered=st.sampled_from(["", "black"]),
    truncated=st.booleans(),
    second_face=shares,
    sharpness=st.none() | shares,
    skin_drift=st.none() | st.floats(0, 200),
    tries=st.integers(0, 9),
    accepted_by=texts,
)
receipts = st.builds(
    Receipt,
    item_key=texts,
    picture_key=texts,
    picture_sha256=texts,
    consent_id=texts,
    committed_under_epoch=st.integers(1, 99),
    purpose=texts,
    job_id=texts,
    model_digest=texts,
    embedder_digest=texts,
    seed=st.integers(0, 2**63 - 1),
    width=st.integers(8, 2048),
    height=st.integers(8, 2048),
    verdict=verdicts,
    renderer_version=texts,
)


@given(receipts)
def test_a_receipt_reads_back_exactly_from_the_bytes_of_its_statement(receipt: Receipt) -> None:
    assert Receipt.from_statement(json.loads(canonical_json(receipt.statement()))) == receipt


@given(receipts)
def test_a_receipt_of_before_a_field_was_told_keeps_its_bytes(receipt: Receipt) -> None:
    old = receipt.statement()
    later = ("precision", "rerendered", "truncated", "second_face", "sharpness", "skin_drift", "tries", "accepted_by")
    for name in later:
        old["predicate"]["verdict"].pop(name, None)
    signed = canonical_json(old)
    assert canonical_json(Receipt.from_statement(json.loads(signed)).statement()) == signed


@given(receipts)
def test_a_truncated_prompt_stands_in_the_signed_statement(receipt: Receipt) -> None:
    assert receipt.statement()["predicate"]["verdict"].get("truncated", False) == receipt.verdict.truncated


@given(receipts)
def test_the_statements_subject_is_the_picture(receipt: Receipt) -> None:
    statement = receipt.statement()
    assert statement["predicateType"] == PREDICATE_TYPE
    subject = {"name": receipt.picture_key, "digest": {"sha256": receipt.picture_sha256}}
    assert statement["subject"] == [subject]
