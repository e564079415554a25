"""The segmenter S: the network that predicts how well each space can invert each pixel (thesis 3.1, Eq. 3.2)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from generators.errors import CheckpointError
from generators.formats.weights import check_fit
from generators.weight_files import read_weight_file
from stages.base.errors import WeightsError
from stages.base.seeded import seeded
from stages.segmenter.calibration import Calibration
from stages.segmenter.deeplab_v3_plus import DeepLabV3Plus
from stages.segmenter.published import COUNTER, OPENINGS, read_published

FORMAT = "invertmill-segmenter"
LEAK = 0.2  # slope of the heads' LeakyReLU in the authors' code
FIRST = 0.5  # output of a new head: above zero, so that its ReLU passes gradients
CALIBRATION = "calibration.error_LK"  # name of the tensor in a checkpoint, if there is one

Target = Literal["error", "root"]
"""What the heads are fitted to: the error itself (Eq. 3.2 as printed), or its square root."""

Backbone = Literal[
    "auto",
    "light",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_plus_resnet101",
]

ENOUGH = 2000
"""Number of images from which a backbone of 59 million random weights can be trained."""


class SegmenterNetwork(BaseModel):
    """The network's configuration. The thesis has `deeplabv3_resnet101`; `light` is for laptops and small images.

    `deeplabv3_plus_resnet101` is the one of the segmenters that the method's authors published.

    `auto` is the thesis's with `weights` or at least 2,000 images to learn from, and otherwise `light`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Backbone = "auto"  # the network below the heads
    weights: Path | None = None  # ImageNet weights of the backbone, torchvision key names; never downloaded
    head_channels: PositiveInt = Field(default=8, multiple_of=2)  # features at image size that all heads share

    @model_validator(mode="after")
    def _light_starts_from_nothing(self) -> Self:
        if self.backbone == "light" and self.weights is not None:
            raise ValueError(f"no ImageNet weights fit the backbone 'light', got {self.weights}: remove weights")
        return self

    def for_images(self, count: int) -> SegmenterNetwork:
        """Return the network for this number of training images, with its backbone named."""
        if self.backbone != "auto":
            return self
        named: Backbone = "deeplabv3_resnet101" if self.weights is not None or count >= ENOUGH else "light"
        return self.model_copy(update={"backbone": named})

    def weight_files(self) -> tuple[Path, ...]:
        """Return the files that a new network depends on, for the fingerprint."""
        return () if self.weights is None else (self.weights,)

    def check(self) -> None:
        """Raise WeightsError if the backbone's weights are missing, damaged or of another network."""
        if self.weights is not None:
            named = self.for_images(ENOUGH)
            with torch.device("meta"):
                backbone = _backbone(named).backbone
            assert isinstance(backbone, nn.Module)
            _backbone_weights(backbone, self.weights, named.backbone)


class Segmenter(nn.Module):
    """One backbone, and a head for each space: 3x3 convolution, batch norm, LeakyReLU, 1x1 convolution, ReLU.

    Heads that are fitted to square roots of errors are squared, or converted by `calibration` if there
    is one.
    """

    digest: str = ""  # digest of the checkpoint it was loaded from

    def __init__(self, config: SegmenterNetwork, spaces: Sequence[str], target: Target = "error") -> None:
        super().__init__()
        if not spaces or len(set(spaces)) != len(spaces):
            raise ValueError(f"expected the names of one or more different spaces, got {list(spaces)}")
        self.config, self.spaces, self.target = config, tuple(spaces), target
        self.backbone = _backbone(config)
        self.heads = _heads(config.head_channels, len(self.spaces))
        self.calibration: Calibration | None = None

    def forward(self, image_N3HW: Tensor) -> Tensor:
        """Return the predicted error `[N, L, H, W]` float32 >= 0, one map per space; image in [-1, 1], any size.

        Raises ValueError for other layouts. Thesis S_l(x), Eq. 3.2.
        """
        said_NLHW = self.unbounded(image_N3HW).relu()
        return self.uncalibrated(said_NLHW) if self.calibration is None else self.calibration(said_NLHW.float())

    def unbounded(self, image_N3HW: Tensor) -> Tensor:
        """Return the heads' output before the last ReLU, `[N, L, H, W]`: errors or roots, possibly negative.

        Training uses this: the least squares fit to targets >= 0 is the same as after the ReLU, and a head cannot
        die.
        """
        if image_N3HW.ndim != 4 or image_N3HW.shape[1] != 3:
            raise ValueError(f"expected images [N, 3, H, W] in [-1, 1], got {list(image_N3HW.shape)}")
        features = self.backbone(image_N3HW)
        features_NCHW = features["out"] if isinstance(features, Mapping) else features
        return cast(Tensor, self.heads(features_NCHW))

    def fitted_to(self, root_NLHW: Tensor) -> Tensor:
        """Return the target of the heads for square roots of errors."""
        return root_NLHW if self.target == "root" else root_NLHW.square()

    def uncalibrated(self, said_NLHW: Tensor) -> Tensor:
        """Return the error that an output of the heads means, >= 0."""
        return said_NLHW.square() if self.target == "root" else said_NLHW

    def start_from(self, mean_L: Tensor) -> None:
        """Initialise every head to its space's constant: `mean_L [L]`, the mean of its target."""
        bias_L = _bias(self.heads[-1])
        with torch.no_grad():
            bias_L.copy_(mean_L.clamp(min=1e-3))


