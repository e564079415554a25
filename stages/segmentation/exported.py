"""Segments from a network exported with `torch.export`."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn

from stages.base.errors import BadSampleError, WeightsError
from stages.segmentation.source import Labeller, NetworkSource, SegmentInput, shown_size

NOT_EXPORTED = "expected a network written by torch.export.save (.pt2)"


class ExportedNetwork(NetworkSource):
    """A semantic segmentation network saved by `torch.export.save` (`.pt2`): RGB `[1, 3, H, W]` to class logits.

    Its output is the logits `[1, C, h, w]`, a dict that holds them as `out` or `logits`, or a tuple that
    starts with them; they are resized to the image before the best class is taken. Images are run one by one,
    so that labels do not depend on the batch. Give only files that you trust: torch may run code from them.
    """

    kind: Literal["exported"] = "exported"
    weights: Path  # a file written by torch.export.save
    labels: PositiveInt | None = None  # number of classes, checked if given
    value_range: tuple[float, float] = (-1.0, 1.0)  # the network's values of black and white

    def weight_files(self) -> tuple[Path, ...]:
        """Return the network's file."""
        return (self.weights,)

    def check(self) -> None:
        """Raise WeightsError if the file is missing or was not written by `torch.export.save`."""
        super().check()
        try:
            with zipfile.ZipFile(self.weights) as archive:
                names = archive.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{self.weights}: {NOT_EXPORTED}: {error}") from error
        if any(PurePosixPath(name).name == "data.pkl" for name in names):
            raise WeightsError(f"{self.weights}: {NOT_EXPORTED}, got a file of torch.save, which has no program")

    def _labeller(self, device: str | torch.device) -> Labeller:
        network = _load_exported(self.weights, device)

        def label(sample: SegmentInput) -> NDArray[np.int32]:
            self.refuse_small(sample, self.weights.name)
            with torch.inference_mode():
                logits_1Chw = self._logits(network, self._network_input(sample.image_HW3, device))
                return self.merged(best_classes(logits_1Chw, sample.size))

        return label

    def _network_input(self, image_HW3: NDArray[np.uint8], device: str | torch.device) -> Tensor:
        low, high = self.value_range
        x_HW3 = torch.tensor(np.ascontiguousarray(image_HW3), device=device)
        return x_HW3.permute(2, 0, 1)[None].float() / 255 * (high - low) + low

    def _logits(self, network: Callable[[Tensor], Any], x_13HW: Tensor) -> Tensor:
        try:
            logits = _first_logits(network(x_13HW))
        except AssertionError as error:
            if "Guard failed" not in str(error):
                raise
            raise BadSampleError(
                f"{self.weights.name} was exported for other sizes than {shown_size(x_13HW.shape[2:])}: {error}"
            ) from error
        shape = None if logits is None else list(logits.shape)
        if logits is None or logits.ndim != 4 or logits.shape[1] != (self.labels or logits.shape[1]):
            raise WeightsError(
                f"{self.weights}: expected logits [1, {self.labels or 'C'}, h, w], got {shape or 'no tensor'}: "
                "export a segmentation network, and correct segmentation.labels"
            )
        return logits


def best_classes(logits_1Chw: Tensor, size: tuple[int, int]) -> NDArray[np.int32]:
    """Return the class with the largest logit at each pixel, `[H, W]` int32, of logits resized to `size`."""
    logits_1CHW = nn.functional.interpolate(logits_1Chw.float(), size, mode="bilinear")
    classes_HW: NDArray[np.int32] = logits_1CHW[0].argmax(dim=0).to(torch.int32).cpu().numpy()
    return classes_HW


def _load_exported(path: Path, device: str | torch.device) -> Callable[[Tensor], Any]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such segmentation network; correct segmentation.weights")
    try:
        program = torch.export.load(str(path))
    except Exception as error:  # torch raises its own, zipfile's, json's and pickle's
        raise WeightsError(f"{path}: {NOT_EXPORTED}: {error}") from error
    if torch.device(device).type != "cpu":  # constants inside the program stay on the device they came from
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    return program.module()


def _first_logits(output: object) -> Tensor | None:
    if isinstance(output, Mapping):
        output = output.get("out", output.get("logits"))
    elif isinstance(output, tuple | list):
        output = output[0] if output else None
    return output if isinstance(output, Tensor) else None
