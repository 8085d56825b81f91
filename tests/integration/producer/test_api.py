"""The library: what docs/python_api.md shows runs as it stands, and refuses as the commands do."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from face0_worker.contract.consent import Purpose
from face0_worker.contract.errors import ConsentRefused
from face0_worker.settings import Settings
from producer.api import BadInput, Client, ItemState, ListOptions, Priority, RenderItem
from producer.demo import PERSON
from producer.services import Services
from tests.integration.producer.plain_worker import grant, render_everything

pytestmark = pytest.mark.services

PAGE = Path(__file__).parents[3] / "docs" / "python_api.md"
LIST = "sku,garment\nA1,赤い靴\nB2,a blue coat\n"


@pytest.fixture
def client(services: Services, settings: Settings) -> Iterator[Client]:
    with Client(home=settings.home, ledger_url=settings.ledger_url) as opened:
        yield opened


@pytest.fixture
def worker(services: Services) -> Iterator[None]:
    """A worker beside the test."""
    stop = threading.Event()

    def work() -> None:
        with Services(services.settings) as own:
            while not stop.wait(0.05):
                render_everything(own)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture
def list_file(tmp_path: Path) -> Path:
    (tmp_path / "list.csv").write_text(LIST, "utf-8")
    return tmp_path / "list.csv"


TEMPLATE = "a person wearing {garment}"


def test_the_page_runs_as_it_stands(
    services: Services,
    settings: Settings,
    worker: None,
    list_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FACE0_HOME", str(settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", str(settings.ledger_url))
    monkeypatch.chdir(tmp_path)
    grant(services.ledger, "consent-1a2b")
    (tmp_path / "photo.jpg").write_bytes(PERSON.read_bytes())
    (tmp_path / "words.csv").write_text("word,prompt\n赤い,red\n靴,shoes\n", "utf-8")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    assert "2 of 2 done; ended: True" in said
    assert "a portrait of a person wearing red shoes" in said
    assert said.endswith("\n2\n")
    assert {path.name for path in tmp_path.glob("*.png")} == {"A1.png", "B2.png"}
    assert (tmp_path / "A1.png").read_bytes().startswith(b"\x89PNG")


def test_the_library_imports_without_torch_and_without_the_command_line() -> None:
    code = "import sys, producer.api; print({'torch', 'click', 'diffusers', 'onnxruntime', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_refused_consent_is_told_before_list_and_photo_are_opened(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ConsentRefused) as raised:
        client.submit(tmp_path / "absent.csv", consent_id="nobody", face=tmp_path / "absent.jpg")
    assert raised.value.exit_code == 3


def test_a_list_with_one_wrong_line_makes_no_job(client: Client, services: Services, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("sku,garment\nA1,red\nB2,\n")
    with pytest.raises(BadInput, match="line 3, column garment"):
        client.submit(tmp_path / "list.csv", consent_id=grant(services.ledger), face=PERSON, template=TEMPLATE)
    assert client.jobs() == []


def test_the_same_idempotency_key_is_the_same_job(client: Client, services: Services, list_file: Path) -> None:
    consent_id = grant(services.ledger)
    first, again = (
        client.submit(
            list_file,
            consent_id=consent_id,
            face=[PERSON],
            template=TEMPLATE,
            purpose="catalogue",
            priority="nightly",
            idempotency_key="autumn",
        )
        for _ in range(2)
    )
    assert (first.created, again.created, first.job_id) == (True, False, again.job_id)
    assert client.status(first.job_id).priority is Priority.NIGHTLY
    assert [row.sku for row in client.rows(first.job_id, {ItemState.WAITING})] == ["A1", "B2"]
    assert list(client.rows(first.job_id, {ItemState.DONE})) == []
    with pytest.raises(BadInput, match="no such job"):
        list(client.rows("job-none"))


def test_waiting_ends_when_the_time_is_over(client: Client, services: Services, list_file: Path) -> None:
    job = client.submit(list_file, consent_id=grant(services.ledger), face=PERSON.read_bytes(), template=TEMPLATE)
    assert not client.wait(job.job_id, timeout_s=0).ended
    render_everything(services)
    assert client.wait(job.job_id).ended


def test_items_of_the_program_and_pictures_in_a_folder(client: Client, services: Services, tmp_path: Path) -> None:
    items = [
        RenderItem("A1", "red", width=64, height=64, steps=4),
        RenderItem("A2", "red", seed=1, width=64, height=64),
    ]
    job = client.submit(items, consent_id=grant(services.ledger), face=str(PERSON))
    render_everything(services)
    pulled = client.pull(job.job_id, tmp_path / "out")
    assert (len(pulled.files), pulled.problems) == (2, ())
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"A1.png", "A2.png"}


def test_a_damaged_picture_is_told_beside_the_others(client: Client, services: Services, list_file: Path) -> None:
    job = client.submit(list_file, consent_id=grant(services.ledger), face=PERSON, template=TEMPLATE)
    render_everything(services)
    (row, _) = client.rows(job.job_id)
    assert row.picture_key is not None
    services.storage.put(row.picture_key, b"other bytes", if_absent=False)
    first, second = client.results(job.job_id)
    assert (first.sku, first.picture) == ("A1", None)
    assert "not those that were committed" in str(first.problem)
    assert second.picture is not None


def test_wrong_words_are_told(client: Client, services: Services) -> None:
    consent_id = grant(services.ledger)
    with pytest.raises(BadInput, match="purpose 'fun' is not known; choose from catalogue"):
        client.submit([], consent_id=consent_id, purpose="fun")
    with pytest.raises(BadInput, match="purpose 'training' is not known"):
        client.submit([], consent_id=consent_id, purpose=Purpose.TRAINING)
    with pytest.raises(BadInput, match="priority 'soon' is not known; choose from urgent"):
        client.submit([], consent_id=consent_id, priority="soon")
    with pytest.raises(BadInput, match="these items are made already"):
        client.submit([], consent_id=consent_id, options=ListOptions())


def test_a_wrong_setting_is_told_when_the_client_is_made() -> None:
    with pytest.raises(BadInput, match="no setting 'leger_url'"):
        Client(leger_url="x")
