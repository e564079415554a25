"""Reads published checkpoints without running code from them, and the project's own safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit
from urllib.request import url2pathname

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from generators.errors import CheckpointError
from generators.generator import Generator
from generators.pickles import load_pickle
from generators.records import Module, Network, StoredTensor, brief, expect
from generators.stylegan2 import Noise, StyleGAN2, StyleGAN2Config

FORMAT = "invertmill-generator"
MAX_BYTES = 4 * 2**30
"""The largest checkpoint that is read; the largest published one has 0.4 GB."""

READ_TODAY = (
    "read today: invertmill's .safetensors, and the .pkl of StyleGAN2 from NVIDIA's repositories stylegan2-ada-pytorch "
    "and stylegan3"
)
MAX_DEPTH = 8
MAX_MODULES = 10_000
MAX_NAME = 200
FILTER = (1.0, 3.0, 3.0, 1.0)

_OPENINGS = {
    b"": "an empty file",
    b"PK\x03\x04": "a zip archive, such as a torch.save file",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9": "a legacy torch.save file",
    b"\x1f\x8b": "a gzip file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for: run `git lfs pull`",
    b"<": "a web page or XML, perhaps a failed download",
}


@dataclass(frozen=True)
class Weights:
    """What a checkpoint of StyleGAN2 holds, in the names of NVIDIA's implementations."""

    config: StyleGAN2Config
    tensors: Mapping[str, Tensor | StoredTensor]
    about: str = ""


def load_generator(
    path_or_uri: str | Path,
    device: torch.device | str = "cpu",
    truncation: float = 1.0,
    noise: Noise = "const",
) -> Generator:
    """Return a pretrained generator: frozen, in eval mode, in float32, with `digest` the SHA-256 of its file.

    No code from the file is run. What it is is told by its content, never by its name.

    Args:
        path_or_uri: a local path or `file://` URI.
        device: where to put it.
        truncation: for families whose truncation is fixed when they are loaded (BigGAN-deep's batch-norm statistics);
            StyleGAN2 takes it in `Generator.map`.
        noise: `const` adds the noise buffers of the checkpoint, `none` adds no noise.

    Raises:
        CheckpointError: the file is missing, torn, of a format that is not read, or hostile.
        ValueError: truncation is not 1 for a family that takes it elsewhere, or noise is neither of the two.
    """
    if noise not in get_args(Noise):
        raise ValueError(f"noise must be one of {', '.join(get_args(Noise))}, got {noise!r}")
    path = _local(path_or_uri)
    data = _read(path)
    generator = _from_bytes(data, path, noise)
    if truncation != 1.0:
        raise ValueError(f"a StyleGAN2 is truncated where z is mapped: use G.map(z, truncation={truncation}) instead")
    generator.digest = hashlib.sha256(data).hexdigest()
    return generator.to(device)


def save_generator(generator: StyleGAN2, path: Path, *, about: str, dtype: torch.dtype = torch.float32) -> None:
    """Write a generator as safetensors with its configuration in the metadata.

    Args:
        generator: what to write.
        path: the file to make.
        about: one sentence on where the weights come from; shown wherever the generator is.
        dtype: type of the stored weights; float16 halves the file.
    """
    tensors = {name: tensor.detach().to(dtype).contiguous() for name, tensor in generator.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "family": generator.family,
        "config": json.dumps(generator.config.model_dump()),
        "about": about,
    }
    safetensors.torch.save_file(tensors, path, metadata)


