"""What editability costs: which samples are taken, what is committed, when it is measured again, what is shown."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from rich.console import Console

from pipeline.errors import RunError
from pipeline.execution.progress import Progress
from pipeline.execution.run import Run
from pipeline.operations.verify import verify_run
from pipeline.stage_settings import section_of
from pipeline.tune import trade_off
from pipeline.tune.curve import TradeOffCurve
from pipeline.tune.shares import steps_of
from pipeline.tune.trade_off import ask, choose, committed_curve, curve_of, even_groups, measured
from stages.invert import Invert
from stages.refine_maps import RefineMaps
from stages.trade_off import TradeOff
from tests import tiny
from tests.pipeline.conftest import Committed, compute, contents

FEW = ("trade_off.samples=4", "trade_off.points=4")


def measure(plan):
    """Measure the curve that a plan asks for in this process."""
    asked = ask(plan)
    work = asked.job.open()
    for part in asked.todo:
        work(part)
    return curve_of(plan, asked)


@pytest.fixture(autouse=True, scope="module")
def threads():
    """A job sets the threads of its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def measured_run(first_run, tmp_path_factory):
    """A run with a measured curve, in two parts; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(first_run, folder, copy_function=shutil.copy2)
    run = Committed(folder)
    measure(run.plan(*FEW, "invert.batch=2"))
    return run


def overrides(*more: str) -> list[str]:
    return [word for setting in (*FEW, "invert.batch=2", *more) for word in ("--set", setting)]


def test_held_out_samples_come_first_and_stay_the_same(committed):
    plan = committed.plan()
    refine = steps_of(plan)[RefineMaps]
    taken = {count: {(one.unit.shard.name, one.key) for one in choose(plan, refine, count)} for count in (2, 4, 99)}
    assert taken[2] < taken[4] < taken[99]
    assert [shard for shard, _ in taken[2]] == ["held-b.tar"] * 2
    assert {key for shard, key in taken[4] if shard == "held-b.tar"} == {f"held-b-{i:03d}" for i in range(3)}
    assert len(taken[99]) == 8


def test_samples_are_taken_in_parts_of_what_is_computed_together(committed):
    sizes = {
        batch: [len(part.samples) for part in ask(committed.plan("trade_off.samples=8", f"invert.batch={batch}")).parts]
        for batch in (3, "auto")
    }
    assert sizes == {3: [2, 3, 3], "auto": [8]}


def test_a_curve_goes_from_the_first_space_to_the_others(measured_run):
    curve = committed_curve(measured_run.plan(*FEW))
    area = [point.editable for point in curve.points]
    assert (curve.samples, curve.held_out, curve.quarantined) == (4, 3, 0)
    assert area == sorted(set(area))
    assert (area[0], area[-1]) == (0, 1)
    assert [point.threshold for point in curve.points] == sorted(point.threshold for point in curve.points)
    assert all(sum(point.shares.values()) == pytest.approx(1) for point in curve.points)
    assert all(np.isfinite((point.psnr_db, point.lpips)).all() for point in curve.points)


def test_the_configured_threshold_is_what_the_run_made_of_the_same_samples(measured_run):
    plan = measured_run.plan(*FEW)
    index, curve = measured_run.index(), committed_curve(plan)
    chosen = {one.key for one in choose(plan, index.steps[RefineMaps], 4)}
    inverted = {
        key: one for unit in index.units for key, one in measured_run.records(index.steps[Invert], unit).items()
    }
    wanted = [inverted[key].row for key in chosen]
    assert curve.configured.threshold == plan.config.refine_maps.threshold
    assert curve.configured.psnr_db == pytest.approx(np.mean([row["psnr_db"] for row in wanted]))
    assert curve.configured.editable == pytest.approx(np.mean([row["share_w_plus"] for row in wanted]))


def test_a_point_of_the_curve_is_what_a_run_with_its_threshold_makes_of_the_same_samples(committed):
    plan = committed.plan(*FEW)
    point = measure(plan).points[0]
    assert point.editable < 1
    other = committed.plan(*FEW, f"refine_maps.threshold={point.threshold:g}")
    for stage in (RefineMaps, Invert):
        compute(other, steps_of(other)[stage])
    curve = committed_curve(other)
    assert curve.equal_starts
    assert curve.configured.editable == pytest.approx(point.editable)
    assert (curve.configured.psnr_db, curve.configured.lpips) == pytest.approx((point.psnr_db, point.lpips), rel=1e-5)


def test_warm_starts_are_an_option_that_is_named(committed):
    warm = measure(committed.plan(*FEW, "trade_off.warm_share=0.35"))
    assert not warm.equal_starts
    assert warm.starts.startswith("warm starts")


def test_a_curve_does_not_depend_on_the_configured_threshold(measured_run):
    other = committed_curve(measured_run.plan(*FEW, "refine_maps.threshold=0.7"))
    mine = committed_curve(measured_run.plan(*FEW))
    assert other.points == mine.points
    assert (mine.configured is None, other.configured) == (False, None)  # nothing is inverted with 0.7


DECIDES = {
    "invert.objective": "invert.objective.lambda_lpips=0.5",
    "invert.schedule": "invert.schedule.steps=5",
    "invert.start": "invert.start={kind: learnt, samples: 8}",
    "invert.precision": "invert.precision=bf16",
    "invert.class_prior": "invert.class_prior=false",
    "refine_maps.segmentation": "refine_maps.segmentation={kind: whole}",
    "refine_maps.connected_components": "refine_maps.connected_components=true",
    "refine_maps.class_map": "refine_maps.class_map={classes: [1]}",
    "trade_off.warm_share": "trade_off.warm_share=0.9",
    "bundles": "bundles.max_loss_db=0",
    "spaces": "spaces=[W+, F2]",
    "region": "region={top: 0, left: 0, height: 16, width: 32}",
    "image": "image=png",
    "maps": "maps.side_px=16",
    "generator.noise": "generator.noise=none",
}
"""Settings that decide a curve, each with another value."""
INDIFFERENT = {
    "invert.batch": "invert.batch=3",
    "invert.compile": "invert.compile=true",
    "refine_maps.threshold": "refine_maps.threshold=0.7",
    "refine_maps.batch": "refine_maps.batch=1",
    "trade_off.samples": "trade_off.samples=3",  # names the bundles, as thresholds do
    "trade_off.points": "trade_off.points=3",
    "unit_samples": "unit_samples=3",
    "compute": "compute.workers=1",
    "train_segmenter": "train_segmenter.checkpoint_every_s=5",
}
OF_THE_METHOD = {"invert.method"}
"""Sweeps are optimised, whichever method a run inverts with."""


def fingerprint_of(run: Committed, *overrides: str) -> str:
    """Return the fingerprint of a curve with the run's segmenter, which other settings do not train again."""
    plan, trained = run.plan(*overrides), run.plan().ledger.receipt(run.plan().train_segmenter())
    return trade_off.fingerprint_of(plan, plan.map_steps(trained))


