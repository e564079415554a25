"""The script of a GPU's figures: parts are measured once, continued, and reported if they fail."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import decoding, widths
from benchmarks.harness import gpu_parts
from benchmarks.harness.gpu_parts import COMPLETE, ENTRY, LEFT, Part, measure

SCRIPT = Path(gpu_parts.__file__).parents[1] / "gpu.sh"


def run(folder, *arguments):
    command = [SCRIPT, "--device", "cpu", "--quick", *arguments, "figures"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def written(file, **entry):
    about = {"part": "roofline", "device": "cpu", "quick": True, "seconds": 1.0, "status": 0} | entry
    file.write_text(json.dumps({ENTRY: about}))


def test_a_part_is_measured_once(tmp_path):
    first = run(tmp_path, "--part", "roofline")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "roofline: measured" in first.stdout
    file = tmp_path / "figures/roofline.json"
    report = json.loads(file.read_text())
    assert {row["precision"] for row in report["products"]} == {"fp32", "bf16"}
    assert all(row["tflops"] > 0 for row in (*report["products"], *report["convolutions"]))
    assert f"copy: {report['copy_gb_per_s']} GB/s" in first.stdout
    before = file.stat().st_mtime_ns
    again = run(tmp_path, "--part", "roofline")
    assert again.returncode == 0
    assert "roofline: complete before" in again.stdout
    assert file.stat().st_mtime_ns == before


def test_a_part_that_fails_is_reported_and_the_next_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parts, "PARTS", {"broken": Part("there_is_none", lambda _: []), **gpu_parts.PARTS})
    written(tmp_path / "roofline.json")
    outcomes = measure(["broken", "roofline"], tmp_path, "cpu", 600, quick=True)
    assert outcomes["broken"].startswith("failed with status 1: ")
    assert "there_is_none" in outcomes["broken"]
    assert outcomes["roofline"] == COMPLETE
    assert not (tmp_path / "broken.json").exists()


@pytest.mark.parametrize("other", [{"device": "cuda"}, {"quick": False}, {"part": "widths"}, None])
def test_a_part_is_not_skipped_for_damaged_figures_or_those_of_another_kind(tmp_path, other):
    file = tmp_path / "roofline.json"
    if other is None:
        file.write_text('{"gpu_part": {"part"')
    else:
        written(file, **other)
    assert measure(["roofline"], tmp_path, "cpu", 0, quick=True) == {"roofline": LEFT}


def test_a_part_that_takes_too_long_fails_and_one_that_the_time_limit_stops_is_left(tmp_path, monkeypatch):
    outcomes = measure(["throughput"], tmp_path, "cpu", 0.1, quick=True)
    assert outcomes["throughput"].startswith("failed: not done after 0 s")
    monkeypatch.setattr(gpu_parts, "PART_SHARE", 2.0)
    assert measure(["throughput"], tmp_path, "cpu", 0.1, quick=True) == {"throughput": LEFT}
    assert not (tmp_path / "throughput.json").exists()


def test_every_part_names_a_benchmark():
    assert all((SCRIPT.parent / f"{part.benchmark}.py").exists() for part in gpu_parts.PARTS.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_missing_gpu_is_said_before_anything_runs(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu_parts.main([str(tmp_path / "figures")])
    assert "no GPU is available" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


def test_widths_say_how_the_speed_grows():
    report = widths.report_of(torch.device("cpu"), [1, 2], 0, 1, quick=True)
    one, two = report["results"]
    assert one["width"] / one["step_ms"] == pytest.approx(one["images_per_second"] / 1000, rel=0.01)
    assert two["ratio"] == pytest.approx(two["images_per_second"] / one["images_per_second"], abs=0.01)


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_a_batch_is_decoded_on_the_device_as_by_pillow_up_to_rounding(monkeypatch):
    monkeypatch.setattr(decoding, "BATCH", 2)
    row = decoding._batch_row(64, 1, torch.device("cpu"))
    assert row["device_ms"] > 0
    assert row["mean_difference"] < 1
