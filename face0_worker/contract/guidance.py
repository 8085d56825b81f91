"""Face0's guidance as numbers: how much each branch counts, and how many evaluations a picture takes. Pure.

Valevski, Wasserman, Matias and Leviathan 2023 (arXiv 2306.06638); `render.guidance` evaluates the branches.
"""

from __future__ import annotations

from functools import lru_cache

from face0_worker.contract.job import Guidance


def coefficients(guidance: Guidance, part: float) -> tuple[float, float, float, float]:
    """Return what the branches joint, face, text and none count at `part` of the denoising (0 is the first step).

    Outside [start, stop) nothing is exaggerated: the strength w is 1, and the joint share c at most 1, so that only
    the conditional mixture e runs (Kynkaanniemi et al. 2024, arXiv 2404.07724, limit guidance to an interval so).
    """
    w, c, a = guidance.w, guidance.c, guidance.a
    if not guidance.start <= part < guidance.stop:
        w, c = 1.0, min(c, 1.0)
    return w * c, w * (1 - c) * a, w * (1 - c) * (1 - a), 1 - w


@lru_cache(maxsize=1024)
def evaluations(guidance: Guidance, steps: int) -> int:
    """Return how often the denoiser is evaluated for one picture; a branch that counts nothing is left out."""
    return sum(value != 0 for step in range(steps) for value in coefficients(guidance, step / steps))
