"""What a picture says of itself, the signed receipt that proves it, and the verifier that believes neither alone."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from face0_worker.contract.consent import Decision
from face0_worker.contract.errors import BadInput, ConsentRefused, StorageDown, VerificationFailed
from face0_worker.contract.job import canonical_json
from face0_worker.contract.receipt import Receipt
from face0_worker.records.storage import Storage, StorageMissing, receipt_key
from face0_worker.records.vault import write_secret
from face0_worker.records.xmp import find_packet, make_packet

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_XMP_IDENTIFIER = "{http://purl.org/dc/elements/1.1/}identifier"


class Signer:
    """Signs receipts with one Ed25519 key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._signer = CryptoSigner(key)
        self.public_key = key.public_key()

    @classmethod
    def create(cls, folder: Path) -> Signer:
        """Make a new key: `signing.pem` (mode 0600) and `signing.pub` beside it.

        Raises: BadInput: there is one already; it is never replaced. StorageDown: the disk fails.
        """
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not write_secret(folder / "signing.pem", private):
                raise BadInput(f"{folder} has a signing key already; it is never replaced")
            (folder / "signing.pub").write_bytes(public)
        except OSError as error:
            raise StorageDown(f"the signing key can't be written to {folder}: {error.strerror}") from error
        return cls(key)

    @classmethod
    def open(cls, folder: Path) -> Signer:
        """Read the key that `create` made. Raises: BadInput: there is none, or it is no Ed25519 key."""
        key = _load(folder / "signing.pem", lambda pem: serialization.load_pem_private_key(pem, password=None))
        if not isinstance(key, Ed25519PrivateKey):
            raise BadInput(f"{folder / 'signing.pem'} is no Ed25519 key")
        return cls(key)

    def sign(self, receipt: Receipt) -> bytes:
        """Return the receipt as a DSSE envelope (JSON) over its in-toto statement."""
        return self.sign_statement(receipt.statement())

    def sign_statement(self, statement: dict[str, Any]) -> bytes:
        """Return any in-toto statement as a DSSE envelope (JSON)."""
        envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
        envelope.sign(self._signer)
        return canonical_json(envelope.to_dict())


def open_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key in PEM. Raises: BadInput: there is none, or it is no Ed25519 key."""
    key = _load(path, serialization.load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise BadInput(f"{path} is no Ed25519 public key")
    return key


def _load(path: Path, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(path.read_bytes())
    except FileNotFoundError as error:
        raise BadInput(f"there is no key {path}; `face0 init` makes one") from error
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(f"key {path} can't be read; restore it from your backup") from error


def mark_picture(pixels: np.ndarray, *, reference: str) -> bytes:
    """Return `pixels` (h, w, 3) uint8 as a PNG that says that it was made by a trained model, and its reference.

    The reference (the item key) is all that leads back to the person, and only for who has the ledger. Two calls never
    return the same bytes, so that two renders of one item never share an object. Raises: BadInput: another form.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise BadInput(f"a picture is uint8 of shape (h, w, 3), not {pixels.dtype} of shape {pixels.shape}")
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", make_packet(reference))  # not compressed, as XMP part 3 asks for PNG
    out = io.BytesIO()
    # a third of the default level's time for 9% more bytes (a 512 x 512 photograph: 25 ms, 464 kB)
    Image.fromarray(pixels, "RGB").save(out, "PNG", pnginfo=info, compress_level=2)
    return out.getvalue()


def read_reference(picture: bytes) -> str | None:
    """Return the reference a PNG, JPEG or WebP carries, or None. Total: any bytes at all give an answer.

    It is the picture's own word: good for finding a commit, never a proof.
    """
    packet = find_packet(picture)
    if packet is None or b"<!" in packet:  # a document type is the door to entity bombs, and XMP has none
        return None
    try:
        root = ElementTree.fromstring(packet)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    found = root.find(f".//{_XMP_IDENTIFIER}")
    # tools that rewrite XMP may turn a simple element into an attribute
    texts = [found.text] if found is not None else [node.get(_XMP_IDENTIFIER) for node in root.iter()]
    text = next((text for text in texts if text), "").strip()
    return text if re.fullmatch(r"[A-Za-z0-9_-]{1,128}", text) else None


