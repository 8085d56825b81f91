"""`face0 review` and --bars as people type them: a job with a rejected picture, looked at and decided."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as sample_photos
from sqlalchemy import select

from face0_worker.accept import Acceptor
from face0_worker.contract.errors import Face0Error
from face0_worker.contract.job import ItemState, RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.errands import Errand
from face0_worker.faces.skin import Lab
from face0_worker.office import Office
from face0_worker.queue.dispatch import dispatch
from face0_worker.records import consents, held, offers
from face0_worker.records.progress import job_items
from face0_worker.records.provenance import Signer
from face0_worker.records.tables import audit_outbox, enrolments, faces, held_faces, held_pictures, items
from face0_worker.settings import Settings
from face0_worker.tasks import RenderWorker
from producer import cli
from producer.demo import PERSON
from producer.services import Services, keys_folder
from tests.integration.producer.plain_worker import MODEL, grant
from tests.ledgers import Broker

pytestmark = pytest.mark.services

GATE: dict[str, Any] = {"identity": 0.2, "sharpness": 0.3, "skin_drift": 20.0, "pictures": 96, "share": 0.02}


@dataclass(frozen=True)
class Painted:
    """What a stand-in renderer says of one item."""

    pixels: np.ndarray | None
    verdict: Verdict | None
    error: Face0Error | None = None
    skin: Lab | None = None


def paint(asked: Sequence[tuple[RenderItem, np.ndarray]], on_step: Callable[[int, int], None]) -> list[Painted]:
    """Paint one colour a SKU; the SKU `blurred` is never sharp."""
    return [
        Painted(
            np.full((64, 64, 3), 90, np.uint8),
            Verdict(True, "ok", 1, 0.5, 0.5, 0.2, sharpness=0.1 if item.sku == "blurred" else 0.5),
        )
        for item, _ in asked
    ]


class Shop:
    """Somebody at a terminal, and a worker with a calibrated model."""

    def __init__(self, services: Services, capsys: pytest.CaptureFixture[str]) -> None:
        self.services, self._capsys, self.gate = services, capsys, GATE
        signer = Signer.open(keys_folder(services.settings))
        self.office = Office(services.ledger, services.storage, services.vault, signer, worker_id="w1", lease_s=60)
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

    def offer(self) -> None:
        """Offer the model with its bars; an offer lives for half a minute."""
        facts = {"size": 64, "steps": 4, "precision": "float32", "embedder_digest": self.services.pack.digest}
        offers.offer_model(self.services.ledger, "w1", MODEL, "plain", facts | {"gate": self.gate})

    def submit(self, folder: Path, *words: str | Path, name: str = "list.csv") -> str:
        """Submit two SKUs, `fine` and `blurred`, and return the job's id."""
        if consents.get(self.services.ledger, "c1") is None:
            grant(self.services.ledger)
        list_ = folder / name
        list_.write_text("sku,prompt\nfine,a portrait\nblurred,another portrait\n")
        told = self.reads("submit", "--face", PERSON, "--skus", list_, "--consent", "c1", *words)
        return str(told["job_id"])

    def render(self) -> None:
        """Render all that waits."""
        broker, worker = Broker(), RenderWorker(self.office, paint)
        while self._dispatch(broker):
            for attempt_id in broker.take():
                worker.run(attempt_id)
        worker.close()
        self._capsys.readouterr()  # the worker's log

    def _dispatch(self, broker: Broker) -> int:
        self.offer()
        return dispatch(self.services.ledger, broker.send, batch_size=8, window=2, queue_length=broker.length)

    def states(self, job_id: str) -> list[ItemState]:
        """The states of a job's items in the order of its list."""
        return [row.state for row in job_items(self.services.ledger, job_id)]


