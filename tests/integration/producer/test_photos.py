"""`face0 submit --face` with the photos that people bring: taken as they are, or refused in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import func, select

from face0_worker.faces.photo import MAX_BYTES
from face0_worker.records.progress import list_jobs
from face0_worker.records.storage import Storage
from face0_worker.records.tables import metadata
from face0_worker.records.vault import unseal_face
from face0_worker.settings import Settings
from producer import cli
from producer.demo import LIST, PERSON
from producer.services import Services
from producer.sources import Source
from tests.integration.producer.plain_worker import grant
from tests.pictures import black_png, encoded, sixteen_bit, swapping_profile

pytestmark = pytest.mark.services
NAME = "anna-sato.jpg"  # a file's name may be a person's: nothing may repeat it
Submit = Callable[..., tuple[int, str]]


@pytest.fixture
def submit(
    services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Submit:
    """Type `face0 submit --face` with a photo and the person's consent; get the exit code and all that was said."""
    grant(services.ledger)
    monkeypatch.setenv("FACE0_HOME", str(settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", settings.ledger_url)
    capsys.readouterr()

    def type_it(photo: Path, *more: str) -> tuple[int, str]:
        code = cli.run(["submit", "--face", str(photo), "--skus", str(LIST), "--consent", "c1", *more])
        out, err = capsys.readouterr()
        return code, out + err

    return type_it


def person() -> Image.Image:
    return Image.open(PERSON).convert("RGB")


def no_face() -> Image.Image:
    return Image.new("RGB", person().size, "beige")


def two_people() -> Image.Image:
    both = Image.new("RGB", (2 * person().width, person().height))
    both.paste(person(), (0, 0))
    both.paste(person(), (person().width, 0))
    return both


def far_away() -> Image.Image:
    scene = Image.new("RGB", (400, 400), "grey")
    scene.paste(person().resize((60, 60), Image.Resampling.LANCZOS), (170, 170))
    return scene


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a text": (lambda: b"Dear shop, please find my photo attached.", "it is not a picture"),
    "an empty file": (lambda: b"", "empty (0 bytes)"),
    "a PDF": (lambda: b"%PDF-1.7\n1 0 obj", "it is a PDF"),
    "a video": (lambda: b"\0\0\0\x20ftypisom" + bytes(99), "it is a video"),
    "a script that draws": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
    "a camera's raw file": (lambda: encoded(person(), "TIFF", tiffinfo={254: 1}), "raw file"),
    "a truncated JPEG": (lambda: encoded(person(), "JPEG")[:9000], "damaged, incomplete"),
    "a truncated PNG": (lambda: encoded(person(), "PNG")[:9000], "damaged, incomplete"),
    "a truncated HEIC": (lambda: encoded(person(), "HEIF")[:3000], "damaged, incomplete"),
    "50,000 x 50,000 pixels": (lambda: black_png(50_000, 50_000), "50,000 x 50,000 pixels; at most 200,000,000"),
    "no face": (lambda: encoded(no_face(), "JPEG"), "no face was found"),
    "two faces": (lambda: encoded(two_people(), "JPEG"), "2 faces were found"),
    "a small face": (lambda: encoded(far_away(), "PNG"), "px wide, 32 needed"),
}

ACCEPTED: dict[str, Callable[[], bytes]] = {
    "HEIC": lambda: encoded(person(), "HEIF"),
    "MPO": lambda: encoded(person(), "MPO", save_all=True, append_images=[no_face()]),
    "AVIF": lambda: encoded(person(), "AVIF"),
    "CMYK JPEG": lambda: encoded(person().convert("CMYK"), "JPEG"),
    "16-bit grey PNG": lambda: sixteen_bit(person().convert("L"), ".png"),
    "16-bit TIFF": lambda: sixteen_bit(person(), ".tiff"),
    "animated GIF": lambda: encoded(person(), "GIF", save_all=True, append_images=[no_face()]),
    "animated WebP": lambda: encoded(person(), "WEBP", save_all=True, append_images=[no_face()]),
    "animated PNG": lambda: encoded(person(), "PNG", save_all=True, append_images=[no_face()]),
    "turned by EXIF": lambda: turned(),
    "with a colour profile": lambda: encoded(person(), "JPEG", icc_profile=swapping_profile()),
    "transparent": lambda: encoded(cut_out(), "PNG"),
}


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(person().rotate(90, expand=True), "JPEG", exif=exif)


def cut_out() -> Image.Image:
    image = person().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, image.width, 20))
    return image


def everything(services: Services) -> tuple[dict[str, int], list[str], dict[Path, bytes]]:
    """All that a submit could leave behind: the rows of each table, the stored objects, the vault's files."""
    with services.ledger.transaction() as connection:
        rows = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }
    vault = services.settings.home_dir / "vault"
    keys = {path: path.read_bytes() for path in vault.rglob("*") if path.is_file()}
    return rows, sorted(services.storage.list()), keys


def require_one_sentence(code: int, said: str, expected: str) -> None:
    assert code == 2, said
    assert said.startswith("face0: ")
    assert said.count("\n") == 1
    assert expected in said
    assert "anna" not in said
    assert "Traceback" not in said
    assert "unexpected" not in said


@pytest.mark.parametrize("kind", REFUSED)
def test_a_photo_that_is_no_use_is_refused_and_leaves_nothing_behind(
    submit: Submit, services: Services, tmp_path: Path, kind: str
) -> None:
    make, expected = REFUSED[kind]
    (tmp_path / NAME).write_bytes(make())
    before = everything(services)
    require_one_sentence(*submit(tmp_path / NAME), expected)
    assert everything(services) == before


def test_what_is_no_file_is_refused_and_not_waited_for(submit: Submit, services: Services, tmp_path: Path) -> None:
    pipe, loop, endless = tmp_path / "anna-pipe", tmp_path / "anna-loop", tmp_path / "anna-endless"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    with endless.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # holes only: it takes no place
    before = everything(services)
    for photo, expected in (
        (tmp_path, "--face names a folder"),
        (pipe, "--face names a pipe"),
        (Path("/dev/zero"), "--face names a pipe, a socket or a device"),
        (loop, "symbolic links"),
        (tmp_path / "anna-absent", "No such file"),
        (endless, "over 100 MB"),
    ):
        require_one_sentence(*submit(photo), expected)
    assert everything(services) == before


@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_photo_as_phones_and_cameras_write_it_is_taken(submit: Submit, tmp_path: Path, kind: str) -> None:
    (tmp_path / NAME).write_bytes(ACCEPTED[kind]())
    code, said = submit(tmp_path / NAME, "--dry-run")
    assert code == 0, said
    assert "12 pictures would be made" in said


def test_the_photos_own_bytes_are_what_is_kept_and_only_sealed(
    submit: Submit, services: Services, tmp_path: Path
) -> None:
    photo = encoded(person(), "HEIF")
    (tmp_path / NAME).write_bytes(photo)
    code, said = submit(tmp_path / NAME)
    assert code == 0, said
    assert len(list_jobs(services.ledger)) == 1
    sealed = unseal_face(services.vault, "c1", _only_face(services.storage))[0]
    assert Source.from_bytes(sealed).photos == ((photo, 1.0),)
    leaked = [path for path in services.settings.home_dir.rglob("*") if path.is_file() and photo in path.read_bytes()]
    assert leaked == []


def _only_face(storage: Storage) -> bytes:
    (face,) = (storage.get(key) for key in storage.list("faces/"))
    return face
