"""`face0 submit` with every kind of list: the commands of docs/product_lists.md as they stand there, on its samples."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from face0_worker.contract.consent import Purpose
from face0_worker.records.progress import list_jobs
from face0_worker.settings import Settings
from producer.demo import PERSON
from producer.services import Services
from tests.integration.producer.plain_worker import grant, render_everything
from tests.integration.producer.test_commands import Person, person
from tests.unit.test_documented_commands import Written, commands_of

__all__ = ["person"]

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "product_lists.md"
COMMANDS = [one for one in commands_of("page", PAGE.read_text("utf-8")) if one.whole]


def typed(person: Person, services: Services, written: Written, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> str:
    """Type a command of the page, on behalf of somebody who may, with a photo."""
    words = shlex.split(written.text)[1:]
    purpose = words[words.index("--purpose") + 1] if "--purpose" in words else "catalogue"
    grant(services.ledger, "ID", purpose=Purpose(purpose))
    if purpose == Purpose.AD:
        for approver in ("clerk 1", "clerk 2"):
            person.types("consent", "approve", "ID", "--by", approver)
    monkeypatch.chdir(ROOT)
    return person.types(*words, "--face", PERSON, code=code)


@pytest.mark.parametrize("written", COMMANDS, ids=lambda one: str(one.line))
def test_every_command_of_the_page_does_what_it_says(
    written: Written, person: Person, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = typed(person, services, written, monkeypatch)
    assert "Nothing was enqueued" in said
    assert "Warning" not in said
    assert list_jobs(services.ledger) == []


def test_the_page_has_a_command_for_every_sample() -> None:
    named = " ".join(one.text for one in COMMANDS)
    assert [
        file.name for file in (ROOT / "docs" / "examples").iterdir() if f"docs/examples/{file.name}" not in named
    ] == []


def command_with(option: str) -> Written:
    (found,) = (one for one in COMMANDS if option in one.text)
    return found


def test_a_dry_run_counts_the_variants_as_the_page_shows(
    person: Person, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = typed(person, services, command_with("--variants"), monkeypatch)
    shown = re.search(r"```text\nDry run: 33 pictures.*\n((?:  .*\n)+)```", PAGE.read_text("utf-8"))
    assert shown is not None
    assert said.endswith(shown[1])


def test_a_preview_shows_prompts_sizes_and_variants_and_reads_no_photo(
    person: Person, services: Services, tmp_path: Path
) -> None:
    grant(services.ledger)
    (tmp_path / "list.csv").write_text("sku,prompt,frame\nA1,a red coat,story\nA2,a blue coat,\nA3,,\n")
    words = ("submit", "--skus", tmp_path / "list.csv", "--consent", "c1", "--face", tmp_path / "absent.jpg")
    said = person.types(*words, "--preview", "2")
    assert re.search(r"A1 +story +64x64 -> 1080x1920 crop +a red coat", said)
    assert re.search(r"A2 +64x64 +a blue coat", said)
    assert "The first 2 pictures; --dry-run checks the whole list. Nothing was enqueued." in said
    first, second = person.reads(*words, "--preview", "2")
    assert (first["prompt"], first["output_width"], first["fit"]) == ("a red coat", 1080, "crop")
    assert "output_width" not in second
    assert "line 4, column prompt: is empty" in person.types(*words, "--preview", "3", code=2)


def test_a_preview_needs_the_consent_too(person: Person, tmp_path: Path) -> None:
    words = ("submit", "--skus", tmp_path / "absent.csv", "--consent", "nobody", "--preview", "2")
    person.types(*words, code=3)


def test_words_without_an_entry_are_told_and_the_list_is_submitted(
    person: Person, services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grant(services.ledger)
    (tmp_path / "list.csv").write_text("sku,prompt\nA1,赤い靴\n", "utf-8")
    (tmp_path / "words.csv").write_text("word,prompt\n赤い,red\n", "utf-8")
    words = ("submit", "--skus", tmp_path / "list.csv", "--consent", "c1", "--face", PERSON, "--glossary")
    said = person.types(*words, tmp_path / "words.csv", "--dry-run")
    assert "Warning: list.csv: 1 word has no entry in the glossary and stays as written\n  靴: line 2\n" in said
    said = person.types(*words, tmp_path / "words.csv", "--strict-glossary", code=2)
    assert "line 2, column prompt: '靴' has no entry in the glossary" in said
    assert list_jobs(services.ledger) == []


def test_too_many_variants_are_refused_before_anything_is_enqueued(person: Person, services: Services) -> None:
    grant(services.ledger)
    examples = ROOT / "docs" / "examples"
    words = ("submit", "--skus", examples / "ads.csv", "--variants", examples / "axes.yaml", "--consent", "c1")
    template = ("--template", "{mood} {garment} {background}")
    said = person.types(*words, *template, "--face", PERSON, "--max-pictures", "32", code=2)
    assert "makes more than 32 pictures" in said
    assert list_jobs(services.ledger) == []
    counted = person.reads(*words, *template, "--face", PERSON, "--max-pictures", "33", "--dry-run")
    assert (counted["items"], counted["variants"]["mood"]) == (33, {"calm": 6, "smiling": 27})


def test_pictures_of_variants_come_under_the_variants_names(
    person: Person, services: Services, settings: Settings, tmp_path: Path
) -> None:
    grant(services.ledger)
    (tmp_path / "list.csv").write_text("sku,garment\nA1,a red coat\n", "utf-8")
    (tmp_path / "axes.yaml").write_text(
        "axes: {place: {海: a beach, park: a park}, size: {story: {frame: story}}}", "utf-8"
    )
    words = ("submit", "--skus", tmp_path / "list.csv", "--consent", "c1", "--face", PERSON)
    job = person.reads(*words, "--variants", tmp_path / "axes.yaml", "--template", "{garment}, {place}")
    render_everything(services)
    person.types("results", "pull", job["job_id"], "--to", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"A1-海-story.png", "A1-park-story.png"}
    about = json.loads((tmp_path / "out" / "A1-海-story.json").read_text("utf-8"))
    assert (about["variant"], about["prompt"]) == ("海-story", "a red coat, a beach")
