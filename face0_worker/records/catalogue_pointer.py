"""What a catalogue's pointer and manifest say, and reading them: nothing is believed that is not as it was signed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import VerificationFailed
from face0_worker.contract.receipt import STATEMENT_TYPE
from face0_worker.records.manifest import read_shards
from face0_worker.records.provenance import verify_statement
from face0_worker.records.storage import Storage, StorageMissing, pointer_key

POINTER_TYPE = "https://face0.dev/catalogue/v1"
MANIFEST_TYPE = "https://face0.dev/catalogue-manifest/v1"


@dataclass(frozen=True)
class Entry:
    """One picture of a catalogue: the list's name for it, and which it is.

    `kept`: it was made for an earlier list. `stale`: the list asks for another, which could not be made, so this is
    the one of the night before. No personal data: the consent is an opaque id.
    """

    sku: str
    variant: str
    consent_id: str
    item_key: str
    picture_key: str
    picture_sha256: str
    kept: bool = False
    stale: bool = False


@dataclass(frozen=True)
class Named:
    """A manifest's signed root: its key and the sha256 of its bytes."""

    key: str
    sha256: str


@dataclass(frozen=True)
class Pointer:
    """What `catalogues/<name>/latest.json` says. `serial` grows with every switch; `previous`: what it named before.

    `consents` are all whose pictures the manifest names.
    """

    catalogue: str
    run_id: str
    serial: int
    purpose: str
    manifest: Named
    total: int
    stale: int
    consents: tuple[str, ...]
    previous: Named | None
    published_at: str
    campaign: str = ""
    channel: str = ""
    territory: str = ""

    @property
    def use(self) -> Use:
        """What the pictures are shown for."""
        return Use(Purpose(self.purpose), self.campaign, self.channel, self.territory)

    def statement(self) -> dict[str, Any]:
        """Return the in-toto Statement v1 whose subject is the manifest's root."""
        predicate = asdict(self)
        del predicate["manifest"]
        subject = [{"name": self.manifest.key, "digest": {"sha256": self.manifest.sha256}}]
        return {
            "_type": STATEMENT_TYPE,
            "subject": subject,
            "predicateType": POINTER_TYPE,
            "predicate": predicate | {"consents": list(self.consents)},
        }

    @classmethod
    def from_statement(cls, statement: dict[str, Any]) -> Pointer:
        """Read a pointer back from its statement. Raises: KeyError, TypeError, ValueError: another form."""
        if statement["predicateType"] != POINTER_TYPE:
            raise ValueError
        (subject,) = statement["subject"]
        said = dict(statement["predicate"])
        previous = said.pop("previous")
        return cls(
            **said | {"consents": tuple(said["consents"])},
            manifest=Named(subject["name"], subject["digest"]["sha256"]),
            previous=Named(**previous) if previous else None,
        )


def read_pointer(storage: Storage, public_key: Ed25519PublicKey, name: str) -> Pointer | None:
    """Return what a catalogue's pointer says, or None when it has none.

    Raises: VerificationFailed: it is not as it was signed.
    """
    try:
        envelope = storage.get(pointer_key(name))
    except StorageMissing:
        return None
    statement = verify_statement(envelope, public_key, f"the pointer of catalogue {name}")
    try:
        pointer = Pointer.from_statement(statement)
        if pointer.catalogue != name:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationFailed(f"the pointer of catalogue {name} is signed but is about something else") from error
    return pointer


def read_entries(storage: Storage, public_key: Ed25519PublicKey, manifest: Named) -> Iterator[Entry]:
    """Yield a manifest's entries in the order of its list.

    Raises: VerificationFailed: a part of it is missing or not as it was signed.
    """
    try:
        envelope = storage.get(manifest.key)
    except StorageMissing as error:
        raise VerificationFailed(f"the manifest {manifest.key} is missing from storage") from error
    if hashlib.sha256(envelope).hexdigest() != manifest.sha256:
        raise VerificationFailed(f"the manifest {manifest.key} is not the one that the pointer names")
    statement = verify_statement(envelope, public_key, f"the manifest {manifest.key}")
    if statement.get("predicateType") != MANIFEST_TYPE:
        raise VerificationFailed(f"the manifest {manifest.key} is signed but is about something else")
    prefix = manifest.key.rpartition("/")[0] + "/"
    count = 0
    for line in read_shards(storage, prefix, statement["subject"]):
        count += 1
        yield Entry(**line)
    if count != statement["predicate"]["total"]:
        raise VerificationFailed(f"the manifest {manifest.key} has {count} lines and says another number")


def manifest_parts(storage: Storage, root_key: str) -> list[str]:
    """Return the keys of the shards that a root names, whoever signed it; of one that can't be read none."""
    try:
        statement = json.loads(base64.b64decode(json.loads(storage.get(root_key))["payload"]))
        prefix = root_key.rpartition("/")[0] + "/"
        return [prefix + str(shard["name"]) for shard in statement["subject"]]
    except (StorageMissing, ValueError, KeyError, TypeError):
        return []
