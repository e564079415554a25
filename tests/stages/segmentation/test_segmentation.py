import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel, ValidationError

from stages.base.errors import BadSampleError, WeightsError
from stages.images.orientation import Geometry
from stages.maps.region import Region, fit_labels
from stages.segmentation import (
    ExportedNetwork,
    Labels,
    Pixels,
    Segmentation,
    SegmentInput,
    Superpixels,
    Whole,
)
from tests.stages.pictures import raw_png

CAR = 7  # in PASCAL VOC


class Config(BaseModel):
    segmentation: Segmentation


class Threshold(torch.nn.Module):
    """Three classes by brightness, at half the image's size: dark, middle, bright."""

    def forward(self, x_N3HW: torch.Tensor) -> torch.Tensor:
        grey = torch.nn.functional.avg_pool2d(x_N3HW.mean(dim=1, keepdim=True), 2)
        return torch.cat([-grey, 0.5 - grey.abs() * 2, grey], dim=1)


def png(labels_HW: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(labels_HW).save(file, "PNG")
    return file.getvalue()


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def blank(height: int, width: int, **members: bytes) -> SegmentInput:
    return SegmentInput(np.zeros((height, width, 3), np.uint8), members)


def labelled(data: bytes, height: int = 4, width: int = 6, fit=None, photograph=None) -> SegmentInput:
    return SegmentInput(np.zeros((height, width, 3), np.uint8), {"seg.png": data}, fit, photograph)


def steps(height: int = 40, width: int = 64) -> SegmentInput:
    """Three plain bands: black, grey, white."""
    image_HW3 = np.full((height, width, 3), 128, np.uint8)
    image_HW3[:, : width // 4] = 0
    image_HW3[:, -width // 4 :] = 255
    return SegmentInput(image_HW3)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    sizes = {2: torch.export.Dim("h", min=8, max=512) * 2, 3: torch.export.Dim("w", min=8, max=512) * 2}
    program = torch.export.export(Threshold().eval(), (torch.rand(1, 3, 64, 96),), dynamic_shapes=(sizes,))
    path = tmp_path_factory.mktemp("network") / "threshold.pt2"
    torch.export.save(program, path)
    return path


# ---- every kind


@pytest.fixture(params=["labels", "superpixels", "exported", "whole", "pixels"])
def source(request, exported):
    return {
        "labels": Labels(merge={1: 5}),
        "superpixels": Superpixels(segments=12),
        "exported": ExportedNetwork(weights=exported, labels=3, merge={2: 0}),
        "whole": Whole(),
        "pixels": Pixels(),
    }[request.param]


@pytest.fixture
def samples() -> list[SegmentInput]:
    rng = np.random.default_rng(1)
    found = []
    for height, width in ((40, 64), (64, 40), (40, 64)):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        labels_HW = rng.integers(0, 9, (height, width), dtype=np.uint8)
        found.append(SegmentInput(np.kron(coarse, np.ones((8, 8, 1), np.uint8)), {"seg.png": png(labels_HW)}))
    return found


def test_labels_have_the_size_of_the_image_and_the_promised_type(source, samples):
    for sample, labels_HW in zip(samples, source.load("cpu")(samples), strict=True):
        assert labels_HW.shape == sample.size
        assert labels_HW.dtype == np.int32


def test_labels_do_not_depend_on_the_batch_or_the_run(source, samples):
    segment = source.load("cpu")
    together = segment(samples)
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(segment([sample])[0], together[i])
        np.testing.assert_array_equal(source.load("cpu")([samples[i - 1], sample])[1], together[i])


def test_an_empty_batch_gives_an_empty_list(source):
    assert source.load("cpu")([]) == []


def test_a_source_survives_pickling_and_its_own_dump(source, samples):
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    np.testing.assert_array_equal(copy.load("cpu")(samples)[0], source.load("cpu")(samples)[0])
    assert Config.model_validate_json(Config(segmentation=source).model_dump_json()).segmentation == source


def test_a_source_is_frozen_and_refuses_unknown_settings(source):
    with pytest.raises(ValidationError, match="frozen"):
        source.kind = "another"
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(source).model_validate(source.model_dump() | {"segmnts": 3})


def test_the_kind_chooses_the_source_and_unknown_kinds_are_refused():
    assert Config.model_validate({"segmentation": {"kind": "superpixels", "segments": 9}}).segmentation.segments == 9
    with pytest.raises(ValidationError, match="'labels', 'superpixels', 'exported', 'huggingface', 'whole', 'pixels'"):
        Config.model_validate({"segmentation": {"kind": "magic"}})


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), "u1")]
)
def test_an_image_of_another_layout_is_a_mistake_of_the_caller(image):
    with pytest.raises(ValueError, match=r"\[H, W, 3\] of uint8, got"):
        SegmentInput(image)


