"""Licences of what renders: one rule for face packs and models, by the profile of the installation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from face0_worker.contract.errors import Refused

COMMERCIAL, RESEARCH = "commercial", "research"
_FORBIDS = re.compile(
    r"non[-_ ]?commercial|\bnc\b|not for commercial|no commercial use|(research|academic|personal|private|evaluation)"
    r"([-_ ](use|purposes?))?[-_ ]only|only for (research|academic|personal|private)"
    r"|commercial (use|usage|purposes?) (is |are )?(prohibited|forbidden|not (allowed|permitted))"
    r"|非商用|商用(での)?(利用|使用)?(は|を)?(不可|禁止|できません)"
    r"|(研究|学術|個人|私的|非営利)(目的)?(での|の)?(利用|使用)?(に限|のみ)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Licence:
    """One licence: of `what` ("face pack buffalo_l", "weights of model portrait"), its text, and where it is stated."""

    what: str
    text: str
    where: str

    @property
    def commercial(self) -> bool:
        """Whether the text leaves commercial use open. It finds the usual wordings; a lawyer reads the rest."""
        return not _FORBIDS.search(self.text)


def require_licences(profile: str, licences: Iterable[Licence]) -> tuple[str, ...]:
    """Return a warning for each licence that forbids commercial use.

    Raises: Refused: under the profile COMMERCIAL there is one; the sentence names it and where it is stated.
    """
    forbidden = [licence for licence in licences if not licence.commercial]
    if forbidden and profile != RESEARCH:
        first = forbidden[0]
        raise Refused(
            f"the licence of {first.what} forbids commercial use: {first.text!r}, stated in {first.where}; "
            "choose another, or set licence_profile to research (FACE0_LICENCE_PROFILE) where nothing is sold"
        )
    return tuple(
        f"the licence of {licence.what} forbids commercial use: {licence.text!r}, stated in {licence.where}; "
        "what is made with it may be used for research only"
        for licence in forbidden
    )
