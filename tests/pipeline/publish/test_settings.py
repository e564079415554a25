"""The settings of a published result: newer settings are omitted at their earlier value, and so described."""

from pipeline.publish.settings import portable_settings, with_settings


def test_a_published_result_is_described_with_its_own_value_of_a_newer_setting(committed):
    plain, keeping = committed.settings(), committed.settings("error_maps.keep_codes=true")
    without, with_codes = portable_settings(plain), portable_settings(keeping)
    assert "keep_codes" not in without["error_maps"]  # as files that earlier versions published
    assert with_codes["error_maps"]["keep_codes"] is True
    assert not with_settings(keeping, without).error_maps.keep_codes
    assert with_settings(plain, with_codes).error_maps.keep_codes


def test_true_edits_decide_no_result_and_are_this_machines(committed):
    measuring = committed.settings("true_edits=edits.npz")
    assert portable_settings(measuring) == portable_settings(committed.settings())
    assert with_settings(measuring, portable_settings(committed.settings())).true_edits == "edits.npz"
