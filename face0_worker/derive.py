"""Committed pictures in another form: made from the stored bytes, marked, signed and committed. Torch-free.

Whoever exports asks for them through the ledger; the process that watches a render child makes them beside its work.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from face0_worker.contract.consent import ConsentState
from face0_worker.contract.derivation import FileFormat, Form
from face0_worker.contract.errors import (
    ConsentRefused,
    ItemFailed,
    LeaseLost,
    StorageDown,
    VerificationFailed,
)
from face0_worker.contract.receipt import Receipt
from face0_worker.records import consents, derivations
from face0_worker.records.commits import CommitRow, find_commit
from face0_worker.records.derivations import Made, Task
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, mark_picture, verify_receipt
from face0_worker.records.storage import Storage, StorageMissing, item_prefix, picture_key
from face0_worker.records.xmp import make_packet

LEASE_S = 120.0  # an 8192 pixel WebP under a limit takes half a minute on one slow core
RETRY_S = 5.0
_QUALITY = {FileFormat.JPEG: 90, FileFormat.WEBP: 85}
_FLOOR = 30  # below this a face falls into blocks


@dataclass(frozen=True)
class Encoded:
    """A picture's new file: its bytes, its size in pixels, and in words how it was written."""

    data: bytes
    width: int
    height: int
    said: str


def encode(picture: bytes, form: Form, *, reference: str) -> Encoded:
    """Return a picture in another form, marked with `reference`; no two calls return the same bytes.

    Raises: ItemFailed: it does not fit into the form's bytes in a quality that anybody would show.
    """
    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((form.width or image.width, form.height or image.height), Image.Resampling.LANCZOS)
    if form.format is FileFormat.PNG:
        data = mark_picture(np.asarray(image), reference=reference)
        if form.max_bytes and len(data) > form.max_bytes:
            raise ItemFailed(f"as png it has {len(data)} bytes, above --max-bytes; use jpeg or webp, or a smaller size")
        return Encoded(data, image.width, image.height, "png")
    packet = make_packet(reference).encode()
    quality, data = _fitting(form, lambda value: _written(image, form.format, value, packet))
    return Encoded(data, image.width, image.height, f"{form.format}, quality {quality}")


def _fitting(form: Form, write: Callable[[int], bytes]) -> tuple[int, bytes]:
    """Return the highest quality whose file fits, and that file."""
    high = form.quality or _QUALITY[form.format]
    data = write(high)
    if not form.max_bytes or len(data) <= form.max_bytes:
        return high, data
    low = min(_FLOOR, high)
    data = write(low)
    if len(data) > form.max_bytes:
        raise ItemFailed(
            f"as {form.format} of quality {low} it has {len(data)} bytes, above --max-bytes; ask for a smaller size"
        )
    while high - low > 1:
        middle = (low + high) // 2
        tried = write(middle)
        if len(tried) <= form.max_bytes:
            low, data = middle, tried
        else:
            high = middle
    return low, data


def _written(image: Image.Image, file_format: FileFormat, quality: int, packet: bytes) -> bytes:
    out = io.BytesIO()
    if file_format is FileFormat.JPEG:
        # full colour resolution where quality is what was asked for: halved, red cloth gets blurred edges
        sampling = 0 if quality >= 90 else 2
        image.save(out, "JPEG", quality=quality, subsampling=sampling, optimize=True, progressive=True, xmp=packet)
    else:
        image.save(out, "WEBP", quality=quality, method=4, xmp=packet)
    return out.getvalue()


class Deriver:
    """Makes one picture after another; several may run at once, also on other machines."""

    def __init__(self, ledger: Ledger, storage: Storage, signer: Signer) -> None:
        self._ledger, self._storage, self._signer = ledger, storage, signer

    def round(self) -> int:
        """Make the picture that waits longest; return how many there were, one or none.

        What can't be made is told in the ledger. Raises: ServiceDown: it is tried again later.
        """
        task = derivations.claim(self._ledger, LEASE_S)
        if task is None:
            return 0
        try:
            self._make(task)
        except StorageDown:
            with contextlib.suppress(LeaseLost):
                derivations.postpone(self._ledger, task, RETRY_S)
            raise
        except (VerificationFailed, StorageMissing, ItemFailed) as error:
            with contextlib.suppress(LeaseLost):
                derivations.fail(self._ledger, task, str(error))
        except (ConsentRefused, LeaseLost):
            pass  # the ledger knows already
        return 1

    def _make(self, task: Task) -> None:
        parent = find_commit(self._ledger, item_key=task.item_key)
        if parent is None or parent.purged:
            raise VerificationFailed("the picture that it is to be made from is not there")
        encoded = encode(_stored(self._storage, parent), task.form, reference=task.id)
        digest = hashlib.sha256(encoded.data).hexdigest()
        ending = task.form.format.ending
        key = picture_key(task.consent_id, task.id, digest, ending)
        # asked again: encoding takes long, and nothing of a revoked person may be written after the second sweep
        record = consents.get(self._ledger, task.consent_id)
        if record is None or record.state is not ConsentState.GRANTED:
            raise VerificationFailed("the picture that it is to be made from was withdrawn")
        receipt = self._receipt(task, parent, encoded, key, digest, record.epoch)
        self._storage.put(key, encoded.data)
        made = Made(key, digest, self._signer.sign(receipt), receipt.committed_under_epoch)
        try:
            answer = derivations.commit(self._ledger, task, made, ending)
        except (ConsentRefused, LeaseLost, VerificationFailed):
            self._storage.delete(key)
            raise
        if answer == "kept" or task.tries > 1:
            self._sweep(task)

    def _receipt(self, task: Task, parent: CommitRow, encoded: Encoded, key: str, digest: str, epoch: int) -> Receipt:
        return replace(
            verify_receipt(parent.receipt, self._signer.public_key),
            item_key=task.id,
            picture_key=key,
            picture_sha256=digest,
            committed_under_epoch=epoch,
            purpose=task.purpose,
            job_id=task.job_id,
            width=encoded.width,
            height=encoded.height,
            parent_sha256=parent.picture_sha256,
            parent_item_key=parent.item_key,
            form=encoded.said,
        )

    def _sweep(self, task: Task) -> None:
        """Erase what earlier tries left that died between writing and committing."""
        committed = find_commit(self._ledger, item_key=task.id)
        for key in list(self._storage.list(item_prefix(task.consent_id, task.id))):
            if committed is not None and key != committed.picture_key:
                self._storage.delete(key)


def _stored(storage: Storage, parent: CommitRow) -> bytes:
    picture = storage.get(parent.picture_key)
    if hashlib.sha256(picture).hexdigest() != parent.picture_sha256:
        raise VerificationFailed("its stored bytes are not those that were committed")
    return picture
