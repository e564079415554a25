"""The gallery: which samples are shown, and pictures drawn from what is stored."""

import numpy as np
import pytest
import torch

from infra.errors import BundleError
from pipeline.publish.index import published, read_index
from pipeline.report.gallery import Gallery, choose, worst
from stages.invert import Invert
from tests import tiny


def rows(held_out_occluded=0, held_out_clean=0, others=0):
    kinds = [("held_out", True)] * held_out_occluded + [("held_out", False)] * held_out_clean
    kinds += [("supervision", True)] * others
    return [{"key": str(i), "role": role, "error_maps.occluded": occ} for i, (role, occ) in enumerate(kinds)]


def gallery(run):
    index, plan = run.index(), run.plan()
    viewer = index.steps.stage(Invert).viewer(torch.device("cpu"))
    stores, side_px = (plan.ledger, plan.sources), plan.config.maps.side_px
    return Gallery(*stores, index, plan.inventories(), viewer, plan.image, side_px)


def drawn(run):
    ledger = run.plan().ledger
    return list(gallery(run).pictures(read_index(ledger, published(ledger))))


def test_half_are_held_out_and_occluded_a_quarter_clean_and_the_rest_others():
    chosen = choose(rows(50, 50, 50), 24)
    assert [(row["role"], row["error_maps.occluded"]) for row in chosen] == (
        [("held_out", True)] * 12 + [("held_out", False)] * 6 + [("supervision", True)] * 6
    )


def test_places_that_held_out_samples_do_not_fill_go_to_the_others():
    assert [row["role"] for row in choose(rows(2, 1, 50), 24)] == ["held_out"] * 3 + ["supervision"] * 21


def test_the_chosen_are_spread_from_the_first_to_the_last():
    assert [row["key"] for row in choose(rows(others=100), 4)] == ["0", "33", "66", "99"]


def test_few_samples_are_all_shown_once():
    assert [row["key"] for row in choose(rows(1, 1, 3), 24)] == ["0", "1", "2", "3", "4"]
    assert choose([], 24) == []


def test_samples_that_no_supervision_looked_at_are_chosen_too():
    assert len(choose([{"key": "a", "role": None}, {"key": "b", "role": None}])) == 2


def test_every_picture_shows_the_sample_whose_key_it_has(committed):
    pictures = {picture.key: picture for picture, _ in drawn(committed)}
    assert len(pictures) == 8
    for name, count in (("train-a", 5), ("held-b", 3)):
        for i in range(count):
            shown = pictures[f"{name}-{i:03d}"]
            assert shown.shard == f"{name}.tar"
            assert tiny.png(shown.image_HW3) == tiny.picture(i)
            assert shown.role == ("held_out" if name == "held-b" else "supervision")


def test_a_picture_has_the_figures_that_its_stored_codes_give(committed):
    for picture, _ in drawn(committed):
        difference = picture.sam_HW3.astype(float) - picture.image_HW3
        assert picture.psnr_db == pytest.approx(20 * np.log10(255 / np.sqrt((difference**2).mean())), abs=0.1)
        assert picture.error_HW.mean() == pytest.approx(picture.lpips, rel=0.05)
        assert picture.predicted_LHW.shape == (len(tiny.SPACES), tiny.SIDE_PX, tiny.SIDE_PX)
        assert picture.assignment_HW.max() < len(tiny.SPACES)
        assert picture.w_plus_HW3 is not None


def test_an_edit_by_nothing_changes_nothing(committed):
    assert max(change for _, change in drawn(committed)) < 1e-5


def test_an_altered_bundle_is_not_drawn(committed):
    path = committed.file("bundles/invert/*/train-a*/*/arrays.tar")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"arrays\.tar has SHA-256"):
        drawn(committed)


def test_the_worst_are_those_with_the_lowest_psnr_and_never_most_of_a_run():
    figures = [31.0, 22.0, None, 27.5, 40.0]
    measured = [{"key": str(i), "invert.psnr_db": psnr_db} for i, psnr_db in enumerate(figures)]
    assert [row["key"] for row in worst(measured)] == ["1", "3"]
    assert [row["key"] for row in worst(measured, 1)] == ["1"]
    assert worst([]) == []


def test_a_picture_shows_segments_and_how_its_inversion_converged(committed):
    pictures = [picture for picture, _ in drawn(committed)]
    assert any(picture.worst for picture in pictures)
    for picture in pictures:
        assert picture.labels_HW.shape == picture.assignment_HW.shape
        steps_K, loss_K = picture.trace
        assert steps_K.shape == loss_K.shape
        assert np.isfinite(loss_K).all()
