"""`face0 nightly ...` as people type it, while a worker renders plain pictures beside it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from face0_worker.records import consents
from face0_worker.settings import Settings
from producer import cli
from producer.demo import PERSON
from producer.services import Services
from tests.integration.producer.plain_worker import grant, render_everything

pytestmark = pytest.mark.services


class Typist:
    """Somebody at a terminal, in a folder of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        capsys.readouterr()

    def types(self, *words: str | Path, code: int = 0) -> str:
        """Run `face0 nightly ...`, which must end with `code`; return what it said."""
        ended = cli.run(["nightly", *map(str, words)])
        out, err = self._capsys.readouterr()
        assert ended == code, out + err
        assert "Traceback" not in err
        return out + err

    def reads(self, *words: str | Path, code: int = 0) -> Any:
        """Run it with --json; return what stdout was."""
        ended = cli.run(["nightly", *map(str, words), "--json"])
        out, err = self._capsys.readouterr()
        assert ended == code, out + err
        return json.loads(out)


@pytest.fixture
def typist(
    services: Services,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Typist]:
    monkeypatch.setenv("FACE0_HOME", str(settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", settings.ledger_url)
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    grant(services.ledger, "c1")
    ended = threading.Event()

    def work() -> None:
        with Services(settings) as worker:
            while not ended.wait(0.05):
                render_everything(worker)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield Typist(capsys)
    finally:
        ended.set()
        thread.join()


def write_list(name: str, *lines: str, columns: str = "sku,garment") -> Path:
    """Write a list into the folder that the person is in."""
    path = Path(name)
    path.write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return path


RUN = ("run", "--catalogue", "autumn", "--template", "a person wearing {garment}")
ONE = ("--consent", "c1", "--face", PERSON)


def test_two_nights_from_the_list_to_the_verified_catalogue(typist: Typist) -> None:
    skus = write_list("list.csv", "A1,a red shirt", "A2,a blue shirt")
    said = typist.types(*RUN, *ONE, skus, "--dry-run")
    assert "2 added, 0 changed, 0 kept, 0 removed; 2 of 2 pictures would be rendered" in said
    assert "catalogue yet" in typist.types("status")
    said = typist.types(*RUN, *ONE, skus)
    assert "autumn: 2 added, 0 changed, 0 kept, 0 removed" in said
    assert "catalogues/autumn/latest.json shows 2 pictures" in said
    write_list("list.csv", "A1,a red shirt", "A3,a green shirt")
    told = typist.reads(*RUN, *ONE, skus)
    assert (told["added"], told["kept"], told["removed"], told["rendered"]) == (1, 1, 1, 1)
    report = json.loads(Path("out/report.json").read_text())
    assert report == told
    assert {"items", "done", "failed", "refused", "kept", "verified", "wall_s", "pictures"} <= report.keys()
    assert [picture["sku"] for picture in report["pictures"]] == ["A1", "A3"]
    assert "Nothing changed" in typist.types(*RUN, *ONE, skus)
    assert "2 of 2 pictures of autumn are verified" in typist.types("verify", "autumn")
    assert [row["run"]["state"] for row in typist.reads("status", "autumn")] == ["unchanged"]
    assert [row["state"] for row in typist.reads("history")] == ["unchanged", "published", "published"]
    assert "published" in typist.types("history", "autumn")
    assert "shows 2 pictures" in typist.types("rollback", "autumn")
    assert typist.reads("verify", "autumn")["verified"] == 2


def test_verify_tells_a_missing_picture_and_a_refused_one(typist: Typist, services: Services) -> None:
    skus = write_list("list.csv", "A1,a red shirt", "A2,a blue shirt")
    told = typist.reads(*RUN, *ONE, skus)
    services.storage.delete(told["pictures"][0]["file"])
    assert "SKU A1: its picture is missing from storage" in typist.types("verify", "autumn", code=1)
    consents.revoke(services.ledger, "c1")
    said = typist.types("verify", "autumn", code=1)
    assert "0 of 2 pictures" in said


def test_many_people_by_the_lists_column_and_by_their_own_lists(typist: Typist, services: Services) -> None:
    grant(services.ledger, "c2")
    both = write_list("both.csv", "A1,a red shirt,aiko", "B1,a red shirt,ben", columns="sku,garment,person")
    write_list("ben.csv", "B2,a blue shirt")
    people = Path("people.toml")
    photo = f'photo = "{PERSON}"'
    people.write_text(f'[ben]\nconsent = "c2"\n{photo}\nlists = ["ben.csv"]\n[aiko]\nconsent = "c1"\n{photo}\n')
    told = typist.reads(*RUN, "--people", people, both)
    assert [picture["sku"] for picture in told["pictures"]] == ["B1", "B2", "A1"]
    assert [picture["file"].split("/")[1] for picture in told["pictures"]] == ["c2", "c2", "c1"]
    assert len(told["jobs"]) == 2
    consents.revoke(services.ledger, "c2")
    told = typist.reads(*RUN, "--people", people, both, code=3)
    assert ([picture["sku"] for picture in told["pictures"]], told["refused"]) == (["A1"], 2)
    keys = " ".join(services.storage.list("catalogues/"))
    assert "aiko" not in keys


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("list.csv",), "--consent ID or --people FILE"),
        (("both.csv", "--consent", "c1"), "has a column person"),
        (("--people", "people.toml", "list.csv"), "has no column person"),
        (("--people", "people.toml", "strange.csv"), "line 2, column person: is nobody of the people file"),
        (("--people", "people.toml", "--consent", "c1", "both.csv"), "leave --consent"),
        (("--people", "twice.toml", "both.csv"), "persons 1 and 2 have the same consent"),
        (("list.csv", "--consent", "c1", "--until", "6 Uhr"), "is not a time of day"),
        (("list.csv", "--consent", "c1", "--catalogue", "秋"), "letters, digits"),
    ],
)
def test_wrong_words_end_with_one_sentence_and_nothing_is_begun(
    typist: Typist, words: tuple[str, ...], sentence: str
) -> None:
    write_list("list.csv", "A1,a red shirt")
    write_list("both.csv", "A1,a red shirt,aiko", columns="sku,garment,person")
    write_list("strange.csv", "A1,a red shirt,carl", columns="sku,garment,person")
    Path("people.toml").write_text('[aiko]\nconsent = "c1"\n')
    Path("twice.toml").write_text('[aiko]\nconsent = "c1"\n[ben]\nconsent = "c1"\n')
    said = typist.types(*RUN, *words, code=2)
    assert sentence in said
    assert typist.reads("history") == []


def test_a_revoked_consent_ends_a_night_with_three(typist: Typist, services: Services) -> None:
    consents.revoke(services.ledger, "c1")
    skus = write_list("list.csv", "A1,a red shirt")
    assert "was revoked" in typist.types(*RUN, *ONE, skus, code=3)
