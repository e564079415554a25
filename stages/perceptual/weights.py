"""The weights of a perceptual distance: their files, and the model built from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from generators.errors import CheckpointError
from generators.weight_files import WeightFile, digest_of, read_weight_file
from stages.base.errors import WeightsError
from stages.perceptual.backbones import PUBLISHED, PublishedBackbone, SmallBackbone
from stages.perceptual.distance import Perceptual

PerceptualNet = Literal["vgg", "alex", "squeeze", "small"]
CLASSIFIER = "classifier."


def load_perceptual(
    net: PerceptualNet,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    heads: str | Path | None = None,
) -> Perceptual:
    """Return a frozen perceptual distance; nothing is ever downloaded.

    The model's `name` says whether the backbone is the published one, byte for byte; its `digest` differs for any two
    backbone files or heads. Smallest image side: vgg 16 px, squeeze 17, alex 31; small 2^(stages - 1), which is 16 for
    five stages.

    Args:
        net: `vgg`, `alex` or `squeeze` of LPIPS, or `small`, the demo's backbone. The file of a small one states its
            channels in its metadata and may hold the heads; without heads, a layer's error is the mean over its
            channels.
        weights: the backbone's file, safetensors or torch.save, read without running code from it; its keys are
            torchvision's (`features.0.weight`; those of the classifier are ignored). Without it, the published
            backbones are searched among the files that torchvision has downloaded (`torch.hub.get_dir()`).
        device: of the model.
        heads: file of the weights `lin{i}.model.1.weight` or `lin{i}.weight`, each `[1, C_i, 1, 1]`; without it,
            version 0.1 of those in the lpips package.

    Raises:
        WeightsError: a file is missing, unreadable or of another network.
        ValueError: there is no such network.
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


def _load_published(net: str, weights: Path | None, heads: Path | None) -> Perceptual:
    published = PUBLISHED[net]
    weights_path = cached_weights(net) if weights is None else weights
    heads_path = _heads_of_the_package(net) if heads is None else heads
    weights_file, heads_file = _read(weights_path), _read(heads_path)
    with torch.device("meta"):
        backbone = PublishedBackbone(published)
    _fill(backbone, weights_file.tensors, f"lpips-{net}", weights_path)
    head_weights = _pick_heads(heads_file.tensors, published.channels, f"lpips-{net}", heads_path)
    marks = [] if weights_file.sha256.startswith(published.sha256_start) else [("weights", weights_file)]
    marks += [] if heads is None else [("heads", heads_file)]
    marked = ", ".join(f"{what} {file.sha256[:8]}…" for what, file in marks)
    return Perceptual(
        backbone,
        head_weights,
        name=f"lpips-{net} ({marked})" if marked else f"lpips-{net}",
        digest=_digest(weights_file, heads_file),
        min_side_px=published.min_side_px,
    )


def _heads_of_the_package(net: str) -> Path:
    """Return the file of heads in the lpips package, which takes seconds to import."""
    package = find_spec("lpips")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "weights/v0.1" / f"{net}.pth"


def _load_small(weights: Path | None, heads: Path | None) -> Perceptual:
    if weights is None:
        raise WeightsError("the small perceptual network has no published weights: give its file as perceptual.weights")
    file = _read(weights)
    heads_file = None if heads is None else _read(heads)
    channels = _small_channels(file.metadata, weights)
    with torch.device("meta"):
        backbone = SmallBackbone(channels)
    _fill(backbone, file.tensors, "small", weights)
    if heads is not None and heads_file is not None:
        head_weights = _pick_heads(heads_file.tensors, channels, "small", heads)
    elif any(key.startswith("lin") for key in file.tensors):
        head_weights = _pick_heads(file.tensors, channels, "small", weights)
    else:
        head_weights = [torch.full((1, count, 1, 1), 1 / count) for count in channels]
    return Perceptual(
        backbone,
        head_weights,
        name="lpips-style small (not LPIPS-VGG)",
        digest=_digest(file, *([] if heads_file is None else [heads_file])),
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
            f"{path}: expected a .safetensors file with the metadata family 'small' and channels such as "
            f"'[16, 32]', got {dict(metadata)}: write it with stages.perceptual.weights.save_small"
        )
    return list(channels)


def cached_weights(net: str) -> Path:
    """Return a published backbone's weights from torchvision's cache; raise `WeightsError` if they are missing."""
    published = PUBLISHED[net]
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file
    if not path.is_file():
        raise WeightsError(
            f"lpips-{net} needs the ImageNet weights of torchvision's {published.network}, and nothing is downloaded: "
            f"put {published.file} at {path}, or set perceptual.weights to a file with torchvision's key names"
        )
    sha256 = digest_of(path)
    if not sha256.startswith(published.sha256_start):
        raise WeightsError(
            f"{path}: expected a file whose sha256 starts with {published.sha256_start}, got {sha256[:8]}: "
            "it is damaged or incomplete; fetch it again, or set perceptual.weights to use another on purpose"
        )
    return path


def _read(path: Path) -> WeightFile:
    """Return the tensors of a weight file and its metadata, without running code from it."""
    try:
        return read_weight_file(path, ignored=CLASSIFIER)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such weight file; correct perceptual.weights or perceptual.heads") from None
    except CheckpointError as error:
        raise WeightsError(f"{path} cannot be read: it {error}; give a .safetensors or .pth file of tensors") from error


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], wanted: str, path: Path) -> None:
    """Give a module on the meta device its weights, in float32."""
    faults, state = [], module.state_dict()
    for key, parameter in state.items():
        tensor = tensors.get(key)
        if tensor is None:
            faults.append(f"{key} is missing")
        elif tensor.shape != parameter.shape:
            faults.append(f"{key} is {list(tensor.shape)} instead of {list(parameter.shape)}")
    faults += [f"{key} is unexpected" for key in tensors if key.startswith("features.") and key not in state]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(
            f"{path} is not a backbone for {wanted}: {', '.join(faults[:3])}{more}; give the network's own file, "
            "with torchvision's key names"
        )
    weights = {key: tensors[key].float() for key in state}
    for key, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{path} holds {key} with NaN or infinite numbers; give an undamaged file")
    module.load_state_dict(weights, assign=True)


def _pick_heads(tensors: Mapping[str, Tensor], channels: Sequence[int], wanted: str, path: Path) -> list[Tensor]:
    heads = []
    for layer, count in enumerate(channels):
        weight = tensors.get(f"lin{layer}.weight", tensors.get(f"lin{layer}.model.1.weight"))
        if weight is None or list(weight.shape) != [1, count, 1, 1]:
            got = "nothing" if weight is None else list(weight.shape)
            raise WeightsError(
                f"{path} has no heads for {wanted}: expected lin{layer}.weight of [1, {count}, 1, 1], got {got}; "
                "give heads of the same network, or none for the default"
            )
        heads.append(weight.float())
    return heads


def _digest(*files: WeightFile) -> str:
    return hashlib.sha256(" ".join(file.sha256 for file in files).encode()).hexdigest()[:16]
