"""Results of several methods live next to one another: only `invert` and what reads it depend on the method."""

import pytest

from pipeline.operations.status import status_of
from stages.base.errors import SettingError
from stages.invert import Invert
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


def test_a_space_that_the_generator_lacks_is_refused_before_the_first_image(committed):
    with pytest.raises(SettingError, match="no space 'F10' in this run"):
        committed.plan("invert.method={kind: optimise, spaces: F10}").check_weights()
