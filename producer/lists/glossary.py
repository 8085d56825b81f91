"""A glossary: product words, Japanese above all, and the words that the model's prompt has for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from face0_worker.contract.errors import BadInput
from producer.lists.list_file import shown_name
from producer.lists.product_list import Problems, open_list, read_lines
from producer.lists.signs import hidden_sign, same_look
from producer.lists.yaml_file import read_yaml

_MOST_ENTRIES, _LONGEST = 100_000, 200
_SHOWN_WORDS, _SHOWN_LINES, _MOST_WORDS = 20, 5, 1000
# kana, the long sound, iteration marks and kanji; not the signs between words
_JAPANESE = re.compile(
    "[\u3041-\u3096\u309d\u309e\u30a1-\u30fa\u30fc-\u30fe\u31f0-\u31ff\u3005-\u3007\u3400-\u9fff\uf900-\ufaff]+"
)
_SIGNS = {
    "、": ", ",
    "。": ". ",
    "・": " ",
    "「": " ",
    "」": " ",
    "『": " ",
    "』": " ",
    "【": " ",
    "】": " ",
    "〜": "-",
    "／": "/",
}


@dataclass(frozen=True)
class Glossary:
    """Words and what stands for them in a prompt ("": left out). Words in the form of `same_look`."""

    entries: Mapping[str, str]
    _by_first: Mapping[str, tuple[str, ...]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, entries: Mapping[str, str]) -> Glossary:
        """Return a glossary of these words."""
        by_first: dict[str, list[str]] = {}
        for word in sorted(entries, key=len, reverse=True):
            by_first.setdefault(word[0], []).append(word)
        return cls(dict(entries), {first: tuple(words) for first, words in by_first.items()})

    def translate(self, text: str) -> tuple[str, tuple[str, ...]]:
        """Return the text in the prompt's words, and the Japanese words that have no entry.

        Where several words begin at one place the longest counts. Japanese signs become Western ones; words that meet
        are parted by a blank. A text without Japanese, and without a word of the glossary, stays as it is.
        """
        written, made, place, joined = same_look(text), "", 0, False
        while place < len(written):
            word = self._word_at(written, place)
            piece = written[place] if word is None else self.entries[word]
            japanese = word is not None or written[place] in _SIGNS
            if word is None:
                piece = _SIGNS.get(piece, piece)
            if (japanese or joined) and piece and made and made[-1].isalnum() and piece[0].isalnum():
                made += " "
            made += piece
            joined = japanese if piece or word is None else True
            place += 1 if word is None else len(word)
        if made == written:
            return text, tuple(_JAPANESE.findall(made))
        return re.sub(r" +([,.])", r"\1", re.sub(" {2,}", " ", made)).strip(), tuple(_JAPANESE.findall(made))

    def _word_at(self, text: str, place: int) -> str | None:
        for word in self._by_first.get(text[place], ()):
            end = place + len(word)
            if text.startswith(word, place) and not (_inside(text, place) or _inside(text, end)):
                return word
        return None


def _inside(text: str, place: int) -> bool:
    """Whether a Western word goes on at this place; Japanese has no blanks between words."""
    around = text[max(0, place - 1) : place + 1]
    return len(around) == 2 and around.isascii() and around.isalnum()


@dataclass
class UnknownWords:
    """Japanese words without an entry, and the lines that have them. Small, however many there are."""

    lines: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, word: str, line: int) -> None:
        """Note a word of a line."""
        word = word[:40]
        if word not in self.lines and len(self.lines) >= _MOST_WORDS:
            return
        where = self.lines.setdefault(word, [])
        if line in where[-1:]:
            return
        self.counts[word] = self.counts.get(word, 0) + 1
        if len(where) < _SHOWN_LINES:
            where.append(line)

    def clear(self) -> None:
        """Forget all: the list is read anew."""
        self.lines.clear()
        self.counts.clear()

    def said(self, file: str) -> str:
        """Return all of it as one message about the list of that name, "" for nothing."""
        if not self.lines:
            return ""
        many = len(self.lines) > 1
        count = f"{len(self.lines):,} words have" if many else "1 word has"
        found = [f"{file}: {count} no entry in the glossary and stay{'' if many else 's'} as written"]
        for word in sorted(self.lines, key=lambda word: -self.counts[word])[:_SHOWN_WORDS]:
            more = self.counts[word] - len(self.lines[word])
            lines = ", ".join(map(str, self.lines[word])) + (f" and {more:,} more" if more else "")
            found.append(f"  {word}: line {lines}")
        if len(self.lines) > _SHOWN_WORDS:
            found.append(f"  ... and {len(self.lines) - _SHOWN_WORDS:,} more words")
        return "\n".join(found)


def read_glossary(path: Path) -> Glossary:
    """Read a glossary: a list with columns `word` and `prompt` (.csv, .xlsx ...), or YAML of `word: prompt words`.

    Raises: BadInput: unreadable, a word twice, an empty word, or characters that nobody can see.
    """
    name = shown_name(path)
    pairs = _of_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else _of_list(path)
    entries: dict[str, str] = {}
    for where, written, prompt in pairs:
        word = same_look(written).strip()
        if not word or len(word) > _LONGEST or len(prompt) > _LONGEST:
            raise BadInput(
                f"{name}{where}: expected a word and its prompt words, each of at most {_LONGEST} characters"
            )
        if sign := hidden_sign(word) or hidden_sign(prompt):
            raise BadInput(f"{name}{where}: holds the character {sign}; remove it")
        if entries.setdefault(word, prompt) != prompt:
            raise BadInput(f"{name}{where}: {word} is there twice, as {entries[word]!r} and as {prompt!r}; remove one")
        if len(entries) > _MOST_ENTRIES:
            raise BadInput(f"{name}: has more than {_MOST_ENTRIES:,} words")
    if not entries:
        raise BadInput(f"{name} holds no words; expected columns word and prompt")
    return Glossary.of(entries)


def _of_yaml(path: Path) -> list[tuple[str, str, str]]:
    said = read_yaml(path)
    wrong = next((word for word, prompt in said.items() if not isinstance(prompt, str)), None)
    if wrong is not None:
        raise BadInput(f"{shown_name(path)}: {wrong} needs a text, as in コート: coat")
    return [("", word, prompt) for word, prompt in said.items()]


def _of_list(path: Path) -> list[tuple[str, str, str]]:
    problems, found = Problems(), []
    for line in read_lines(open_list(path), problems):
        if not {"word", "prompt"} <= set(line.cells):
            there = ", ".join(name for name in line.cells if name)[:200]
            raise BadInput(f"{shown_name(path)}: a glossary has the columns word and prompt; this has {there}")
        found.append((f", line {line.number}", line.cells["word"], line.cells["prompt"]))
    if problems.count:
        raise BadInput(problems.said(shown_name(path)))
    return found
