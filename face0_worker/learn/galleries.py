"""Whom an evaluation asks about: held-out people in galleries that hair, glasses, gender and tone do not tell apart."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from face0_worker.contract.errors import BadInput
from face0_worker.learn.dataset import is_held_out
from face0_worker.learn.truth import Picture, attribute_values, by_person

# what a gallery's people have in common, where the data tells it; skin tone in bands of two
MATCHED = ("gender", "hair_style", "glasses", "beard", "skin_tone")
TONE, TONES_A_BAND = "skin_tone", 2
# fewer are no gallery: a guess would be right too often
LEAST = 3
# what the prompts of one gallery vary; all else that a prompt says is the same in all of them
VARIED = ("garment", "garment_colour", "background", "expression")
SAID = ("garment", "garment_colour", "background")

Key = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Prompt:
    """A caption of a training picture, and that picture's truth: what a picture of this prompt should show."""

    text: str
    truth: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Sitter:
    """One person: `condition` is the photo that pictures are made from, `reference` the one they are compared with.

    They are never the same picture, so nothing is won by repeating a photo. `others` are the remaining views.
    """

    person: str
    condition: Picture
    reference: Picture
    others: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """People who match in `key`, and the prompts that all of them are painted after: a prompt tells none of them."""

    key: Key
    sitters: tuple[Sitter, ...]
    prompts: tuple[Prompt, ...]

    @property
    def chance(self) -> float:
        """Rank-1 of a guess."""
        return 1 / len(self.sitters)


def choose_galleries(
    pictures: Sequence[Picture],
    *,
    people: int = 50,
    prompts: int = 8,
    match: Sequence[str] = MATCHED,
    usable: Callable[[Sitter], bool] = lambda sitter: True,
) -> tuple[Gallery, ...]:
    """Return galleries of `people` held-out people in all, the largest first; the same for the same pictures.

    People with one view are left out, those who are not `usable` (asked only as far as people are needed), and
    galleries of fewer than LEAST people or without enough captions. The last gallery may be cut to reach the number.
    Prompts come from captions of people who are not held out.
    Raises: BadInput: nobody is left.
    """
    waiting = by_person([picture for picture in pictures if is_held_out(picture.person)])
    waiting = {person: views for person, views in waiting.items() if len(views) > 1}
    captions = [picture for picture in pictures if not is_held_out(picture.person)]
    chosen: list[Gallery] = []
    tried: set[Key] = set()
    too_few = f"no {LEAST} held-out people with two views each match in {', '.join(match)}; render more people"
    while (left := people - sum(len(gallery.sitters) for gallery in chosen)) >= LEAST:
        key = _most_frequent(waiting.values(), match, tried)
        if key is None:
            break
        tried.add(key)
        try:
            asked = choose_prompts(captions, key, prompts)
        except BadInput as error:
            too_few = str(error)
            continue
        offered = (_sitter(waiting[person], key, match) for person in sorted(waiting, key=_lot))
        taken = tuple(islice((one for one in offered if one is not None and usable(one)), left))
        if len(taken) >= LEAST:
            chosen.append(Gallery(key, taken, asked))
            for sitter in taken:
                del waiting[sitter.person]
    if not chosen:
        raise BadInput(too_few)
    return tuple(chosen)


def _most_frequent(people: Iterable[Sequence[Picture]], match: Sequence[str], tried: Collection[Key]) -> Key | None:
    """Return the key that a view of the most people has, if enough have it: haircuts and glasses change by view."""
    keys = Counter(key for views in people for key in {key_of(view.truth, match) for view in views})
    fresh = [key for key, count in keys.items() if count >= LEAST and key not in tried]
    return max(fresh, key=lambda key: (keys[key], repr(key)), default=None)


def key_of(truth: Mapping[str, Any], match: Sequence[str] = MATCHED) -> Key:
    """Return what a person is matched by: the attributes of `match` that the truth tells, skin tone as its band."""
    return tuple((name, _band(truth[name]) if name == TONE else truth[name]) for name in match if name in truth)


def _band(tone: int) -> str:
    first = (int(tone) - 1) // TONES_A_BAND * TONES_A_BAND + 1
    return f"{first}-{first + TONES_A_BAND - 1}"


