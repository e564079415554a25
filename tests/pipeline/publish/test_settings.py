"""The settings of a published result: newer settings are omitted at their earlier value, and so described."""

from pipeline.publish.pointer import move_pointer, read_pointer
from pipeline.publish.settings import deciding, portable_settings, with_settings


def test_a_published_result_is_described_with_its_own_value_of_a_newer_setting(committed):
    plain, keeping = committed.settings(), committed.settings("error_maps.keep_codes=true")
    without, with_codes = portable_settings(plain), portable_settings(keeping)
    assert "keep_codes" not in without["error_maps"]  # as files that earlier versions published
    assert with_codes["error_maps"]["keep_codes"] is True
    assert not with_settings(keeping, without).error_maps.keep_codes
    assert with_settings(plain, with_codes).error_maps.keep_codes


def test_a_schedule_is_published_and_described_with_betas_only_if_they_are_not_those_of_earlier_versions(committed):
    plain, short = committed.settings(), committed.settings("invert.schedule={steps: 3, betas: [0.7, 0.9]}")
    without, with_betas = portable_settings(plain), portable_settings(short)
    assert "betas" not in without["invert"]["schedule"]
    assert "betas" not in without["error_maps"]["schedule"]
    assert with_betas["invert"]["schedule"]["betas"] == [0.7, 0.9]
    assert with_settings(short, without).invert.schedule == plain.invert.schedule
    assert with_settings(plain, with_betas).invert.schedule == short.invert.schedule


def test_the_same_goes_for_schedules_inside_a_method(committed):
    tuned = committed.settings("invert.method={kind: pivotal, pivot: {steps: 3}}")
    short = committed.settings("invert.method={kind: pivotal, pivot: {steps: 3, betas: [0.7, 0.9]}}")
    without, with_betas = portable_settings(tuned), portable_settings(short)
    assert "betas" not in without["invert"]["method"]["pivot"]
    assert with_betas["invert"]["method"]["pivot"]["betas"] == [0.7, 0.9]
    assert with_settings(short, without).invert.method == tuned.invert.method
    assert with_settings(tuned, with_betas).invert.method == short.invert.method
    assert with_settings(short, portable_settings(committed.settings())).invert.method.kind == "optimise"


def test_true_edits_decide_no_result_and_are_this_machines(committed):
    measuring = committed.settings("true_edits=edits.npz")
    assert portable_settings(measuring) == portable_settings(committed.settings())
    assert with_settings(measuring, portable_settings(committed.settings())).true_edits == "edits.npz"


def test_a_precision_is_published_as_what_it_counts_as(committed):
    automatic, single = committed.settings("invert.precision=auto"), committed.settings("invert.precision=fp32")
    assert portable_settings(automatic) == portable_settings(single)  # earlier stores say fp32
    half = portable_settings(committed.settings("invert.precision=bf16"))
    assert half["invert"]["precision"] == "bf16"


def test_settings_that_change_no_result_move_no_pointer_and_others_do(committed):
    ledger = committed.plan().ledger
    published, url = read_pointer(ledger), ledger.store.url
    assert published is not None, url
    settings = published.settings
    other = {**settings, "invert": {**settings["invert"], "compile": True, "batch": 3}}
    assert deciding(other) == deciding(settings)
    before = ledger.store.read("published.json")
    move_pointer(ledger, published.model_copy(update={"settings": other}))
    assert ledger.store.read("published.json") == before
    try:
        move_pointer(ledger, published.model_copy(update={"samples": published.samples + 1}))
        assert ledger.store.read("published.json") != before
    finally:
        ledger.store.write("published.json", before)