@pytest.mark.parametrize("change", DECIDES.values(), ids=DECIDES)
def test_whatever_decides_a_curve_makes_it_different(measured_run, change):
    assert fingerprint_of(measured_run, change) != fingerprint_of(measured_run)


@pytest.mark.parametrize("change", INDIFFERENT.values(), ids=INDIFFERENT)
def test_what_decides_no_curve_leaves_it_as_it_is(measured_run, change):
    assert fingerprint_of(measured_run, change) == fingerprint_of(measured_run)


def test_every_setting_of_the_stages_of_a_curve_is_known_to_decide_it_or_not():
    sections = {stage.name: section_of(stage).model_fields for stage in (Invert, RefineMaps, TradeOff)}
    settings = {f"{name}.{field}" for name, fields in sections.items() for field in fields}
    assert settings - DECIDES.keys() - INDIFFERENT.keys() == OF_THE_METHOD


def test_a_curve_of_other_settings_is_not_there(measured_run):
    assert len(list(measured(measured_run.plan()))) == 2
    assert list(measured(measured_run.plan("invert.schedule.steps=5"))) == []


def test_of_two_curves_the_newest_whole_one_counts(committed):
    measure(committed.plan(*FEW))
    three = ("trade_off.samples=3", "trade_off.points=4", "invert.batch=2")
    asked = ask(committed.plan(*three))
    work = asked.job.open()
    work(asked.parts[0])
    assert committed_curve(committed.plan()).samples == 4
    work(asked.parts[1])
    assert committed_curve(committed.plan()).samples == 3
    assert ask(committed.plan(*three)).todo == []


def test_where_no_sample_can_be_inverted_the_reason_is_said(committed):
    plan = committed.plan(*FEW)
    asked = ask(plan)
    wild = asked.job.stage.schedule.model_copy(update={"learning_rate": 1e30, "ramp_up": 0.0})
    job = replace(asked.job, stage=asked.job.stage.model_copy(update={"schedule": wild}))
    job.open()(asked.parts[0])
    with pytest.raises(RunError, match="no sample was inverted: trade_off: the inversion at threshold"):
        curve_of(plan, asked)
    assert committed_curve(plan) is None