def _local(path_or_uri: str | Path) -> Path:
    text = str(path_or_uri)
    if "://" not in text:
        return Path(path_or_uri)
    uri = urlsplit(text)
    if uri.scheme != "file" or uri.netloc not in ("", "localhost"):
        raise CheckpointError(
            f"cannot fetch {text}: checkpoints are read from local paths and file:/// URIs; copy it here first"
        )
    return Path(url2pathname(uri.path))


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise CheckpointError(f"checkpoint {path} is a folder: name a file; {READ_TODAY}")
        if path.exists() and not path.is_file():
            raise CheckpointError(f"checkpoint {path} is no regular file; {READ_TODAY}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"checkpoint {path} has {size:,} bytes: at most {MAX_BYTES:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error


def _from_bytes(data: bytes, path: Path, noise: Noise) -> StyleGAN2:
    try:
        return _build(_weights(data), noise)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path} {error}") from error
    except Exception as error:  # whatever a hostile file provokes, it is the file's fault
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise CheckpointError(f"checkpoint {path} is torn or not as published ({reason})") from error


def _weights(data: bytes) -> Weights:
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return _from_safetensors(data)
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and not _opening(data):
        return _from_pickle(data)
    found = _opening(data) or f"of an unknown format, beginning with the bytes {data[:16].hex(' ')}"
    raise CheckpointError(f"is {found}; {READ_TODAY}")


def _opening(data: bytes) -> str | None:
    known = (what for start, what in _OPENINGS.items() if start and data.startswith(start))
    return next(known, None) if data else _OPENINGS[b""]


def _from_safetensors(data: bytes) -> Weights:
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"is a safetensors file without the configuration of a generator; {READ_TODAY}")
    if metadata.get("family") != StyleGAN2.family:
        raise CheckpointError(f"holds a generator of the family {str(metadata.get('family'))[:80]!r}; {READ_TODAY}")
    return Weights(_config(json.loads(metadata["config"])), tensors, str(metadata.get("about", ""))[:MAX_NAME])


def _from_pickle(data: bytes) -> Weights:
    content = load_pickle(data)
    if isinstance(content, tuple) and content and all(isinstance(part, Network) for part in content):
        raise CheckpointError(f"is a TensorFlow pickle of {len(content)} networks; {READ_TODAY}")
    if not isinstance(content, dict):
        raise CheckpointError(
            f"is a pickle of a {type(content).__name__}, not of a dictionary with G_ema; {READ_TODAY}"
        )
    network = content.get("G_ema")
    if not isinstance(network, Module):
        names = ", ".join(brief(name) for name in list(content)[:10]) or "nothing"
        raise CheckpointError(f"is a pickle without a network named G_ema: it holds {names}; {READ_TODAY}")
    return Weights(_config(_published_config(network)), _state_dict(network))


def _config(values: object) -> StyleGAN2Config:
    try:
        return StyleGAN2Config.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part)[:80] for part in first["loc"]) or "configuration"
        raise CheckpointError(f"holds a StyleGAN2 that is not read: {name}: {first['msg'][:300]}") from None


# What an init argument must be, where only one value is read.
_ONLY: Mapping[str, tuple[object, ...]] = {
    "architecture": ("skip",),
    "activation": ("lrelu",),
    "kernel_size": (3,),
    "resample_filter": ([1, 3, 3, 1],),
    "use_noise": (True,),
}
_NO_MATTER = frozenset(  # speed, precision and training only
    ("num_fp16_res", "use_fp16", "fp16_channels_last", "channels_last", "fused_modconv_default", "w_avg_beta")
)
_ARGUMENTS = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")


def _published_config(network: Module) -> dict[str, Any]:
    """Return the fields of a StyleGAN2Config for the init arguments of a published generator.

    stylegan2-ada-pytorch nests those of the synthesis network and does not clamp unless told; stylegan3's repository
    has them flat and clamps at 256.
    """
    arguments = _mapping(network.state.get("_init_kwargs", {}), "_init_kwargs")
    arguments |= dict(zip(_ARGUMENTS, expect(tuple, network.state.get("_init_args", ()), "_init_args"), strict=False))
    mapping = _mapping(arguments.pop("mapping_kwargs", {}), "mapping_kwargs")
    clamp = None if "synthesis_kwargs" in arguments else 256.0
    synthesis = _mapping(arguments.pop("synthesis_kwargs", {}), "synthesis_kwargs")
    config: dict[str, Any] = {"conv_clamp": clamp}
    for name, value in (arguments | synthesis).items():
        if name in StyleGAN2Config.model_fields and not name.startswith("mapping_"):
            config[name] = _number(name, value)
        else:
            _check_argument(name, value)
    return config | _mapping_config(mapping, config.get("w_dim"))


def _mapping_config(arguments: dict[str, Any], w_dim: object) -> dict[str, Any]:
    config = {
        field: _number(name, arguments.pop(name))
        for name, field in (("num_layers", "mapping_layers"), ("lr_multiplier", "mapping_lr_multiplier"))
        if name in arguments
    }
    for name, value in arguments.items():
        if name in ("embed_features", "layer_features"):
            _one_of(name, value, (None, w_dim))
        else:
            _check_argument(name, value)
    return config


