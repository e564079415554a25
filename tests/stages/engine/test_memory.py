"""How many images fit: the arithmetic, what is measured for it, and which errors say that memory is full."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from generators.source import GeneratorSource
from stages.base.memory import out_of_memory
from stages.engine.memory import LARGEST, SHARE, UNMEASURED, Width, measured_width, width_for
from stages.engine.schedule import Schedule
from stages.inversion.inverter import Inverter
from stages.inversion.viewer import Photograph
from stages.invert import Invert
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny

MB = 1_000_000

BLACK = torch.zeros(3, tiny.SIDE_PX, tiny.SIDE_PX)


def inverter(folder, device: str = "cpu") -> Inverter:
    networks = tiny.write_networks(folder)
    stage = Invert(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        objective=Objective(shrinkage=1e-3),
        schedule=Schedule(steps=4),
    )
    return stage.inverter(torch.device(device))


@pytest.mark.parametrize(
    ("free_mb", "width"),
    [
        (0, 1),
        (299, 1),  # of which 254 may be taken: 100 and 1.5 images of 100
        (353, 2),
        (470, 2),  # three would fit
        (589, 4),
        (1058, 4),  # a little less than eight
        (1059, 8),
        (1999, 8),  # just short of sixteen: 0.85 of it is 1699
        (2001, 16),
        (1_000_000, LARGEST),
    ],
)
def test_images_are_as_many_as_fit_into_a_share_of_what_is_free(free_mb, width):
    assert SHARE == 0.85
    assert width_for(200 * MB, 300 * MB, free_mb * MB) == width  # 100 MB, and 100 MB per image


def test_where_a_second_image_costs_nothing_each_is_given_half_of_what_two_take():
    assert width_for(400 * MB, 400 * MB, 2200 * MB) == 8  # 1870 for images of 200, and 200 that do not grow
    assert width_for(500 * MB, 400 * MB, 2200 * MB) == 4  # and 300 that do not


def test_where_memory_grows_faster_than_the_images_nothing_is_subtracted():
    assert width_for(100 * MB, 300 * MB, 1000 * MB) == 4  # 850 for images of 200


@pytest.mark.parametrize("peaks", [(1, 1), (1, 2), (2, 1), (7, 13)])
def test_a_width_is_a_power_of_two_or_a_multiple_of_8_whatever_was_measured(peaks):
    widths = [width_for(*peaks, free) for free in range(2000)]
    assert widths == sorted(widths)
    assert set(widths) == {1, 2, 4, *range(8, LARGEST + 1, 8)}


def test_a_width_is_a_whole_number_or_auto():
    width = TypeAdapter(Width)
    assert [width.validate_python(value) for value in (1, 24, "auto")] == [1, 24, "auto"]
    for wrong in (0, -3, 2.5, True, "automatic", None):
        with pytest.raises(ValidationError, match="must be a whole number above 0, or auto"):
            width.validate_python(wrong)


def test_the_cpus_memory_is_not_measured(tmp_path):
    assert inverter(tmp_path).width("auto") == UNMEASURED == 16
    assert inverter(tmp_path).width(5) == 5


class Device:
    """A model of a CUDA device's memory: 1000 used, 50 per step, 20 per image; `free` is unused."""

    def __init__(self, monkeypatch, free: int, fits: int = 2) -> None:
        self.fits, self.peak = fits, 0
        monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 1000)
        monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", self.reset)
        monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: self.peak)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 10**6))

    def reset(self, device) -> None:
        self.peak = 1000

    def loss(self, loss):
        def computed(codes, target):
            if len(target.image) > self.fits:
                raise torch.OutOfMemoryError("tried to allocate 20")
            self.peak = max(self.peak, 1050 + 20 * len(target.image))
            return loss(codes, target)

        return computed


def test_what_is_measured_is_a_step_of_one_and_of_two_images(tmp_path, monkeypatch):
    one = inverter(tmp_path)
    item = one.item(Photograph(BLACK, BLACK), {})
    for free, fits, width in ((1000, 2, 40), (150, 2, 2), (1000, 1, 1), (1000, 0, 1)):
        device = Device(monkeypatch, free, fits)
        assert measured_width(device.loss(one.loss()), item) == width

    def broken(codes, target):
        raise RuntimeError("a kernel failed")

    with pytest.raises(RuntimeError, match="a kernel failed"):
        measured_width(broken, item)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("CUDNN_STATUS_ALLOC_FAILED"), False),
    ],
)
def test_which_errors_say_that_memory_is_full(error, full):
    assert out_of_memory(error) == full


def test_so_does_the_error_of_the_cpus_allocator():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert out_of_memory(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_width_is_measured_and_the_batch_fits(tmp_path):
    one = inverter(tmp_path, "cuda")
    width = one.width("auto")
    item = one.item(Photograph(BLACK, BLACK), {})
    engine = one.engine(width)
    assert width == LARGEST  # the networks are tiny
    assert len([engine.submit(lambda: item).result() for _ in range(2)]) == 2
