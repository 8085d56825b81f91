"""The first photo enrols the person; later ones must show the same person, or a human looks at them first."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import hmac
import io
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from face0_worker.contract.errors import BadInput, FaceHeld
from face0_worker.faces.matching import distance
from face0_worker.faces.photo import decode_photo
from face0_worker.records import enrolment
from face0_worker.records.enrolment import AlreadyEnrolled, Enrolled, HeldFace
from face0_worker.records.release import open_kept
from face0_worker.records.storage import face_key
from face0_worker.records.vault import face_digest, seal_face
from producer.private_file import write_private
from producer.services import Services
from producer.sources import Source, average, embed, embed_photos, find_faces

FIRST, SAME, OTHER, NO_BAR = "first", "same", "other", "no_bar"
_KEY = 32  # bytes
_ABOUT = "digest key"


@dataclass(frozen=True)
class Face:
    """A face that somebody brings: its source, one raw embedding (d,) per photo, and the one that conditions."""

    source: Source
    photos: tuple[np.ndarray, ...]
    embedding: np.ndarray

    @property
    def digest(self) -> str:
        """The name of the face in keys."""
        return face_digest(self.embedding)


@dataclass(frozen=True)
class Match:
    """How a face stands to those enrolled: FIRST, SAME, OTHER or NO_BAR; the distance of its worst photo, the bar."""

    kind: str
    apart: float | None = None
    bar: float | None = None


def look(services: Services, source: Source) -> Face:
    """Return the face of a source. Raises: as sources.embed."""
    faces = find_faces(services, source)
    photos = tuple(face.embedding for face in faces)
    embedding = average(services, source, photos) if photos else embed(services, source)
    return Face(source.seen(faces), photos, embedding)


def seal(services: Services, consent_id: str, face: Face) -> str:
    """Seal photo and embedding under the consent's key, store them, and return where they lie.

    Raises: FaceHeld: this very face is held, or a human has rejected it; then nothing is stored again.
    """
    _refuse_held(services, consent_id, face)
    services.vault.new_key(consent_id)
    digest, sealed = seal_face(services.vault, consent_id, face.source.to_bytes(), face.embedding)
    where = face_key(consent_id, digest)
    services.storage.put(where, sealed)
    return where


def compare(services: Services, consent_id: str, face: Face) -> Match:
    """Compare a face with the enrolled ones; each photo must be near one of them. A character is always itself."""
    known = enrolment.enrolled(services.ledger, consent_id)
    if face.source.recipe is not None or face.digest in {one.digest for one in known}:
        return Match(SAME)
    if not known:
        return Match(FIRST)
    theirs = [vector for one in known for vector in _vectors(services, consent_id, one)]
    if all(any(np.array_equal(mine, other) for other in theirs) for mine in face.photos):
        return Match(SAME)
    bar = services.pack.same_person
    if bar is None:
        return Match(NO_BAR)
    mean = services.pack.mean
    apart = max(min(distance(bar.measure, mine, other, mean) for other in theirs) for mine in face.photos)
    return Match(SAME if apart <= bar.most else OTHER, apart, bar.most)


def admit(services: Services, consent_id: str, face: Face, where: str, *, by: str) -> Match:
    """Enrol the first face; let one pass that matches; hold any other for a human. `where`: it stands sealed there.

    Raises: FaceHeld: it is held now. ConsentRefused: the consent was revoked meanwhile, or has ended.
    """
    match = compare(services, consent_id, face)
    if match.kind == FIRST:
        try:
            _enrol(services, consent_id, face.digest, face.embedding, where, first=True, by=by)
        except AlreadyEnrolled:
            match = compare(services, consent_id, face)
    if match.kind not in (OTHER, NO_BAR):
        return match
    pack = services.pack.digest
    held = enrolment.hold(services.ledger, consent_id, face.digest, where, pack, match.apart, match.bar)
    if held.decision == enrolment.REJECTED:  # in this very moment
        services.storage.delete(where)
    raise _held(services, match, consent_id, held)


def _refuse_held(services: Services, consent_id: str, face: Face) -> None:
    """Raise FaceHeld for a face that a human has rejected or has yet to decide on, however alike it looks by now."""
    held = enrolment.find_held(services.ledger, consent_id, face.digest)
    if held is not None and held.decision != enrolment.ACCEPTED:
        kind = NO_BAR if held.bar is None else OTHER
        raise _held(services, Match(kind, held.distance, held.bar), consent_id, held)


def enrol_photo(services: Services, consent_id: str, face: Face, *, by: str) -> Match:
    """Enrol a photo: the first as the person, a matching one as another face. Nothing happens to a known one.

    Raises: as `seal` and `admit`.
    """
    where = seal(services, consent_id, face)
    match = admit(services, consent_id, face, where, by=by)
    if match.kind == SAME and face.digest not in {
        one.digest for one in enrolment.enrolled(services.ledger, consent_id)
    }:
        # by somebody else in the same moment: it is enrolled, and that was asked for
        with contextlib.suppress(AlreadyEnrolled):
            _enrol(services, consent_id, face.digest, face.embedding, where, first=False, by=by)
    return match


def refuse_other(services: Services, consent_id: str, face: Face) -> None:
    """Say what `seal` and `admit` would say, and write nothing. Raises: FaceHeld: the face is or would be held."""
    _refuse_held(services, consent_id, face)
    match = compare(services, consent_id, face)
    if match.kind in (OTHER, NO_BAR):
        raise _held(services, match, consent_id, None)


def _held(services: Services, match: Match, consent_id: str, held: HeldFace | None) -> FaceHeld:
    if held is not None and held.decision == enrolment.REJECTED:
        return FaceHeld(
            f"this photo was rejected for consent {consent_id} ({held.id}); use a photo of the person who gave it",
            "face_rejected",
            held.id,
        )
    why = (
        f"this photo does not look like the person enrolled under consent {consent_id} "
        f"(distance {match.apart:.2f}, at most {match.bar:.2f})"
        if match.apart is not None and match.bar is not None
        else f"whether this photo shows the person enrolled under consent {consent_id} can't be told: face pack "
        f"{services.pack.name} states no bar (same_person in its pack.json, see docs/consent.md)"
    )
    if held is None:
        return FaceHeld(f"{why}; it would be held for a human", f"face_{match.kind}", "")
    return FaceHeld(
        f"{why}. Nothing was enqueued; it is held as {held.id} until a human decides: "
        f"`face0 consent held show {held.id} --to DIR`, then `accept` or `reject`, then submit again",
        f"face_{match.kind}",
        held.id,
    )


def accept(services: Services, held_id: str, *, by: str) -> HeldFace:
    """Enrol a held face as another one of the same person. Raises: BadInput: unknown or decided. Refused: no key."""
    held = enrolment.get_held(services.ledger, held_id)
    if held.decision:
        raise BadInput(f"{held_id} was {held.decision} already; a decision is not taken back")
    consent_id, pack = held.consent_id, held.embedder_digest
    _, embedding = _opened(services, consent_id, held.digest, held.face_key)
    try:
        _enrol(services, consent_id, held.digest, embedding, held.face_key, first=False, by=by, held=held_id, pack=pack)
    except AlreadyEnrolled as error:
        raise BadInput(f"the photo of {held_id} is enrolled already; submit again with it") from error
    return enrolment.get_held(services.ledger, held_id)


def reject(services: Services, held_id: str) -> HeldFace:
    """Note that a held face is another person's, and erase the photo; repeating it erases what an earlier try left."""
    held = enrolment.reject(services.ledger, held_id)
    services.storage.delete(held.face_key)
    return held