def _number(name: str, value: object) -> int | float | None:
    if not isinstance(value, int | float | None):
        raise CheckpointError(f"holds a StyleGAN2 with {name} {brief(value)}: a number is read")
    return value


def _check_argument(name: str, value: object) -> None:
    if name not in _ONLY and name not in _NO_MATTER:
        raise CheckpointError(f"holds a network with the init argument {brief(name)}, which no StyleGAN2 has")
    if name in _ONLY:
        _one_of(name, value, _ONLY[name])


def _one_of(name: str, value: object, wanted: tuple[object, ...]) -> None:
    if not isinstance(value, str | int | float | list | None) or value not in wanted:
        raise CheckpointError(f"holds a StyleGAN2 with {name} {brief(value)}: only {wanted[-1]!r} is read")


def _mapping(value: object, name: str) -> dict[str, Any]:
    return dict(expect(dict, value, name))


def _state_dict(network: Module) -> dict[str, StoredTensor]:
    """Return the parameters and buffers of a module and those inside it, by their full names."""
    tensors: dict[str, StoredTensor] = {}
    waiting, seen = [("", network, 0)], 0
    while waiting:
        prefix, module, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH or seen + len(waiting) > MAX_MODULES:
            raise CheckpointError(f"nests its modules deeper than {MAX_DEPTH} or has more than {MAX_MODULES:,} of them")
        for group in ("_parameters", "_buffers"):
            for name, value in _named(module, group, prefix):
                if not isinstance(value, StoredTensor):
                    raise CheckpointError(f"holds a {type(value).__name__} for the tensor {brief(name)}")
                tensors[name] = value
        for name, value in _named(module, "_modules", prefix):
            if not isinstance(value, Module):
                raise CheckpointError(f"holds a {type(value).__name__} for the module {brief(name)}")
            waiting.append((f"{name}.", value, depth + 1))
    return tensors


def _named(module: Module, group: str, prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in _mapping(module.state.get(group, {}), group).items():
        if len(prefix) + len(name) > MAX_NAME:
            raise CheckpointError(f"holds a name of more than {MAX_NAME} characters: {brief(prefix + name[:80])}")
        if value is not None:
            yield prefix + name, value


def _build(weights: Weights, noise: Noise) -> StyleGAN2:
    """Return the generator of these weights; nothing is allocated before names and shapes are known to fit."""
    config, tensors = weights.config, weights.tensors
    if config.mapping_layers + config.img_resolution.bit_length() > len(tensors):
        raise CheckpointError(
            f"announces {config.mapping_layers} mapping layers and {config.img_resolution} px, but holds only "
            f"{len(tensors)} tensors"
        )
    with torch.device("meta"):
        generator = StyleGAN2(config, noise)
    _check_tensors(generator.state_dict(), tensors)
    loaded = {name: _float32(tensor) for name, tensor in tensors.items()}
    _check_filters(loaded)
    generator.load_state_dict(loaded, strict=True, assign=True)
    generator.about = weights.about
    return generator.requires_grad_(False).eval()


def _check_tensors(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor | StoredTensor]) -> None:
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"does not fit a StyleGAN2: it lacks {_names(missing)}, and has {_names(unexpected)} besides"
        )
    for name, tensor in found.items():
        if tuple(tensor.shape) != tuple(wanted[name].shape):
            raise CheckpointError(
                f"holds {name} of {list(tensor.shape)}, not the {list(wanted[name].shape)} it announces"
            )
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"holds {name} as {tensor.dtype}, not as floating-point numbers")


def _float32(stored: Tensor | StoredTensor) -> Tensor:
    tensor = stored.tensor() if isinstance(stored, StoredTensor) else stored
    return tensor.to(torch.float32)


def _check_filters(tensors: Mapping[str, Tensor]) -> None:
    taps = torch.tensor(FILTER) / sum(FILTER)
    for name, tensor in tensors.items():
        if name.endswith("resample_filter") and not torch.allclose(tensor, torch.outer(taps, taps), atol=1e-4):
            raise CheckpointError(f"holds {name} other than that of {FILTER}, which is the only one read")


def _names(names: Sequence[str]) -> str:
    few = ", ".join(map(brief, names[:5]))
    return f"{few} and {len(names) - 5} more" if len(names) > 5 else few or "nothing"
