"""The pilot command: people and products through the whole flow, a report to decide by, and nothing rendered twice."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from face0_worker.contract.consent import Purpose
from face0_worker.records.tables import commits
from face0_worker.settings import Settings
from producer import cli
from producer.consent import enrolment
from producer.demo import PERSON
from producer.services import Services
from tests.integration.producer.plain_worker import grant, render_everything
from tests.integration.producer.test_enrolment import somebody_else

pytestmark = pytest.mark.services

LIST = "sku,prompt\n" + "".join(f"p{number},a person wearing a red shirt {number}\n" for number in range(3))


@pytest.fixture(autouse=True)
def at_home(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands that are typed find this installation."""
    monkeypatch.setenv("FACE0_HOME", str(settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", settings.ledger_url)


@contextmanager
def worker(services: Services) -> Iterator[None]:
    """A plain worker in the background."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            render_everything(services)
            stop.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def made(services: Services) -> int:
    with services.ledger.transaction() as connection:
        return int(connection.execute(select(func.count()).select_from(commits)).scalar_one())


def test_a_pilot_goes_from_people_to_a_report_and_marks_are_judged_without_rendering_again(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACE0_HOUR_PRICE", "3.60 EUR")
    grant(services.ledger, "one", purpose=Purpose.INTERNAL_POC)
    grant(services.ledger, "two", purpose=Purpose.CATALOGUE)
    people = tmp_path / "people.toml"
    people.write_text(f'[aiko]\nconsent = "one"\nphoto = "{PERSON}"\n[ben]\nconsent = "two"\nphoto = "{PERSON}"\n')
    (tmp_path / "list.csv").write_text(LIST)
    out = tmp_path / "pilot"
    words = ["pilot", "--people", str(people), "--skus", str(tmp_path / "list.csv"), "--out", str(out)]
    with worker(services):
        code = cli.run(words)
    said, err = capsys.readouterr()
    assert code == 0, said + err
    assert "3 of 6 pictures, 3 verified, 3 refused" in said
    assert "3 without a picture: person refused: Consent two allows catalogue, not internal_poc" in said
    report = json.loads((out / "report.json").read_text())
    assert (report["items"], report["done"], report["refused"], report["verified"]) == (6, 3, 3, 3)
    measures = {one["name"]: one for one in report["pilot"]["measures"]}
    assert measures["acceptance"]["value"] == 1.0
    assert measures["acceptance"]["low"] < 0.5, "three pictures prove little"
    assert measures["cost"]["value"] is not None
    assert {one["measure"]: one["judgement"] for one in report["pilot"]["bars"]} == dict.fromkeys(
        ("acceptance", "likeness", "product"), "open"
    )
    page = (out / "report.html").read_text()
    assert all(picture["file"] in page for picture in report["pictures"])
    assert all((out / picture["file"]).is_file() for picture in report["pictures"])

    # somebody fills in the sheet
    lines = list(csv.DictReader((out / "marks.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert len(lines) == 3
    with (out / "marks.csv").open("w", encoding="utf-8", newline="") as file:
        sheet = csv.DictWriter(file, lines[0].keys())
        sheet.writeheader()
        for line in lines:
            sheet.writerow({**line, "likeness": "0", "product": "1"})
    before = made(services)
    with worker(services):
        code = cli.run([*words, "--bar", "likeness=0.9"])
    said = capsys.readouterr().out
    assert code == 1, said
    assert "bar likeness at least 0.9: failed" in said
    assert "product: 1 [" in said
    assert made(services) == before, "something was rendered twice"
    kept = (out / "marks.csv").read_text(encoding="utf-8-sig")
    assert kept.count(",0,1") == 3, "the marks were lost"


def test_a_person_whose_photo_is_held_is_counted_and_the_pilot_goes_on(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grant(services.ledger, "one", purpose=Purpose.INTERNAL_POC)
    enrolment.enrol_photo(services, "one", enrolment.look(services, somebody_else()), by="")
    (tmp_path / "people.toml").write_text(f'[aiko]\nconsent = "one"\nphoto = "{PERSON}"\n')
    (tmp_path / "list.csv").write_text(LIST)
    words = ["pilot", "--people", str(tmp_path / "people.toml"), "--skus", str(tmp_path / "list.csv")]
    cli.run([*words, "--out", str(tmp_path / "pilot"), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["items"], report["done"], report["refused"]) == (3, 0, 3)


def test_without_people_the_pilot_uses_some_who_do_not_exist(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(services):
        code = cli.run(["pilot", "--characters", "2", "--out", str(tmp_path / "pilot"), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (report["items"], report["done"], report["pilot"]["people"]) == (40, 40, 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--bar", "beauty=1"), "there is no measure 'beauty'"),
        (("--bar", "acceptance=high"), "--bar acceptance=0.9"),
        (("--skus", "nowhere.csv"), "nowhere.csv"),
        (("--marks", "nowhere.csv", "--characters", "1"), "nowhere.csv"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_rendered(
    services: Services, tmp_path: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["pilot", *words, "--out", str(tmp_path / "pilot")]) == 2
    assert says in capsys.readouterr().err
    assert made(services) == 0
