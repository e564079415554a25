"""LPIPS whose target features are kept, as one number an image or as a map (thesis Eq. 3.1, 3.5)."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import lpips
import torch
from lpips import pretrained_networks
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.base.errors import WeightsError

PerceptualNet = Literal["vgg", "alex", "squeeze", "small"]


@dataclass(frozen=True)
class _Published:
    """One of the three backbones of the lpips package."""

    network: str  # its class in lpips.pretrained_networks
    file: str  # torchvision's file; the name ends in the start of its sha256
    channels: tuple[int, ...]  # of the features that are compared
    min_side_px: int  # of an image: below it a pooling layer has nothing to pool

    @property
    def sha256_start(self) -> str:
        return Path(self.file).stem.rpartition("-")[2]


PUBLISHED: Mapping[str, _Published] = {
    "vgg": _Published("vgg16", "vgg16-397923af.pth", (64, 128, 256, 512, 512), min_side_px=16),
    "alex": _Published("alexnet", "alexnet-owt-7be5be79.pth", (64, 192, 384, 256, 256), min_side_px=31),
    "squeeze": _Published(
        "squeezenet", "squeezenet1_1-b8a52dc0.pth", (64, 128, 256, 384, 384, 512, 512), min_side_px=17
    ),
}


@dataclass(frozen=True, eq=False)
class Features:
    """A batch of targets as one perceptual model sees it: what `Perceptual.features` returns."""

    layers: tuple[Tensor, ...]  # [N, C, h, w] each; the C values of a position have length 1
    image_shape: tuple[int, ...]  # [N, 3, H, W]
    digest: str  # of the model


class SmallBackbone(nn.Module):
    """Stages of conv3x3-ReLU-conv3x3-ReLU, halved by average pooling in between; the demo's own backbone."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        inputs = (3, *channels[:-1])
        self.stages = nn.ModuleList(_small_stage(*pair) for pair in zip(inputs, channels, strict=True))

    def forward(self, x_N3HW: Tensor) -> list[Tensor]:
        """Return the feature after each stage: `[N, C_i, H / 2^i, W / 2^i]`, of images already scaled.

        `lpips.ScalingLayer` scales images in [-1, 1]; `Perceptual` does it, a training script has to.
        """
        features = []
        x = x_N3HW
        for depth, stage in enumerate(self.stages):
            x = stage(x if depth == 0 else nn.functional.avg_pool2d(x, 2))
            features.append(x)
        return features


class Perceptual(nn.Module):
    """A frozen perceptual distance, equal to the lpips package's with the same weights.

    Images are `[N, 3, H, W]`, floating, in [-1, 1]; both sides of an image must be at least `min_side_px`.
    Distances are differentiable in the images, and those of an image do not depend on its neighbours in the
    batch. Under autocast only the backbone runs in the lower precision.

    Every method raises ValueError for images of another shape or type, or a batch unlike its target.
    """

    def __init__(
        self, backbone: nn.Module, head_weights: Sequence[Tensor], *, name: str, digest: str, min_side_px: int
    ) -> None:
        super().__init__()
        self.name = name
        self.digest = digest
        self.min_side_px = min_side_px
        self.scaling = lpips.ScalingLayer()
        self.backbone = backbone
        self.heads = nn.ModuleList(lpips.NetLinLayer(weight.shape[1]) for weight in head_weights)
        for head, weight in zip(self.heads, head_weights, strict=True):
            head.load_state_dict({"model.0.weight": weight})
        self.requires_grad_(False)
        self.eval()

    def forward(self, x_N3HW: Tensor, y_N3HW: Tensor) -> Tensor:
        """Return the distance of each pair: `[N]`, at least 0; differentiable in both."""
        return self.distance(x_N3HW, self._features(y_N3HW))

    def map(self, x_N3HW: Tensor, y_N3HW: Tensor) -> Tensor:
        """Return where each pair differs: `[N, H, W]`, at least 0; differentiable in both (Eq. 3.1)."""
        return self.distance_map(x_N3HW, self._features(y_N3HW))

    @torch.no_grad()
    def features(self, y_N3HW: Tensor) -> Features:
        """Return what a target contributes to its distances, detached, to be computed once and kept."""
        return self._features(y_N3HW)

    def distance(self, x_N3HW: Tensor, target: Features) -> Tensor:
        """Return the distance of each image to its target: `[N]`, at least 0."""
        return torch.stack([error.mean(dim=(1, 2)) for error in self.layer_errors(x_N3HW, target)]).sum(dim=0)

    def distance_map(self, x_N3HW: Tensor, target: Features) -> Tensor:
        """Return where each image differs from its target: `[N, H, W]`, at least 0 (Eq. 3.1)."""
        size = tuple(x_N3HW.shape[2:])
        errors = [lpips.upsample(error[:, None], out_HW=size) for error in self.layer_errors(x_N3HW, target)]
        return torch.cat(errors, dim=1).sum(dim=1)

    def layer_errors(self, x_N3HW: Tensor, target: Features) -> list[Tensor]:
        """Return each layer's share of the distance, at that layer's size: `[N, h, w]` each."""
        if target.digest != self.digest:
            raise ValueError(
                f"the kept features are of perceptual model {target.digest}, this one is {self.digest} "
                f"({self.name}): compute them with this model's features()"
            )
        if tuple(x_N3HW.shape) != target.image_shape:
            raise ValueError(
                f"images must have the shape of their targets, {list(target.image_shape)}, "
                f"got {list(x_N3HW.shape)}: give one target an image, at the same size"
            )
        errors = []
        for head, x_NChw, y_NChw in zip(self.heads, self._features(x_N3HW).layers, target.layers, strict=True):
            with torch.autocast(x_NChw.device.type, enabled=False):
                errors.append(head((x_NChw - y_NChw).square())[:, 0])
        return errors

    def _features(self, x_N3HW: Tensor) -> Features:
        self._check(x_N3HW)
        full = torch.promote_types(x_N3HW.dtype, torch.float32)  # 1e-10 in the division is 0 in half precision
        layers = tuple(lpips.normalize_tensor(feature.to(full)) for feature in self.backbone(self.scaling(x_N3HW)))
        return Features(layers, tuple(x_N3HW.shape), self.digest)

    def _check(self, x_N3HW: Tensor) -> None:
        shape = list(x_N3HW.shape)
        if x_N3HW.ndim != 4 or shape[1] != 3 or not x_N3HW.is_floating_point():
            raise ValueError(
                f"images must be [N, 3, H, W], floating, in [-1, 1], got {shape} of {x_N3HW.dtype}: "
                "convert uint8 pixels by x / 127.5 - 1, repeat grey images three times"
            )
        if min(shape[2:]) < self.min_side_px:
            raise ValueError(
                f"{self.name} needs images of {self.min_side_px} px or more on each side, got "
                f"{shape[2]} x {shape[3]}: enlarge them or choose another perceptual network"
            )


