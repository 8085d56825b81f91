"""What becomes of a photo's bytes: the right pixels, or one clear refusal with its code."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data as samples

from face0_worker.contract.errors import FaceRefused, ServiceDown
from face0_worker.faces import decoder, photo
from face0_worker.faces.photo import decode_photo, read_photo_file
from tests.pictures import black_png, encoded, sixteen_bit, swapping_profile

SCENE = Image.fromarray(samples.astronaut()).crop((0, 0, 300, 200))  # no two of its corners are alike
COLOURS = [Image.new("RGB", (64, 48), name) for name in ("red", "blue")]


def pixels(given: bytes) -> np.ndarray:
    """Decode and return int16 (height, width, 3), for differences."""
    return np.asarray(decode_photo(given).image).astype(np.int16)


def far(one: np.ndarray, other: Image.Image) -> float:
    """Return the mean distance of two pictures, in 8-bit steps; a large one if their sizes differ."""
    theirs = np.asarray(other.convert("RGB")).astype(np.int16)
    return float(np.abs(one - theirs).mean()) if one.shape == theirs.shape else 255.0


def refusal(given: bytes) -> FaceRefused:
    with pytest.raises(FaceRefused) as raised:
        decode_photo(given)
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert ";" in sentence  # what was wrong; what to do
    return raised.value


@pytest.mark.parametrize(
    ("form", "options", "step"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 3),
        ("JPEG", {"quality": 95, "progressive": True}, 3),
        ("AVIF", {"quality": 90}, 5),
        ("HEIF", {"quality": 90}, 5),
        ("GIF", {}, 12),
    ],
)
def test_every_accepted_format_gives_its_pixels(form: str, options: dict[str, Any], step: float) -> None:
    assert far(pixels(encoded(SCENE, form, **options)), SCENE) <= step


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "TIFF", "PNG"])
def test_every_exif_orientation_is_turned_upright(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(SCENE, form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned)))
    assert far(pixels(turned), upright) == 0


def test_a_heic_of_a_phone_held_upright_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert far(pixels(encoded(SCENE, "HEIF", quality=90, exif=exif.tobytes())), SCENE.rotate(-90, expand=True)) <= 5


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "MPO", "TIFF", "HEIF"])
def test_the_first_picture_of_several_is_taken(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    several = encoded(COLOURS[0], form, save_all=True, append_images=[COLOURS[1].copy()], **options)
    assert far(pixels(several), COLOURS[0]) <= 3


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sixteen_bits_are_scaled_to_eight_and_not_clipped(mode: str, ending: str) -> None:
    image = SCENE.convert(mode)
    assert far(pixels(sixteen_bit(image, ending)), image) <= 1


def test_thirty_two_bits_are_refused() -> None:
    floats = Image.fromarray(np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64))
    assert refusal(encoded(floats, "TIFF")).code == "format"


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_has_its_colours_back(form: str) -> None:
    assert far(pixels(encoded(SCENE.convert("CMYK"), form)), SCENE) <= 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode: str) -> None:
    black = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    black.paste((0, 0, 0, 255), (0, 0, 20, 40))
    shown = pixels(encoded(black.convert(mode), "PNG"))
    assert shown[20, 5].tolist() == [0, 0, 0]
    assert shown[20, 35].tolist() == [255, 255, 255]


def test_an_embedded_colour_profile_is_heeded() -> None:
    assert far(pixels(encoded(COLOURS[0], "PNG", icc_profile=swapping_profile())), COLOURS[1]) <= 12


@pytest.mark.parametrize("profile", [b"nonsense", swapping_profile()[:300]])
def test_a_broken_colour_profile_is_ignored(profile: bytes) -> None:
    assert far(pixels(encoded(COLOURS[0], "PNG", icc_profile=profile)), COLOURS[0]) == 0


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_a_tall_picture_is_whole(mode: str) -> None:
    tall = SCENE.resize((70, 2000)).convert(mode)  # more rows than are converted at a time
    assert far(pixels(encoded(tall, "PNG")), tall) == 0


@pytest.mark.parametrize("form", ["JPEG", "BMP"])
def test_a_large_picture_is_made_smaller_and_says_by_how_much(form: str) -> None:
    large = SCENE.resize((600, 9000))  # several strips, each made smaller
    small = decode_photo(encoded(large, form))
    assert 2048 <= max(small.image.size) <= decoder.MAX_SIDE
    assert small.image.height * small.scale == 9000
    assert far(np.asarray(small.image).astype(np.int16), large.resize(small.image.size, Image.Resampling.BOX)) <= 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF"])
@pytest.mark.parametrize("kept", [0.95, 0.5, 0.02])
def test_a_photo_that_ends_early_is_refused_as_damaged(form: str, kept: float) -> None:
    whole = encoded(SCENE, form)
    assert refusal(whole[: max(20, int(len(whole) * kept))]).code == "damaged"


def test_a_jpeg_without_its_last_bytes_is_refused() -> None:
    assert refusal(encoded(SCENE, "JPEG")[:-2]).code == "damaged"


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (b"", "not_a_picture", "empty"),
        (b"not a picture", "not_a_picture", "not a picture"),
        (bytes(5000), "not_a_picture", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "damaged", "PNG"),
        (b"%PDF-1.7\n", "format", "a PDF"),
        (b"\0\0\0\x18ftypqt  " + bytes(50), "format", "a video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format", "EPS"),
        (encoded(SCENE, "PPM"), "format", "PPM"),
        (encoded(SCENE, "ICO"), "format", "ICO"),
        (encoded(SCENE, "TIFF", tiffinfo={254: 1}), "format", "raw file"),
    ],
)
def test_what_is_no_accepted_picture_is_refused_by_what_it_is(given: bytes, code: str, said: str) -> None:
    error = refusal(given)
    assert (error.code, error.exit_code) == (code, 2)
    assert said in str(error)


def test_a_photo_of_too_many_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo, "MAX_BYTES", 1_000_000)
    error = refusal(bytes(1_000_001))
    assert error.code == "too_large"
    assert "over 1 MB" in str(error)


@pytest.mark.parametrize(
    ("size", "channels", "said", "most_mb"),
    [
        ((50_000, 50_000), 3, "50,000 x 50,000 pixels; at most 200,000,000", 60),
        ((14_000, 14_000), 4, "needs more than 1,024 MB of memory", 1024),
    ],
)
def test_a_picture_of_enormous_size_is_refused_within_bounds(
    tmp_path: Path, size: tuple[int, int], channels: int, said: str, most_mb: int
) -> None:
    """Measured from a small process: a child begins with its parent's high-water mark."""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(black_png(*size, channels=channels))
    assert bomb.stat().st_size < 10_000_000
    measuring = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from face0_worker.contract.errors import FaceRefused
        from face0_worker.faces.photo import decode_photo

        try:
            decode_photo(Path(sys.argv[1]).read_bytes())
        except FaceRefused as error:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            print(error.code, used.ru_maxrss // 1024, used.ru_utime + used.ru_stime, error, sep="|")
        """
    )
    asked = subprocess.run(
        [sys.executable, "-c", measuring, bomb], capture_output=True, text=True, check=True, timeout=60
    )
    code, peak_mb, cpu_s, sentence = asked.stdout.strip().split("|")
    assert code == "too_large"
    assert said in sentence
    assert int(peak_mb) <= most_mb
    assert float(cpu_s) < decoder.CPU_S


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "damaged"),
        ("os.abort()", "damaged"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "too_large"),
        ('sys.stdout.write(\'{"width": 9, "height": 9, "scale": 1}\\n12345\')', "damaged"),
        ("pass", "damaged"),
        ("time.sleep(600)", "too_slow"),
        ("decoder.CPU_S = 1; decoder._limit()\nwhile True: pass", "too_slow"),
    ],
)
def test_a_decoder_that_dies_or_hangs_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, code: str
) -> None:
    _stand_in(tmp_path, monkeypatch, body)
    monkeypatch.setattr(photo, "WALL_S", 3.0 if "sleep" in body else 60.0)
    assert refusal(encoded(SCENE, "JPEG")).code == code


def test_a_decoder_that_does_not_start_is_not_the_photos_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(tmp_path, monkeypatch, "import no_such_package")
    with pytest.raises(ServiceDown, match="does not run"):
        decode_photo(encoded(SCENE, "JPEG"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(ServiceDown, match="can't be started"):
        decode_photo(encoded(SCENE, "JPEG"))


def _stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let another program than the decoder be started."""
    program = folder / "stand_in.py"
    program.write_text(f"import os, signal, sys, time\nfrom face0_worker.faces import decoder\n{body}\n")
    monkeypatch.setattr(decoder, "__file__", str(program))


def test_the_decoder_can_write_no_file_and_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    body = f"""
env = ",".join(name for name in os.environ if "SECRET" in name)
decoder._limit()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    os.write(os.open({str(seen)!r}, os.O_CREAT | os.O_WRONLY), b"a photo")
    wrote = "wrote"
except OSError:
    wrote = ""
os.write(1, ('{{"code": "test", "sentence": "' + wrote + env + ';"}}').encode())
"""
    _stand_in(tmp_path, monkeypatch, body)
    monkeypatch.setenv("FACE0_SECRET", "x")
    assert str(refusal(encoded(SCENE, "JPEG"))) == ";"
    assert seen.stat().st_size == 0


def test_a_file_that_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, said in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path / "absent-anna.jpg", "No such file"),
        (tmp_path / "loop", "symbolic links"),
    ):
        with pytest.raises(FaceRefused, match=said) as raised:
            read_photo_file(path)
        assert raised.value.code == "unreadable"
        assert "anna" not in str(raised.value)


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"some bytes")
    assert read_photo_file(tmp_path / "photo") == b"some bytes"
    (tmp_path / "photo").write_bytes(b"")
    with pytest.raises(FaceRefused, match="empty"):
        read_photo_file(tmp_path / "photo")
