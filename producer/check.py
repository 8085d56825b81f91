"""Is this picture ours, unchanged, consented and still valid? The question `face0 verify` answers, file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from face0_worker.contract.consent import Decision
from face0_worker.contract.errors import BadInput, ConsentRefused, ServiceDown, VerificationFailed
from face0_worker.records import consents
from face0_worker.records.commits import CommitRow, find_commit
from face0_worker.records.provenance import Verified, open_public_key, verify_picture
from producer.services import Services, keys_folder

MAX_BYTES = 200_000_000
_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True)
class Checked:
    """The answer for one file: `code` is "ok", "failed" or "refused".

    `sentence` says why it is not ok, or which picture it was made from.
    """

    file: Path
    code: str
    sentence: str
    verified: Verified | None

    @property
    def ok(self) -> bool:
        """Whether the picture is ours, unchanged and allowed now."""
        return self.code == "ok"


def check_files(services: Services, paths: Iterable[Path]) -> Iterator[Checked]:
    """Check each file, and each PNG, JPEG and WebP in each folder, in the order of their names.

    Raises: BadInput: a path is not there, or a folder holds no picture. ServiceDown.
    """
    public_key = open_public_key(keys_folder(services.settings) / "signing.pub")

    def look_up(*, item_key: str | None = None, picture_sha256: str | None = None) -> CommitRow | None:
        return find_commit(services.ledger, item_key=item_key, picture_sha256=picture_sha256)

    for file in _files(paths):
        try:
            verified = verify_picture(
                _read(file),
                find_commit=look_up,
                consent_decision=lambda consent_id, purpose: _decide(services, consent_id, purpose),
                storage=services.storage,
                public_key=public_key,
            )
        except ConsentRefused as error:
            yield Checked(file, "refused", str(error), None)
        except VerificationFailed as error:
            yield Checked(file, "failed", str(error), None)
        else:
            yield Checked(file, "ok", _origin(verified), verified)


def _origin(verified: Verified) -> str:
    """Say what a picture in another form was made from; nothing of one as it was rendered."""
    receipt = verified.receipt
    return f"{receipt.form}, made from picture {receipt.parent_sha256[:16]}" if receipt.parent_sha256 else ""


def _decide(services: Services, consent_id: str, purpose: str) -> Decision:
    with services.ledger.transaction() as connection:
        return consents.decide_now(connection, consent_id, purpose)[1]


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in _ENDINGS)
            if not inside:
                raise BadInput(f"folder {path} holds no .png, .jpg or .webp file")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise BadInput(f"{path} does not exist")
    return found


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise VerificationFailed("larger than any picture of ours")
        return file.read_bytes()
    except OSError as error:
        raise ServiceDown(f"{file} can't be read: {error.strerror}") from error