def load_perceptual(
    net: PerceptualNet,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    heads: str | Path | None = None,
) -> Perceptual:
    """Return a frozen perceptual distance; nothing is ever downloaded.

    weights: the backbone's file, `.safetensors`, or `.pth` or `.pt` read without running code from it; its
    keys are torchvision's (`features.0.weight`; the classifier's are ignored). Without it, vgg, alex and
    squeeze are looked for among the files that torchvision has downloaded (`torch.hub.get_dir()`).
    heads: file of the weights `lin{i}.model.1.weight` or `lin{i}.weight`, each `[1, C_i, 1, 1]`; without it,
    version 0.1 of those in the lpips package.
    small: its file tells its channels in its metadata and may hold the heads; without any a layer's error is
    the mean over its channels (each weighs 1/C_i).

    The model's `name` says whether the backbone is the published one, byte for byte; its `digest` tells
    apart any two backbone files and heads. Smallest image side: vgg 16 px, squeeze 17, alex 31; small
    2^(stages - 1), that is 16 with five.

    Raises WeightsError for files that are missing, unreadable or of another network; ValueError for other names.
    """
    if net not in get_args(PerceptualNet):
        raise ValueError(f"no perceptual network is called {net!r}: choose one of {', '.join(get_args(PerceptualNet))}")
    load = _load_small if net == "small" else partial(_load_published, net)
    return load(None if weights is None else Path(weights), None if heads is None else Path(heads)).to(device)


def save_small(path: str | Path, backbone: SmallBackbone, heads: Sequence[Tensor] = ()) -> None:
    """Write a trained backbone, and the weights of its heads (`[1, C_i, 1, 1]`), for `load_perceptual`."""
    tensors = dict(backbone.state_dict()) | {f"lin{i}.weight": weight for i, weight in enumerate(heads)}
    channels = [stage[0].out_channels for stage in backbone.stages]  # type: ignore[index]
    metadata = {"family": "small", "channels": json.dumps(channels)}
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, path, metadata)


def _small_stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def _load_published(net: str, weights: Path | None, heads: Path | None) -> Perceptual:
    published = PUBLISHED[net]
    weights_path = cached_weights(net) if weights is None else weights
    heads_path = Path(lpips.__file__).parent / "weights/v0.1" / f"{net}.pth" if heads is None else heads
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Arguments other than a weight enum", UserWarning)
        backbone: nn.Module = getattr(pretrained_networks, published.network)(pretrained=False)
    # lpips cuts the network into slices and keeps its numbers: slice2.5.weight is features.5.weight
    names = {key: f"features.{key.partition('.')[2]}" for key in backbone.state_dict()}
    _fill(backbone, names, _read(weights_path)[0], f"lpips-{net}", weights_path)
    head_weights = _pick_heads(_read(heads_path)[0], published.channels, f"lpips-{net}", heads_path)
    marks = [] if _sha256(weights_path).startswith(published.sha256_start) else [("weights", weights_path)]
    marks += [] if heads is None else [("heads", heads_path)]
    marked = ", ".join(f"{what} {_sha256(path)[:8]}…" for what, path in marks)
    return Perceptual(
        backbone,
        head_weights,
        name=f"lpips-{net} ({marked})" if marked else f"lpips-{net}",
        digest=_digest(weights_path, heads_path),
        min_side_px=published.min_side_px,
    )


