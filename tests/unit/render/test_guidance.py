"""Guidance: the formula of the paper, by branches."""

from __future__ import annotations

import math

import pytest
import torch

from face0_worker.contract.errors import BadInput
from face0_worker.contract.guidance import coefficients
from face0_worker.contract.job import Guidance
from face0_worker.render.guidance import Branch, Rows, check_guidance, combine, place_rows, plan_rows

CPU = torch.device("cpu")
REGIMES = {
    "photographs": (Guidance(w=7.5, c=1.0), {Branch.JOINT, Branch.NONE}),
    "stylised": (Guidance(w=7.5, c=0.6, a=0.0), {Branch.JOINT, Branch.TEXT, Branch.NONE}),
    "very unreal": (Guidance(w=7.5, c=1.4, a=1.0), {Branch.JOINT, Branch.FACE, Branch.NONE}),
    "text only": (Guidance(w=7.5, c=0.0, a=0.0), {Branch.TEXT, Branch.NONE}),
    "face only": (Guidance(w=7.5, c=0.0, a=1.0), {Branch.FACE, Branch.NONE}),
    "no guidance": (Guidance(w=1.0, c=1.0), {Branch.JOINT}),
    "everything": (Guidance(w=2.0, c=0.5, a=0.5), set(Branch)),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_each_regime_runs_only_the_branches_its_coefficients_need(regime: str) -> None:
    guidance, needed = REGIMES[regime]
    assert set(plan_rows([guidance], 0.0).branches) == needed


def test_joint_guidance_costs_two_evaluations() -> None:
    assert len(plan_rows([Guidance(w=7.5, c=1.0)], 0.3)) == 2


@pytest.mark.parametrize("regime", REGIMES)
def test_the_combination_is_the_papers_formula(regime: str) -> None:
    guidance, _ = REGIMES[regime]
    w, c, a = guidance.w, guidance.c, guidance.a
    joint, face, text, none = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    e = c * joint + (1 - c) * (a * face + (1 - a) * text)
    wanted = w * e + (1 - w) * none

    rows = plan_rows([guidance], 0.5)
    by_branch = torch.stack([joint, face, text, none])
    got = combine(by_branch[list(rows.branches)], place_rows(rows, 1, CPU))[0]

    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_outside_the_interval_only_the_conditional_combination_runs() -> None:
    guidance = Guidance(w=7.5, c=0.6, a=0.0, start=0.25, stop=0.75)
    for part in (0.0, 0.24, 0.75, 0.9):
        assert coefficients(guidance, part) == (0.6, 0.0, 0.4, 0.0)
    for part in (0.25, 0.5, 0.74):
        assert coefficients(guidance, part) == pytest.approx((4.5, 0.0, 3.0, -6.5))


def test_outside_the_interval_a_face_is_not_exaggerated_either() -> None:
    guidance = Guidance(w=3.0, c=2.0, a=0.0, start=0.0, stop=0.5)
    assert coefficients(guidance, 0.25) == pytest.approx((6.0, 0.0, -3.0, -2.0))
    assert coefficients(guidance, 0.5) == (1.0, 0.0, 0.0, 0.0)


def test_coefficients_of_an_item_sum_to_one() -> None:
    for guidance, _ in REGIMES.values():
        assert math.isclose(sum(coefficients(guidance, 0.5)), 1.0, abs_tol=1e-9)


def test_a_broken_prediction_stays_with_its_item() -> None:
    rows = plan_rows([Guidance(w=3.0), Guidance(w=3.0)], 0.0)
    predictions = torch.ones(4, 1, 2, 2)
    predictions[0] = torch.nan
    guided = combine(predictions, place_rows(rows, 2, CPU))
    assert guided[0].isnan().all()
    torch.testing.assert_close(guided[1], torch.ones(1, 2, 2))


def test_combination_is_done_in_float32() -> None:
    rows = Rows((0, 0), (Branch.JOINT, Branch.NONE), (7.5, -6.5))
    predictions = torch.tensor([1.0078125, 1.0], dtype=torch.bfloat16).reshape(2, 1, 1, 1)
    guided = combine(predictions, place_rows(rows, 1, CPU))
    assert guided.dtype is torch.float32
    assert guided.item() == pytest.approx(7.5 * 1.0078125 - 6.5, abs=1e-6)


@pytest.mark.parametrize(
    ("guidance", "named"),
    [
        (Guidance(w=math.nan), "w"),
        (Guidance(c=math.inf), "c"),
        (Guidance(start=0.5, stop=0.5), "interval"),
        (Guidance(start=-0.1), "interval"),
        (Guidance(stop=1.1), "interval"),
    ],
)
def test_guidance_that_makes_no_sense_is_refused_by_name(guidance: Guidance, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        check_guidance(guidance)
