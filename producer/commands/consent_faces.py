"""`face0 consent enrol`, `held`, `contact`, `bar`: the person behind a consent, and photos that show somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from face0_worker.contract.errors import BadInput, FaceHeld, FaceRefused, WorkFailed
from face0_worker.faces.matching import COSINE, L2, propose
from face0_worker.faces.photo import read_photo_file
from face0_worker.records import consents
from face0_worker.records import enrolment as records
from producer.commands.completion import known_consents
from producer.commands.setting import any_path, opened
from producer.consent import enrolment
from producer.consent.contact import keep_person, read_person
from producer.consent.form import read_form
from producer.services import Services
from producer.show import as_json_option, local, print_json, print_table, say
from producer.sources import is_character, photo_files

_consent_argument = click.argument("consent_id", metavar="ID", shell_complete=known_consents)
_held_argument = click.argument("held_id", metavar="HELD_ID")


@click.command()
@_consent_argument
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=any_path)
@as_json_option
@click.pass_context
def enrol(ctx: click.Context, consent_id: str, photos: tuple[Path, ...], as_json: bool) -> int:
    """Enrol photos of the person. The first one says who the person is; later ones must show the same person.

    Without this the first photo that is submitted is enrolled. A photo of somebody else is held for a human.
    """
    done: list[dict[str, str]] = []
    with opened(ctx) as services:
        _require_person(services, consent_id)
        # all of them before one is stored: a photo that can't be used enrols none
        faces = [enrolment.look(services, photo_files([photo])) for photo in photos]
        for photo, face in zip(photos, faces, strict=True):
            try:
                match = enrolment.enrol_photo(services, consent_id, face, by=enrolment.account())
                done.append({"photo": str(photo), "result": "enrolled" if match.kind == enrolment.FIRST else "added"})
            except FaceHeld as held:
                done.append({"photo": str(photo), "result": "held", "held_id": held.held_id, "why": str(held)})
    if as_json:
        print_json(done)
    for one in [] if as_json else done:
        say(f"{one['result']:9}{one['photo']}" + (f": {one['why']}" if "why" in one else ""))
    return 3 if any(one["result"] == "held" for one in done) else 0


def _require_person(services: Services, consent_id: str) -> None:
    if consents.get(services.ledger, consent_id) is None:
        raise BadInput("no such consent is known; `face0 consent list` shows them")
    if is_character(consent_id):
        raise BadInput("this consent is a character's; photos are enrolled for people")
    consents.require_kept(services.ledger, consent_id, stage="enrol")


@click.group()
def held() -> None:
    """Photos that do not look like the person who gave the consent: look at them, then accept or reject them."""


@held.command(name="list")
@click.option("--all", "all_of_them", is_flag=True, help="Those decided on, too.")
@as_json_option
@click.pass_context
def list_held(ctx: click.Context, all_of_them: bool, as_json: bool) -> None:
    """List the photos that wait for a decision, oldest first."""
    with opened(ctx) as services:
        found = records.list_held(services.ledger, all_of_them=all_of_them)
    if as_json:
        print_json(found)
    elif not found:
        say("No photo is held.")
    else:
        rows = [(one.id, one.consent_id, _apart(one), local(one.held_at), one.decision or "waits") for one in found]
        print_table(("id", "consent", "distance", "held since", "decision"), rows)


def _apart(one: records.HeldFace) -> str:
    if one.distance is None or one.bar is None:
        return "no bar"
    return f"{one.distance:.2f} (at most {one.bar:.2f})"


@held.command(name="show")
@_held_argument
@click.option("--to", type=any_path, help="Folder to write the held and the enrolled photos to, for comparing them.")
@as_json_option
@click.pass_context
def show_held(ctx: click.Context, held_id: str, to: Path | None, as_json: bool) -> None:
    """Show one held photo. Looking at the photos (--to) is noted in the audit log."""
    with opened(ctx) as services:
        one = records.get_held(services.ledger, held_id)
        files = enrolment.show(services, one, to, by=enrolment.account()) if to else []
    if as_json:
        print_json({"held": one, "files": files})
        return
    say(f"{one.id}: for consent {one.consent_id}, distance {_apart(one)}, held since {local(one.held_at)}")
    say(f"decision: {one.decision or 'waits for one'}")
    for file in files:
        say(f"written: {file}")
    if files:
        say("These photos are outside the vault now: delete them when you have looked.")


@held.command()
@_held_argument
@as_json_option
@click.pass_context
def accept(ctx: click.Context, held_id: str, as_json: bool) -> None:
    """Say that a held photo shows the person: it is enrolled as another face, and can be submitted."""
    with opened(ctx) as services:
        one = enrolment.accept(services, held_id, by=enrolment.account())
    if as_json:
        print_json({"held": one.id, "consent_id": one.consent_id, "accepted": True})
    else:
        say(f"{one.id} is accepted for consent {one.consent_id}. Submit again with this photo.")


@held.command()
@_held_argument
@as_json_option
@click.pass_context
def reject(ctx: click.Context, held_id: str, as_json: bool) -> None:
    """Say that a held photo shows somebody else: it is erased, and refused from now on."""
    with opened(ctx) as services:
        one = enrolment.reject(services, held_id)
    if as_json:
        print_json({"held": one.id, "consent_id": one.consent_id, "accepted": False})
    else:
        say(f"{one.id} is rejected for consent {one.consent_id}, and the photo is erased.")


@click.command()
@_consent_argument
@click.option(
    "--record", "file", type=any_path, help="Form whose [person] is kept from now on: name, contact, guardian."
)
@as_json_option
@click.pass_context
def contact(ctx: click.Context, consent_id: str, file: Path | None, as_json: bool) -> None:
    """Show the person's name and contact, or keep them. They lie in the vault only; reading is noted for the audit."""
    with opened(ctx) as services:
        if file is not None:
            person = read_form(file).person
            if person is None:
                raise BadInput(f"form {file} has no [person] with name, contact, guardian_name or guardian_contact")
            keep_person(services, consent_id, person, by=enrolment.account())
            if as_json:
                print_json({"consent_id": consent_id, "kept": True})
            else:
                say(f"Name and contact of consent {consent_id} are sealed in the vault.")
            return
        person = read_person(services, consent_id, by=enrolment.account())
    if as_json:
        print_json(person)
        return
    for name, value in vars(person).items():
        if value:
            say(f"{name.replace('_', ' '):18}{value}")


