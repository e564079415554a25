"""Hugging Face models: tiny ones with random weights, against what transformers itself makes of them."""

import importlib.util
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stages.base.errors import BadSampleError, WeightsError
from stages.images.orientation import Geometry
from stages.segmentation import HuggingFace, SegmentInput
from stages.segmentation.huggingface import INSTANCES, VOID
from tests.stages import huggingface_models as models

HUB = {"hub": "owner/name", "revision": "a" * 40}

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers: pip install 'transformers>=5.0'"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        make.__name__: make(root / make.__name__) for make in (models.segformer, models.mobilevit, models.mask2former)
    }


@pytest.fixture
def folder(tmp_path, folders):
    """A segformer to be damaged."""
    return shutil.copytree(folders["segformer"], tmp_path / "model")


@pytest.fixture
def picture() -> SegmentInput:
    return SegmentInput(models.mosaic())


def labels(picture, **settings) -> np.ndarray:
    (found_HW,) = HuggingFace(**settings).load("cpu")([picture])
    assert isinstance(found_HW, np.ndarray), found_HW
    return found_HW


def parts(folder, picture):
    """Return transformers' own panoptic segmentation."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    network = transformers.AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        output = network(**processor(images=picture.image_HW3, return_tensors="pt"))
    (found,) = processor.post_process_panoptic_segmentation(
        output, target_sizes=[picture.size], label_ids_to_fuse=set()
    )
    return found["segmentation"].numpy(), found["segments_info"]


# ---- without the package


def test_without_transformers_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)  # find_spec raises ValueError for it, as for a broken one
    source = HuggingFace(folder=tmp_path)
    for ask in (source.check, lambda: source.load("cpu")):
        with pytest.raises(
            WeightsError, match=r"transformers, which is not installed: pip install 'transformers>=5\.0'"
        ):
            ask()


# ---- configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give folder or hub"),
        ({"folder": "a", **HUB}, "give folder or hub"),
        ({"hub": "owner/name"}, "hub and revision go together"),
        ({"hub": "owner/name", "revision": "main"}, "should match pattern"),
        ({"folder": "a", "revision": "a" * 40}, "hub and revision go together"),
        ({"folder": "a", "download": True}, "remove it"),
        ({"folder": "a", "fuse": [1]}, "task is semantic"),
        ({"folder": "a", "task": "panoptic", "merge": {1: 1000}}, r"are -1 to 999, got \[1000\]"),
        ({"folder": "a", "strict_merge": True}, "merge is empty"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        HuggingFace.model_validate(settings)


def test_a_source_survives_pickling_and_its_own_dump():
    source = HuggingFace(**HUB, task="panoptic", merge={1: 2}, fuse=(2,))
    assert pickle.loads(pickle.dumps(source)) == source
    assert HuggingFace.model_validate_json(source.model_dump_json()) == source


# ---- semantic


@needs_transformers
@pytest.mark.parametrize("name", ["segformer", "mask2former"])
def test_semantic_labels_are_those_of_transformers_own_post_processing(folders, picture, name):
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folders[name])
    config = transformers.AutoConfig.from_pretrained(folders[name])
    network = getattr(transformers, config.architectures[0]).from_pretrained(folders[name]).eval()
    with torch.no_grad():
        output = network(**processor(images=picture.image_HW3, return_tensors="pt"))
    (wanted_HW,) = processor.post_process_semantic_segmentation(output, target_sizes=[picture.size])
    found_HW = labels(picture, folder=folders[name])
    assert found_HW.dtype == np.int32
    np.testing.assert_array_equal(found_HW, wanted_HW.numpy())


@needs_transformers
def test_labels_do_not_depend_on_the_batch(folders, picture):
    segment = HuggingFace(folder=folders["segformer"]).load("cpu")
    turned = SegmentInput(np.ascontiguousarray(picture.image_HW3.transpose(1, 0, 2)))
    alone_HW = segment([picture])[0]
    assert len(np.unique(alone_HW)) > 1
    np.testing.assert_array_equal(segment([turned, picture, turned])[1], alone_HW)
    assert segment([turned])[0].shape == turned.size


@needs_transformers
def test_classes_are_merged(folders, picture):
    plain_HW = labels(picture, folder=folders["segformer"])
    merged_HW = labels(picture, folder=folders["segformer"], merge={1: 0, 3: 0})
    np.testing.assert_array_equal(merged_HW, np.where(np.isin(plain_HW, [1, 3]), 0, plain_HW))


@needs_transformers
def test_a_class_outside_a_strict_merge_is_a_fault_of_its_sample(folders, picture):
    (fault,) = HuggingFace(folder=folders["segformer"], merge={0: 0}, strict_merge=True).load("cpu")([picture])
    assert isinstance(fault, BadSampleError)
    assert "does not list the classes [1, 2, 3, 4]" in str(fault)


@needs_transformers
def test_a_processor_that_cuts_the_middle_out_is_told_not_to(folders):
    source, seen = HuggingFace(folder=folders["mobilevit"]), []
    wide = SegmentInput(np.zeros((64, 128, 3), np.uint8))
    convolution = torch.nn.Conv2d.forward
    try:
        torch.nn.Conv2d.forward = lambda self, x: (seen.append(x.shape[-2:]), convolution(self, x))[1]
        (found_HW,) = source.load("cpu")([wide])
    finally:
        torch.nn.Conv2d.forward = convolution
    assert seen[0][1] == 2 * seen[0][0]
    assert found_HW.shape == wide.size


@needs_transformers
def test_a_small_image_is_a_fault_of_its_sample(folders):
    small = SegmentInput(np.zeros((31, 64, 3), np.uint8))
    enlarged = SegmentInput(np.zeros((64, 64, 3), np.uint8), photograph=Geometry(64, 20))
    for fault in HuggingFace(folder=folders["segformer"]).load("cpu")([small, enlarged]):
        assert isinstance(fault, BadSampleError)
        assert "segformer needs 32 px on each side (segmentation.min_side_px)" in str(fault)


# ---- panoptic


@needs_transformers
def test_panoptic_instances_are_the_segments_of_transformers_own_post_processing(folders, picture):
    found_HW = labels(picture, folder=folders["mask2former"], task="panoptic")
    parts_HW, segments = parts(folders["mask2former"], picture)
    assert len(segments) >= 2
    assert {segment["label_id"] for segment in segments} == {models.SEEN}
    assert len(np.unique(found_HW[found_HW != VOID])) == len(segments)
    for segment in segments:
        (label,) = np.unique(found_HW[parts_HW == segment["id"]])
        assert label % INSTANCES == models.SEEN
    np.testing.assert_array_equal(found_HW == VOID, ~np.isin(parts_HW, [segment["id"] for segment in segments]))


@needs_transformers
def test_a_merge_of_classes_that_the_model_lacks_is_refused_before_it_is_loaded(folders):
    source = HuggingFace(folder=folders["segformer"], merge={0: 1, models.CLASSES: 1})
    with pytest.raises(WeightsError, match=r"has the classes 0 to 4, and segmentation\.merge lists \[5\]: correct"):
        source.check()


@needs_transformers
def test_merged_instances_stay_apart_unless_they_are_fused(folders, picture):
    plain_HW = labels(picture, folder=folders["mask2former"], task="panoptic")
    settings = {"folder": folders["mask2former"], "task": "panoptic", "merge": {models.SEEN: 7}}
    merged_HW = labels(picture, **settings)
    np.testing.assert_array_equal(merged_HW, np.where(plain_HW == VOID, VOID, plain_HW - models.SEEN + 7))
    np.testing.assert_array_equal(labels(picture, **settings, fuse=(7,)), np.where(plain_HW == VOID, VOID, 7))


@needs_transformers
def test_what_a_panoptic_model_does_not_see_is_void_and_can_be_merged(tmp_path, folders, picture):
    from safetensors.torch import load_file, save_file

    unsure = shutil.copytree(folders["mask2former"], tmp_path / "unsure")
    weights = load_file(unsure / "model.safetensors")
    save_file(weights | {"class_predictor.bias": torch.zeros(models.CLASSES + 1)}, unsure / "model.safetensors")
    assert (labels(picture, folder=unsure, task="panoptic") == VOID).all()
    assert (labels(picture, folder=unsure, task="panoptic", merge={VOID: 9}) == 9).all()


@needs_transformers
def test_a_semantic_model_cannot_be_panoptic(folders):
    with pytest.raises(WeightsError, match=r"is not a panoptic model; set segmentation\.task: semantic"):
        HuggingFace(folder=folders["segformer"], task="panoptic").load("cpu")


# ---- models that cannot be used


def change(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@needs_transformers
def test_a_missing_folder_stops_the_run(tmp_path):
    with pytest.raises(WeightsError, match="nowhere: no such segmentation network"):
        HuggingFace(folder=tmp_path / "nowhere").check()


@needs_transformers
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_stops_the_run(folder, name):
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=r"expected config\.json, preprocessor_config\.json and model\.safetensors"):
        HuggingFace(folder=folder).load("cpu")


@needs_transformers
def test_weights_that_could_run_code_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="as save_pretrained writes them"):
        HuggingFace(folder=folder).load("cpu")


@needs_transformers
@pytest.mark.parametrize("name", ["SegformerForImageClassification", "os"])
def test_a_model_for_something_else_stops_the_run(folder, name):
    change(folder, architectures=[name])
    with pytest.raises(WeightsError, match=f"its architecture is {name}, which transformers does not know"):
        HuggingFace(folder=folder).load("cpu")


@needs_transformers
def test_a_model_whose_head_would_be_random_stops_the_run(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "classifier" not in k}, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 2 weights of SegformerForSemanticSegmentation, decode_head\.class"):
        HuggingFace(folder=folder).load("cpu")


@needs_transformers
def test_nothing_is_fetched_unless_download_says_so(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: pytest.fail("the network was asked"))
    with pytest.raises(WeightsError, match=r"owner/name@aaaaaaaa is not on this machine.*download: true"):
        HuggingFace(**HUB).check()


@needs_transformers
def test_download_asks_the_hub_for_this_commit_and_for_no_code(monkeypatch, folders, picture):
    import huggingface_hub

    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return str(folders["segformer"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    source = HuggingFace(**HUB, download=True)
    source.check()
    assert all(options["local_files_only"] for _, options in asked)  # what is in the cache is looked at
    np.testing.assert_array_equal(source.load("cpu")([picture])[0], labels(picture, folder=folders["segformer"]))
    [(name, options)] = [(name, options) for name, options in asked if not options["local_files_only"]]
    assert (name, options["revision"], options["local_files_only"]) == ("owner/name", "a" * 40, False)
    assert set(options["allow_patterns"]) == {"*.json", "*.safetensors"}