@pytest.fixture
def shop(
    services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    monkeypatch.setenv("FACE0_HOME", str(settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", settings.ledger_url)
    made = Shop(services, capsys)
    made.offer()
    return made


@pytest.fixture
def rejected(shop: Shop, tmp_path: Path) -> held.Held:
    """A picture that waits for a decision."""
    shop.submit(tmp_path)
    shop.render()
    (one,) = held.list_undecided(shop.services.ledger)
    return one


@pytest.fixture
def acceptor(shop: Shop) -> Iterator[None]:
    """A worker's machine that carries acceptances out."""
    office = shop.office
    round_ = Acceptor(office.ledger, office.storage, office.vault, office.signer).round
    with ExitStack() as stack:
        stack.enter_context(Errand("reviews", round_, pause_s=0.05))
        yield


def test_a_rejected_picture_is_listed_with_its_reason_and_the_job_says_what_it_cost(
    shop: Shop, rejected: held.Held
) -> None:
    (told,) = shop.reads("review", "list", "--job", rejected.job_id)
    assert (told["item_id"], told["sku"], told["decision"]) == (rejected.item_id, "blurred", "")
    assert told["reason"] == "its sharpness is 0.10, 0.30 needed"
    assert (told["verdict"]["sharpness"], told["verdict"]["tries"], told["bars"]["sharpness"]) == (0.1, 3, 0.3)
    assert "its sharpness is 0.10, 0.30 needed" in shop.types("review", "list")
    assert shop.reads("review", "list", "--job", "job-other") == []
    status = shop.types("status", rejected.job_id)
    assert "4.00 pictures were made for each accepted one" in status
    assert f"1 rejected: `face0 review list --job {rejected.job_id}`" in status
    assert shop.reads("status", rejected.job_id)["renders"] == 4


def test_show_writes_a_private_file_and_the_audit_log_says_who_looked(
    shop: Shop, rejected: held.Held, tmp_path: Path
) -> None:
    file = tmp_path / "look" / "one.png"
    said = shop.types("review", "show", str(rejected.item_id), "--to", file, "--by", "lead-1")
    assert f"face0 review accept {rejected.item_id}" in said
    assert Image.open(io.BytesIO(file.read_bytes())).size == (64, 64)
    assert file.stat().st_mode & 0o077 == 0
    assert "exists already" in shop.types("review", "show", str(rejected.item_id), "--to", file, code=2)
    with shop.services.ledger.transaction() as connection:
        query = select(audit_outbox.c.body).where(audit_outbox.c.kind == "review.shown")
        assert next(connection.execute(query).scalars())["by"] == "lead-1"


@pytest.mark.usefixtures("acceptor")
def test_an_accepted_picture_is_pulled_and_verified_and_says_who_accepted_it(
    shop: Shop, rejected: held.Held, tmp_path: Path
) -> None:
    said = shop.types("review", "accept", str(rejected.item_id), "--by", "lead-1", "--wait", "120")
    assert f"face0 results pull {rejected.job_id}" in said
    assert shop.states(rejected.job_id) == [ItemState.DONE, ItemState.DONE]
    shop.types("results", "pull", rejected.job_id, "--to", tmp_path / "pictures")
    sidecar = json.loads((tmp_path / "pictures" / "blurred.json").read_text())
    assert sidecar["verdict"]["accepted_by"] == "lead-1"
    assert (sidecar["verdict"]["reason"], sidecar["verdict"]["sharpness"]) == ("blurred", 0.1)
    assert "was accepted already" in shop.types("review", "reject", str(rejected.item_id), code=2)


def test_without_a_workers_machine_an_acceptance_waits_and_says_so(shop: Shop, rejected: held.Held) -> None:
    said = shop.types("review", "accept", str(rejected.item_id), "--wait", "0", code=4)
    assert "face0 up" in said
    assert shop.states(rejected.job_id) == [ItemState.DONE, ItemState.REJECTED]
    office = shop.office
    Acceptor(office.ledger, office.storage, office.vault, office.signer).round()
    assert shop.reads("review", "accept", str(rejected.item_id))["ended"]


def test_a_rejected_decision_erases_the_picture(shop: Shop, rejected: held.Held, tmp_path: Path) -> None:
    assert shop.reads("review", "reject", str(rejected.item_id), "--by", "lead-1")["decision"] == "rejected"
    assert list(shop.services.storage.list("held/")) == []
    assert "No picture waits" in shop.types("review", "list")
    gone = tmp_path / "gone.png"
    assert "was rejected" in shop.types("review", "show", str(rejected.item_id), "--to", gone, code=2)
    assert not gone.exists()
    assert shop.states(rejected.job_id) == [ItemState.DONE, ItemState.REJECTED]


def test_nothing_is_shown_or_accepted_without_a_consent(shop: Shop, rejected: held.Held, tmp_path: Path) -> None:
    consents.revoke(shop.services.ledger, "c1")
    file = tmp_path / "one.png"
    assert "revoked" in shop.types("review", "show", str(rejected.item_id), "--to", file, code=3)
    assert not file.exists()
    assert "revoked" in shop.types("review", "accept", str(rejected.item_id), code=3)


def test_a_revocation_leaves_nothing_of_held_photos_and_held_pictures(
    shop: Shop, rejected: held.Held, tmp_path: Path
) -> None:
    photo = tmp_path / "other.png"
    Image.fromarray(sample_photos.astronaut()).save(photo)
    shop.types("consent", "enrol", "c1", photo, code=3)
    storage, ledger = shop.services.storage, shop.services.ledger
    assert list(storage.list("held/"))
    assert len(list(storage.list("faces/"))) == 2
    shop.types("consent", "revoke", "c1", "--yes")
    assert [key for prefix in ("held/", "faces/", "pictures/", "receipts/") for key in storage.list(prefix)] == []
    assert shop.reads("review", "list") == []
    assert shop.reads("consent", "held", "list", "--all") == []
    with ledger.transaction() as connection:
        kept = [connection.execute(select(table)).all() for table in (faces, enrolments, held_faces, held_pictures)]
        errors = connection.execute(select(items.c.error).where(items.c.id == rejected.item_id)).scalars().all()
    assert kept == [[], [], [], []]
    assert errors == [None], "the sentence tells how the face was seen"
    shop.types("review", "show", str(rejected.item_id), "--to", tmp_path / "look.png", code=2)


def test_an_item_of_which_nothing_is_held_is_named_as_such(shop: Shop) -> None:
    for command in ("accept", "reject"):
        assert "face0 review list" in shop.types("review", command, "987654", code=2)


def test_bars_of_a_catalogue_stand_over_the_models_own(shop: Shop, tmp_path: Path) -> None:
    bars = tmp_path / "bars.yaml"
    bars.write_text("sharpness: off\nretries: 0\n")
    job_id = shop.submit(tmp_path, "--bars", bars)
    shop.render()
    assert shop.states(job_id) == [ItemState.DONE, ItemState.DONE]
    # the same list under the model's own bars: its pictures are kept, and judged by their numbers
    strict = shop.submit(tmp_path)
    assert shop.states(strict) == [ItemState.DONE, ItemState.REJECTED]


def test_the_setting_names_the_bars_of_every_job(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = tmp_path / "bars.yaml"
    bars.write_text("sharpness: 0.05\n")
    monkeypatch.setenv("FACE0_BARS", str(bars))
    job_id = shop.submit(tmp_path)
    shop.render()
    assert shop.states(job_id) == [ItemState.DONE, ItemState.DONE]


def test_a_model_that_was_not_calibrated_rejects_nobody(shop: Shop, tmp_path: Path) -> None:
    shop.gate = {}
    shop.offer()
    job_id = shop.submit(tmp_path)
    shop.render()
    assert shop.states(job_id) == [ItemState.DONE, ItemState.DONE]


def test_wrong_bars_are_refused_by_name(shop: Shop, tmp_path: Path) -> None:
    grant(shop.services.ledger)
    bars = tmp_path / "bars.yaml"
    (tmp_path / "list.csv").write_text("sku,prompt\nfine,a portrait\n")
    words = ("submit", "--face", PERSON, "--skus", tmp_path / "list.csv", "--consent", "c1", "--bars", bars)
    wrong = {
        "sharpnes: 0.5": "there is no bar 'sharpnes' (did you mean sharpness?)",
        "sharpness: very": "sharpness is 'very'; expected a number, model or off",
        "identity: 3": "identity is 3.0; a bar from -1 to 1 is possible, or off",
        "retries: many": "retries is 'many'; expected a whole number",
        "face: perhaps": "face is 'perhaps'; expected yes or no",
        "face: [yes]": "face is ['yes']; expected yes or no",
    }
    for text, said in wrong.items():
        bars.write_text(text)
        assert "bars.yaml: " + said in shop.types(*words, code=2)


def test_full_width_numbers_are_numbers(shop: Shop, tmp_path: Path) -> None:
    bars = tmp_path / "bars.yaml"
    bars.write_text("sharpness: ０.０５\nidentity: model\n", encoding="utf-8")
    job_id = shop.submit(tmp_path, "--bars", bars)
    shop.render()
    assert shop.states(job_id) == [ItemState.DONE, ItemState.DONE]
