"""The training of an encoder as the pipeline runs it: read from the store, stopped, resumed, committed, shown."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from infra.receipts import Address
from pipeline.config import load_config
from pipeline.data.receipt_info import WorkInfo
from pipeline.data.trained_networks import CURVE_FILE, ENCODER_FILE, TrainedEncoder
from pipeline.errors import ConfigError, RunError
from pipeline.execution.run import RunResult
from pipeline.jobs.map_job import MapJob
from pipeline.operations.status import status_of
from pipeline.operations.verify import repair, verify_run
from pipeline.publish.index import published
from pipeline.report.conclude import conclude
from pipeline.report.encoder_training import EncoderTrainingReport
from pipeline.training.encoder_examples import Assigned, AssignedExamples
from pipeline.training.encoder_job import EncoderJob
from pipeline.tune.trade_off import ask
from stages.base.errors import SettingError
from stages.base.stage import Rejected
from stages.encoder.checkpoint import load_sam_encoder
from stages.invert import Invert
from tests import tiny
from tests.pipeline.conftest import COUNTS, Committed
from tests.pipeline.report_page import page_of

CPU = torch.device("cpu")
SETTINGS = {
    "network": {"side_px": 32, "channels": 8, "max_channels": 8, "hidden": 8},
    "objective": {"shrinkage": 0.001},
    "training_steps": 4,
    "batch": 2,
    "validation_share": 0,
    "checkpoint_every_s": 1e-6,
}
ENCODER = f"train_encoder={json.dumps(SETTINGS)}"
FLYWHEEL = ("train_encoder.codes=store", "train_encoder.lambda_codes=1.0")


def job(run: Committed, *overrides: str) -> EncoderJob:
    plan = run.plan(ENCODER, *overrides)
    return EncoderJob.from_plan(plan, plan.inventories(), steps(plan))


def steps(plan):
    return plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))


class DiedError(Exception):
    """What ends a process here."""


class Fatal(Assigned):
    """Ends the process that reads it as soon as a state is in the store."""

    def may_learn_from(self, unit, key):
        if any(self.ledger.store.list("training/")):
            raise DiedError
        return super().may_learn_from(unit, key)


def test_a_training_that_died_resumes_from_the_store_and_leaves_nothing_there(committed, tmp_path):
    shutil.copytree(committed.folder, tmp_path / "undisturbed")
    undisturbed = job(Committed(tmp_path / "undisturbed"))
    undisturbed.run(CPU)
    stopped = job(committed)
    fields = {field.name: getattr(stopped.assigned, field.name) for field in dataclasses.fields(Assigned)}
    with pytest.raises(DiedError):
        dataclasses.replace(stopped, assigned=Fatal(**fields)).run(CPU)
    assert stopped.states().load() is not None
    stopped.run(CPU)
    for name in (ENCODER_FILE, CURVE_FILE):
        one, other = (done.ledger.read_file(done.ledger.receipt(done.address), name) for done in (stopped, undisturbed))
        assert one == other
    assert list(stopped.ledger.store.list("training/")) == []


def test_the_receipt_names_every_image_it_learnt_from_and_none_that_is_held_out(committed):
    training = job(committed)
    done = training.run(CPU)
    receipt = training.ledger.receipt(training.address)
    assert done.recorded == len(receipt.recorded) == COUNTS["train-a"]
    assert all(key.startswith("train-a") for key in receipt.recorded)
    encoder = load_sam_encoder(TrainedEncoder(receipt).fetch(training.ledger))
    assert encoder.spaces == tiny.SPACES
    every = job(committed, "train_encoder.samples=all")
    assert {key for _, key in every.assigned.images()} == set(receipt.recorded), "the others are held out"
    assert every.address != training.address


def test_last_nights_codes_are_extra_supervision(committed):
    assigned = job(committed, *FLYWHEEL).assigned
    source = AssignedExamples(assigned)
    samples = [sample for unit in source.units for sample in source.read(unit, lambda _key: True)]
    examples = [source.example(sample) for sample in samples]
    assert len(examples) == COUNTS["train-a"]
    assert all(example.codes.w_plus.shape == (1, 8, 8) for example in examples)
    other = dataclasses.replace(assigned, codes=dataclasses.replace(assigned.codes, generator="another"))
    unfit = AssignedExamples(other).example(samples[0])
    assert isinstance(unfit, Rejected)
    assert "belong to the generator of SHA-256" in unfit.reason
    (point, *_) = job(committed, *FLYWHEEL).trained(CPU, *one_worker()).curve
    assert point["terms"]["codes"] > 0


def one_worker():
    from pipeline.training.job import as_it_is
    from stages.training.workers import Workers

    return Workers(), as_it_is


def test_codes_of_a_store_without_a_published_result_are_refused(committed, tmp_path):
    with pytest.raises(RunError, match=r"train_encoder\.codes: .* holds no published inversions"):
        job(committed, f"train_encoder.codes={tmp_path / 'empty'}", "train_encoder.lambda_codes=1")


def test_where_nothing_may_be_learnt_from_the_run_says_what_to_change(committed):
    assigned = dataclasses.replace(job(committed).assigned, committed=())
    with pytest.raises(RunError, match=r"finds no image with an assignment among its samples \(supervision\)"):
        assigned.checked()


def test_the_encoder_has_its_row_in_status_and_its_place_in_the_plan(committed):
    plain = [stage.name for stage in status_of(committed.plan()).stages]
    assert "train_encoder" not in plain
    before = status_of(committed.plan(ENCODER))
    names = [stage.name for stage in before.stages]
    assert names.index("refine_maps") < names.index("train_encoder") < names.index("invert")
    assert not before.complete
    job(committed).run(CPU)
    after = status_of(committed.plan(ENCODER))
    (row,) = (stage for stage in after.stages if stage.name == "train_encoder")
    assert (row.done, row.units, row.recorded) == (1, 1, COUNTS["train-a"])
    assert after.complete


@pytest.mark.parametrize("share", [0, 0.5])
def test_the_report_shows_its_curve_and_what_it_did_not_learn_from(tmp_path, share: float):
    point = {"loss": 0.5, "terms": {"codes": 0.0}, "val_loss": 0.25 if share else None, "val_psnr_db": share or None}
    training = EncoderTrainingReport(7, [{"step": n, **point} for n in (2, 4)], {"image7": "its codes do not fit"})
    page = page_of(tmp_path, encoder_training=training)
    labels = [panel["aria-label"] for panel in page.all("div") if "aria-label" in panel]
    validation = "0.2500" if share else "–"
    assert f"Losses by step; last: step 4, training 0.5000, validation {validation}" in labels
    assert any(label.startswith("PSNR of held-out images by step; last: 0.50 dB") for label in labels) == bool(share)
    assert "7 examples; the encoder of step 4 is used" in page.text
    assert "1 example was excluded from training" in page.text
    assert "image7 : its codes do not fit" in page.text


def test_a_report_counts_the_work_of_each_training_by_itself(committed):
    job(committed).run(CPU)
    plan = committed.plan(ENCODER)
    segmenter = plan.ledger.receipt(plan.train_segmenter())
    receipts = {name: plan.ledger.receipt(address) for name, address in plan.trainings(segmenter).items()}
    assert set(receipts) == {"train_segmenter", "train_encoder"}
    run = RunResult(plan, plan.inventories(), committed.index(ENCODER), published(plan.ledger), {}, 0)
    worked_s = {timing.name: timing.worked_s for timing in conclude(run).timings}
    for name, receipt in receipts.items():
        assert worked_s[name] == pytest.approx(WorkInfo.from_receipt(receipt).busy_s)


def test_verify_asks_for_the_encoder_and_restores_a_damaged_one_from_this_machines_copy(committed):
    missing, _ = verify_run(committed.plan(ENCODER))
    assert [problem.stage for problem in missing] == ["train_encoder"]
    training = job(committed)
    training.run(CPU)
    assert verify_run(committed.plan(ENCODER))[0] == []
    receipt = training.ledger.receipt(training.address)
    TrainedEncoder(receipt).fetch(training.ledger)
    training.ledger.store.write(receipt.file(ENCODER_FILE).name, b"damaged")
    problems, _ = verify_run(committed.plan(ENCODER))
    assert repair(committed.plan(ENCODER), problems) == [
        "train_encoder: the checkpoint was restored from this machine's cache"
    ]
    assert verify_run(committed.plan(ENCODER))[0] == []


def test_new_settings_of_the_encoder_touch_no_other_stage(committed):
    first, second = committed.plan(), committed.plan(ENCODER)
    assert steps(first).fingerprints == steps(second).fingerprints
    longer = committed.plan(ENCODER, "train_encoder.training_steps=5")
    assert longer.train_encoder(steps(longer)) != second.train_encoder(steps(second))
    elsewhere = committed.plan(ENCODER, *FLYWHEEL)
    moved = committed.plan(ENCODER, "train_encoder.codes=elsewhere", FLYWHEEL[1])
    assert elsewhere.train_encoder(steps(elsewhere)) == moved.train_encoder(steps(moved))
    address = second.train_encoder(steps(second))
    assert isinstance(address, Address)
    assert address.unit == "encoder"


def test_relative_addresses_of_codes_are_the_configurations(committed):
    encoder = load_config(committed.folder / "run.yaml", (ENCODER, *FLYWHEEL)).train_encoder
    assert Path(encoder.codes) == committed.folder / "store"
    with pytest.raises(ConfigError, match=r"train_encoder.*belong together"):
        load_config(committed.folder / "run.yaml", (ENCODER, FLYWHEEL[0]))


OWN = "invert.method={kind: sam_encoder}"
STARTING = "invert.start={kind: encoder, encoder: {kind: sam}}"


def test_inversions_by_the_runs_own_encoder_follow_its_settings_and_use_it(committed):
    plan = committed.plan(ENCODER, OWN)
    step, other = steps(plan)[Invert], steps(committed.plan(ENCODER, OWN, "train_encoder.seed=1"))[Invert]
    assert step.encoder == plan.train_encoder(steps(plan))
    assert len({step.fingerprint, other.fingerprint, steps(committed.plan())[Invert].fingerprint}) == 3
    job(committed, OWN).run(CPU)
    shards = plan.inventories()
    inverting = MapJob(
        step.stage,
        step.fingerprint,
        plan.sources,
        plan.ledger,
        step.upstream,
        {shard: receipt.unit for shard, receipt in shards.items()},
        step.selection,
        encoder=TrainedEncoder(plan.ledger.receipt(step.encoder)),
    )
    (unit, *_) = plan.units(shards, step.selection)
    inverting.open()(unit)
    records = committed.records(step, unit)
    assert {record.row["steps"] for record in records.values()} == {1}


def test_inversions_may_start_from_the_runs_own_encoder(committed):
    plan = committed.plan(ENCODER, STARTING)
    step = steps(plan)[Invert]
    assert step.encoder == plan.train_encoder(steps(plan))
    assert step.stage.with_encoder(Path("encoder")).start.encoder.checkpoint == Path("encoder")
    with pytest.raises(ConfigError, match="the configuration has no train_encoder"):
        committed.plan(STARTING).check_weights()
    with pytest.raises(ConfigError, match=r"trained for one threshold.*give tune another start"):
        ask(plan)


def test_a_run_without_an_encoder_to_use_is_refused_before_it_starts(committed):
    with pytest.raises(ConfigError, match="the configuration has no train_encoder: add that section, or name a"):
        steps(committed.plan(OWN))
    with pytest.raises(ConfigError, match="add that section, or name a checkpoint"):
        committed.plan(OWN).check_weights()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train_encoder.network.side_px=16",
            r"train_encoder\.network\.side_px must be at least 32 for features of 16 px",
        ),
        ("compute.training_workers=3", r"train_encoder\.batch is 2, which 3 workers cannot share equally"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_work(committed, override, message):
    with pytest.raises(SettingError, match=message):
        committed.plan(ENCODER, override).check_weights()
