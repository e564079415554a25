"""What the input lacks is said right after the inventory, before any work that would be in vain."""

import pytest

from infra.shards.shards import write_shard
from pipeline.data.input_check import check_input
from pipeline.errors import RunError
from tests import tiny
from tests.infra.tars import tar
from tests.pipeline.conftest import scan_input

LABELS = "refine_maps.segmentation={kind: labels, member: labels.png}"


def check(run, *overrides):
    """Read the input, and look for what the configuration needs of it."""
    plan = run.plan(*overrides)
    scan_input(plan)
    check_input(plan.config, plan.ledger, plan.inventories())


def without(extension, samples):
    return [{name: data for name, data in sample.items() if name != extension} for sample in samples]


def test_an_input_that_has_everything_is_fine(fresh):
    check(fresh)


def test_labels_that_no_sample_has_are_refused_with_what_there_is(fresh):
    with pytest.raises(RunError) as caught:
        check(fresh, LABELS)
    message = str(caught.value)
    assert message.startswith("no sample of the input has its labels, 'labels.png'; samples have: ")
    assert all(f"{name} (8)" in message for name in ("png", "seg.png", "occluder.png"))
    assert message.endswith("; add it to the shards, or correct `refine_maps.segmentation`")


def test_a_class_that_no_sample_has_is_refused(fresh):
    with pytest.raises(RunError, match=r"has its class, 'cls'; .*or correct `label`"):
        check(fresh, "label={member: cls}")


def test_pictures_that_cannot_be_used_in_any_sample_are_not_called_missing(fresh):
    for name in ("train-a", "held-b"):
        members = [
            (f"{number}.{part}", "symlink" if part == "png" else b"x") for number in "12" for part in ("png", "cls")
        ]
        (fresh.folder / f"shards/{name}.tar").write_bytes(tar(*members))
    with pytest.raises(
        RunError, match=r"have: cls \(4\); 4 samples: its 'png' is one of the shard's links.*tar --dereference"
    ):
        check(fresh, "truth=null")


def test_a_truth_that_no_sample_has_is_refused(fresh):
    with pytest.raises(RunError, match=r"has its mask, 'mask.png'; .*or correct `truth`"):
        check(fresh, "truth=mask.png")


def test_an_input_without_images_is_refused_with_the_extensions_that_are_read(fresh):
    for name in ("train-a", "held-b"):
        write_shard(fresh.folder / f"shards/{name}.tar", without("png", tiny.samples(name, 2)))
    with pytest.raises(RunError, match=r"has an image, 'jpg' or .*write the images under one of these extensions"):
        check(fresh)


def test_what_some_samples_have_is_enough(fresh):
    write_shard(fresh.folder / "shards/held-b.tar", without("seg.png", tiny.samples("held-b", 3)))
    check(fresh)


def test_an_input_of_which_nothing_can_be_read_is_refused_with_the_reasons(fresh):
    (fresh.folder / "shards/train-a.tar").write_bytes(b"")
    tiny.truncated(fresh.folder / "shards/held-b.tar", 0.01)
    with pytest.raises(RunError, match=r"not one sample of 2 shards can be read: .*train-a.tar: empty: it has no byte"):
        check(fresh)


def test_a_plan_says_so_too(invertmill, fresh):
    scan_input(fresh.plan())
    code, output, _ = invertmill("plan", fresh.folder / "run.yaml", "--set", LABELS)
    assert code == 0
    assert "warning: no sample of the input has its labels, 'labels.png'" in output


def test_an_image_member_that_no_sample_has_is_refused_and_so_are_masks_and_labels_alone(fresh):
    with pytest.raises(RunError, match=r"has an image, 'image.jpg'; .*add it to the shards, or correct `image`"):
        check(fresh, "image=image.jpg")
    check(fresh, "image=occluder.png", "truth=null")


def test_an_image_under_an_extension_of_several_parts_is_one(fresh):
    for name in ("train-a", "held-b"):
        dotted = [
            {"photo.png" if key == "png" else key: data for key, data in one.items()} for one in tiny.samples(name, 2)
        ]
        write_shard(fresh.folder / f"shards/{name}.tar", dotted)
    check(fresh)
