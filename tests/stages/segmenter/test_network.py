import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from pydantic import ValidationError

from stages.base.errors import WeightsError
from stages.segmenter.calibration import CalibrationSums
from stages.segmenter.network import FORMAT, SegmenterNetwork, load_segmenter, new_segmenter, save_segmenter
from tests.recipe import published_heads

SPACES = ("W+", "F4", "F6")
LIGHT = SegmenterNetwork(backbone="light")


@pytest.fixture
def segmenter():
    return new_segmenter(LIGHT, SPACES, seed=3).eval()


def images(n: int = 2, height: int = 24, width: int = 40) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ---- the network


@pytest.mark.parametrize("size", [(64, 64), (24, 40), (17, 33)])
def test_there_is_one_map_of_the_image_s_size_a_space_and_no_error_is_negative(segmenter, size):
    error_NLHW = segmenter(images(2, *size))
    assert error_NLHW.shape == (2, 3, *size)
    assert (error_NLHW >= 0).all()


def test_the_error_is_what_the_heads_say_bounded_or_its_square_where_they_say_roots(segmenter):
    said_NLHW = segmenter.unbounded(images())
    torch.testing.assert_close(segmenter(images()), said_NLHW.clamp(min=0))
    roots = new_segmenter(LIGHT, SPACES, seed=3, target="root").eval()
    torch.testing.assert_close(roots(images()), said_NLHW.clamp(min=0) ** 2)


def test_a_calibrated_segmenter_says_the_mean_error_of_each_root():
    roots = new_segmenter(LIGHT, SPACES, seed=3, target="root").eval()
    said_NLHW = roots(images())
    sums = CalibrationSums(len(SPACES), torch.device("cpu"))
    sums.add(said_NLHW.sqrt(), 2 * said_NLHW)
    roots.calibration = sums.fit()
    torch.testing.assert_close(roots(images()), 2 * said_NLHW, rtol=0.02, atol=1e-4)


def test_a_new_segmenter_is_above_zero_almost_everywhere(segmenter):
    assert (segmenter(images()) > 0).float().mean() > 0.99


def test_starting_from_constants_makes_each_head_predict_about_its_own(segmenter):
    segmenter.start_from(torch.tensor([0.8, 0.4, 0.0]))
    mean_L = segmenter.unbounded(images()).mean(dim=(0, 2, 3))
    torch.testing.assert_close(mean_L, torch.tensor([0.8, 0.4, 0.001]), atol=0.1, rtol=0)


def test_a_prediction_does_not_depend_on_the_batch(segmenter):
    together = segmenter(images(3))
    for i in range(3):
        torch.testing.assert_close(segmenter(images(3)[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-4)


def test_every_weight_gets_a_gradient():
    segmenter = new_segmenter(LIGHT, SPACES, seed=0).train()
    segmenter(images()).mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in segmenter.parameters())


def test_the_light_network_is_light(segmenter):
    assert 150_000 < sum(parameter.numel() for parameter in segmenter.parameters()) < 300_000


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_images_of_another_layout_are_a_mistake_of_the_caller(segmenter, shape):
    with pytest.raises(ValueError, match=r"expected images \[N, 3, H, W\] in \[-1, 1\], got"):
        segmenter(torch.zeros(shape))


@pytest.mark.parametrize("spaces", [(), ("W+", "W+")])
def test_spaces_are_named_once_each(spaces):
    with pytest.raises(ValueError, match="one or more different spaces"):
        new_segmenter(LIGHT, spaces, seed=0)


def test_random_weights_follow_the_seed_and_leave_torch_s_generator_alone():
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (new_segmenter(LIGHT, SPACES, seed).state_dict() for seed in (1, 1, 2))
    assert torch.rand(1) == wanted
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["heads.0.weight"], other["heads.0.weight"])


def test_heads_side_by_side_compute_what_the_authors_separate_heads_do(shared):
    golden = np.load(shared / "golden/2_sam/invertibility_recipe_outputs.npz")
    spaces = ("W+", "F4", "F6", "F8", "F10")
    heads = new_segmenter(LIGHT, spaces, seed=0).heads.eval()
    heads.load_state_dict(published_heads(spaces) | {"1.num_batches_tracked": torch.tensor(0)})
    for size in ("B2_64x64", "B1_96x128"):
        found_1LHW = heads(torch.from_numpy(golden[f"base_{size}"])).relu().detach().numpy()
        for i, space in enumerate(spaces):
            np.testing.assert_allclose(found_1LHW[0, i], golden[f"{space}_{size}"][0, 0], rtol=1e-3, atol=1e-4)


# ---- the published family


@pytest.mark.parametrize("backbone", ["deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50"])
def test_a_deeplab_predicts_at_the_image_s_size(backbone):
    segmenter = new_segmenter(SegmenterNetwork(backbone=backbone), SPACES, seed=0).eval()
    assert segmenter(images(1, 40, 56)).shape == (1, 3, 40, 56)


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_imagenet_weights_come_from_a_file_and_the_classifier_is_left_out(tmp_path, form):
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_large(weights=None)
    path = tmp_path / f"mobilenet.{form}"
    torch.save(network.state_dict(), path) if form == "pth" else safetensors.torch.save_file(network.state_dict(), path)
    config = SegmenterNetwork(backbone="deeplabv3_mobilenet_v3_large", weights=path)
    found = new_segmenter(config, SPACES, seed=5).backbone.backbone.state_dict()
    assert config.weight_files() == (path,)
    assert all(torch.equal(tensor, network.state_dict()[f"features.{key}"]) for key, tensor in found.items())


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), path)
    with pytest.raises(WeightsError, match=r"other\.pth does not fit the backbone of deeplabv3_mobilenet_v3_large"):
        new_segmenter(SegmenterNetwork(backbone="deeplabv3_mobilenet_v3_large", weights=path), SPACES, seed=0)


