"""What a report is about: what is published, or what is asked for; only a run publishes, and renews its report."""

import json

import pytest
import yaml

from generators.checkpoints import save_generator
from infra.shards.shards import write_shard
from pipeline.operations.verify import verify_run
from pipeline.publish.index import POINTER
from pipeline.report.described import described
from tests import tiny
from tests.generators.published import tiny as tiny_generator
from tests.pipeline.conftest import compute, scan_input

OTHER = "refine_maps.threshold=0.9"


def pointer(run):
    return json.loads((run.folder / "store" / POINTER).read_text())


def summary(run, place="out"):
    return tiny.read_json(run.folder / place / "summary.json")


def page(run, place="out"):
    return (run.folder / place / "report.html").read_text()


def compute_other(run):
    """Commit what another threshold needs."""
    for step in run.index(OTHER).steps:
        compute(run.plan(OTHER), step)


def test_a_report_of_settings_that_were_never_run_is_refused_and_publishes_nothing(invertmill, committed):
    before = committed.files()
    code, output, errors = invertmill("report", committed.folder / "run.yaml", "--set", "refine_maps.threshold=0.77")
    assert (code, output) == (2, "")
    assert "with these settings invert has 0 of 3 units" in errors
    assert "without --set, the report is of what is published" in errors
    assert committed.files() == before
    assert not (committed.folder / "out/report.html").exists()


@pytest.mark.parametrize("setting", ["train_segmenter.epochs=2", "error_maps.schedule.steps=5"])
def test_a_report_of_a_segmenter_that_was_never_trained_is_refused(invertmill, committed, setting):
    code, _, errors = invertmill("report", committed.folder / "run.yaml", "--set", setting)
    assert code == 2
    assert "no segmenter is trained with these settings" in errors


def test_a_report_of_settings_that_are_computed_leaves_what_is_published(invertmill, committed):
    invertmill("report", committed.folder / "run.yaml")
    compute_other(committed)
    before, published = pointer(committed), summary(committed, "store/reports")
    code, output, _ = invertmill("report", committed.folder / "run.yaml", "--set", OTHER)
    assert code == 0
    assert "8 = 8 recorded + 0 quarantined" in output
    assert summary(committed)["index"] != before["receipt"]
    assert "threshold: 0.9" in page(committed)
    assert pointer(committed) == before
    assert summary(committed, "store/reports") == published


def test_settings_that_decide_no_result_are_still_about_what_is_published(invertmill, committed):
    code, _, _ = invertmill("report", committed.folder / "run.yaml", "--set", "compute.workers=7")
    assert code == 0
    assert summary(committed)["index"] == pointer(committed)["receipt"]


def test_a_report_is_about_what_is_published_whatever_the_file_says_now(invertmill, committed):
    compute_other(committed)
    committed.index(OTHER).publish()
    code, _, _ = invertmill("report", committed.folder / "run.yaml")
    assert code == 0
    assert summary(committed)["index"] == pointer(committed)["receipt"]
    assert "threshold: 0.9" in page(committed)


def test_a_report_is_about_the_units_that_are_published_however_they_are_cut_now(invertmill, committed):
    code, output, _ = invertmill("report", committed.folder / "run.yaml", "--set", "unit_samples=2")
    assert code == 0
    assert "8 = 8 recorded + 0 quarantined" in output


def replace_shard(run):
    write_shard(run.folder / "shards/train-a.tar", tiny.samples("train-a", 2, first=50))


def remove_shard(run):
    (run.folder / "shards/train-a.tar").unlink()


@pytest.mark.parametrize("change", [replace_shard, remove_shard])
def test_a_report_after_the_input_changed_is_still_about_all_that_is_published(invertmill, committed, change):
    before = pointer(committed)
    change(committed)
    code, output, errors = invertmill("report", committed.folder / "run.yaml")
    assert (code, errors) == (0, "")
    assert "8 = 8 recorded + 0 quarantined" in output
    assert summary(committed)["samples"] == {"inventory": 8, "recorded": 8, "quarantined": 0}
    assert pointer(committed) == before
    assert "held-b-000" in page(committed)


def test_nothing_is_reported_before_anything_is_published(invertmill, committed):
    (committed.folder / "store" / POINTER).unlink()
    code, _, errors = invertmill("report", committed.folder / "run.yaml")
    assert code == 2
    assert errors.startswith("error: there is nothing to report: nothing is published yet")