def test_a_measured_curve_is_printed_at_once_and_nothing_changes(invertmill, measured_run):
    before = contents(measured_run.folder)
    code, output, errors = invertmill("tune", measured_run.folder / "run.yaml", "--invert", *overrides())
    assert (code, errors) == (0, "")
    rows = [line.split() for line in output.split("\n\n")[1].splitlines()]
    assert rows[0] == ["threshold", *tiny.SPACES, "PSNR", "error"]
    assert sum("*" in row for row in rows[1:4]) == 1
    assert "means over 4 samples, 3 of them held out; error: " in output
    assert "knee" in output
    assert contents(measured_run.folder) == before


def test_a_measured_curve_is_also_json(invertmill, measured_run):
    code, output, _ = invertmill("tune", measured_run.folder / "run.yaml", "--json", "--invert", *overrides())
    found = json.loads(output)["trade_off"]
    assert code == 0
    assert found == json.loads(json.dumps(committed_curve(measured_run.plan(*FEW)).as_json()))


def test_without_refined_maps_nothing_is_inverted(invertmill, measured_run):
    settings = overrides("refine_maps.threshold=0.7")
    code, output, errors = invertmill("tune", measured_run.folder / "run.yaml", "--invert", *settings)
    assert (code, output) == (2, "")
    assert "no maps are refined with threshold 0.7" in errors
    with pytest.raises(RunError, match=r"no maps are refined.*`invertmill run` comes first"):
        ask(measured_run.plan("refine_maps.threshold=0.7"))


def test_the_report_shows_a_measured_curve(invertmill, measured_run):
    code, _, errors = invertmill("report", measured_run.folder / "run.yaml")
    page = (measured_run.folder / "out/report.html").read_text()
    assert (code, errors) == (0, "")
    assert 'id="thresholds"' in page
    summary = tiny.read_json(measured_run.folder / "out/summary.json")
    assert len(summary["trade_off"]["points"]) == page.count('<tr>\n  <th scope="row">') > 1


def test_verify_looks_at_measured_curves(committed):
    plan = committed.plan(*FEW)
    measure(plan)
    assert verify_run(plan)[0] == []
    path = committed.file("bundles/trade_off/**/records.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    assert [problem.stage for problem in verify_run(plan)[0]] == ["trade_off"]


def test_the_same_labels_are_found_with_another_threshold(committed):
    plan = committed.plan(*FEW, "refine_maps.threshold=0.7")
    compute(plan, steps_of(plan)[RefineMaps])
    measure(committed.plan(*FEW))
    assert ask(plan).todo == []


def row(editable, psnr_db, role="held_out"):
    share = np.stack([[one, 1 - one] for one in editable])
    figures = {"threshold": np.arange(len(editable), 0, -1) / 10, "psnr_db": np.array(psnr_db), "share": share}
    about = {"role": role, "perceptual": "small", "equal_starts": True}
    return figures | {"lpips": np.array(psnr_db) / 100} | about


def test_a_curve_is_the_mean_of_its_samples_and_says_where_its_knee_is():
    rows = [row([1, 0.5, 0], [20, 28, 30]), row([1, 0.7, 0], [22, 30, 32], "supervision")]
    curve = TradeOffCurve.from_rows(rows, ("W+", "F4"), None)
    assert [(p.threshold, p.editable, p.psnr_db) for p in curve.points] == [(0.1, 0, 31), (0.2, 0.6, 29), (0.3, 1, 21)]
    assert (curve.samples, curve.held_out, curve.knee) == (2, 1, 0.2)
    assert "refine_maps.threshold=0.2" in curve.suggestion


def test_a_flat_curve_says_that_it_has_no_knee():
    curve = TradeOffCurve.from_rows([row([1, 0.5, 0], [20, 20.08, 20.09])], ("W+", "F4"), None)
    assert curve.knee is None
    assert curve.suggestion.startswith("no knee")


def test_nothing_is_started_where_everything_is_committed(measured_run):
    run = Run(measured_run.settings(*FEW, "invert.batch=2"), Progress(Console(quiet=True)))
    assert run.trade_off() == committed_curve(measured_run.plan(*FEW))
    assert run.computed == 0


@pytest.mark.parametrize(("count", "largest"), [(48, 16), (17, 16), (5, 1), (3, 10), (20, 6)])
def test_groups_are_few_even_and_in_order(count, largest):
    groups = [list(group) for group in even_groups(range(count), largest)]
    assert [item for group in groups for item in group] == list(range(count))
    sizes = [len(group) for group in groups]
    assert len(sizes) == -(-count // largest)
    assert max(sizes) <= largest
    assert all(abs(a - b) <= 1 for a, b in pairwise(sizes))