def verify_receipt(envelope: bytes, public_key: Ed25519PublicKey) -> Receipt:
    """Return the receipt in a DSSE envelope. Raises: VerificationFailed: any byte of it is not as it was signed."""
    statement = verify_statement(envelope, public_key, "the receipt")
    try:
        receipt = Receipt.from_statement(statement)
        if canonical_json(receipt.statement()) != canonical_json(statement):
            raise ValueError
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise VerificationFailed("the receipt is signed but is not a statement this version can read") from error
    return receipt


def verify_statement(envelope: bytes, public_key: Ed25519PublicKey, what: str) -> dict[str, Any]:
    """Return the statement in a DSSE envelope that `sign_statement` made. `what`: as a sentence names it.

    Raises: VerificationFailed: any byte of it is not as it was signed.
    """
    try:
        parsed = Envelope.from_dict(json.loads(envelope))
        # base64 and JSON have many spellings of one value; only the one that was written counts
        if canonical_json(parsed.to_dict()) != envelope or parsed.payload_type != PAYLOAD_TYPE:
            raise ValueError
    except (FormatError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VerificationFailed(f"{what} is not an envelope of the form face0 writes: it was changed") from error
    try:
        parsed.verify([SSlibKey.from_crypto(public_key)], 1)
    except VerificationError as error:
        raise VerificationFailed(f"{what}'s signature doesn't fit: it was changed, or signed by another key") from error
    try:
        statement = json.loads(parsed.payload)
        if not isinstance(statement, dict) or canonical_json(statement) != parsed.payload:
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"{what} is signed but is not a statement this version can read") from error
    return statement


class Commit(Protocol):
    """What the ledger knows of one committed picture, as far as the verifier needs it."""

    @property
    def item_key(self) -> str: ...
    @property
    def consent_id(self) -> str: ...
    @property
    def picture_sha256(self) -> str: ...
    @property
    def receipt(self) -> bytes: ...
    @property
    def purged(self) -> bool: ...


class FindCommit(Protocol):
    """The ledger's lookup, by exactly one of the two."""

    def __call__(self, *, item_key: str | None = None, picture_sha256: str | None = None) -> Commit | None: ...


@dataclass(frozen=True)
class Verified:
    """A picture that is ours, unchanged and allowed now."""

    sha256: str
    receipt: Receipt
    consent: Decision


def verify_picture(
    picture: bytes,
    *,
    find_commit: FindCommit,
    consent_decision: Callable[[str, str], Decision],
    storage: Storage,
    public_key: Ed25519PublicKey,
) -> Verified:
    """Verify a picture's bytes against the ledger, its stored receipt and the consent as it stands now.

    `consent_decision(consent_id, purpose)` answers with the database's clock.
    Raises: VerificationFailed: not ours, changed, or its receipt is missing, changed or signed by another key.
    ConsentRefused: ours, but purged or no longer allowed.
    """
    sha256 = hashlib.sha256(picture).hexdigest()
    commit = find_commit(picture_sha256=sha256)
    if commit is None:
        raise _stranger(picture, find_commit)
    if commit.purged:
        raise _purged(commit)
    try:
        stored = storage.get(receipt_key(commit.consent_id, commit.item_key))
    except StorageMissing as error:
        raise VerificationFailed("the picture's receipt is missing from storage") from error
    if stored != commit.receipt:
        raise VerificationFailed("the picture's receipt in storage is not the one that was committed")
    receipt = verify_receipt(stored, public_key)
    said = (receipt.picture_sha256, receipt.item_key, receipt.consent_id)
    if said != (sha256, commit.item_key, commit.consent_id):
        raise VerificationFailed("the picture's receipt is about another picture, item or consent")
    consent = consent_decision(receipt.consent_id, receipt.purpose)
    if not consent.allowed:
        raise ConsentRefused(consent.english, consent.code)
    return Verified(sha256, receipt, consent)


def _stranger(picture: bytes, find_commit: FindCommit) -> VerificationFailed | ConsentRefused:
    """Say as much as the picture's own word allows about bytes that no commit has."""
    reference = read_reference(picture)
    if reference is None:
        return VerificationFailed("no commit has these bytes and they carry no reference: not ours, or re-encoded")
    commit = find_commit(item_key=reference)
    if commit is None:
        return VerificationFailed("the picture names an item that this ledger does not know")
    if commit.purged:
        return _purged(commit)
    return VerificationFailed("changed: the bytes are not those that were committed")


def _purged(commit: Commit) -> ConsentRefused:
    return ConsentRefused(f"the picture was erased with consent {commit.consent_id}; delete this copy", "purged")
