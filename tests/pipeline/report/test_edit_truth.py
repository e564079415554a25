"""Edits against the truth: figures worked by hand, and files that are not true edits."""

import io

import numpy as np
import pytest
import torch

from generators import load_generator
from generators.generator import Generator
from generators.latents import Codes
from pipeline.errors import RunError
from pipeline.report.edit_truth import (
    UNEDITED,
    EditMeasure,
    TrueEdits,
    measured,
    read_true_edits,
    summarised,
)
from stages.editing.editor import Editor
from stages.editing.settings import EditOfCodes
from stages.maps.region import Region, to_uint8
from tests import tiny


def npz(**arrays: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Generator:
    return load_generator(tiny.write_networks(tmp_path_factory.mktemp("networks"))["generator"])


@pytest.fixture(scope="module")
def case(generator):
    """Codes in W+ alone, an edit, the image before it and after it, and an occluder over the left half."""
    torch.manual_seed(0)
    codes = Codes(generator.map(torch.randn(1, generator.z_dim)))
    edit = EditOfCodes("d", 1.0, torch.randn(1, generator.w_dim))
    editor = Editor(generator, Region.whole(generator.resolution))
    before, after = (to_uint8(picture.image_N3HW)[0] for picture in editor.pictures(codes, [edit]))
    occluded_HW = np.zeros(before.shape[:2], bool)
    occluded_HW[:, : before.shape[1] // 2] = True
    return editor, codes, edit, before, after, occluded_HW


def test_an_edit_that_is_the_truth_is_equal_to_it_up_to_eight_bits(case):
    editor, codes, edit, before, after, occluded_HW = case
    truth = TrueEdits("k", before, occluded_HW, {edit.label: after})
    sam, unedited = measured({"sam": editor}, {"sam": codes}, [edit], truth)
    assert (sam.method, unedited.method) == ("sam", UNEDITED)
    assert sam.psnr_db > 50 > unedited.psnr_db


def test_changes_are_of_the_region_that_truly_changes_and_of_the_occluder(case):
    editor, codes, edit, before, after, occluded_HW = case
    true = np.where(occluded_HW[..., None], before, after)
    sam, unedited = measured(
        {"sam": editor}, {"sam": codes}, [edit], TrueEdits("k", before, occluded_HW, {edit.label: true})
    )
    change_HW = abs(after.astype(float) - before).mean(2) / 255
    changed_HW = (abs(true.astype(float) - before).max(2) > 2) & ~occluded_HW
    assert sam.inside == pytest.approx(change_HW[changed_HW].mean(), rel=0.03)
    assert sam.occluder == pytest.approx(change_HW[occluded_HW].mean(), rel=0.03)
    assert (unedited.inside, unedited.occluder) == (0, 0)
    squared = ((before.astype(float) - true)[changed_HW] / 255) ** 2
    assert unedited.psnr_inside_db == pytest.approx(-10 * np.log10(squared.mean()), abs=0.01)
    assert unedited.psnr_inside_db < unedited.psnr_db


def test_edits_without_a_true_image_are_left_out(case):
    editor, codes, edit, before, _, occluded_HW = case
    assert (
        list(measured({"sam": editor}, {"sam": codes}, [edit], TrueEdits("k", before, occluded_HW, {"d.2": before})))
        == []
    )


def test_summaries_are_means_and_their_ratio_is_one_of_means():
    measures = [
        EditMeasure("sam", "size", 1.0, 30.0, 25.0, 0.4, 0.1),
        EditMeasure("sam", "hue", -1.0, 20.0, 15.0, 0.2, 0.02),
        EditMeasure(UNEDITED, "size", 1.0, 15.0, 5.0, 0.0, 0.0),
    ]
    summary = summarised(measures, 1)
    assert summary.samples == 1
    assert summary.magnitudes == (-1.0, 1.0)
    assert summary.all.psnr_to_truth_db == {"sam": 25.0, UNEDITED: 15.0}
    assert summary.all.psnr_inside_db == {"sam": 20.0, UNEDITED: 5.0}
    assert summary.all.inside_outside_ratio == {"sam": pytest.approx(0.6 / 0.12)}
    assert summary.by_direction["size"].inside_outside_ratio == {"sam": pytest.approx(4)}


def test_a_ratio_over_no_change_at_all_is_unknown():
    summary = summarised([EditMeasure("f6", "size", 1.0, 30.0, 25.0, 0.4, 0.0)], 1)
    assert summary.all.inside_outside_ratio == {"f6": None}


def test_without_measures_there_is_no_summary():
    assert summarised([], 0) is None


def test_true_edits_are_read_as_they_were_written():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    (read,) = read_true_edits(npz(**{"size.-1": image}), "a").items()
    assert read[0] == "size.-1"
    assert np.array_equal(read[1], image)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an npz",
        npz(a=np.zeros((4, 4), np.uint8)),
        npz(a=np.zeros((4, 4, 3), np.float32)),
        npz(a=np.array([{}], object)),
    ],
)
def test_other_files_are_refused_by_name(data):
    with pytest.raises(RunError, match=r"true edits s\.edits\.npz.*write the shard again"):
        read_true_edits(data, "s.edits.npz")
