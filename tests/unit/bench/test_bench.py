"""`face0-worker bench`: every line of it on tiny models, and what its numbers mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from click.testing import CliRunner

from face0_worker.bench import run as bench_run
from face0_worker.bench.command import bench
from face0_worker.bench.hardware import count_flops, matmul_peak, peak_memory
from face0_worker.bench.report import Report, compare
from face0_worker.bench.sides import LIMITED, PLAIN, engine, items_for, stock
from face0_worker.bench.subjects import SMALL, random_model
from face0_worker.render.pipeline import Pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """Let torch use one core: what is so small takes many times as long on two that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows(one_core: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of one run over tiny models of both shapes, by name; nothing is compiled, but its rows are measured."""
    out = tmp_path_factory.mktemp("out")
    patched = pytest.MonkeyPatch()
    patched.setattr(Pipeline, "compile", lambda self: None)
    said = ["--device", "cpu", "--precision", "float32", "--small", "--models", "sd15,sdxl", "--compile"]
    ended = CliRunner().invoke(bench, [*said, "--rounds", "1", "--steps", "4", "--batch", "4", "--out", str(out)])
    patched.undo()
    assert ended.exit_code == 0, ended.output
    report = json.loads((out / "bench.json").read_text())
    assert report["device"]
    assert report["commit"]
    return {row["name"]: row for row in report["rows"]}


def test_each_row_has_the_form_that_readers_expect(rows: dict[str, dict[str, Any]]) -> None:
    assert len(rows) == 5 + 1 + 3 + 5
    for row in rows.values():
        assert set(row) == {"name", "a", "b", "ratio", "spread", "unit", "about"}
        assert row["a"] > 0
        assert row["b"] > 0
        assert row["ratio"] == pytest.approx(row["a"] / row["b"], rel=0.01)


def test_a_limited_interval_is_said_with_the_evaluations_that_it_takes(rows: dict[str, dict[str, Any]]) -> None:
    name = "small SD 1.5 shape: this engine in batches of 4, limited interval / diffusers in batches of 4"
    about = rows[name]["about"]
    # of four steps, at 0, 1/4, 1/2 and 3/4, two lie within [0.3, 1)
    assert about["a"]["evaluations_per_picture"] == 6
    assert about["b"]["evaluations_per_picture"] == 8
    assert about["a"]["flops"] < about["b"]["flops"]
    for side in about["a"], about["b"]:
        assert side["peak_memory_gib"] > 0
        assert 0 < side["share_of_matmul_peak"] < 1


def test_both_sides_make_the_same_picture() -> None:
    subject = random_model(SMALL, CPU, "float32")
    # room for no face, which diffusers does not leave
    subject.pipeline.card = replace(subject.pipeline.card, tokens=0)
    subject.pipeline.mapper.tokens = 0
    items = items_for(subject, 2, 3, PLAIN)
    torch.testing.assert_close(
        torch.from_numpy(engine(subject, faces=False)(items)),
        torch.from_numpy(stock(subject)(items)),
        atol=1e-4,
        rtol=0,
    )


def test_items_differ_in_prompt_and_seed_and_ask_for_what_the_side_does() -> None:
    subject = random_model(SMALL, CPU, "float32")
    items = items_for(subject, 16, 3, LIMITED, 100)
    assert len({(item.prompt, item.seed) for item in items}) == 16
    assert {item.guidance for item in items} == {LIMITED}


def test_a_report_is_whole_after_every_row_and_keeps_the_last_of_a_name(tmp_path: Path) -> None:
    report = Report(tmp_path, device="here", commit="abc")
    assert json.loads((tmp_path / "bench.json").read_text()) == {"device": "here", "commit": "abc", "rows": []}
    pairs = [(2.0, 1.0), (6.0, 2.0), (4.0, 1.0)]
    report.put(compare("one / other", pairs[:1], "pictures/s"))
    report.put(compare("another", pairs[:1], "pictures/s"))
    said = report.put(compare("one / other", pairs, "pictures/s"))
    assert said == "one / other: 4 / 1 pictures/s = 3 (spread 2)"
    row, another = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert (row["a"], row["b"], row["ratio"], row["spread"]) == (4, 1, 3, 2)
    assert another["name"] == "another"


def test_a_run_cut_short_keeps_the_rounds_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(subject: Any, side: Any, steps: int, first_seed: int = 0) -> float:
        if first_seed == 3000:
            raise KeyboardInterrupt
        return 2.0 + first_seed / 1000

    monkeypatch.setattr(bench_run, "pictures_per_second", cut)
    report = Report(tmp_path, device="here", commit="abc")
    measured = bench_run.Bench(report, bench_run.Course(steps=1, rounds=3, batch=2), CPU, "float32", lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        measured.against_diffusers(random_model(SMALL, CPU, "float32"))
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [(row["a"], row["about"]["rounds"]) for row in rows] == [(3.5, 2)] * 5


def test_the_operations_of_a_product_and_of_attention_are_counted() -> None:
    one, other = torch.ones(8, 16), torch.ones(16, 32)
    assert count_flops(lambda: one @ other) == 2 * 8 * 16 * 32
    query = torch.ones(1, 2, 10, 4)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attention(query, query, query)) == 2 * 2 * (2 * 10 * 10 * 4)


def test_the_peak_of_memory_is_that_of_the_call() -> None:
    small = peak_memory(CPU, lambda: torch.zeros(1))
    large = peak_memory(CPU, lambda: torch.ones(64, 2**20))
    assert large - small == pytest.approx(0.25, abs=0.05)


def test_the_peak_of_matrix_products_is_a_speed() -> None:
    assert 1e9 < matmul_peak(CPU, torch.float32) < 1e14


def test_a_model_that_is_not_known_is_refused() -> None:
    ended = CliRunner().invoke(bench, ["--device", "cpu", "--models", "sd14"])
    assert ended.exit_code == 2
    assert "sd14" in ended.output


class Spy:
    """Notes what is measured, in which course."""

    def __init__(
        self, *, on_gpu: bool, course: str = "", order: list[str] | None = None, precision: str = "float32"
    ) -> None:
        self.on_gpu, self._course, self.precision = on_gpu, course, precision
        self.order: list[str] = [] if order is None else order

    def shipped(self, precision: str | None = None) -> str:
        return f"shipped in {precision}" if precision else "shipped"

    def random(self, shape: Any) -> str:
        return str(shape.name)

    def against_diffusers(self, subject: str) -> None:
        self.order.append(f"{subject}{self._course}")

    def as_they_come(self, subject: str, plain: str) -> None:
        self.order.append(f"{subject} beside {plain}")

    def invariance(self, subject: str) -> None:
        assert not self._course, "a short course has no pictures to spare"

    def compiled(self, subject: str) -> None:
        self.order.append(f"{subject} compiled")

    def shorter(self) -> Spy:
        return Spy(on_gpu=self.on_gpu, course=", shorter", order=self.order)

    def shortest(self) -> Spy:
        return Spy(on_gpu=self.on_gpu, course=", shortest", order=self.order)


def test_measuring_in_the_order_of_worth() -> None:
    spy = Spy(on_gpu=True)
    bench_run.run(spy, ("sdxl", "sd15", "shipped"), compiled=True)  # type: ignore[arg-type]
    assert spy.order == ["SD 1.5 shape", "shipped", "SD 1.5 shape compiled", "SDXL shape, shorter"]


def test_the_model_that_ships_is_measured_beside_diffusers_in_float32_where_it_renders_in_less() -> None:
    spy = Spy(on_gpu=False, precision="bfloat16")
    bench_run.run(spy, ("shipped", "sd15"), compiled=False)  # type: ignore[arg-type]
    assert spy.order == ["shipped", "shipped beside shipped in float32", "SD 1.5 shape, shortest"]


def test_each_side_as_it_comes_renders_in_its_own_precision(tmp_path: Path) -> None:
    ours, theirs = (random_model(SMALL, CPU, precision) for precision in ("bfloat16", "float32"))
    plain = Mock(side_effect=theirs.stock)
    theirs = replace(theirs, stock=plain)
    report = Report(tmp_path, device="here", commit="abc")
    course = bench_run.Course(steps=1, rounds=1, batch=2, singles=1)
    bench_run.Bench(report, course, CPU, "bfloat16", lambda line: None).as_they_come(ours, theirs)
    one, batched = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert one["name"].endswith("this engine in batches of 2 / diffusers one at a time in float32")
    assert batched["name"].endswith("this engine in batches of 2 / diffusers in batches of 2 in float32")
    # of each side two rounds, one of them to warm up: one picture alone, and two together
    assert [len(call.kwargs["prompt"]) for call in plain.call_args_list] == [1, 2, 1, 2]
    assert theirs.pipeline.unet.dtype == torch.float32
    assert theirs.pipeline.denoiser.tally.calls == 0
    assert ours.pipeline.denoiser.tally.calls > 0


def test_on_a_cpu_a_large_model_has_the_shortest_course() -> None:
    spy = Spy(on_gpu=False)
    bench_run.run(spy, ("shipped", "sd15"), compiled=False)  # type: ignore[arg-type]
    assert spy.order == ["shipped", "SD 1.5 shape, shortest"]