def test_a_published_result_of_other_weights_is_not_described_by_these(invertmill, committed):
    tiny.write_networks(committed.folder / "other")
    settings = yaml.safe_load((committed.folder / "run.yaml").read_text())
    other = tiny_generator(tiny.SIDE_PX, z_dim=8, w_dim=8, channel_max=8, seed=5)
    save_generator(other, committed.folder / "other/generator.safetensors", about="another")
    settings["generator"]["checkpoint"] = "other/generator.safetensors"
    (committed.folder / "run.yaml").write_text(yaml.safe_dump(settings))
    code, _, errors = invertmill("report", committed.folder / "run.yaml")
    assert code == 2
    assert "made by another version or with other weights than this configuration names (error_maps" in errors


# --- a run that has nothing to compute ------------------------------------------------------------------------------


def test_a_run_with_nothing_to_compute_leaves_a_report_that_is_about_its_result(invertmill, committed):
    code, output, _ = invertmill("run", committed.folder / "run.yaml")
    assert (code, "nothing to do" in output) == (0, False)  # there was no report yet
    first = page(committed)
    code, output, _ = invertmill("run", committed.folder / "run.yaml")
    assert (code, "nothing to do: all 3 units are committed" in output) == (0, True)
    assert page(committed) == first


def test_a_run_back_at_an_earlier_threshold_renews_pointer_and_report(invertmill, committed):
    invertmill("run", committed.folder / "run.yaml")
    first = pointer(committed)
    compute_other(committed)
    for overrides, threshold in ((("--set", OTHER), "0.9"), ((), "0.225")):
        code, output, _ = invertmill("run", committed.folder / "run.yaml", *overrides)
        assert code == 0
        assert "nothing to do" not in output
        for place in ("out", "store/reports"):
            assert summary(committed, place)["index"] == pointer(committed)["receipt"]
            assert f"threshold: {threshold}" in page(committed, place)
    assert pointer(committed) == first


def test_a_report_that_another_machine_left_next_to_the_bundles_is_renewed(invertmill, committed):
    invertmill("run", committed.folder / "run.yaml")
    path = committed.folder / "store/reports/summary.json"
    path.write_text(path.read_text().replace("receipts/publish", "receipts/elsewhere"))
    _, output, _ = invertmill("run", committed.folder / "run.yaml")
    assert "nothing to do" not in output
    assert summary(committed, "store/reports")["index"] == pointer(committed)["receipt"]


def test_a_run_after_a_shard_was_removed_renews_its_report(invertmill, committed):
    invertmill("run", committed.folder / "run.yaml")
    (committed.folder / "shards/held-b.tar").unlink()
    code, output, _ = invertmill("run", committed.folder / "run.yaml")
    assert code == 0
    assert "5 = 5 recorded + 0 quarantined" in output
    assert summary(committed)["samples"]["inventory"] == pointer(committed)["samples"] == 5


@pytest.mark.parametrize("name", ["summary.json", "report.html"])
def test_a_report_that_was_deleted_is_made_again(invertmill, committed, name):
    invertmill("run", committed.folder / "run.yaml")
    (committed.folder / "out" / name).unlink()
    _, output, _ = invertmill("run", committed.folder / "run.yaml")
    assert "nothing to do" not in output
    assert (committed.folder / "out" / name).is_file()


@pytest.mark.parametrize(
    "part", ["part/*/*.parquet", "index/*/contents.json", "supervision/*/*.parquet", "supervision/*/shards.json"]
)
def test_a_run_makes_a_damaged_index_again(invertmill, committed, part):
    invertmill("run", committed.folder / "run.yaml")
    path = committed.file(f"bundles/publish/*/{part}")
    whole = path.read_bytes()
    tiny.truncated(path, 0.5)
    code, output, _ = invertmill("run", committed.folder / "run.yaml")
    assert code == 0
    assert "damaged: publish unit" in output
    assert whole in committed.files().values()
    assert verify_run(committed.plan())[0] == []


def test_a_shard_of_which_nothing_could_be_read_is_part_of_what_is_published(committed):
    """It has no samples and no units; the report still says what is wrong with it."""
    before = pointer(committed)["receipt"]
    (committed.folder / "shards/late.tar").write_bytes(b"")
    scan_input(committed.plan())
    committed.index().publish()
    assert pointer(committed)["receipt"] != before
    assert list(described(committed.settings(), asked=False).unread.faults) == ["late.tar"]