def _load_small(weights: Path | None, heads: Path | None) -> Perceptual:
    if weights is None:
        raise WeightsError("the small perceptual network has no published weights: give its file as perceptual.weights")
    tensors, metadata = _read(weights)
    channels = _small_channels(metadata, weights)
    with torch.device("meta"):
        backbone = SmallBackbone(channels)
    _fill(backbone, {key: key for key in backbone.state_dict()}, tensors, "small", weights)
    if heads is not None:
        head_weights = _pick_heads(_read(heads)[0], channels, "small", heads)
    elif any(key.startswith("lin") for key in tensors):
        head_weights = _pick_heads(tensors, channels, "small", weights)
    else:
        head_weights = [torch.full((1, count, 1, 1), 1 / count) for count in channels]
    return Perceptual(
        backbone,
        head_weights,
        name="lpips-style small (not LPIPS-VGG)",
        digest=_digest(weights, *([] if heads is None else [heads])),
        min_side_px=2 ** (len(channels) - 1),
    )


def _small_channels(metadata: Mapping[str, str], path: Path) -> list[int]:
    try:
        channels = json.loads(metadata.get("channels", "null"))
    except json.JSONDecodeError:
        channels = None
    right = isinstance(channels, list) and channels and all(type(count) is int and count > 0 for count in channels)
    if metadata.get("family") != "small" or not right:
        raise WeightsError(
            f"{path}: wanted a .safetensors file with the metadata family 'small' and channels such as "
            f"'[16, 32]', got {dict(metadata)}: write it with stages.perceptual.distance.save_small"
        )
    return list(channels)


def cached_weights(net: str) -> Path:
    """Return the official weights of a published backbone from torchvision's cache; raises `WeightsError` without."""
    published = PUBLISHED[net]
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file
    if not path.is_file():
        raise WeightsError(
            f"lpips-{net} needs the ImageNet weights of torchvision's {published.network}, and nothing is downloaded: "
            f"put {published.file} at {path}, or set perceptual.weights to a file with torchvision's key names"
        )
    if not _sha256(path).startswith(published.sha256_start):
        raise WeightsError(
            f"{path}: wanted a file whose sha256 starts with {published.sha256_start}, got {_sha256(path)[:8]}: "
            "it is damaged or incomplete; fetch it again, or set perceptual.weights to use another on purpose"
        )
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a weight file and its metadata, without running code from it."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such weight file; correct perceptual.weights or perceptual.heads") from None
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: wanted .safetensors, or .pth with tensors only, and it cannot be read: {reason}"
        ) from error
    if not isinstance(tensors, dict):
        raise WeightsError(f"{path}: wanted a dict of tensors, got a {type(tensors).__name__}: save the state_dict")
    return {str(key): tensor for key, tensor in tensors.items() if isinstance(tensor, Tensor)}, {}


def _fill(module: nn.Module, names: Mapping[str, str], tensors: Mapping[str, Tensor], wanted: str, path: Path) -> None:
    """Give a module on the meta device its weights; `names` maps its keys to the file's."""
    faults = []
    for key, parameter in module.state_dict().items():
        found = tensors.get(names[key])
        if found is None:
            faults.append(f"{names[key]} is missing")
        elif found.shape != parameter.shape:
            faults.append(f"{names[key]} is {list(found.shape)} where {list(parameter.shape)} was wanted")
    faults += [f"{key} is too much" for key in tensors if key.startswith("features.") and key not in names.values()]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(
            f"{path} is not a backbone for {wanted}: {', '.join(faults[:3])}{more}; give the network's own file, "
            "with torchvision's key names"
        )
    weights = {key: tensors[name].float() for key, name in names.items()}
    for key, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{path} holds {names[key]} with NaN or infinite numbers; give an undamaged file")
    module.load_state_dict(weights, assign=True)


def _pick_heads(tensors: Mapping[str, Tensor], channels: Sequence[int], wanted: str, path: Path) -> list[Tensor]:
    heads = []
    for layer, count in enumerate(channels):
        weight = tensors.get(f"lin{layer}.weight", tensors.get(f"lin{layer}.model.1.weight"))
        if weight is None or list(weight.shape) != [1, count, 1, 1]:
            got = "nothing" if weight is None else list(weight.shape)
            raise WeightsError(
                f"{path} has no heads for {wanted}: wanted lin{layer}.weight of [1, {count}, 1, 1], got {got}; "
                "give heads of the same network, or none for the default"
            )
        heads.append(weight.float())
    return heads


def _digest(*files: Path) -> str:
    return hashlib.sha256(" ".join(_sha256(path) for path in files).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
