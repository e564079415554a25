"""Fingerprints: everything a result depends on, and nothing else."""

from typing import ClassVar

import pytest

from generators.source import GeneratorSource
from pipeline.data.fingerprint import fingerprint, settings_of
from pipeline.errors import RunError
from stages.engine.schedule import Schedule
from stages.invert import Invert
from stages.maps.region import Region
from stages.perceptual.source import PerceptualSource
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from stages.segmentation import HuggingFace


def of(stage, *reads):
    return fingerprint(stage.name, stage.version, settings_of(stage, stage.indifferent), reads)


def refine(**changes):
    return RefineMaps(**({"spaces": ("W+", "F4"), "region": Region.whole(8)} | changes))


def test_a_setting_changes_it():
    assert of(refine()) != of(refine(threshold=0.3))


def test_the_batch_does_not():
    assert of(refine()) == of(refine(batch=3))


def invert(**changes):
    facts = {"generator": GeneratorSource(checkpoint="s3://weights/generator.pkl", sha256="0" * 64)}
    return Invert(**facts, perceptual=PerceptualSource(), **changes)


def test_a_precision_that_is_chosen_by_the_device_counts_as_full_precision():
    """Stores of earlier versions, whose default was full precision, stay complete."""
    assert of(invert()) == of(invert(precision="auto")) == of(invert(precision="fp32"))
    assert len({of(invert(precision=stated)) for stated in ("auto", "bf16", "fp16")}) == 3


def test_betas_of_a_schedule_count_only_if_they_are_not_those_of_earlier_versions():
    assert of(invert()) == of(invert(schedule=Schedule(betas=(0.9, 0.999)))) == "8de409e37d8d5b1b"  # before betas
    assert of(invert()) != of(invert(schedule=Schedule(betas=(0.7, 0.9))))


class Newer(RefineMaps):
    added: ClassVar = {"finer": False}
    finer: bool = False


class Newest(Newer):
    added: ClassVar = {"coarser": None}
    coarser: int | None = None


def test_settings_that_were_added_do_not_change_it_until_they_are_used():
    facts = {"spaces": ("W+", "F4"), "region": Region.whole(8)}
    assert of(Newer(**facts)) == of(Newest(**facts)) == of(refine())
    used = [Newer(**facts, finer=True), Newest(**facts, finer=True), Newest(**facts, coarser=0)]
    assert len({of(refine()), *(of(stage) for stage in used)}) == 3
    assert of(used[0]) == of(used[1])


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


def model(folder, **files):
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content)
    return folder


def segmented(folder):
    return of(refine(segmentation=HuggingFace(folder=folder)))


def test_a_folder_of_weights_counts_by_the_names_and_contents_of_its_files(tmp_path):
    first = segmented(model(tmp_path / "a", config="c", weights="w"))
    assert segmented(model(tmp_path / "b", config="c", weights="w")) == first
    assert segmented(model(tmp_path / "c", config="c", weights="v")) != first
    assert segmented(model(tmp_path / "d", config="c", renamed="w")) != first
    assert segmented(model(tmp_path / "e", config="c")) != first


def test_what_tools_hide_in_a_folder_of_weights_does_not_count(tmp_path):
    folder = model(tmp_path / "model", config="c")
    before = segmented(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache/lock").write_text("now")
    assert segmented(folder) == before
    (folder / "more").mkdir()
    (folder / "more/weights").write_text("w")
    assert segmented(folder) != before


def test_an_empty_or_missing_folder_of_weights_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no weights in .*empty: the folder holds no files"):
        segmented(tmp_path / "empty")
    with pytest.raises(RunError, match=r"no weights at .*nowhere"):
        segmented(tmp_path / "nowhere")


def test_a_model_of_the_hub_counts_by_its_commit_and_not_by_whether_it_may_be_downloaded():
    first, fetched, other = (
        of(refine(segmentation=HuggingFace(hub="owner/name", revision=digit * 40, download=download)))
        for digit, download in (("a", False), ("a", True), ("b", False))
    )
    assert first == fetched != other


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(RunError, match=r"no weights at .*nowhere"):
        of(PredictMaps(segmenter=tmp_path / "nowhere", region=Region.whole(8)))


def test_name_and_version_change_it():
    assert len({fingerprint("a", 1, {}), fingerprint("a", 2, {}), fingerprint("b", 1, {})}) == 3