# ---- labels in the shard


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_labels_come_back_exactly(dtype):
    labels_HW = np.arange(24, dtype=dtype).reshape(4, 6) * (np.iinfo(dtype).max // 24)
    (found_HW,) = Labels().load("cpu")([labelled(png(labels_HW))])
    np.testing.assert_array_equal(found_HW, labels_HW)


def test_palette_labels_are_their_indices():
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6), "L")
    image.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    file = io.BytesIO()
    image.save(file, "PNG")
    assert Labels().load("cpu")([labelled(file.getvalue())])[0].ravel().tolist() == list(range(24))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint32, bool])
def test_npy_labels_come_back_exactly_under_any_member_name(dtype):
    labels_HW = np.array([[1, 0, 1], [0, 1, 1]], dtype=dtype)
    source = Labels(member="labels.npy")
    (found_HW,) = source.load("cpu")([SegmentInput(np.zeros((2, 3, 3), np.uint8), {"labels.npy": npy(labels_HW)})])
    np.testing.assert_array_equal(found_HW, labels_HW)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(np.zeros((6, 4), np.uint8)), "seg.png is 6 x 4 px, the image is 4 x 6 px"),
        (png(np.zeros((4, 6, 3), np.uint8)), r"\[4, 6, 3\] of uint8: expected one integer per pixel"),
        (npy(np.zeros((4, 6))), "of float64: expected one integer"),
        (npy(np.zeros((4, 6), object), allow_pickle=True), "without objects"),
        (npy(np.full((4, 6), 2**31)), "reach 2147483648, but labels have 32 bit"),
        (npy(np.zeros((4, 6), np.int64))[:-9], "announces 192 bytes, but 183 follow"),
        (png(np.random.default_rng(0).integers(0, 9, (4, 6), np.uint8))[:60], "does not decode"),
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0 not a png", "does not decode"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8', 'fortran_order': False, 'shape': (4,", "does not decode"),
    ],
)
def test_labels_that_cannot_be_used_are_a_fault_of_their_sample_only(data, message):
    good = labelled(png(np.ones((4, 6), np.uint8)))
    before, fault, after = Labels().load("cpu")([good, labelled(data), good])
    assert isinstance(fault, BadSampleError)
    with pytest.raises(BadSampleError, match=message):
        raise fault
    assert before.all()
    assert after.all()


def test_a_missing_member_is_named_together_with_those_there_are():
    (fault,) = Labels(member="seg.npy").load("cpu")([blank(4, 4, png=b"", json=b"")])
    assert isinstance(fault, BadSampleError)
    assert "'seg.npy'" in str(fault)
    assert "['json', 'png']" in str(fault)


def test_labels_of_the_photograph_are_fitted_as_the_photograph_was():
    labels_HW = np.arange(24, dtype=np.uint8).reshape(4, 6)
    sample = labelled(png(labels_HW), 2, 3, fit=lambda labels: labels[::2, ::2], photograph=Geometry(4, 6))
    np.testing.assert_array_equal(Labels().load("cpu")([sample])[0], labels_HW[::2, ::2])


@pytest.mark.parametrize("size", [(6, 4), (8, 12), (4, 7), (2, 3)])
def test_labels_of_another_size_or_aspect_than_their_photograph_are_refused_however_they_would_be_fitted(size):
    region = Region(height=2, width=3)
    sample = labelled(
        png(np.zeros(size, np.uint8)), 2, 3, lambda labels: fit_labels(labels, region), photograph=Geometry(4, 6)
    )
    (fault,) = Labels().load("cpu")([sample])
    assert str(fault) == (f"seg.png is {size[0]} x {size[1]} px, the image is 4 x 6 px: make both the same size")