def test_weights_for_the_default_backbone_are_checked_against_the_one_that_they_are_for(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), path)
    with pytest.raises(WeightsError, match=r"other\.pth does not fit the backbone of deeplabv3_resnet101"):
        SegmenterNetwork(weights=path).check()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", None, "no such weight file"),
        ("a.pth", pickle.dumps(print), "cannot be read"),
        ("a.pth", b"", "cannot be read"),
        ("a.safetensors", b"\0" * 20, "cannot be read"),
        ("a.pth", [1, 2], "it holds a list, not a dictionary of tensors"),
    ],
)
def test_weights_that_cannot_be_read_stop_the_run(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, list):
        torch.save(content, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        new_segmenter(SegmenterNetwork(backbone="deeplabv3_mobilenet_v3_large", weights=path), SPACES, seed=0)


def test_no_published_weights_fit_the_light_network():
    with pytest.raises(ValidationError, match="remove weights"):
        SegmenterNetwork(backbone="light", weights="imagenet.pth")


@pytest.mark.parametrize("setting", [{"backbone": "unet"}, {"head_channels": 7}, {"heads": 3}])
def test_settings_that_no_network_has_are_refused(setting):
    with pytest.raises(ValidationError):
        SegmenterNetwork.model_validate(setting)


# ---- the checkpoint


def test_a_saved_segmenter_comes_back_frozen_and_predicts_the_same(tmp_path, segmenter):
    path = tmp_path / "segmenter.safetensors"
    path.write_bytes(save_segmenter(segmenter, "a test"))
    loaded = load_segmenter(path)
    assert (loaded.spaces, loaded.config) == (SPACES, LIGHT)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    torch.testing.assert_close(loaded(images()), segmenter(images()), rtol=0, atol=0)


def test_a_calibration_is_part_of_the_checkpoint(tmp_path):
    segmenter = new_segmenter(LIGHT, SPACES, seed=3, target="root").eval()
    sums = CalibrationSums(len(SPACES), torch.device("cpu"))
    sums.add(segmenter(images()).sqrt(), torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(0)))
    segmenter.calibration = sums.fit()
    (tmp_path / "segmenter").write_bytes(save_segmenter(segmenter, "a test"))
    loaded = load_segmenter(tmp_path / "segmenter")
    assert loaded.target == "root"
    torch.testing.assert_close(loaded(images()), segmenter(images()), rtol=0, atol=0)


def test_a_checkpoint_of_before_there_was_a_choice_of_target_says_squares_of_roots(tmp_path):
    segmenter = new_segmenter(LIGHT, SPACES, seed=3, target="root").eval()
    data = save_segmenter(segmenter, "a test")
    metadata = json.loads(safe_metadata(data))
    del metadata["target"]
    old = safetensors.torch.save(safetensors.torch.load(data), {FORMAT: json.dumps(metadata)})
    (tmp_path / "old").write_bytes(old)
    torch.testing.assert_close(load_segmenter(tmp_path / "old")(images()), segmenter(images()), rtol=0, atol=0)


def test_equal_segmenters_make_equal_bytes_and_equal_digests(tmp_path):
    first, again, other = (save_segmenter(new_segmenter(LIGHT, SPACES, seed), "a test") for seed in (1, 1, 2))
    assert first == again
    digests = []
    for i, data in enumerate((first, again, other)):
        (tmp_path / str(i)).write_bytes(data)
        digests.append(load_segmenter(tmp_path / str(i)).digest)
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 16


def test_a_checkpoint_does_not_remember_where_its_backbone_came_from(tmp_path):
    path = tmp_path / "mobilenet.pth"
    torch.save(torchvision.models.mobilenet_v3_large(weights=None).state_dict(), path)
    config = SegmenterNetwork(backbone="deeplabv3_mobilenet_v3_large", weights=path)
    data = save_segmenter(new_segmenter(config, SPACES, seed=0), "a test")
    assert str(tmp_path).encode() not in data
    (tmp_path / "segmenter").write_bytes(data)
    path.unlink()
    assert load_segmenter(tmp_path / "segmenter").config.weights is None


def test_a_file_that_is_not_a_segmenter_stops_the_run(tmp_path, segmenter):
    good = save_segmenter(segmenter, "a test")
    tensors = safetensors.torch.load(good)
    fewer = {key: tensor for key, tensor in tensors.items() if key != "heads.0.weight"}
    other = {"config": {"backbone": "light"}, "spaces": ["W+"]}
    unheard_of = json.dumps(json.loads(safe_metadata(good)) | {"target": "logarithm"})
    files = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "foreign": safetensors.torch.save(tensors),
        "not json": safetensors.torch.save(tensors, {FORMAT: "{"}),
        "unconfigured": safetensors.torch.save(tensors, {FORMAT: "{}"}),
        "fewer": safetensors.torch.save(fewer, {FORMAT: safe_metadata(good)}),
        "unheard of": safetensors.torch.save(tensors, {FORMAT: unheard_of}),
        "other spaces": safetensors.torch.save(tensors, {FORMAT: str(other).replace("'", '"')}),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError, match=name):
            load_segmenter(tmp_path / name)
    with pytest.raises(WeightsError, match="no such segmenter"):
        load_segmenter(tmp_path / "missing")


def safe_metadata(data: bytes) -> str:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"][FORMAT]
