"""A folder of pictures, well-formed and hostile, through what `face0 submit --face` does with a photo.

python -m tests.benchmarks.photo_corpus FOLDER --out out/ [--commands 100]

Every file goes through reading, the bounded decoder and the face; a sample of them through the real command with
`--dry-run`, on a real ledger. Writes OUT/photos.json: how many ended how, the slowest, the memory, and what the
decoder's own process costs beside decoding in this one. docs/photos.md says how to get Pillow's test images.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image

from face0_worker.contract.errors import FaceRefused
from face0_worker.faces import decoder
from face0_worker.faces.photo import decode_photo, read_photo_file
from face0_worker.records import offers
from producer.demo import LIST, PERSON
from producer.init import running_ledger
from tests.benchmarks.house import CONSENT, installation
from tests.pictures import encoded

_FACE0 = (sys.executable, "-m", "producer.cli")


@dataclass(frozen=True)
class Tried:
    """One file: how it ended ("accepted", a refusal's code, or "CRASH ..."), and how long that took."""

    file: str
    outcome: str
    seconds: float


def tried(file: Path, folder: Path, take: Callable[[bytes], object]) -> Tried:
    """Read a file and let `take` have its bytes; whatever is raised but a refusal is a crash."""
    begun = time.perf_counter()
    try:
        take(read_photo_file(file))
        outcome = "accepted"
    except FaceRefused as error:
        outcome = error.code
        if "\n" in str(error) or file.name in str(error):
            outcome = "CRASH: the refusal is not one sentence, or names the file"
    except Exception as error:  # noqa: BLE001 - to find these is what this is for
        outcome = f"CRASH: {type(error).__name__}: {error}"
    return Tried(str(file.relative_to(folder)), outcome, time.perf_counter() - begun)


def summary(all_of_them: Sequence[Tried]) -> dict[str, Any]:
    """Count outcomes; name the slowest file and those that crashed."""
    slowest = max(all_of_them, key=lambda one: one.seconds)
    return {
        "files": len(all_of_them),
        "outcomes": dict(Counter(one.outcome.split(":")[0] for one in all_of_them).most_common()),
        "slowest": {"file": slowest.file, "s": round(slowest.seconds, 2)},
        "crashed": [asdict(one) for one in all_of_them if one.outcome.startswith("CRASH")],
    }


def command(home: Path, file: Path) -> tuple[str, int]:
    """Run `face0 submit --face FILE --dry-run`; return how it ended and its own peak memory in MB."""
    with tempfile.TemporaryFile() as said:
        started = subprocess.Popen(
            [*_FACE0, "--home", home, "submit", "--dry-run", "--face", file, "--skus", LIST, "--consent", CONSENT],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        _, status, used = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode(errors="replace")
    clean = "Traceback" not in text and "unexpected" not in text and text.count("\n") <= 2
    fine = started.returncode in (0, 2) and clean
    outcome = f"exit {started.returncode}" if fine else f"CRASH: exit {started.returncode}: {text}"
    return outcome, used.ru_maxrss // 1024


def commands(files: Sequence[Path], folder: Path, count: int) -> dict[str, Any]:
    """Type the real command for `count` files spread over all of them."""
    chosen = files[:: max(1, len(files) // count)] if count else []
    results, peak = [], 0
    with installation(running_ledger) as (settings, services):
        facts = {"size": 64, "steps": 4, "precision": "float32", "embedder_digest": services.pack.digest}
        offers.offer_model(services.ledger, "w-photos", "b" * 64, "plain", facts)
        for file in chosen:
            begun = time.perf_counter()
            outcome, memory = command(settings.home_dir, file)
            results.append(Tried(str(file.relative_to(folder)), outcome, time.perf_counter() - begun))
            peak = max(peak, memory)
    return {**summary(results), "command_peak_mb": peak} if results else {}


def latency(pairs: int = 15) -> dict[str, Any]:
    """Compare the decoder's own process (a) with decoding here (b), in turn, on a 12-megapixel JPEG."""
    from face0_worker.bench.report import compare

    with Image.open(PERSON) as person:
        photo = encoded(person.convert("RGB").resize((4032, 3024)), "JPEG", quality=92)
    timed = []
    for number in range(pairs + 1):
        begun = time.perf_counter()
        decode_photo(photo)
        between = time.perf_counter()
        decoder.decode(photo)
        if number:
            timed.append((between - begun, time.perf_counter() - between))
    return vars(compare("bounded process / in this process, 12 MP JPEG", timed, "s"))


def peak_of_children_mb() -> int:
    """Return the largest memory that any ended child has had, this process's own at its start included."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option("--commands", "count", default=100, show_default=True, help="Files that go through the real command.")
def main(folder: Path, out: Path, count: int) -> None:
    """Try every file of FOLDER as a photo and write OUT/photos.json; exit 1 if any crashed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    report: dict[str, Any] = {}

    def note(part: str, found: dict[str, Any]) -> None:
        report[part] = found
        click.echo(f"{part}: {json.dumps(found, indent=1)}")

    # decoding first, while this process is small: a child's peak begins with its parent's
    own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    decoded = [tried(file, folder, decode_photo) for file in files]
    note("decoding", {**summary(decoded), "parent_mb": own_mb, "child_peak_mb": peak_of_children_mb()})
    note("commands", commands(files, folder, count))
    note("latency", latency())
    note("whole", summary(_with_faces(decoded, folder)))
    report |= _about()
    out.mkdir(parents=True, exist_ok=True)
    (out / "photos.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if any(part.get("crashed") for part in report.values() if isinstance(part, dict)):
        raise click.ClickException(f"some files crashed; see {out / 'photos.json'}")


def _about() -> dict[str, str]:
    from PIL import __version__ as pillow

    from face0_worker.bench.report import name_commit, name_cpu

    return {"device": name_cpu(), "commit": name_commit(), "pillow": pillow}


def _with_faces(decoded: Sequence[Tried], folder: Path) -> list[Tried]:
    """Look for the face in what was decoded; what was refused before stays refused."""
    from face0_worker.faces.embed import Embedder
    from face0_worker.faces.packs import load_pack

    embedder = Embedder.open(load_pack(None))
    return [
        tried(folder / one.file, folder, embedder.embed_photo) if one.outcome == "accepted" else one for one in decoded
    ]


if __name__ == "__main__":
    main()
