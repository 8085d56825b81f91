"""`face0 submit` where a part is missing or broken: one sentence, the right exit code, nothing half done."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from face0_worker.records.progress import list_jobs
from face0_worker.settings import Settings
from producer.demo import LIST, PERSON
from producer.services import Services
from tests.integration.producer.plain_worker import grant

pytestmark = pytest.mark.services

SUBMIT: tuple[str | Path, ...] = ("submit", "--face", PERSON, "--skus", LIST, "--consent", "c1")


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def face0(
    settings: Settings, *words: str | Path, within: tuple[str, ...] = (), limit: int | None = None, **variables: str
) -> Said:
    """Run the real command in a process of its own, by the command `within`, with files of at most `limit` bytes."""
    environment = {
        **os.environ,
        "FACE0_HOME": str(settings.home),
        "FACE0_LEDGER_URL": settings.ledger_url,
        **{f"FACE0_{name.upper()}": value for name, value in variables.items()},
    }
    command = [*within, sys.executable, "-m", "producer.cli", *map(str, words)]
    limiting = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False, preexec_fn=limiting
    )
    return Said(done.returncode, done.stdout, done.stderr)


def assert_refused(said: Said, code: int, *parts: str) -> None:
    assert said.code == code, said
    assert said.err.startswith("face0: ")
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    for part in parts:
        assert part in said.err


def test_an_unknown_consent_is_refused_before_the_photo_is_opened(settings: Settings, services: Services) -> None:
    words = ("--face", "/no/such/photo.jpg", "--skus", str(LIST), "--consent", "c9")
    assert_refused(face0(settings, "submit", *words), 3, "consent")
    assert list_jobs(services.ledger, 1) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://nobody:hunter2@127.0.0.1:1/face0", "does not answer"),
        ("postgresql://nobody:hunter2@host.invalid/face0", "does not answer"),
        ("mysql://nobody:hunter2@127.0.0.1/face0", "expected postgresql://"),
    ],
)
def test_without_a_ledger_nothing_is_enqueued_and_no_password_is_told(
    settings: Settings, services: Services, url: str, says: str
) -> None:
    grant(services.ledger)
    said = face0(settings, *SUBMIT, ledger_url=url)
    assert_refused(said, 2 if url.startswith("mysql") else 4, says)
    assert "hunter2" not in said.err
    assert list(services.storage.list()) == []


def test_without_a_broker_a_job_is_accepted_and_doctor_says_what_is_down(
    settings: Settings, services: Services
) -> None:
    # the ledger is the truth: the dispatcher sends the batches when there is a broker again
    grant(services.ledger)
    said = face0(settings, *SUBMIT, broker_url="redis://127.0.0.1:1/0")
    assert said.code == 0, said
    assert list_jobs(services.ledger, 2)[0].total == 12
    found = face0(settings, "doctor", broker_url="redis://127.0.0.1:1/0")
    assert found.code == 4
    assert "broker: start it with `face0 up`, or correct FACE0_BROKER_URL" in found.out


def test_a_full_disk_leaves_no_job_and_no_half_photo(settings: Settings, services: Services) -> None:
    grant(services.ledger)
    said = face0(settings, *SUBMIT, limit=4096)
    assert_refused(said, 4, "storage", "make room")
    assert list_jobs(services.ledger, 1) == []
    assert [path for path in Path(settings.storage_url).rglob("*") if path.is_file()] == []


def test_a_read_only_folder_is_named(settings: Settings, services: Services, tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no right to mount a read-only folder; an ordinary user's permissions are tested elsewhere")
    grant(services.ledger)
    folder = tmp_path / "readonly"
    folder.mkdir()
    mount = f'mount -t tmpfs -o ro none {folder} && exec "$@"'
    said = face0(settings, *SUBMIT, within=("unshare", "-m", "sh", "-c", mount, "sh"), storage=str(folder))
    assert_refused(said, 4, "storage", str(folder), "Read-only file system")
    assert list_jobs(services.ledger, 1) == []


def test_storage_that_is_a_file_is_named(settings: Settings, services: Services, tmp_path: Path) -> None:
    grant(services.ledger)
    (tmp_path / "file").write_text("")
    said = face0(settings, *SUBMIT, storage=str(tmp_path / "file"))
    assert_refused(said, 4, "storage", str(tmp_path / "file"))
    assert list_jobs(services.ledger, 1) == []


def test_a_home_that_was_never_prepared_says_what_to_run(
    settings: Settings, services: Services, tmp_path: Path
) -> None:
    grant(services.ledger)
    assert_refused(face0(settings, *SUBMIT, home=str(tmp_path / "new")), 2, "face0 init")
    assert list_jobs(services.ledger, 1) == []
