"""`face0 results links`: who gets a link, what it gives, and when it ends."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.records import deliveries
from face0_worker.records.ledger import Ledger
from face0_worker.records.progress import job_items
from face0_worker.records.tables import consents
from face0_worker.settings import Settings
from producer import cli
from producer.delivery.links import Link, link_seconds, links
from producer.demo import LIST, PERSON
from producer.init import init
from producer.services import Services
from tests.integration.producer.plain_worker import grant, offer, render_everything
from tests.object_servers import Become

pytestmark = pytest.mark.services

Types = Callable[..., tuple[str, str]]


@pytest.fixture(params=["ministack", "ceph"])
def shop(
    request: pytest.FixtureRequest, as_owner: Become, tmp_path: Path, ledger_url: str, ledger: Ledger
) -> Iterator[Services]:
    """An installation whose pictures lie in a bucket."""
    found = request.getfixturevalue(request.param)
    server = as_owner(found if request.param == "ministack" else found.http)
    settings = Settings(
        home=tmp_path / "home", ledger_url=ledger_url, storage=f"s3://{server.bucket()}/shop", s3_endpoint=server.url
    )
    for _ in init(settings):
        pass
    with Services(settings) as opened:
        offer(opened)
        yield opened


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Types:
    """Run a command in an installation; return what it said on stdout and stderr."""

    def run(services: Services, *words: str, code: int = 0) -> tuple[str, str]:
        settings = services.settings
        monkeypatch.setenv("FACE0_HOME", str(settings.home))
        for name in ("ledger_url", "storage", "s3_endpoint"):
            monkeypatch.setenv(f"FACE0_{name.upper()}", getattr(settings, name))
        capsys.readouterr()
        ended = cli.run(list(words))
        out, err = capsys.readouterr()
        assert ended == code, out + err
        return out, err

    return run


def submitted(services: Services, types: Types) -> str:
    grant(services.ledger)
    given = ["--face", str(PERSON), "--skus", str(LIST), "--consent", "c1"]
    return str(json.loads(types(services, "submit", *given, "--json")[0])["job_id"])


def fetched(url: str) -> tuple[int, bytes]:
    """Fetch a link as somebody without credentials; return status and body."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    command = [curl, "-sS", "--max-time", "30", "-w", "%{stderr}%{http_code}", url]
    ran = subprocess.run(command, capture_output=True, check=True)
    return int(ran.stderr), ran.stdout


def test_each_finished_picture_gets_a_link_until_the_consent_is_withdrawn(shop: Services, types: Types) -> None:
    job_id = submitted(shop, types)
    render_everything(shop, fail="TS-RED-01")
    said: dict[str, Any] = json.loads(types(shop, "results", "links", job_id, "--expires", "2h", "--json")[0])
    assert (said["job"], said["problems"], len(said["links"])) == (job_id, [], 11)
    for one in said["links"]:
        status, body = fetched(one["url"])
        assert (status, hashlib.sha256(body).hexdigest()) == (200, one["sha256"])
        assert datetime.fromisoformat(one["expires_at"]) <= datetime.now(UTC) + timedelta(hours=2)
    assert "TS-RED-01" not in {one["sku"] for one in said["links"]}
    lines = types(shop, "results", "links", job_id)[0].splitlines()
    assert len(lines) == 11
    assert all(line.split("\t")[1].startswith(shop.settings.s3_endpoint) for line in lines)

    types(shop, "consent", "revoke", "c1", "--yes")
    assert {fetched(one["url"])[0] for one in said["links"]} == {404}
    assert types(shop, "results", "links", job_id, code=3)[0] == ""


@pytest.mark.parametrize("shop", ["ministack"], indirect=True)
def test_no_link_outlives_the_consent(shop: Services, types: Types) -> None:
    job_id = submitted(shop, types)
    render_everything(shop)
    ends = datetime.now(UTC) + timedelta(minutes=10)
    with shop.ledger.transaction() as connection:
        connection.execute(update(consents).values(valid_until=ends))
    given = [link for _, link in links(shop, job_id, link_seconds("7d")) if isinstance(link, Link)]
    assert len(given) == 12
    assert all(link.expires_at <= ends for link in given)
    (until,) = {copy.destination for copy in deliveries.takedown(shop.ledger, "c1")}
    assert until == f"link until {ends:%Y-%m-%d %H:%M:%S} UTC"
    assert all("X-Amz-Expires=59" in link.url or "X-Amz-Expires=60" in link.url for link in given)
    with shop.ledger.transaction() as connection:
        connection.execute(update(consents).values(valid_until=datetime.now(UTC) - timedelta(minutes=1)))
    with pytest.raises(ConsentRefused):
        list(links(shop, job_id, 60))


@pytest.mark.parametrize("shop", ["ministack"], indirect=True)
def test_a_picture_that_is_not_there_is_told_and_the_others_get_their_links(shop: Services, types: Types) -> None:
    job_id = submitted(shop, types)
    render_everything(shop)
    row = next(job_items(shop.ledger, job_id))
    assert row.picture_key is not None
    shop.storage.delete(row.picture_key)
    out, err = types(shop, "results", "links", job_id, code=1)
    assert len(out.splitlines()) == 11
    assert f"SKU {row.sku}: its picture is not in the storage" in err


def test_a_local_folder_says_that_links_need_s3(services: Services, types: Types) -> None:
    job_id = submitted(services, types)
    render_everything(services)
    out, err = types(services, "results", "links", job_id, code=2)
    assert out == ""
    assert "links need S3 storage" in err


@pytest.mark.parametrize(("text", "seconds"), [("7d", 604800), ("12h", 43200), (" 30M ", 1800), ("90s", 90)])
def test_how_long_a_link_lives_is_said_in_days_hours_minutes_or_seconds(text: str, seconds: int) -> None:
    assert link_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "8d", "0h", "-1h", "1w", "1.5h", "169h", "٣d"])
def test_a_time_that_no_link_can_live_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match=r"--expires .* at most 7d"):
        link_seconds(text)