def show(services: Services, held: HeldFace, folder: Path, *, by: str) -> list[Path]:
    """Write the held photo and the enrolled ones as JPEG into a folder, for a human to compare; noted for the audit."""
    enrolment.note_access(services.ledger, "face.viewed", held.consent_id, by)
    files = _write_photos(services, held.consent_id, held.digest, held.face_key, folder / held.id)
    for number, one in enumerate(enrolment.enrolled(services.ledger, held.consent_id), 1):
        files += _write_photos(services, held.consent_id, one.digest, one.face_key, folder / f"enrolled-{number}")
    return files


def account() -> str:
    """Return the login that acts, for the audit; "" where it has none (a container's user)."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def keyed_digest(key: bytes, embedding: np.ndarray) -> str:
    """Return the HMAC-SHA256 hex of an embedding, under a key of the consent's own that dies with its data key."""
    return hmac.new(key, np.ascontiguousarray(embedding, "<f4").tobytes(), hashlib.sha256).hexdigest()


def _enrol(
    services: Services,
    consent_id: str,
    digest: str,
    embedding: np.ndarray,
    where: str,
    *,
    first: bool,
    by: str,
    held: str = "",
    pack: str = "",
) -> None:
    """Write an enrolment. `pack`: the face pack that has embedded it; "": the one of today."""
    known = enrolment.enrolled(services.ledger, consent_id)
    fresh = services.vault.seal(consent_id, secrets.token_bytes(_KEY), about=_ABOUT)
    sealed = known[0].sealed_key if known else fresh
    digested = keyed_digest(services.vault.unseal(consent_id, sealed, about=_ABOUT), embedding)
    face = Enrolled(digest, where, pack or services.pack.digest, digested, sealed)
    sign = services.signer.sign_statement
    enrolment.enrol(services.ledger, consent_id, face, first=first, sign=sign, by=by, held=held)


def _vectors(services: Services, consent_id: str, one: Enrolled) -> Sequence[np.ndarray]:
    """Return an enrolled face's raw embeddings by the face pack of today, one per photo."""
    photo, embedding = _opened(services, consent_id, one.digest, one.face_key)
    source = Source.from_bytes(photo)
    if one.embedder_digest == services.pack.digest and len(source.photos) == 1:
        return [embedding]
    # what is sealed of several photos is their average, which lies on another scale than a photo does
    return embed_photos(services, source)


def _opened(services: Services, consent_id: str, digest: str, where: str) -> tuple[bytes, np.ndarray]:
    return open_kept(
        services.ledger, services.vault, consent_id, services.storage.get(where), digest=digest, by="enrolment"
    )


def _write_photos(services: Services, consent_id: str, digest: str, where: str, stem: Path) -> list[Path]:
    photo, _ = _opened(services, consent_id, digest, where)
    source = Source.from_bytes(photo)
    files = []
    for number, (data, _) in enumerate(source.photos, 1):
        name = stem.with_name(f"{stem.name}{f'-{number}' if len(source.photos) > 1 else ''}.jpg")
        out = io.BytesIO()
        decode_photo(data).image.save(out, "JPEG", quality=95)
        write_private(name, out.getvalue(), replace=True)
        files.append(name)
    return files
