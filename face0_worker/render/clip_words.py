"""CLIP's own vocabulary, 49,408 tokens, rebuilt from the merges that open-clip-torch carries (MIT)."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

from face0_worker.contract.errors import ModelMissing

_MERGES = 48_894  # as many as CLIP was trained with; the file holds more
_POSITIONS = 77
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_clip_tokenizer(folder: Path, *, pad: str = _END) -> None:
    """Write the files of a CLIPTokenizer into `folder`. `pad` fills short prompts up: OpenCLIP's takes "!".

    Raises: ModelMissing: open-clip-torch is not installed, or its file is another one.
    """
    merges = clip_merges()
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += [_START, _END]
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": _POSITIONS, **special}
    _write(folder / "vocab.json", json.dumps({token: n for n, token in enumerate(tokens)}, ensure_ascii=False))
    _write(folder / "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=1))
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=1))


def clip_merges() -> list[str]:
    """Return CLIP's merges, the most frequent first. Raises: ModelMissing: as write_clip_tokenizer."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModelMissing(
            "CLIP's vocabulary, which a single file does not carry and training needs, is not installed: "
            "pip install --no-deps open-clip-torch==3.3.0"
        )
    with gzip.open(Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as opened:
        lines = opened.read().split("\n")
    merges = lines[1 : 1 + _MERGES]
    if len(merges) != _MERGES or any(len(merge.split()) != 2 for merge in merges):
        raise ModelMissing("open-clip-torch's vocabulary is not CLIP's; install open-clip-torch==3.3.0")
    return merges


def byte_letters() -> list[str]:
    """The 256 printable letters that stand for bytes in CLIP's vocabulary, in its order: that of GPT-2's table."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
