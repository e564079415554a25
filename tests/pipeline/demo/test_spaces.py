"""The demo's spaces, inverted in as the demo does: the order of thesis Fig. 3.2 holds, and SAM's edits come closest."""

from statistics import fmean

import pytest

from benchmarks.harness.edited_scenes import Scenes, codes_of
from pipeline.report.checks import psnr_order
from pipeline.report.edit_truth import UNEDITED, summarised
from stages.maps.spaces import column

SCENES = 4


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.from_demo(SCENES)


def test_psnr_rises_from_each_of_the_demos_spaces_to_the_next(scenes):
    spaces = scenes.generator.spaces
    values = {space: fmean(record.row[f"psnr_db_{column(space)}"] for record in scenes.alone) for space in spaces}
    check = psnr_order(values)
    assert check.holds, values


def test_edits_of_occluded_scenes_come_closest_to_the_renderers_own_by_sam(scenes):
    sam = scenes.inverted(scenes.assignments())
    methods = [{"sam": codes_of(record)} | codes for record, codes in zip(sam, scenes.codes_alone(), strict=True)]
    summary = summarised(scenes.measures(methods), SCENES)
    psnr_db = summary.all.psnr_to_truth_db
    alone = {method: value for method, value in psnr_db.items() if method not in ("sam", UNEDITED)}
    assert psnr_db["sam"] > psnr_db["w_plus"] + 2, psnr_db
    assert psnr_db["sam"] > max(alone.values()), psnr_db
