"""The commands as people type them, on a real ledger, with exit codes and what is said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from face0_worker.contract.errors import Refused
from face0_worker.records.progress import job_items, list_jobs
from face0_worker.records.tables import consents
from face0_worker.records.vault import unseal_face
from face0_worker.settings import Settings
from producer import cli
from producer.demo import LIST, PERSON
from producer.services import Services
from tests.integration.producer.plain_worker import grant, offer, render_everything

pytestmark = pytest.mark.services


class Person:
    """Somebody at a terminal."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        monkeypatch.setenv("FACE0_HOME", str(settings.home))
        monkeypatch.setenv("FACE0_LEDGER_URL", settings.ledger_url)
        capsys.readouterr()

    def types(self, *words: str | Path, code: int = 0) -> str:
        """Run a command that must end with `code`; return what it said."""
        ended = cli.run([str(word) for word in words])
        out, err = self._capsys.readouterr()
        assert ended == code, out + err
        assert "Traceback" not in err
        return out + err

    def reads(self, *words: str | Path, code: int = 0) -> Any:
        """Run a command with --json and return what it printed."""
        return json.loads(self.types(*words, "--json", code=code))

    def submits(self, list_: Path = LIST, consent_id: str = "c1", code: int = 0) -> str:
        """Submit a list with the sample photo and return the job's id."""
        result = self.reads("submit", "--face", PERSON, "--skus", list_, "--consent", consent_id, code=code)
        return str(result["job_id"])


