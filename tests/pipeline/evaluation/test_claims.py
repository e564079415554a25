"""Claims get the verdict that the figures give, and say why they fail."""

import numpy as np
import pytest

from pipeline.evaluation.claims import Claim, Judge, judged
from pipeline.evaluation.measured import ImageRow, Measured
from pipeline.evaluation.methods import Compared
from pipeline.evaluation.statistics import Bootstrap, Mean, difference_of, mean_of

DRAWS = Bootstrap(resamples=500, seed=0)
SPACES = ("W+", "F4")


def method(kind, psnr_db, *, lpips=0.1, steps=50.0, seconds=1.0, share=0.5, editability=None):
    """Return a method with these figures of images 0, 1, …"""
    rows = tuple(
        ImageRow(kind, "shard", str(i), value, lpips, steps, share, "digest", "unit", editability)
        for i, value in enumerate(psnr_db)
    )
    return Measured(Compared(kind, kind, None, None, None), rows, 0, 0, seconds, ("cpu",))


def claims_of(*methods, occluded=None):
    return {claim.name: claim for claim in Judge(methods, SPACES, DRAWS, occluded).claims()}


def test_a_mean_has_the_interval_of_its_bootstrap_which_the_seed_decides():
    values = list(np.random.default_rng(1).normal(20, 2, 400))
    mean = mean_of(values, Bootstrap(2000, 0))
    assert mean.value == pytest.approx(np.mean(values))
    half = 1.96 * np.std(values) / 20
    assert (mean.value - mean.low, mean.high - mean.value) == (
        pytest.approx(half, rel=0.1),
        pytest.approx(half, rel=0.1),
    )
    assert mean_of(values, Bootstrap(2000, 0)) == mean
    assert mean_of(values, Bootstrap(2000, 1)) != mean


def test_one_image_gives_no_interval_and_none_no_mean():
    assert mean_of([3.0], DRAWS) == Mean(3.0, None, None, 1)
    assert mean_of([], DRAWS) is None


def test_differences_are_of_the_images_that_both_have():
    paired = difference_of({"a": 3.0, "b": 5.0, "c": 100.0}, {"a": 1.0, "b": 3.0, "d": 0.0}, DRAWS)
    assert (paired.value, paired.low, paired.high, paired.images) == (2.0, 2.0, 2.0, 2)


def test_paired_differences_show_what_the_spread_of_images_hides():
    images = np.linspace(10, 40, 12)
    found = claims_of(method("sam", images + 0.5), method("single:W+", images))
    claim = found["sam_psnr_over_w_plus"]
    assert claim.holds is True
    assert claim.figure == pytest.approx(0.5)


def test_a_difference_that_the_images_do_not_show_fails_and_says_so():
    found = claims_of(method("sam", [20, 22, 24, 26]), method("single:W+", [21, 21, 25, 24]))
    claim = found["sam_psnr_over_w_plus"]
    assert claim.holds is False
    assert claim.figure == pytest.approx(0.25)
    assert "the interval reaches below" in claim.why
    assert "over 4 images" in claim.why
    worse = claims_of(method("sam", [10, 11, 12]), method("single:W+", [20, 22, 21]))["sam_psnr_over_w_plus"]
    assert worse.holds is False
    assert "all of the interval is below" in worse.why


def test_a_lower_error_is_better():
    found = claims_of(method("sam", [20, 21], lpips=0.1), method("single:W+", [20, 21], lpips=0.2))
    assert found["sam_lpips_under_w_plus"].holds is True
    assert found["sam_psnr_over_w_plus"].holds is False  # equal is not better


def test_methods_with_other_numbers_of_steps_are_not_compared_except_with_pti():
    sam = method("sam", [30, 31])
    found = claims_of(sam, method("single:W+", [20, 21], steps=25.0), method("pti", [20, 21], steps=200.0))
    assert found["sam_psnr_over_w_plus"].holds is None
    assert found["sam_psnr_over_w_plus"].why == "not on equal terms: sam takes 50 steps, single:W+ 25"
    assert found["sam_psnr_over_pti"].holds is True


def test_psnr_must_rise_from_each_space_to_the_next():
    rising = claims_of(method("single:W+", [20, 21]), method("single:F4", [22, 24]))["psnr_monotone"]
    assert (rising.holds, rising.figure) == (True, 2.5)
    falling = claims_of(method("single:W+", [20, 21]), method("single:F4", [19, 20.5]))["psnr_monotone"]
    assert falling.holds is False
    assert falling.why.startswith("from W+ to F4: -0.75 [-1.00, -0.50] dB over 2 images, wanted above 0")
    assert claims_of(method("single:W+", [20, 21]))["psnr_monotone"].why == "no method inverts in F4 alone"


def test_what_is_not_evaluated_is_not_measured():
    found = claims_of(method("sam", [20, 21]))
    assert found["sam_psnr_over_hybrid"].holds is None
    assert found["sam_psnr_over_hybrid"].verdict == "not measured"
    assert "no method of this kind" in found["sam_encoder_psnr_over_encoders"].why


def test_the_encoder_regime_has_claims_of_its_own():
    found = claims_of(method("sam_encoder", [22, 23, 24], steps=1), method("encoder", [20, 20.5, 21], steps=5))
    assert found["sam_encoder_psnr_over_encoder"].holds is True


def test_aims_are_judged_where_occluders_are_known():
    names = frozenset({("shard", "0"), ("shard", "1")})
    sam, w_plus = method("sam", [24, 25, 20], share=0.5), method("single:W+", [20, 21, 30])
    found = claims_of(sam, w_plus, occluded=names)
    assert (found["aim_psnr_over_w_plus_occluded"].holds, found["aim_psnr_over_w_plus_occluded"].images) == (True, 2)
    assert (found["aim_share_first_occluded"].holds, found["aim_share_first_occluded"].wanted) == (False, 0.6)
    assert not any(name.startswith("aim") for name in claims_of(sam, w_plus))


def test_editability_must_fall_along_spaces_and_in_ablations():
    figures = {"sam": 0.7, "without:refinement": 0.4, "single:W+": 0.9, "single:F4": 0.95}
    found = claims_of(*(method(kind, [20, 21], editability=value) for kind, value in figures.items()))
    assert found["without_refinement_editability_lower"].holds is True
    assert found["without_refinement_editability_lower"].figure == pytest.approx(0.3)
    assert found["editability_falls"].holds is False
    assert found["editability_falls"].figure == pytest.approx(-0.05)
    assert found["without_delta_term_editability_lower"].holds is None


def test_time_is_compared_as_a_ratio():
    found = claims_of(method("sam", [20, 21], seconds=2.0), method("pti", [20, 21], seconds=4.0))
    assert (found["sam_faster_than_pti"].holds, found["sam_faster_than_pti"].figure) == (True, 0.5)


def test_a_claim_without_images_in_common_is_not_measured():
    assert judged(Claim("a", "a", "b", "dB", 0.0), None, 2).holds is None