def new_segmenter(config: SegmenterNetwork, spaces: Sequence[str], seed: int, target: Target = "error") -> Segmenter:
    """Return an untrained segmenter on the CPU, whose random weights depend on `seed` only.

    Raises WeightsError if the backbone's weights are missing or belong to another network.
    """
    with seeded(seed, torch.device("cpu")):
        segmenter = Segmenter(config, spaces, target)
    if config.weights is not None:
        _fill_backbone(segmenter.backbone.backbone, config.weights, config.backbone)  # type: ignore[arg-type]
    return segmenter


def save_segmenter(segmenter: Segmenter, about: str) -> bytes:
    """Return the segmenter as a safetensors file: weights, configuration, spaces, target, and a sentence on its origin.

    Equal segmenters give equal bytes.
    """
    config = segmenter.config.model_dump(mode="json", exclude={"weights"})
    metadata = {"format": FORMAT, "config": config, "spaces": segmenter.spaces, "target": segmenter.target}
    metadata |= {"about": about}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in segmenter.state_dict().items()}
    # one entry, because safetensors writes several in an order that differs from run to run
    return bytes(safetensors.torch.save(tensors, {FORMAT: json.dumps(metadata)}))


def load_segmenter(path: str | Path, device: str | torch.device = "cpu") -> Segmenter:
    """Return the segmenter of a checkpoint, frozen and in evaluation mode, with the checkpoint's `digest`.

    The checkpoint is one that train_segmenter wrote, or one that the method's authors published (`published`); its
    content decides.

    Raises WeightsError if the file is missing, damaged or not a segmenter.
    """
    path = Path(path)
    data = _read(path)
    segmenter = _published(path, data) if data.startswith(OPENINGS) else _trained(path, data)
    segmenter.digest = hashlib.sha256(data).hexdigest()[:16]
    return segmenter.eval().requires_grad_(False).to(device)


def _published(path: Path, data: bytes) -> Segmenter:
    try:
        spaces, channels, tensors = read_published(data)
        config = SegmenterNetwork(backbone="deeplabv3_plus_resnet101", head_channels=channels)
        with torch.device("meta"):
            segmenter = Segmenter(config, spaces)
        shapes = {name: tensor.shape for name, tensor in segmenter.state_dict().items()}
        check_fit("segmenter as published", {name: shapes[name] for name in shapes if COUNTER not in name}, tensors)
    except CheckpointError as error:
        raise WeightsError(f"{path} {error}") from error
    except ValidationError as error:
        raise WeightsError(
            f"{path} holds a segmenter of an odd number of features, which is not as published"
        ) from error
    counters = {name: torch.zeros(shapes[name], dtype=torch.int64) for name in shapes if COUNTER in name}
    segmenter.load_state_dict(tensors | counters, assign=True)
    return segmenter


def _trained(path: Path, data: bytes) -> Segmenter:
    metadata, tensors = _read_checkpoint(path, data)
    try:
        config = SegmenterNetwork.model_validate(metadata["config"])
        with torch.device("meta"):
            segmenter = Segmenter(config, metadata["spaces"], _target_of(metadata))
            if CALIBRATION in tensors:
                segmenter.calibration = Calibration(torch.empty(tensors[CALIBRATION].shape))
        segmenter.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, ValidationError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: its configuration and its weights do not agree ({error}); train it again"
        ) from error
    return segmenter