@pytest.fixture
def person(
    services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Person:
    return Person(settings, monkeypatch, capsys)


def test_from_consent_to_verified_pictures(person: Person, services: Services, tmp_path: Path) -> None:
    said = person.types(
        "consent", "grant", "--id", "c1", "--subject", "model-7", "--purpose", "catalogue", "--until", "2099-12-31"
    )
    assert "Consent c1 is granted for catalogue" in said
    assert "until the end of 2099-12-31" in said
    job_id = person.submits()
    assert person.reads("status", job_id)["counts"]["waiting"] == 12
    render_everything(services)
    assert "12 of 12 done" in person.types("watch", job_id)
    out = tmp_path / "out"
    assert f"12 of 12 pictures are in {out}" in person.types("results", "pull", job_id, "--to", out)
    assert {path.name for path in out.iterdir()} == {
        f"{row.sku}.{ending}" for row in job_items(services.ledger, job_id) for ending in ("png", "json")
    }
    sidecar = json.loads((out / "TS-RED-01.json").read_text())
    assert sidecar["prompt"].endswith("a red t-shirt, white background")
    assert sidecar["receipt_key"].startswith("receipts/c1/")
    assert "12 of 12 pictures are verified" in person.types("verify", out)
    assert person.types("gallery", job_id, "--out", tmp_path / "g.html", "--skus", LIST).startswith("12 of 12")
    assert "タートルネック" in (tmp_path / "g.html").read_text()
    sheet = person.reads("results", "sheet", job_id, "--out", tmp_path / "s.png", "--skus", LIST)
    assert (sheet["pictures"], (tmp_path / "s.png").stat().st_size > 10_000) == (12, True)


def test_a_second_pull_changes_no_file(person: Person, services: Services, tmp_path: Path) -> None:
    grant(services.ledger)
    job_id = person.submits()
    render_everything(services)
    person.types("results", "pull", job_id, "--to", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    person.types("results", "pull", job_id, "--to", tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_verify_turns_red_when_a_byte_changes(person: Person, services: Services, tmp_path: Path) -> None:
    grant(services.ledger)
    job_id = person.submits()
    render_everything(services)
    person.types("results", "pull", job_id, "--to", tmp_path / "out")
    path = tmp_path / "out" / "TS-RED-01.png"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    said = person.types("verify", tmp_path / "out", code=1)
    assert "failed   " + str(path) in said
    assert "11 of 12 pictures are verified" in said
    checked = person.reads("verify", path, code=1)
    assert [one["code"] for one in checked] == ["failed"]


def test_a_damaged_stored_picture_is_not_pulled_and_the_others_are(
    person: Person, services: Services, tmp_path: Path
) -> None:
    grant(services.ledger)
    job_id = person.submits()
    render_everything(services)
    row = next(job_items(services.ledger, job_id))
    assert row.picture_key is not None
    services.storage.put(row.picture_key, b"other bytes", if_absent=False)
    said = person.types("results", "pull", job_id, "--to", tmp_path / "out", code=1)
    assert f"SKU {row.sku}: its stored bytes are not those that were committed" in said
    assert not (tmp_path / "out" / f"{row.sku}.png").exists()
    assert len(list((tmp_path / "out").glob("*.png"))) == 11


def test_a_revoked_consent_stops_work_pull_and_verification_and_erases(
    person: Person, services: Services, tmp_path: Path
) -> None:
    grant(services.ledger)
    job_id = person.submits()
    render_everything(services)
    person.types("results", "pull", job_id, "--to", tmp_path / "out")
    (face,) = (services.storage.get(key) for key in services.storage.list("faces/"))
    said = person.types("consent", "revoke", "c1", "--yes")
    with pytest.raises(Refused, match="key destroyed"):
        unseal_face(services.vault, "c1", face)  # a copy of the sealed photo is noise from now on
    assert "12 pictures are purged" in said
    assert list(services.storage.list()) == ["tombstones/c1.json"]  # so that a restored backup is erased again
    assert "revoked" in person.types("results", "pull", job_id, "--to", tmp_path / "again", code=3)
    assert not (tmp_path / "again").exists()
    assert "0 of 12 pictures are verified" in person.types("verify", tmp_path / "out", code=3)
    assert "revoked" in person.types("submit", "--face", PERSON, "--skus", LIST, "--consent", "c1", code=3)
    assert person.types("watch", job_id, code=3)
    assert "撤回" in person.types("consent", "show", "c1")
    person.types("consent", "revoke", "c1", "--yes")


def test_pictures_of_an_expired_consent_stay_where_they_are(person: Person, services: Services, tmp_path: Path) -> None:
    grant(services.ledger)
    job_id = person.submits()
    render_everything(services)
    with services.ledger.transaction() as connection:
        connection.execute(update(consents).values(valid_until=datetime.now(UTC) - timedelta(seconds=1)))
    for words in (("results", "pull", job_id, "--to", tmp_path / "out"), ("gallery", job_id, "--out", tmp_path / "g")):
        assert "expired" in person.types(*words, code=3)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "g").exists()


def test_revoking_asks_first(person: Person, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    grant(services.ledger)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    person.types("consent", "revoke", "c1", code=130)
    assert person.reads("consent", "show", "c1")["consent"]["state"] == "granted"


def test_a_job_can_be_paused_resumed_and_cancelled(person: Person, services: Services) -> None:
    grant(services.ledger)
    job_id = person.submits()
    person.types("pause", job_id)
    assert render_everything(services) == 0
    assert "paused" in person.types("status", job_id)
    person.types("resume", job_id)
    assert "12 open items" in person.types("cancel", job_id)
    person.types("watch", job_id, code=1)


def test_ctrl_c_while_watching_leaves_the_job_and_says_how_to_come_back(
    person: Person, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    grant(services.ledger)
    job_id = person.submits()
    monkeypatch.setattr("producer.watch.time.sleep", interrupt)
    assert f"`face0 watch {job_id}` comes back to it" in person.types("watch", job_id, code=130)
    assert person.reads("status", job_id)["counts"]["waiting"] == 12


def test_a_shell_completes_the_ids_of_jobs_and_consents(
    person: Person, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(services.ledger)
    job_id = person.submits()
    monkeypatch.setenv("_FACE0_COMPLETE", "zsh_complete")
    for line, found in (("face0 watch job-", f"{job_id}\n0 of 12 done"), ("face0 consent show c", "c1\ngranted")):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        assert found in person.types()


def test_waiting_with_json_prints_one_object_and_progress_goes_to_stderr(
    settings: Settings, person: Person, services: Services, tmp_path: Path
) -> None:
    grant(services.ledger)
    words = ["submit", "--face", PERSON, "--skus", LIST, "--consent", "c1", "--wait", "--json"]
    command = [sys.executable, "-m", "producer.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list_jobs(services.ledger, 1) and process.poll() is None:
            time.sleep(0.05)
        render_everything(services)
        out, err = process.communicate(timeout=120)
    ended = json.loads(out)
    assert (process.returncode, ended["ended"], ended["counts"]["done"], ended["created"]) == (0, True, 12, True)
    assert "12 of 12 done" in err


def test_ctrl_c_in_a_real_terminal_session_leaves_the_job(
    settings: Settings, person: Person, services: Services
) -> None:
    grant(services.ledger)
    job_id = person.submits()
    command = [sys.executable, "-m", "producer.cli", "watch", job_id]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what runs in its background with Ctrl-C ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert "0 of 12 done" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip() == (
        f"The job goes on. `face0 watch {job_id}` comes back to it, `face0 cancel {job_id}` ends it."
    )


def test_failed_items_are_told_and_can_be_tried_again(person: Person, services: Services) -> None:
    grant(services.ledger)
    job_id = person.submits()
    render_everything(services, fail="TN-BLK-04")
    said = person.types("watch", job_id, code=1)
    assert "SKU TN-BLK-04: failed: it was asked to fail" in said
    assert f"face0 retry {job_id}" in said
    assert "1 failed items" in person.types("retry", job_id)
    render_everything(services)
    person.types("watch", job_id)


def test_a_wrong_list_enqueues_nothing(person: Person, services: Services, tmp_path: Path) -> None:
    grant(services.ledger)
    (tmp_path / "list.csv").write_text("sku,prompt\nA1,red\n,blue\n")
    words = ("submit", "--face", PERSON, "--skus", tmp_path / "list.csv", "--consent", "c1")
    assert "list.csv: 1 problem; nothing was enqueued\n  line 3, column sku" in person.types(*words, code=2)
    assert person.reads("status") == []


def test_an_unknown_job_or_consent_is_one_sentence(person: Person) -> None:
    for words in (("status", "j"), ("watch", "j"), ("cancel", "j"), ("gallery", "j"), ("consent", "show", "c")):
        assert person.types(*words, code=2).startswith("face0: no such")


def test_the_sign_of_a_list_of_nothing(person: Person, services: Services, tmp_path: Path) -> None:
    grant(services.ledger)
    job_id = person.submits()
    assert "still running" in person.types("results", "pull", job_id, "--to", tmp_path / "out")
    assert "no finished picture" in person.types("gallery", job_id, "--out", tmp_path / "g.html", code=2)


def test_doctor_says_what_is_wrong_and_how_to_mend_it(person: Person, services: Services) -> None:
    offer(services)
    found = person.reads("doctor", code=4)
    state = {check["part"]: check["ok"] for check in found["checks"]}
    # this home has no broker
    assert [part for part, ok in state.items() if not ok] == ["broker"]
    assert "face0 up" in person.types("doctor", code=4)


def test_doctor_notices_a_broker_that_evicts(
    person: Person, services: Services, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    url = broker_url.replace("redis+socket://", "unix://")
    monkeypatch.setenv("FACE0_BROKER_URL", url)
    offer(services)
    assert person.reads("doctor")["ok"]
    client = redis.Redis.from_url(url)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "set maxmemory-policy to noeviction" in person.types("doctor", code=4)
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_init_is_safe_to_repeat_and_never_replaces_a_key(person: Person, settings: Settings) -> None:
    keys = {path: path.read_bytes() for path in (settings.home / "keys").iterdir()}
    said = person.types("init")
    assert "made" not in said
    assert {path: path.read_bytes() for path in (settings.home / "keys").iterdir()} == keys
    for secret in ("keys/signing.pem", "vault/master.key"):
        assert (settings.home / secret).stat().st_mode & 0o077 == 0
