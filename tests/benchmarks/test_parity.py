"""The comparison with the reference data: what counts as an error, and how the benchmark ends."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import parity
from benchmarks.references.comparison import Row, Setting, distance, exact, guarded

FOLDERS = ("1_stylegan2", "2_sam", "3_biggan")


def test_the_error_is_the_largest_difference_over_the_largest_reference_value():
    assert distance(torch.tensor([1.0, -3.0]), np.array([1.0, -4.0])) == pytest.approx(0.25)
    assert distance(np.array([0.5]), torch.zeros(1)) == 0.5
    assert distance(torch.zeros(2), torch.zeros(3)) == math.inf
    assert math.isnan(distance(torch.tensor([math.nan]), torch.ones(1)))


@pytest.mark.parametrize(("error", "passed"), [(1.0, True), (1.1, False), (math.nan, False), (math.inf, False)])
def test_a_row_passes_within_its_tolerance(error, passed):
    assert Row("a", error, 1.0).passed is passed
    assert exact("a", True).passed
    assert not exact("a", False).passed


def test_tolerances_of_a_gpu_are_five_times_those_of_a_cpu():
    for device, factor in (("cpu", 1), ("cuda", 5)):
        row = Setting(Path(), torch.device(device), quick=True).row("a", torch.ones(1), torch.ones(1), 1e-4)
        assert row.tolerance == pytest.approx(1e-4 * factor)


def test_what_stops_a_part_is_a_failed_row_and_what_came_before_it_stays():
    def rows():
        yield Row("first", 0, 0)
        raise ModuleNotFoundError("there is no BigGAN-deep yet")

    first, stopped = guarded("part", rows())
    assert first.passed
    assert (stopped.name, stopped.passed) == ("part/stopped", False)
    assert stopped.note == "ModuleNotFoundError: there is no BigGAN-deep yet"


@pytest.fixture
def references(tmp_path):
    for folder in FOLDERS:
        (tmp_path / "golden" / folder).mkdir(parents=True)
    return tmp_path / "golden"


def run(monkeypatch, references: Path, *rows: Row) -> tuple[int, dict]:
    part = SimpleNamespace(rows=lambda _: iter(rows), NOT_COMPARED={"that": "not ours"})
    monkeypatch.setattr(parity, "PARTS", {"part": part})
    path = references.parent / "results/parity.json"
    code = parity.main(["--quick", "--json", str(path), "--references", str(references)])
    return code, json.loads(path.read_text())


def test_figures_carry_what_they_were_made_with(monkeypatch, references):
    code, figures = run(monkeypatch, references, Row("a", 1e-7, 1e-4), Row("b", 0.0, 0.0, "bit by bit"))
    assert code == 0
    assert figures["rows"] == [
        {"name": "a", "error": 1e-7, "tolerance": 1e-4, "passed": True},
        {"name": "b", "error": 0.0, "tolerance": 0.0, "passed": True, "note": "bit by bit"},
    ]
    assert (figures["compared"], figures["failed"], figures["not_compared"]) == (2, 0, {"that": "not ours"})
    assert figures["versions"]["torch"] == torch.__version__
    assert {"device", "seed", "unit", "seconds", "quick"} <= figures.keys()


@pytest.mark.parametrize("error", [1e-3, math.inf, math.nan])
def test_one_row_beyond_its_tolerance_ends_it_with_one(monkeypatch, references, capsys, error):
    code, figures = run(monkeypatch, references, Row("a", 0.0, 1e-4), Row("b", error, 1e-4, "why"))
    assert (code, figures["failed"]) == (1, 1)
    output = capsys.readouterr().out
    assert "FAILED" in output
    assert "why" in output
    assert "1 of 2 within tolerance" in output


def test_without_the_reference_data_it_says_so_and_ends_with_two(tmp_path, capsys):
    assert parity.main(["--json", str(tmp_path / "a.json"), "--references", str(tmp_path / "nowhere")]) == 2
    assert f"no reference data in {tmp_path / 'nowhere'}: it lacks 1_stylegan2, 2_sam, 3_biggan" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("name", ["1_stylegan2", "2_sam", "2_sam/inversion", "3_biggan"])
def test_every_folder_of_the_reference_data_has_a_part(name):
    assert callable(parity.PARTS[name].rows)
    assert all(parity.PARTS[name].NOT_COMPARED.values())


def test_the_losses_and_assignments_of_the_reference_data_pass(shared):
    from benchmarks.references import sam

    setting = Setting(shared / "golden", torch.device("cpu"), quick=True)
    rows = [*sam._losses(setting), *sam._rates(setting), *sam._assignments(setting), *sam._masks(setting)]
    assert len(rows) > 40
    assert [row.name for row in rows if not row.passed] == []