def _target_of(metadata: Mapping[str, Any]) -> Target:
    """Return the target of a checkpoint's heads; checkpoints from before there was a choice have square roots."""
    target: Target = metadata.get("target", "root")
    if target not in get_args(Target):
        raise ValueError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}")
    return target


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such segmenter; correct the path, or run train_segmenter") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_checkpoint(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        tensors = safetensors.torch.load(data)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[FORMAT])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: expected a checkpoint written by train_segmenter, or one as the method's authors published; got "
            f"neither ({type(error).__name__}: {error})"
        ) from error
    return metadata, tensors


# ---- networks


def _heads(channels: int, spaces: int) -> nn.Sequential:
    """Return one head per space, as grouped layers: the same function as separate heads, twice as fast."""
    width = channels // 2 * spaces
    last = nn.Conv2d(width, spaces, 1, groups=spaces)
    nn.init.constant_(_bias(last), FIRST)
    nn.init.normal_(last.weight, std=0.1 / channels)
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(LEAK), last)


def _bias(layer: nn.Module) -> Tensor:
    bias = layer.bias
    assert isinstance(bias, Tensor)
    return bias


def _backbone(config: SegmenterNetwork) -> nn.Module:
    if config.backbone == "light":
        return _Light(config.head_channels)
    if config.backbone == "auto":
        raise ValueError("the backbone 'auto' is named by the images to learn from: call for_images first")
    if config.backbone == "deeplabv3_plus_resnet101":
        return DeepLabV3Plus(config.head_channels)
    from torchvision.models import segmentation  # takes seconds to import, and a plan need not wait for it

    deeplab: nn.Module = getattr(segmentation, config.backbone)(
        weights=None, weights_backbone=None, num_classes=config.head_channels
    )
    return deeplab


class _Light(nn.Module):
    """A small encoder and decoder: texture at half size, context at an eighth, 0.19 million parameters."""

    def __init__(self, channels: int, widths: tuple[int, int, int] = (24, 48, 96)) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = _block(3, a, kernel=5, stride=2)
        self.down = nn.ModuleList([nn.Sequential(_block(a, b, stride=2), _block(b, b)), _block(b, c, stride=2)])
        self.context = _block(c, c)
        self.narrow = nn.ModuleList([nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.up = nn.ModuleList([_block(b, b), _block(a, a)])
        self.out = nn.Conv2d(a, channels, 1)

    def forward(self, image_N3HW: Tensor) -> Tensor:
        half = self.stem(image_N3HW)
        quarter = self.down[0](half)
        x = self.context(self.down[1](quarter))
        for narrow, up, skip in zip(self.narrow, self.up, (quarter, half), strict=True):
            x = up(_resized(narrow(x), skip) + skip)
        return _resized(self.out(x), image_N3HW)


def _block(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _resized(x_NChw: Tensor, like_NCHW: Tensor) -> Tensor:
    return F.interpolate(x_NChw, like_NCHW.shape[2:], mode="bilinear", align_corners=False)


def _fill_backbone(backbone: nn.Module, path: Path, name: str) -> None:
    """Give a DeepLab's backbone ImageNet weights."""
    backbone.load_state_dict(_backbone_weights(backbone, path, name))


def _backbone_weights(backbone: nn.Module, path: Path, name: str) -> dict[str, Tensor]:
    """Return ImageNet weights in the names of a DeepLab's backbone; the classifier of the file is dropped."""
    try:
        file = read_weight_file(path, ignored="classifier.")
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such weight file; correct train_segmenter.network.weights") from None
    except CheckpointError as error:
        raise WeightsError(f"{path} cannot be read: it {error}; give a .safetensors or .pth file of tensors") from error
    tensors = {key.removeprefix("features."): tensor for key, tensor in file.tensors.items()}
    wanted = backbone.state_dict()
    faults = [key for key, value in wanted.items() if key not in tensors or tensors[key].shape != value.shape]
    faults = [key for key in faults if not key.endswith("num_batches_tracked")]  # older files lack it
    if faults:
        raise WeightsError(
            f"{path} does not fit the backbone of {name}: {len(faults)} tensors are missing or of other shape, first "
            f"{faults[0]}; give the backbone's own ImageNet weights, with torchvision's key names"
        )
    for key in wanted.keys() & tensors.keys():
        if not bool(tensors[key].isfinite().all()):
            raise WeightsError(f"{path} holds {key} with NaN or infinite numbers; give an undamaged file")
    return {key: tensors.get(key, value) for key, value in wanted.items()}
