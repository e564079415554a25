"""The command line: what each command prints, how it ends, and what it leaves alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.pipeline.conftest import contents, scan_input
from tests.servers import free_port


def table(output):
    """Return the rows of a printed table by their first cell."""
    return {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.strip()}


def test_without_a_command_it_shows_its_commands(invertmill):
    _, output, errors = invertmill()
    assert all(
        command in output + errors
        for command in ("run", "plan", "status", "verify", "report", "tune", "inspect", "convert")
    )


def test_a_plan_of_a_new_run_says_what_is_unknown_and_touches_nothing(invertmill, fresh):
    before = contents(fresh.folder)
    code, output, errors = invertmill("plan", fresh.folder / "run.yaml")
    assert (code, errors) == (0, "")
    assert table(output)["inventory"][:2] == ["2", "2"]
    assert "2 shards, 2 of them new or changed" in output
    assert contents(fresh.folder) == before


def test_a_plan_says_how_many_units_a_changed_setting_leaves(invertmill, committed):
    before = committed.files()
    code, output, _ = invertmill("plan", committed.folder / "run.yaml", "--set", "refine_maps.threshold=0.5")
    assert code == 0
    found = table(output)
    assert {name: found[name][0] for name in ("error_maps", "predict_maps", "refine_maps", "invert")} == {
        "error_maps": "0",
        "predict_maps": "0",
        "refine_maps": "3",
        "invert": "3",
    }
    assert committed.files() == before


@pytest.mark.parametrize("command", ["plan", "status"])
def test_plan_and_status_are_also_json(invertmill, committed, command):
    code, output, _ = invertmill(command, committed.folder / "run.yaml", "--json")
    stages = {stage["name"]: stage for stage in json.loads(output)["stages"]}
    assert code == 0
    assert (stages["invert"]["units"], stages["invert"]["done"], stages["invert"]["recorded"]) == (3, 3, 8)
    assert json.loads(output)["complete"] is True


def test_status_counts_what_is_committed(invertmill, committed):
    code, output, _ = invertmill("status", committed.folder / "run.yaml")
    assert code == 0
    assert table(output)["invert"][:4] == ["3", "3", "8", "0"]


def test_verify_of_a_whole_run_says_so(invertmill, committed):
    code, output, errors = invertmill("verify", committed.folder / "run.yaml")
    assert (code, errors) == (0, "")
    assert "invert: 8 samples = 8 recorded + 0 quarantined" in output
    assert "verified: inventory = recorded + quarantined in every stage" in output


def test_verify_names_what_is_wrong_and_ends_with_one(invertmill, committed):
    path = committed.file("bundles/invert/**/arrays.tar")
    path.unlink()
    code, output, _ = invertmill("verify", committed.folder / "run.yaml")
    assert code == 1
    assert f"problem invert: {path.relative_to(committed.folder / 'store')} is missing" in output
    assert "`invertmill verify --repair`, then run again" in output
    assert "verified" not in output
    before = committed.files()
    code, output, _ = invertmill("verify", committed.folder / "run.yaml", "--repair")
    assert code == 1
    assert "repaired invert: unit" in output
    (kept,) = committed.files().keys() - before.keys()
    assert f"its receipt is kept as {kept}" in output


def test_report_makes_summary_and_page_again(invertmill, committed):
    code, output, errors = invertmill("report", committed.folder / "run.yaml")
    page = (committed.folder / "out/report.html").read_text()
    summary = tiny.read_json(committed.folder / "out/summary.json")
    assert (code, errors) == (0, "")
    assert summary["samples"] == {"inventory": 8, "recorded": 8, "quarantined": 0}
    assert set(summary["calibration"]) == set(summary["correlation_per_pixel"]) == set(tiny.SPACES)
    assert 0 < summary["average_precision_predicted_map"] <= 1
    assert "8 = 8 recorded + 0 quarantined" in output
    assert f"report: {committed.folder / 'out/report.html'}" in output
    assert page.strip().startswith("<!DOCTYPE html>")
    assert (committed.folder / "store/reports/report.html").read_text() == page


def test_report_before_there_is_anything_says_what_comes_first(invertmill, fresh):
    scan_input(fresh.plan())
    code, output, errors = invertmill("report", fresh.folder / "run.yaml")
    assert (code, output) == (2, "")
    assert errors.startswith("error: there is nothing to report")
    assert "`invertmill run` comes first" in errors


@pytest.mark.parametrize("command", ["run", "plan", "status", "verify", "report", "tune"])
def test_every_command_refuses_a_configuration_that_is_not_there(invertmill, tmp_path, command):
    code, output, errors = invertmill(command, tmp_path / "nowhere.yaml")
    assert (code, output) == (2, "")
    assert errors.startswith(f"error: cannot read the configuration {tmp_path / 'nowhere.yaml'}")
    assert len(errors.splitlines()) == 1


def test_a_configuration_that_is_not_text_is_refused(invertmill, tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00input")
    code, _, errors = invertmill("plan", tmp_path / "run.yaml")
    assert code == 2
    assert "run.yaml is not valid YAML" in errors


def test_a_set_value_that_is_not_yaml_is_refused_with_the_override(invertmill, fresh):
    code, _, errors = invertmill("plan", fresh.folder / "run.yaml", "--set", "input=[a")
    assert code == 2
    assert errors.startswith("error: --set input=[a: the value is not valid YAML")


def test_a_set_value_stays_in_its_section_though_the_file_shares_it(fresh):
    assert "schedule: *" in (fresh.folder / "run.yaml").read_text()  # error_maps and invert share one YAML node
    changed = fresh.settings("invert.schedule.steps=7")
    assert (changed.invert.schedule.steps, changed.error_maps.schedule.steps) == (7, 4)


def test_a_region_that_leaves_the_canvas_is_refused_with_its_key(invertmill, committed):
    region = "region={top: 8, height: 32, width: 32}"
    code, _, errors = invertmill("plan", committed.folder / "run.yaml", "--set", region)
    assert code == 2
    assert errors.startswith("error: region: ")
    assert "make the region smaller or move it" in errors


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["inspect", "--help"], ["--version"]])
def test_help_and_version_import_nothing_that_takes_long(arguments):
    heavy = "{'torch', 'ray', 'pyarrow', 'numpy', 'boto3', 'yaml', 'matplotlib', 'sklearn', 'skimage'}"
    program = (
        f"import sys; sys.argv = ['invertmill', *{arguments}]\nfrom pipeline.cli.commands import main\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"found = {heavy} & sys.modules.keys()\nassert not found, found"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True)


def test_a_plan_with_the_small_perceptual_network_imports_nothing_that_only_workers_or_larger_ones_need(fresh):
    """Together they take longer to import than everything else; workers would pay for them too."""
    program = (
        "import sys\nfrom pipeline.cli.commands import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torchvision', 'torch._dynamo', 'lpips', 'sklearn', 'ray', 'matplotlib'}\n"
        "found = heavy & sys.modules.keys()\nassert not found, found"
    )
    command = [sys.executable, "-c", program, "plan", str(fresh.folder / "run.yaml")]
    root = Path(__file__).parents[3]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, check=True, capture_output=True)


def test_a_locale_without_the_letters_and_a_home_that_is_not_there_end_no_command(fresh):
    named = fresh.folder / "τ – ünïcode.yaml"
    named.write_bytes((fresh.folder / "run.yaml").read_bytes() + "# τ – ünï".encode())
    root = Path(__file__).parents[3]
    bare = {"PATH": os.environ["PATH"], "HOME": "/proc/nowhere", "PYTHONPATH": str(root)}
    program = "from pipeline.cli.commands import main; main()"
    ascii_only, strange = {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "en_US.ISO-8859-1", "TZ": "Nowhere/Unknown"}
    missing = named.with_name("missing " + named.name)
    for path, variables, code, errors in (
        (named, ascii_only, 0, b""),
        (named, strange, 0, b""),
        (missing, ascii_only, 2, b"error: cannot read the configura"),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", program, "plan", str(path)], env=bare | variables, capture_output=True, check=False
        )
        assert (ran.returncode, ran.stderr[:32]) == (code, errors)


def test_a_cluster_that_does_not_answer_is_refused_before_anything_is_read(invertmill, fresh):
    address = f"127.0.0.1:{free_port()}"
    code, output, errors = invertmill("run", fresh.folder / "run.yaml", "--set", f"compute.address={address}")
    assert (code, output) == (2, "")
    assert f"error: no Ray cluster answers at compute.address {address}" in errors
    assert fresh.files() == {}


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(invertmill, fresh, tmp_path):
    (tmp_path / "file").write_text("in the way")
    wanted = tmp_path / "file/out"
    code, output, errors = invertmill("run", fresh.folder / "run.yaml", "--set", f"folder={wanted}")
    assert (code, output) == (2, "")
    assert errors.startswith(f"error: folder {wanted} cannot be written (Not a directory)")
    assert fresh.files() == {}
