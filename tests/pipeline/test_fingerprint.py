"""Fingerprints: everything a result depends on, and nothing else."""

import pytest

from pipeline.errors import RunError
from pipeline.fingerprint import fingerprint, settings_of
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from stages.region import Region


def of(stage, *reads):
    return fingerprint(stage.name, stage.version, settings_of(stage, stage.indifferent), reads)


def refine(**changes):
    return RefineMaps(**({"spaces": ("W+", "F4"), "region": Region.whole(8)} | changes))


def test_a_setting_changes_it():
    assert of(refine()) != of(refine(threshold=0.3))


def test_the_batch_does_not():
    assert of(refine()) == of(refine(batch=3))


def test_what_a_stage_reads_changes_it():
    assert of(refine(), "a") != of(refine(), "b")


def test_weights_count_by_content_and_not_by_path(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    stages = [PredictMaps(segmenter=path, region=Region.whole(8)) for path in (first, second)]
    assert of(stages[0]) == of(stages[1])
    second.write_bytes(b"other weights")
    assert of(stages[0]) != of(stages[1])


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(RunError, match=r"no weights at .*nowhere"):
        of(PredictMaps(segmenter=tmp_path / "nowhere", region=Region.whole(8)))


def test_name_and_version_change_it():
    assert len({fingerprint("a", 1, {}), fingerprint("a", 2, {}), fingerprint("b", 1, {})}) == 3
