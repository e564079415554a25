"""Results of several methods live next to one another: only `invert` and what reads it depend on the method."""

import shutil

import numpy as np
import pytest

from generators.errors import ArgumentError
from pipeline.errors import ConfigError, RunError
from pipeline.operations.status import status_of
from stages.base.errors import SettingError
from stages.invert import Invert
from tests.generators.encoders.small import published
from tests.pipeline.conftest import Committed, compute

W = "invert.method={kind: optimise, spaces: W}"


def fingerprints(run: Committed, *overrides: str) -> dict[str, str]:
    plan = run.plan(*overrides)
    steps = plan.steps(plan.ledger.receipt(plan.train_segmenter()))
    return {step.stage.name: step.fingerprint for step in steps}


def test_another_method_redoes_nothing_but_the_inversions_and_replaces_none(committed):
    before, after = fingerprints(committed), fingerprints(committed, W)
    assert {name for name in before if before[name] != after[name]} == {"invert"}
    files = committed.files()
    plan = committed.plan(W)
    step = plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))[Invert]
    compute(plan, step)
    assert committed.files().items() >= files.items()
    assert all(stage.done == stage.units for run in ((), (W,)) for stage in status_of(committed.plan(*run)).stages)
    unit = plan.units(plan.inventories(), plan.everything)[0]
    for record in committed.records(step, unit).values():
        assert (record.row["w_plus"] == record.row["w_plus"][:1]).all()


def test_a_schedule_by_name_has_the_fingerprint_of_its_numbers(committed):
    spelled = "{steps: 1001, learning_rate: 0.05, ramp_up: 0.05, ramp_down: 0.25}"
    named = fingerprints(committed, "invert.schedule=thesis")
    assert named == fingerprints(committed, f"invert.schedule={spelled}") != fingerprints(committed)


def test_a_space_that_the_generator_lacks_is_refused_before_the_first_image(committed):
    with pytest.raises(SettingError, match="no space 'F10' in this run"):
        committed.plan("invert.method={kind: optimise, spaces: F10}").check_weights()


def starting_at(store: str, **settings: str) -> str:
    given = ", ".join(f"{name}: '{value}'" for name, value in settings.items())
    return f"invert.start={{kind: bundle, store: {store}{', ' if given else ''}{given}}}"


def invert_step(run: Committed, *overrides: str):
    plan = run.plan(*overrides)
    return plan, plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))[Invert]


def test_inversions_start_at_those_of_another_store_or_at_earlier_ones(committed, tmp_path):
    shutil.copytree(committed.folder / "store", tmp_path / "other")
    stay = "invert.schedule={steps: 1, learning_rate: 0.000001}"
    _, earlier = invert_step(committed)
    elsewhere, own = starting_at(tmp_path / "other"), starting_at("store", inversions=earlier.fingerprint)
    plan, step = invert_step(committed, elsewhere, stay)
    assert step.fingerprint == invert_step(committed, own, stay)[1].fingerprint != earlier.fingerprint
    plan.start_codes(step.stage).check(plan.units(plan.inventories(), plan.everything), plan.generator.digest)
    compute(plan, step)
    for unit in plan.units(plan.inventories(), plan.everything):
        before = committed.records(earlier, unit)
        for key, record in committed.records(step, unit).items():
            np.testing.assert_allclose(record.row["w_plus"], before[key].row["w_plus"], rtol=5e-3, atol=5e-3)


def test_a_store_that_cannot_be_started_from_is_refused_before_the_first_image(committed, tmp_path):
    with pytest.raises(ConfigError, match="the store is this run's own"):
        invert_step(committed, starting_at("store"))
    with pytest.raises(RunError, match="holds no published result to start from"):
        invert_step(committed, starting_at(tmp_path / "nothing"))
    plan, step = invert_step(committed, starting_at("store", inversions="0" * 16))
    units = plan.units(plan.inventories(), plan.everything)
    with pytest.raises(RunError, match="has no inversions 0000000000000000 of these shards"):
        plan.start_codes(step.stage).check(units, plan.generator.digest)
    there = starting_at("store", inversions=invert_step(committed)[1].fingerprint)
    plan, step = invert_step(committed, there)
    with pytest.raises(RunError, match="inverted with the generator of SHA-256"):
        plan.start_codes(step.stage).check(units, "another")


def test_an_encoder_of_another_generator_is_refused_before_the_first_image(committed):
    (committed.folder / "e4e.pt").write_bytes(published("Encoder4Editing").data)
    for key in ("invert.method={kind: encode", "invert.start={kind: encoder", "error_maps.start={kind: encoder"):
        with pytest.raises(ArgumentError, match=r"e4e\.pt \(e4e\) was trained for a generator of 16 px"):
            committed.plan(f"{key}, encoder: {{kind: published, checkpoint: e4e.pt}}}}").check_weights()
