"""The monotone fit: values worked by hand, the mean it restores, and what it never does."""

import numpy as np
import pytest
import torch

from stages.segmenter.calibration import POINTS, TOP, CalibrationSums
from stages.train_segmenter import train
from tests.stages.in_memory import InMemory
from tests.stages.test_train_segmenter import CPU, QUICK, examples, loaded, network_input


def fitted(roots, errors):
    """Fit one space to pairs of predicted roots and achieved errors."""
    sums = CalibrationSums(1, CPU)
    root_NLHW, error_NLHW = (torch.tensor(x, dtype=torch.float32)[None, None, None] for x in (roots, errors))
    sums.add(root_NLHW, error_NLHW)
    return sums.fit()


def applied(calibration, roots):
    return calibration(torch.tensor(roots, dtype=torch.float32)[None, None, None])[0, 0, 0]


def test_a_prediction_becomes_the_mean_error_of_those_like_it():
    """A region whose error is 0 or 0.5 by chance: the root's mean squared is 0.125, its mean error 0.25."""
    root = float(np.sqrt(0.5) / 2)
    calibration = fitted([root] * 4, [0.0, 0.5, 0.0, 0.5])
    assert float(applied(calibration, [root])) == pytest.approx(0.25, rel=0.01)


def test_neighbours_in_the_wrong_order_share_their_mean_and_between_them_lies_a_line():
    calibration = fitted([0.25, 0.5, 0.75, 1.0], [0.1, 0.4, 0.2, 0.9])
    assert applied(calibration, [0.25, 0.625, 1.0]).tolist() == pytest.approx([0.1, 0.3, 0.9], abs=1e-5)
    assert float(applied(calibration, [0.4375])) == pytest.approx(0.2, abs=1e-5)  # between (0.25, 0.1), (0.625, 0.3)


def test_below_what_was_seen_it_is_constant_and_above_it_grows_as_the_square_does():
    calibration = fitted([0.5, 1.0], [0.3, 2.0])
    found = applied(calibration, [0.0, 0.25, 1.5, TOP, 2 * TOP]).tolist()
    assert found == pytest.approx([0.3, 0.3, 2 * 1.5**2, 2 * TOP**2, 2 * (2 * TOP) ** 2], rel=1e-3)


@pytest.mark.parametrize("root", [0.0, 1e-4])
def test_a_head_that_says_next_to_nothing_is_calibrated_to_finite_errors(root: float):
    calibration = fitted([root] * 4, [0.0, 0.6, 0.0, 0.6])
    found = applied(calibration, [0.0, root, 1.0, 2 * TOP])
    assert found[:3].tolist() == pytest.approx([0.3, 0.3, 1.3], abs=1e-3)
    assert 0.3 < float(found[3]) < 100


def test_what_is_not_finite_stays_so_and_harms_no_neighbour():
    found = applied(fitted([0.5, 1.0], [0.3, 2.0]), [float("nan"), 0.5, float("inf"), 1.0])
    assert torch.isnan(found[0])
    assert found[1:].tolist() == pytest.approx([0.3, float("inf"), 2.0])


def test_it_never_falls_and_spaces_do_not_meet():
    random = torch.Generator().manual_seed(0)
    root_NLHW = torch.rand(4, 2, 16, 16, generator=random)
    noise = torch.rand(4, 2, 16, 16, generator=random)
    error_NLHW = torch.stack([root_NLHW[:, 0] ** 2, 1 + root_NLHW[:, 1]], dim=1) * noise
    sums = CalibrationSums(2, CPU)
    for i in range(4):
        sums.add(root_NLHW[i : i + 1], error_NLHW[i : i + 1])
    calibration = sums.fit()
    assert calibration.error_LK.shape == (2, POINTS)
    assert (calibration.error_LK.diff(dim=1) >= 0).all()
    found_NLHW = calibration(root_NLHW)
    torch.testing.assert_close(found_NLHW.mean((0, 2, 3)), error_NLHW.mean((0, 2, 3)), rtol=0.04, atol=0)


def test_a_space_of_which_nothing_was_seen_keeps_its_squares():
    assert applied(CalibrationSums(1, CPU).fit(), [0.5, 1.5]).tolist() == pytest.approx([0.25, 2.25], rel=1e-3)


# ---- in a training


def chance(count: int):
    """Examples whose square of noise inverts badly or not at all, by chance: no image tells."""
    made = examples(count)
    random = np.random.default_rng(1)
    for example in made:
        bad = example.error_LHW > 0.1
        example.error_LHW[bad] *= 2 * random.integers(0, 2)
    return made


def mean_error(trained, tmp_path, made) -> tuple[float, float]:
    """Return mean predicted and mean true error in the first space."""
    segmenter, predicted, true = loaded(trained, tmp_path), [], []
    for example in made:
        predicted.append(segmenter(network_input(example))[0, 0].mean())
        true.append(float(example.error_LHW[0].astype(np.float32).mean()))
    return float(torch.stack(predicted).mean()), float(np.mean(true))


def test_uncalibrated_roots_are_too_low_and_calibrated_ones_are_right_where_errors_are_chance(tmp_path):
    made = chance(48)
    stage = QUICK.model_copy(update={"epochs": 12, "batch": 8, "validation_share": 0.4, "target": "root"})
    held_out = [example for example in made if stage.holds_out(example.key)]
    trained = train(stage, InMemory(made), CPU)
    predicted, true = mean_error(trained, tmp_path, held_out)
    assert predicted == pytest.approx(true, rel=0.05)
    segmenter = loaded(trained, tmp_path)
    segmenter.calibration = None
    bare = float(torch.stack([segmenter(network_input(one))[0, 0].mean() for one in held_out]).mean())
    assert bare < 0.85 * true


def test_without_held_out_images_it_is_calibrated_on_those_it_learnt_from_and_says_so(tmp_path, caplog):
    stage = QUICK.model_copy(update={"validation_share": 0, "target": "root"})
    trained = train(stage, InMemory(examples(6)), CPU)
    assert "no image is held out" in caplog.text
    assert loaded(trained, tmp_path).calibration is not None
    assert b"calibrated on what it was trained on" in trained.checkpoint
