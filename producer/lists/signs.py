"""Characters that people can't see or tell apart: found and named, so that a list means what it looks like."""

from __future__ import annotations

import unicodedata

LINE_SIGNS = "\t\n\r"
# without them Persian, Hindi and many emoji can't be written
JOINERS = "\u200c\u200d"
_DAMAGED = "\ufffd"
# control, format (also what turns the direction of writing), half of a surrogate pair, line and paragraph separator
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")

_OF_ONE_WIDTH = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in (0x3000, *range(0xFF01, 0xFFEF))
    if unicodedata.decomposition(chr(code)).startswith(("<wide>", "<narrow>"))
}


def hidden_sign(text: str, allowed: str = "") -> str:
    """Return which invisible character a text holds first, and where, or "".

    It reads "U+202E RIGHT-TO-LEFT OVERRIDE at place 5".

    The replacement character counts, too: an earlier program put it where it had lost one.
    """
    if text.isprintable() and _DAMAGED not in text:
        return ""
    for place, sign in enumerate(text, start=1):
        if sign not in allowed and (unicodedata.category(sign) in _HIDDEN or _is_none(sign)):
            return f"U+{ord(sign):04X} {unicodedata.name(sign, '') or _other_name(sign)} at place {place:,}"
    return ""


def same_look(text: str) -> str:
    """Return a form that texts share when they differ in width or composition only, as "Ａ１" and "A1" do."""
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_OF_ONE_WIDTH))


def plain_number(text: str) -> str:
    """Return what was typed as a number in plain digits and signs: "１２８" as "128", "−１" as "-1"."""
    return same_look(text).replace("\u2212", "-")


def _is_none(sign: str) -> bool:
    return sign == _DAMAGED or ord(sign) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(sign) <= 0xFDEF


def _other_name(sign: str) -> str:
    if unicodedata.category(sign) == "Cc":
        return {"\0": "NUL", "\t": "TAB", "\n": "LINE BREAK", "\r": "LINE BREAK"}.get(sign, "CONTROL CHARACTER")
    return "HALF OF A SURROGATE PAIR" if "\ud800" <= sign <= "\udfff" else "NO CHARACTER"
