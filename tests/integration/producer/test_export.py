"""Pull, export and zip: what comes out is what was committed, by readable names, and nothing is done twice."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import update

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.derivation import FileFormat, Form
from face0_worker.contract.errors import BadInput, ConsentRefused, ServiceDown
from face0_worker.contract.job import RenderItem
from face0_worker.derive import Deriver
from face0_worker.errands import Errand
from face0_worker.records import consents, deliveries, webhooks
from face0_worker.records.catalogue_pointer import Entry
from face0_worker.records.catalogues import Draft, publish
from face0_worker.records.deliveries import Channel
from face0_worker.records.progress import job_items
from face0_worker.records.provenance import Signer, read_reference
from face0_worker.records.storage import StorageMissing
from face0_worker.records.tables import commits
from face0_worker.records.webhook_keys import Keys
from producer import cli
from producer.check import check_files
from producer.delivery.derived import Patience
from producer.delivery.export import export
from producer.delivery.fetching import Exit, Request
from producer.delivery.places import Folder, archive
from producer.delivery.selection import of_catalogue, of_job
from producer.results import bring
from producer.services import Services, keys_folder
from tests import ledgers
from tests.integration.producer.plain_worker import MODEL, grant, render_everything

pytestmark = pytest.mark.services

ITEMS = (
    RenderItem("A1", "a red shirt", variant="beach", seed=1, width=96, height=64),
    RenderItem("A1", "a red shirt", seed=2),
    RenderItem("赤い/靴", "red shoes", seed=3),
)
NAMES = ["A1-beach", "A1", "赤い_靴"]


@pytest.fixture
def job_id(services: Services) -> str:
    """A job of three finished pictures."""
    return made(services, ITEMS)


def made(services: Services, items: tuple[RenderItem, ...], consent_id: str = "c1") -> str:
    if consents.get(services.ledger, consent_id) is None:
        grant(services.ledger, consent_id)
    job_id = ledgers.submit(services.ledger, items, consent_id=consent_id, model=MODEL)
    render_everything(services)
    return job_id


def way(place: str = "/shop", channel: Channel = Channel.EXPORT) -> Exit:
    return Exit("export", channel, place)


def deriver(services: Services) -> Deriver:
    return Deriver(services.ledger, services.storage, Signer.open(keys_folder(services.settings)))


def derived(services: Services, job_id: str, form: Form) -> Request:
    """Return a request whose waiting lets a worker make one picture."""
    worker = deriver(services)

    def pause() -> None:
        worker.round()

    return Request(of_job(services, job_id), way(), form, Patience(pause=pause))


def fetched_keys(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with every picture that is read from storage."""
    seen: list[str] = []
    get = services.storage.get

    def watching(key: str) -> bytes:
        seen.append(key)
        return get(key)

    monkeypatch.setattr(services.storage, "get", watching)
    return seen