@click.command()
@click.argument("folder", type=any_path)
@click.option(
    "--measure", type=click.Choice([L2, COSINE]), default=L2, show_default=True, help="How faces are compared."
)
@as_json_option
@click.pass_context
def bar(ctx: click.Context, folder: Path, measure: str, as_json: bool) -> None:
    """Measure the face pack's bar on photos you may use: FOLDER holds one folder for each person, two photos or more.

    The bar is the distance that one in a thousand pairs of different people stays under. Write it into the pack's
    pack.json as "same_person".
    """
    with opened(ctx) as services:
        people, left_out = [], 0
        for person in sorted(path for path in _inside(folder) if path.is_dir()):
            faces = list(_faces(services, person))
            people.append([face for face in faces if face is not None])
            left_out += sum(face is None for face in faces)
        found = propose([faces for faces in people if faces], measure, services.pack.mean)
    if as_json:
        print_json({**vars(found), "photos_left_out": left_out})
        return
    say(f'"same_person": {{"measure": "{found.bar.measure}", "most": {found.bar.most}}}')
    say(f"held for a human: {found.missed:.1%} of {found.same_pairs} pairs of one person")
    say(f"taken for one person: {found.passed:.2%} of {found.other_pairs} pairs of two people")
    if left_out:
        say(f"{left_out} photos were left out: no face, or several")


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise WorkFailed(f"folder {folder} can't be read: {error.strerror}") from error


def _faces(services: Services, person: Path) -> Iterator[np.ndarray | None]:
    for file in sorted(path for path in _inside(person) if path.is_file()):
        try:
            yield services.embedder.embed_photo(read_photo_file(file)).embedding
        except FaceRefused:
            yield None