def _sitter(views: Sequence[Picture], key: Key, match: Sequence[str]) -> Sitter | None:
    """Return a person as a sitter of the gallery `key`; None where no view has it.

    The most frontal view that fits the gallery is what pictures are compared with; of the others, the most frontal
    one is the photo that a person would bring.
    """
    frontal = sorted(views, key=lambda one: (_turn(one.truth), one.view))
    fitting = [view for view in frontal if key_of(view.truth, match) == key]
    if not fitting:
        return None
    rest = [view for view in frontal if view is not fitting[0]]
    return Sitter(rest[0].person, rest[0], fitting[0], tuple(rest[1:]))


def _turn(truth: Mapping[str, Any]) -> float:
    return abs(float(truth.get("yaw_deg", 0))) + abs(float(truth.get("pitch_deg", 0)))


def choose_prompts(captions: Sequence[Picture], key: Key, count: int) -> tuple[Prompt, ...]:
    """Return `count` different captions that fit `key`, as different in VARIED as there are.

    They say the garment, its colour and the background in words, and are equal in everything else that captions
    say (hair colour above all): in the combination that says least beside hair, glasses and gender (no age, where
    captions can be silent about it), and of those the most frequent one.
    Raises: BadInput: too few captions fit.
    """
    said = said_attributes(captions)
    wanted = {name: value for name, value in key if name in said}
    alike = [name for name in said if name not in VARIED]
    kinds: dict[tuple[Any, ...], dict[str, Picture]] = {}
    fitting = [one for one in captions if _fits(one, wanted) and _names_clothes(one)]
    for one in fitting:
        kinds.setdefault(tuple(one.truth[name] for name in alike), {})[one.caption] = one
    frequent = Counter(tuple(one.truth[name] for name in alike) for one in fitting)
    enough = [kind for kind, different in kinds.items() if len(different) >= count]
    if not enough:
        most = max((len(different) for different in kinds.values()), default=0)
        told = ", ".join(f"{name} {value}" for name, value in key)
        raise BadInput(f"only {most} captions fit the gallery {told}; {count} are needed, render more people")
    rest = [name for name in alike if name not in (*MATCHED, "hair_colour")]
    least = min(enough, key=lambda kind: (_told(rest, next(iter(kinds[kind].values()))), -frequent[kind], repr(kind)))
    waiting = sorted(kinds[least].values(), key=lambda one: _lot(one.caption))
    chosen: list[Picture] = []
    used: Counter[tuple[str, Any]] = Counter()
    for _ in range(count):
        best = min(waiting, key=lambda one: (sum(used[name, one.truth.get(name)] for name in VARIED), _plain(one)))
        waiting.remove(best)
        chosen.append(best)
        used.update((name, best.truth.get(name)) for name in VARIED)
    return tuple(Prompt(one.caption, {name: one.truth[name] for name in said}) for one in chosen)


def said_attributes(captions: Sequence[Picture]) -> tuple[str, ...]:
    """Return the attributes that captions tell: those whose value stands in one caption of a hundred or more.

    A yes is told by the attribute's name ("glasses"), a no by silence.
    """
    return tuple(
        name
        for name in attribute_values(captions)
        if sum(_word(name, one) in one.caption.lower() for one in captions) >= 0.01 * len(captions)
    )


def _word(name: str, picture: Picture) -> str:
    value = picture.truth[name]
    return (name.lower() if value else "\0") if isinstance(value, bool) else str(value).lower()


def _told(names: Sequence[str], picture: Picture) -> int:
    """Count what a caption says in words: of age, say, nothing where a person is of middle age."""
    return sum(_word(name, picture) in picture.caption.lower() for name in names)


def _fits(picture: Picture, wanted: Mapping[str, Any]) -> bool:
    return all(picture.truth[name] == value for name, value in wanted.items())


def _plain(picture: Picture) -> bool:
    """Tell whether garment and background have one colour: the sheet shows more where they differ."""
    return bool(picture.truth.get("garment_colour") == picture.truth.get("background"))


def _names_clothes(picture: Picture) -> bool:
    """Tell whether a caption names what fidelity is measured by first: captions may leave things out."""
    words = Counter(_word(name, picture) for name in SAID if name in picture.truth)
    return all(picture.caption.lower().count(word) >= times for word, times in words.items())


def _lot(text: str) -> bytes:
    """An order that has nothing to do with the name."""
    return hashlib.sha256(f"lot {text}".encode()).digest()
