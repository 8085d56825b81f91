"""What a person does not want to be shown with: find it in a prompt, by words, in English and Japanese.

A help and no guarantee: it finds words, not what they mean, and not what a picture turns out to show.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

# A category stands for words; whatever else a consent names is looked for as it is written.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "nudity": ("nude", "naked", "topless", "undressed", "ヌード", "裸", "全裸", "半裸"),
    "underwear": (
        "underwear",
        "lingerie",
        "bra",
        "panties",
        "bikini",
        "swimsuit",
        "swimwear",
        "下着",
        "水着",
        "ビキニ",
    ),
    "alcohol": (
        *("alcohol", "beer", "wine", "whisky", "whiskey", "vodka", "sake", "cocktail", "champagne"),
        *("酒", "ビール", "ワイン", "ウイスキー", "カクテル", "焼酎", "シャンパン"),
    ),
    "tobacco": ("tobacco", "cigarette", "cigar", "smoking", "vape", "たばこ", "タバコ", "煙草", "喫煙", "葉巻"),
    "drugs": ("drug", "cannabis", "marijuana", "cocaine", "麻薬", "大麻", "覚醒剤"),
    "gambling": ("gambling", "casino", "poker", "roulette", "ギャンブル", "賭博", "カジノ", "パチンコ"),
    "weapons": ("weapon", "gun", "rifle", "pistol", "sword", "knife", "knives", "武器", "銃", "拳銃", "刀", "ナイフ"),
    "violence": ("violence", "violent", "blood", "bloody", "wounded", "corpse", "暴力", "流血", "血まみれ", "死体"),
    "politics": ("politics", "political", "election", "campaign rally", "政治", "選挙", "政党"),
    "religion": ("religion", "religious", "church", "mosque", "temple", "shrine", "宗教", "教会", "寺院", "神社"),
    "medical": ("hospital", "patient", "surgery", "disease", "medicine", "病院", "患者", "手術", "病気", "医薬品"),
}

# what the categories are called in Japanese sentences
JAPANESE = {
    "nudity": "ヌード",
    "underwear": "下着・水着",
    "alcohol": "酒類",
    "tobacco": "たばこ",
    "drugs": "薬物",
    "gambling": "賭博",
    "weapons": "武器",
    "violence": "暴力",
    "politics": "政治",
    "religion": "宗教",
    "medical": "医療",
}


def in_japanese(depiction: str) -> str:
    """Return a prohibited depiction as a Japanese sentence calls it: a category by its name, a word as it is."""
    return JAPANESE.get(_plain(depiction), depiction)


def named(prohibited: Iterable[str], prompt: str) -> str | None:
    """Return the first prohibited depiction (in alphabetical order) that a prompt names, or None. Pure.

    Width, case and how words are spaced do not matter.
    Words of letters are found whole, with an s or es behind; Japanese ones anywhere.
    """
    text = _plain(prompt)
    return next((one for one in sorted(prohibited) if _pattern(one).search(text)), None)


@lru_cache(maxsize=1024)
def _pattern(depiction: str) -> re.Pattern[str]:
    key = _plain(depiction)
    return re.compile("|".join(_word(_plain(word)) for word in (key, *CATEGORIES.get(key, ()))))


def _word(word: str) -> str:
    if not word.isascii():
        return re.escape(word)
    return rf"(?<![a-z0-9]){re.escape(word)}(?:e?s)?(?![a-z0-9])"


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