def test_labels_stored_next_to_a_sideways_photograph_are_turned_with_it_also_as_npy():
    labels_HW = np.arange(24, dtype=np.uint8).reshape(6, 4)  # as the photograph is looked at
    stored_HW = np.rot90(labels_HW)
    assert stored_HW.shape == (4, 6)
    for data in (png(np.ascontiguousarray(stored_HW)), npy(stored_HW), png(labels_HW), npy(labels_HW)):
        sample = labelled(data, 6, 4, photograph=Geometry(6, 4, orientation=6))
        np.testing.assert_array_equal(Labels().load("cpu")([sample])[0], labels_HW)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_levels_of_few_bits_are_labels_as_they_are(depth):
    labels_HW = np.arange(24).reshape(4, 6) % 2**depth
    rows = np.zeros((4, 8), np.uint8)
    rows[:, :6] = labels_HW
    bits = np.unpackbits(rows[..., None], axis=-1)[..., 8 - depth :].reshape(4, -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes()[: -(-6 * depth // 8)] for row in bits)
    np.testing.assert_array_equal(Labels().load("cpu")([labelled(raw_png(0, depth, 6, 4, lines))])[0], labels_HW)


def test_a_npy_that_promises_terabytes_is_refused_before_they_are_allocated():
    honest, promise = b"(4, 6), }", b"(400000000, 600000), }"
    data = npy(np.zeros((4, 6), np.int64)).replace(honest + b" " * (len(promise) - len(honest)), promise)
    (fault,) = Labels().load("cpu")([labelled(data)])
    assert isinstance(fault, BadSampleError)
    assert "announces 1920000000000000 bytes, but 192 follow" in str(fault)


def test_merging_renames_the_listed_classes_at_once_and_leaves_the_others():
    labels_HW = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)
    (found_HW,) = Labels(merge={1: 2, 2: 1, 3: -7}).load("cpu")([labelled(png(labels_HW), 2, 3)])
    assert found_HW.tolist() == [[0, 2, 1], [-7, 2, 0]]


def test_a_strict_merge_names_the_classes_it_does_not_list():
    source = Labels(merge={0: 0}, strict_merge=True)
    segment = source.load("cpu")
    fault, found_HW = segment([labelled(png(np.full((4, 6), 9, np.uint8))), labelled(png(np.zeros((4, 6), np.uint8)))])
    assert "does not list the classes [9]" in str(fault)
    assert not found_HW.any()


def test_a_strict_merge_without_a_table_is_refused():
    with pytest.raises(ValidationError, match="merge is empty"):
        Labels(strict_merge=True)


# ---- superpixels and the whole image


def test_superpixels_follow_an_edge_and_are_about_as_many_as_asked():
    sample = steps(60, 80)
    (labels_HW,) = Superpixels(segments=20).load("cpu")([sample])
    assert 10 <= len(np.unique(labels_HW)) <= 40
    for label in np.unique(labels_HW):
        assert len(np.unique(sample.image_HW3[labels_HW == label])) == 1


def test_one_pixel_is_one_superpixel():
    assert Superpixels().load("cpu")([blank(1, 1)])[0].tolist() == [[0]]


def test_each_pixel_is_a_segment():
    labels_HW = Pixels().load("cpu")([steps()])[0]
    assert len(np.unique(labels_HW)) == labels_HW.size


def test_the_whole_image_is_one_segment():
    assert not Whole().load("cpu")([steps()])[0].any()


# ---- exported networks


def test_logits_are_resized_to_the_image_and_the_best_class_taken(exported):
    labels_HW = ExportedNetwork(weights=exported, labels=3).load("cpu")([steps(40, 64)])[0]
    assert np.unique(labels_HW[:, :12]).tolist() == [0]
    assert np.unique(labels_HW[:, 20:44]).tolist() == [1]
    assert np.unique(labels_HW[:, -12:]).tolist() == [2]


def test_the_value_range_is_what_black_and_white_become(exported):
    source = ExportedNetwork(weights=exported, value_range=(0, 1))
    assert np.unique(source.load("cpu")([steps()])[0]).tolist() == [1, 2]  # nothing is below the middle any more


def test_a_too_small_image_is_a_fault_of_its_sample(exported):
    fault, labels_HW = ExportedNetwork(weights=exported, min_side_px=33).load("cpu")([blank(32, 64), blank(34, 34)])
    assert isinstance(fault, BadSampleError)
    assert "the image is 32 x 64 px, but threshold.pt2 needs 33 px" in str(fault)
    assert labels_HW.shape == (34, 34)


def test_a_photograph_too_small_to_mean_anything_is_a_fault_of_its_sample_however_it_was_enlarged(exported):
    enlarged = SegmentInput(steps().image_HW3, photograph=Geometry(31, 50))
    (fault,) = ExportedNetwork(weights=exported).load("cpu")([enlarged])
    assert isinstance(fault, BadSampleError)
    assert "the image is 31 x 50 px, but threshold.pt2 needs 32 px" in str(fault)


def test_a_size_that_the_network_was_not_exported_for_is_a_fault_of_its_sample(exported):
    (fault,) = ExportedNetwork(weights=exported, min_side_px=1).load("cpu")([blank(8, 64)])
    assert isinstance(fault, BadSampleError)
    assert "was exported for other sizes than 8 x 64 px" in str(fault)


def test_a_network_with_other_classes_than_configured_stops_the_run(exported):
    with pytest.raises(WeightsError, match=r"expected logits \[1, 21, h, w\], got \[1, 3, "):
        ExportedNetwork(weights=exported, labels=21).load("cpu")([steps()])


@pytest.mark.parametrize("form", [lambda x: {"out": x}, lambda x: {"logits": x}, lambda x: (x, x.sum())])
def test_logits_may_come_in_a_dict_or_a_tuple(tmp_path, exported, form):
    class Wrapped(Threshold):
        def forward(self, x_N3HW):
            return form(super().forward(x_N3HW))

    torch.export.save(torch.export.export(Wrapped(), (torch.rand(1, 3, 40, 64),)), tmp_path / "wrapped.pt2")
    wrapped_HW, plain_HW = (
        ExportedNetwork(weights=path).load("cpu")([steps()])[0] for path in (tmp_path / "wrapped.pt2", exported)
    )
    np.testing.assert_array_equal(wrapped_HW, plain_HW)


def test_a_missing_or_broken_network_stops_the_run(tmp_path):
    path = tmp_path / "network.pt2"
    with pytest.raises(WeightsError, match=r"network\.pt2: no such segmentation network"):
        ExportedNetwork(weights=path).load("cpu")
    path.write_bytes(b"not an archive")
    with pytest.raises(WeightsError, match=r"expected a network written by torch\.export\.save"):
        ExportedNetwork(weights=path).load("cpu")


def test_only_the_network_counts_as_a_weight_file(exported):
    assert ExportedNetwork(weights=exported).weight_files() == (exported,)
    assert Labels().weight_files() == Superpixels().weight_files() == Whole().weight_files() == ()


# ---- a real network on real photographs


@pytest.fixture(scope="module")
def deeplab(shared):
    return ExportedNetwork(weights=shared / "weights/deeplabv3_voc.pt2", labels=21).load("cpu")


def photographs(path, count: int) -> list[SegmentInput]:
    with tarfile.open(path) as shard:
        members = [member for member in shard.getmembers() if member.isfile()][:count]
        images = [np.asarray(Image.open(shard.extractfile(member)).convert("RGB")) for member in members]
    return [SegmentInput(image_HW3) for image_HW3 in images]


def test_the_car_is_found_in_every_photograph_of_a_car(shared, deeplab):
    samples = photographs(shared / "data/lsun-cars-000000.tar", 10)
    found = deeplab(samples)
    assert [labels_HW.shape for labels_HW in found] == [sample.size for sample in samples]
    shares = [float((labels_HW == CAR).mean()) for labels_HW in found]
    assert min(shares) > 0.15, shares
    assert max(shares) < 0.6, shares
    np.testing.assert_array_equal(deeplab(samples[3:4])[0], found[3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_on_a_gpu_are_those_on_the_cpu(exported):
    source = ExportedNetwork(weights=exported)
    np.testing.assert_array_equal(source.load("cuda")([steps()])[0], source.load("cpu")([steps()])[0])
