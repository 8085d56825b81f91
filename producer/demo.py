"""`face0 demo`: the whole line on this machine, from photo and list to pictures with proof; nothing stays behind."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.consent_terms import AgeBand, Terms
from face0_worker.contract.errors import BadInput, VerificationFailed
from face0_worker.contract.job import ItemState
from face0_worker.records import consents
from face0_worker.records.commits import pending_receipts
from face0_worker.records.progress import JobStatus
from face0_worker.settings import load_settings
from producer import stack
from producer.catalogue import ItemDefaults, read_captions, read_items
from producer.check import check_files
from producer.delivery.gallery import card, write_gallery
from producer.delivery.sheet import Tile, contact_sheet
from producer.init import init
from producer.results import Pulled, pull, report
from producer.services import Services
from producer.show import console, local, say
from producer.submit import submit
from producer.watch import follow, outcome, why_not_done

SAMPLES = Path(__file__).with_name("samples")
PERSON = SAMPLES / "person.png"
LIST = SAMPLES / "catalogue.csv"
TITLE = "face0 demo: サンプルカタログ"
_PUBLISH_S = 15.0


def run_demo(out: Path) -> int:
    """Run the demo and return its exit code; whatever happens, its services end and its home folder is removed.

    Writes pictures/, contact_sheet.png, gallery.html and report.json to `out`.
    """
    begun = time.monotonic()
    _make_room(out)
    with _ended_by_sigterm(), _fresh_home() as home:
        # given by name, so that no variable or config file points the demo at a real installation
        settings = load_settings(None, home=home, broker_url="", ledger_url="", storage="", s3_endpoint="")
        try:
            say("1/5  Preparing keys, face pack, broker and ledger in a fresh folder")
            for _ in init(settings):
                pass
            say("2/5  Starting the services and a worker")
            stack.up(settings, lambda line: say(f"     {line}"))
            with Services(settings) as services:
                return _job(services, out, begun)
        finally:
            with _undisturbed():
                stack.down(settings, lambda _: None)


def _job(services: Services, out: Path, begun: float) -> int:
    consent_id = _grant(services)
    say(f"3/5  Consent {consent_id} granted; submitting {LIST.name} with the photo of a person who does not exist")
    from face0_worker.records.offers import find_model

    defaults = ItemDefaults.of_model(find_model(services.ledger, None).facts)
    items = read_items(LIST, defaults=defaults)
    job_id = submit(services, face=PERSON, items=items, consent_id=consent_id, catalogue="demo").job_id
    status = follow(services.ledger, job_id, console())
    for problem in why_not_done(services.ledger, status):
        say(f"     {problem}")
    say("4/5  Pulling and verifying the pictures")
    _wait_for_receipts(services)
    pulled = pull(services, job_id, out / "pictures")
    checked = list(check_files(services, [path for _, path in pulled.files])) if pulled.files else []
    say("5/5  Writing the contact sheet, the gallery and the report")
    _write_pages(pulled, out)
    verified = sum(one.ok for one in checked)
    wall_s = time.monotonic() - begun
    about = report(pulled, verified=verified, wall_s=wall_s, root=out)
    (out / "report.json").write_text(json.dumps(about, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for one in checked:
        if not one.ok:
            say(f"     {one.file.name}: {one.sentence}")
    _tell(status, out, verified, wall_s)
    if pulled.problems or verified != len(pulled.files):
        raise VerificationFailed("; ".join(pulled.problems) or "a picture did not verify; see above")
    return outcome(services.ledger, status)


def _grant(services: Services) -> str:
    now = datetime.now(UTC).replace(microsecond=0)
    record = ConsentRecord(
        id="consent-demo",
        subject="a rendered person who does not exist",
        purposes=frozenset({Purpose.CATALOGUE}),
        valid_from=now,
        valid_until=now + timedelta(days=1),
        terms=Terms(age_band=AgeBand.NOBODY),
    )
    consents.grant(services.ledger, record, sign=services.signer.sign_statement)
    return record.id


def _wait_for_receipts(services: Services) -> None:
    """The dispatcher publishes receipts after the commits; a picture verifies when its receipt stands."""
    deadline = time.monotonic() + _PUBLISH_S
    while pending_receipts(services.ledger, 1) and time.monotonic() < deadline:
        time.sleep(0.1)


def _write_pages(pulled: Pulled, out: Path) -> None:
    if not pulled.files:
        return
    captions = read_captions(LIST)
    shown = [(picture.with_data(path.read_bytes()), path) for picture, path in pulled.files]
    tiles = [Tile(picture.data, captions.get(picture.sku, picture.sku), picture.sku) for picture, _ in shown]
    contact_sheet(tiles, out / "contact_sheet.png", title=TITLE)
    cards = (
        card(picture, caption=captions.get(picture.sku, ""), link=path.relative_to(out).as_posix())
        for picture, path in shown
    )
    facts = {
        "Pictures": str(len(pulled.files)),
        "Purpose": pulled.job.purpose,
        "Made": local(datetime.now(UTC)),
        "Model": pulled.job.model_digest[:12],
    }
    write_gallery(cards, out / "gallery.html", title=TITLE, facts=facts)


def _tell(status: JobStatus, out: Path, verified: int, wall_s: float) -> None:
    done = status.counts[ItemState.DONE]
    say("")
    say(f"{done} of {status.total} pictures done, {verified} verified, in {wall_s:.0f} s.")
    if done:
        say(f"  {out / 'contact_sheet.png'}   all of them on one page")
        say(f"  {out / 'gallery.html'}        the same in a browser: {(out / 'gallery.html').absolute().as_uri()}")
        say(f"  {out / 'pictures'}/           the files, each with its signed receipt")
    say(f"  {out / 'report.json'}         the numbers")
    say("")
    say("Try next, with your own photo and list:")
    say("  face0 up")
    say("  face0 consent grant --subject model-1 --purpose catalogue --until 2030-12-31")
    say("  face0 submit --face photo.jpg --skus list.csv --consent ID --wait")


def _make_room(out: Path) -> None:
    """Remove an earlier demo's results from `out`, and nothing else that lies there."""
    if not PERSON.is_file():
        raise BadInput(f"the sample photo {PERSON.name} is missing from this installation; install face0 again")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("contact_sheet.png", "gallery.html", "report.json"):
            (out / name).unlink(missing_ok=True)
        if (out / "pictures").is_dir():
            for file in (out / "pictures").iterdir():
                if file.suffix in (".png", ".json"):
                    file.unlink()
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}; choose another folder with --out") from error


@contextmanager
def _fresh_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="face0-demo-"))
    try:
        yield home
    finally:
        with _undisturbed():
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the demo the way Ctrl-C does: through every `finally`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C cut the tidying short."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