def test_what_is_there_and_right_is_not_fetched_again_and_what_is_wrong_is(
    services: Services, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, folder = Request(of_job(services, job_id), way()), Folder(tmp_path / "out")
    assert [copy.name for copy in bring(services, request, folder).copies] == [f"{name}.png" for name in NAMES]
    seen = fetched_keys(services, monkeypatch)
    assert [copy.size for copy in bring(services, request, folder).copies] == [None, None, None]
    assert seen == []
    (tmp_path / "out" / "A1.png").write_bytes(b"cut of")
    (tmp_path / "out" / "A1-beach.json").unlink()
    again = bring(services, request, folder)
    assert [copy.size is not None for copy in again.copies] == [False, True, False]
    assert len(seen) == 1
    assert all(one.ok for one in check_files(services, [tmp_path / "out"]))
    assert json.loads((tmp_path / "out" / "A1-beach.json").read_text())["variant"] == "beach"


def test_only_what_is_newer_than_a_time_or_than_another_job(services: Services, job_id: str) -> None:
    whole = of_job(services, job_id)
    with services.ledger.transaction() as connection:
        old = update(commits).where(commits.c.item_key == whole.wanted[0].item_key)
        connection.execute(old.values(committed_at=datetime.now(UTC) - timedelta(days=2)))
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert [one.name for one in whole.newer(services, yesterday).wanted] == NAMES[1:]
    assert whole.newer(services, "2999-01-01").wanted == ()
    changed = (*ITEMS[:2], RenderItem("赤い/靴", "blue shoes", seed=3))
    tonight = of_job(services, made(services, changed))
    assert [one.name for one in tonight.newer(services, job_id).wanted] == ["赤い_靴"]
    with pytest.raises(BadInput, match=r"neither a time, as in .* nor a known job"):
        whole.newer(services, "yesterday")


def test_every_copy_is_noted_before_it_leaves_and_only_once(services: Services, job_id: str, tmp_path: Path) -> None:
    class Witness(Folder):
        def put(self, name: str, data: bytes) -> None:
            noted.append(len(list(deliveries.takedown(services.ledger, "c1"))))
            super().put(name, data)

    noted: list[int] = []
    for _ in range(2):
        bring(services, Request(of_job(services, job_id), way(str(tmp_path))), Witness(tmp_path))
    assert min(noted) == 3
    copies = list(deliveries.takedown(services.ledger, "c1"))
    assert {(one.job_id, one.channel, one.destination) for one in copies} == {(job_id, "export", str(tmp_path))}
    assert len(copies) == 3


def test_a_withdrawal_in_the_middle_stops_the_rest(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.delivery.fetching._CONSENT_AGAIN", 2)
    job_id = made(services, ITEMS)
    brought: list[str] = []

    def withdraw(name: str) -> None:
        brought.append(name)
        consents.revoke(services.ledger, "c1")

    with pytest.raises(ConsentRefused):
        bring(services, Request(of_job(services, job_id), way()), Folder(tmp_path), withdraw)
    assert len(list(deliveries.takedown(services.ledger, "c1"))) == 2
    assert not (tmp_path / "赤い_靴.png").exists()


def test_a_zip_made_again_is_the_same_and_holds_what_was_committed(
    services: Services, job_id: str, tmp_path: Path
) -> None:
    for name in ("a.zip", "b.zip"):
        with archive(tmp_path / name) as place:
            export(services, Request(of_job(services, job_id), way(channel=Channel.ZIP)), place)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        assert opened.testzip() is None
        listed = [f"{name}.{ending}" for name in NAMES for ending in ("png", "json")]
        assert opened.namelist() == [*listed, "index.json"]
        index = json.loads(opened.read("index.json"))
        for entry in index["pictures"]:
            assert hashlib.sha256(opened.read(entry["file"])).hexdigest() == entry["sha256"]
    assert (index["job"], index["count"], index["missing"]) == (job_id, 3, 0)


def test_a_published_catalogue_comes_out_whole_and_without_whom_its_consent_no_longer_allows(
    services: Services, job_id: str, tmp_path: Path
) -> None:
    others = made(services, ITEMS[:1], consent_id="c2")
    rows = [(one, row) for one in (job_id, others) for row in job_items(services.ledger, one)]
    entries = tuple(
        Entry(row.sku, f"{row.variant}{number}", "c1" if job == job_id else "c2", row.item_key, "a key", sha256)
        for number, (job, row) in enumerate(rows)
        if (sha256 := row.picture_sha256)
    )
    signer = Signer.open(keys_folder(services.settings))
    keys = Keys.open(keys_folder(services.settings), create=True)
    webhooks.add(services.ledger, keys, "https://shop.example/", ["catalogue.published"], ())
    publish(services.ledger, services.storage, signer, Draft("autumn", "run1", Use(Purpose.CATALOGUE), entries))
    assert [one.kind for one in webhooks.deliveries(services.ledger)] == ["catalogue.published"]
    selection = of_catalogue(services, "autumn", "{catalogue}/{sku}-{variant}")
    whole = bring(services, Request(selection, way()), Folder(tmp_path / "out"))
    names = ["A1-beach0", "A1-1", "赤い_靴-2", "A1-beach3"]
    assert [copy.name for copy in whole.copies] == [f"autumn/{name}.png" for name in names]
    assert {one.job_id for one in deliveries.takedown(services.ledger, "c2")} == {others}
    consents.revoke(services.ledger, "c2")
    left = bring(services, Request(selection, way()), Folder(tmp_path / "later"))
    assert [copy.name for copy in left.copies] == [f"autumn/{name}.png" for name in names[:3]]
    assert len(left.problems) == 1
    assert "SKU A1: Consent c2 was revoked" in left.problems[0]


def test_a_zip_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    def break_off() -> None:
        with archive(tmp_path / "out" / "a.zip") as place:
            place.put("one.png", b"data")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("file_format", [FileFormat.JPEG, FileFormat.WEBP, FileFormat.PNG])
def test_another_form_is_made_signed_and_verified_with_its_parent_named(
    services: Services, job_id: str, tmp_path: Path, file_format: FileFormat
) -> None:
    request = derived(services, job_id, Form(file_format, width=48))
    brought = export(services, request, Folder(tmp_path / "out"))
    assert [copy.name for copy in brought.copies] == [f"{name}.{file_format.ending}" for name in NAMES]
    with Image.open(tmp_path / "out" / brought.copies[0].name) as opened:
        assert (opened.format, opened.size) == (file_format.upper(), (48, 32))
    parents = [row.picture_sha256 for row in job_items(services.ledger, job_id)]
    render_everything(services)  # publishes the receipts
    checked = list(check_files(services, [tmp_path / "out"]))
    assert [one.code for one in checked] == ["ok"] * 3
    assert {one.verified.receipt.parent_sha256 for one in checked if one.verified} == set(parents)
    assert all("made from picture" in one.sentence for one in checked)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [entry["parent_sha256"] for entry in index["pictures"]] == parents
    assert {entry["content_type"] for entry in index["pictures"]} == {f"image/{file_format}"}
    data = (tmp_path / "out" / brought.copies[0].name).read_bytes()
    assert read_reference(data) == brought.copies[0].picture.receipt.item_key


def test_what_was_made_in_another_form_is_not_made_again(services: Services, job_id: str, tmp_path: Path) -> None:
    form = Form(FileFormat.JPEG)
    first = export(services, derived(services, job_id, form), Folder(tmp_path / "a"))
    idle = Request(of_job(services, job_id), way(), form, Patience(pause=lambda: pytest.fail("nothing to wait for")))
    second = export(services, idle, Folder(tmp_path / "b"))
    assert [copy.picture for copy in first.copies] == [copy.picture for copy in second.copies]
    assert (tmp_path / "a" / "index.json").read_bytes() == (tmp_path / "b" / "index.json").read_bytes()


def test_a_picture_that_fits_in_no_quality_is_told_and_asked_for_again_next_time(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = made(services, (RenderItem("big", "noise", seed=1, width=512, height=512),))
    noise = Image.effect_noise((512, 512), 120).convert("RGB")
    out = io.BytesIO()
    noise.save(out, "PNG")
    request = derived(services, job_id, Form(FileFormat.JPEG, max_bytes=8000))
    with monkeypatch.context() as patch:
        patch.setattr("face0_worker.derive._stored", lambda storage, parent: out.getvalue())
        (problem,) = bring(services, request, Folder(tmp_path / "out")).problems
    assert problem.startswith("SKU big: as jpeg of quality 30 it has ")
    assert not (tmp_path / "out" / "big.jpg").exists()
    assert bring(services, request, Folder(tmp_path / "out")).problems == ()
    assert (tmp_path / "out" / "big.jpg").stat().st_size <= 8000


def test_without_a_worker_an_export_says_so_and_keeps_what_is_made(
    services: Services, job_id: str, tmp_path: Path
) -> None:
    ticks = iter(range(0, 1000, 30))
    patience = Patience(silence_s=60, pause=lambda: None, clock=lambda: float(next(ticks)))
    request = Request(of_job(services, job_id), way(), Form(FileFormat.JPEG), patience)
    with pytest.raises(ServiceDown, match=r"no worker has made a picture .* `face0 up`"):
        bring(services, request, Folder(tmp_path / "out"))


def test_pictures_in_another_form_are_erased_with_their_person(
    services: Services, job_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export(services, derived(services, job_id, Form(FileFormat.WEBP)), Folder(tmp_path / "out"))
    render_everything(services)
    keys = [key for key in services.storage.list("pictures/") if key.endswith(".webp")]
    assert len(keys) == 3
    monkeypatch.setenv("FACE0_HOME", str(services.settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", services.settings.ledger_url)
    services.vault.new_key("c1")
    assert cli.run(["consent", "revoke", "c1", "--yes"]) == 0
    for key in keys:
        with pytest.raises(StorageMissing):
            services.storage.get(key)
    assert [one.code for one in check_files(services, [tmp_path / "out"])] == ["refused"] * 3


def test_export_on_the_command_line(
    services: Services, job_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACE0_HOME", str(services.settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", services.settings.ledger_url)
    words = ["results", "export", job_id, "--to", str(tmp_path / "out"), "--format", "jpeg", "--quality", "80"]
    with Errand("derivations", deriver(services).round, pause_s=0.05):
        assert cli.run([*words, "--max-bytes", "20k", "--name", "{position:02}/{sku}"]) == 0
    out = capsys.readouterr().out
    assert f"3 of 3 pictures are in {tmp_path / 'out'}; 3 came now" in out
    assert "index.json names them" in out
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.jpg")} == {
        "01/A1.jpg",
        "02/A1.jpg",
        "03/赤い_靴.jpg",
    }


WRONG = (
    (["--to", "x"], "name a JOB or a --catalogue"),
    (["JOB"], "say where to with --to or --zip"),
    (["JOB", "--to", "x", "--quality", "80"], "--quality is for jpeg and webp"),
    (["JOB", "--to", "x", "--max-bytes", "many"], "--max-bytes many: expected"),
    (["JOB", "--to", "s3://No"], "expected a folder, s3://bucket or s3://bucket/prefix"),
    (["JOB", "--to", "x", "--name", "{prompt}"], "--name: {prompt} is not known"),
    (["--catalogue", "none", "--to", "x"], "nothing is published under the catalogue none"),
)


def test_a_wrong_export_is_one_sentence(
    services: Services, job_id: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACE0_HOME", str(services.settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", services.settings.ledger_url)
    assert cli.run(["results", "pull", job_id, "--to", "s3://bucket/prefix"]) == 2
    assert "`face0 results export` writes to a bucket" in capsys.readouterr().err
    for words, said in WRONG:
        assert cli.run(["results", "export", *(job_id if word == "JOB" else word for word in words)]) == 2
        assert said in capsys.readouterr().err
