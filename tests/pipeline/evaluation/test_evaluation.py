"""An evaluation from bundles: what is computed, what is shared with runs, and the tables that say it."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.receipts import Address
from pipeline.errors import ConfigError, RunError
from pipeline.evaluation.compute import committed
from pipeline.evaluation.conclude import concluded, pictured, write
from pipeline.evaluation.grid import Grid
from pipeline.evaluation.samples import choose
from pipeline.evaluation.verify import verified
from pipeline.operations.garbage import garbage_of
from pipeline.report.conclude import viewer_of
from stages.invert import Invert
from tests.pipeline.conftest import contents
from tests.pipeline.evaluation.conftest import EDIT, EVALUATE, METHODS, evaluate

NO_PICTURES = Grid((), ())
OTHER = "{name: slow, invert: {schedule: {steps: 5}}}"


def test_every_method_has_the_held_out_images_and_its_own_fingerprint(evaluated_run):
    found = concluded(evaluated_run.plan(*EVALUATE), committed(evaluated_run.plan(*EVALUATE)))
    assert [(line.name, line.images, line.steps) for line in found.lines] == [
        (name, 3, 4) for name in ("SAM", "W+", "F2", "F4", "classes")
    ]
    assert len({line.fingerprint for line in found.lines}) == 5
    assert all(line.editability.images == 3 and line.realism > 0 for line in found.lines)
    assert found.complete
    shares = {line.name: line.share_first for line in found.lines}
    assert shares["W+"] == 1
    assert shares["F4"] == 0
    assert shares["classes"] == 0.75  # labels 0, 1 and 2 of four


def test_the_runs_own_inversions_are_a_row_without_being_made_again(evaluated_run):
    sam = committed(evaluated_run.plan(*EVALUATE))[0]
    index = evaluated_run.index()
    assert sam.steps[Invert].fingerprint == index.steps[Invert].fingerprint
    assert {unit.name for unit in sam.samples.units} <= {unit.name for unit in index.units}


def test_nothing_is_computed_twice_and_another_method_alone(own_run):
    plan = own_run.plan(*EVALUATE)
    assert evaluate(plan)[1] == 0
    before = contents(own_run.folder / "store")
    found, count = evaluate(own_run.plan(f"evaluate={{methods: [{METHODS}, {OTHER}]}}", EDIT))
    assert count == 2  # inverted and edited
    assert found.lines[-1].steps == 5
    after = contents(own_run.folder / "store")
    assert before.items() <= after.items()
    new = sorted(name for name in after.keys() - before.keys() if name.startswith("receipts/"))
    digests = (found.methods[-1].method.editing.fingerprint, found.lines[-1].fingerprint)
    assert [name.rpartition("/")[0] for name in new] == [
        f"receipts/{stage}/{digest}" for stage, digest in zip(("editability", "invert"), digests, strict=True)
    ]


def test_an_evaluation_changes_nothing_that_a_run_published(first_run, evaluated_run):
    for name in ("published.json",):
        assert (evaluated_run.folder / "store" / name).read_bytes() == (first_run / "store" / name).read_bytes()


def test_fewer_images_have_units_of_their_own_and_the_same_figures(own_run):
    few = f"evaluate={{methods: [{METHODS.replace('name: SAM', 'name: SAM, samples: 2')}]}}"
    plan = own_run.plan(few, EDIT)
    found, count = evaluate(plan)
    assert count == 2
    assert found.lines[0].images == 2
    (unit,) = committed(plan)[0].samples.units
    assert "-of-" in unit.name
    whole = concluded(own_run.plan(*EVALUATE), committed(own_run.plan(*EVALUATE))).methods[0]
    part = found.methods[0]
    assert part.psnr_db.keys() == set(choose(plan, plan.inventories(), 2))
    for name, value in part.psnr_db.items():
        assert value == pytest.approx(whole.psnr_db[name], abs=1e-3)


def test_figures_are_means_of_the_rows_of_bundles(evaluated_run):
    plan = evaluated_run.plan(*EVALUATE)
    found = concluded(plan, committed(plan))
    for method, line in zip(found.methods, found.lines, strict=True):
        step = method.method.steps[Invert]
        rows = [
            record.row for unit in method.method.samples.units for record in evaluated_run.records(step, unit).values()
        ]
        assert line.psnr_db.value == pytest.approx(np.mean([row["psnr_db"] for row in rows]))
        assert line.lpips.value == pytest.approx(np.mean([row["lpips"] for row in rows]))
        receipts = [
            plan.ledger.receipt(Address("invert", line.fingerprint, u.name)) for u in method.method.samples.units
        ]
        seconds = sum(receipt.info["computed_s"] for receipt in receipts)
        assert line.seconds_per_image == pytest.approx(seconds / sum(len(r.outcomes) for r in receipts))


def test_the_files_say_the_same(own_run):
    plan = own_run.plan(*EVALUATE)
    found = concluded(plan, committed(plan))
    out = own_run.folder / "out"
    out.mkdir(exist_ok=True)
    (out / "summary.json").write_text(json.dumps({"index": "of the run", "methods": "old"}))
    folder = write(found, pictured(found, plan), out).parent
    summary = json.loads((out / "summary.json").read_text())
    assert summary["index"] == "of the run"
    assert list(summary["methods"]) == [line.name for line in found.lines]
    assert {"lpips", "psnr_db", "seconds_per_image", "editability"} <= summary["methods"]["SAM"].keys()
    assert all({"holds", "figure", "wanted"} <= claim.keys() for claim in summary["claims"].values())
    table = pq.read_table(folder / "table-4.1-optimisation.parquet").to_pylist()
    assert [row["name"] for row in table] == ["SAM", "W+", "F2", "F4"]
    assert table[0]["psnr_db"] == summary["methods"]["SAM"]["psnr_db"]
    images = pq.read_table(folder / "images.parquet").to_pandas()
    means = images.groupby("method").psnr_db.mean()
    assert means["SAM"] == pytest.approx(summary["methods"]["SAM"]["psnr_db"])
    assert [row["name"] for row in pq.read_table(folder / "figure-3.2.parquet").to_pylist()] == ["W+", "F2", "F4"]
    assert [row["name"] for row in pq.read_table(folder / "ablations.parquet").to_pylist()] == ["SAM", "classes"]
    assert all(row["perceptual_digest"] == found.circumstances.perceptual_digest for row in table)
    shown = (folder / "table-4.1-optimisation.md").read_text()
    assert f"{summary['methods']['SAM']['psnr_db']:.2f}" in shown
    assert "32 x 32 px" in shown
    assert "3 held-out images" in shown


REFUSED = {
    "no section": ("evaluate=null", ConfigError, "has no such section"),
    "an ablation of another method": (
        "evaluate={methods: [{name: a, ablates: refinement, invert: {method: {kind: gaussian_prior}}}]}",
        ConfigError,
        "a ablates a part of SAM",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_evaluated_is_refused(evaluated_run, name):
    override, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        committed(evaluated_run.plan(override))


def test_without_held_out_images_there_is_nothing_to_evaluate_on(evaluated_run):
    plan = evaluated_run.plan(*EVALUATE, "supervision={shards: 'train*', held_out_share: 0}")
    with pytest.raises(RunError, match="no sample is held out"):
        choose(plan, plan.inventories(), 5)


def test_an_evaluation_is_verified_by_rendering_its_images_again(own_run):
    plan = own_run.plan(*EVALUATE)
    found, viewer = concluded(plan, committed(plan)), viewer_of(plan)
    write(found, NO_PICTURES, own_run.folder / "out")
    problems, facts = verified(found, viewer, own_run.folder / "out")
    assert problems == []
    assert facts[0].startswith("SAM: 3 images rendered again, at most 0.000 dB")
    assert len(facts) == 6


@pytest.mark.parametrize("figure", ["psnr_db", "lpips", "editability"])
def test_a_row_that_is_not_what_its_codes_give_is_a_problem(own_run, figure):
    plan = own_run.plan(*EVALUATE)
    found = concluded(plan, committed(plan))
    write(found, NO_PICTURES, own_run.folder / "out")
    (sam, *others) = found.methods
    first = sam.rows[0]
    lie = replace(sam, rows=(replace(first, **{figure: getattr(first, figure) + 0.1}), *sam.rows[1:]))
    problems, _ = verified(replace(found, methods=(lie, *others)), viewer_of(plan), own_run.folder / "out")
    assert len(problems) == 1
    assert problems[0].startswith(f"SAM: {first.key} of unit {first.bundle} renders with {figure}")


def test_a_table_that_is_not_of_the_bundles_is_a_problem(own_run):
    plan = own_run.plan(*EVALUATE)
    found = concluded(plan, committed(plan))
    path = write(found, NO_PICTURES, own_run.folder / "out").with_name("summary.json")
    summary = json.loads(path.read_text())
    summary["methods"]["W+"]["psnr_db"] += 1
    path.write_text(json.dumps(summary))
    problems, _ = verified(found, viewer_of(plan), own_run.folder / "out")
    assert [problem.partition(" is ")[0] for problem in problems] == ["summary.json: methods.W+.psnr_db"]


def test_results_of_evaluated_methods_are_not_those_of_other_settings(own_run):
    digests = {method.steps[Invert].fingerprint for method in committed(own_run.plan(*EVALUATE))}

    def superseded(*overrides):
        found = garbage_of(own_run.plan(*overrides), superseded=True, grace_s=-60)
        return {name.split("/")[2] for garbage in found for name in garbage.names if "/invert/" in name}

    assert not superseded(*EVALUATE) & digests
    assert len(superseded() & digests) == 4  # all but the run's own
