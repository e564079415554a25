"""A StyleGAN2 in the layouts of NVIDIA's TensorFlow pickles and of rosinality's files, written out by hand."""

import io
import pickle
import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from tests.generators.published import SOURCE

Variables = dict[str, Any]


class Network:
    """What pickles as a network of NVIDIA's TensorFlow repositories."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["dnnlib.tflib.network"].Network, (), self.state


def tensorflow_arguments(config: StyleGAN2Config) -> dict[str, Any]:
    """Return the static kwargs of a network of this configuration."""
    return {
        "latent_size": config.z_dim,
        "dlatent_size": config.w_dim,
        "mapping_fmaps": config.w_dim,
        "label_size": config.c_dim,
        "resolution": config.img_resolution,
        "num_channels": 3,
        "mapping_layers": config.mapping_layers,
        "fmap_base": config.channel_base // 2,
        "fmap_max": config.channel_max,
        "architecture": config.architecture,
        "truncation_psi": 0.5,
        "randomize_noise": True,
    }


def tensorflow_variables(generator: StyleGAN2) -> Variables:
    """Return the variables of a network by their names, prefixed with the component that has them."""
    found: Variables = {"lod": np.float32(0), "dlatent_avg": generator.mapping.w_avg.numpy()}
    for name, tensor in generator.state_dict().items():
        if match := re.fullmatch(r"mapping\.(?:fc(\d+)|embed)\.(weight|bias)", name):
            layer = f"Dense{match[1]}" if match[1] else "LabelEmbed"
            found[f"mapping/{layer}/{match[2]}"] = tensor.T.numpy() if match[2] == "weight" else tensor.numpy()
        elif name == "synthesis.b4.const":
            found["synthesis/4x4/Const/const"] = tensor[None].numpy()
        elif match := re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb|skip)\.(?!resample)(.+)", name):
            variable, value = _tensorflow_variable(int(match[1]), match[2], match[3], tensor.numpy())
            found[f"synthesis/{variable}"] = value
    return found


def tensorflow_pickle(
    named: Mapping[str, Any], arguments: Mapping[str, Any], networks: int = 3, **changes: Any
) -> bytes:
    """Return a published pickle of networks; the last has these variables."""
    parts: dict[str, list[tuple[str, Any]]] = {"": [], "mapping/": [], "synthesis/": []}
    for name, value in named.items():
        scope = next(scope for scope in ("mapping/", "synthesis/", "") if name.startswith(scope))
        parts[scope].append((name.removeprefix(scope), value))

    def network(name: str, variables: object, **components: Network) -> Network:
        state = {"version": 4, "name": name, "static_kwargs": dict(arguments), "components": components}
        return Network(**state, build_module_src=SOURCE, build_func_name=name, variables=variables)

    components = {name: network(f"G_{name}", parts[f"{name}/"]) for name in ("mapping", "synthesis")}
    whole = network("Gs", parts[""], **components)
    whole.state |= changes
    with _tensorflow_modules():
        return pickle.dumps(tuple([whole] * networks), protocol=4)


def rosinality_state(generator: StyleGAN2) -> dict[str, torch.Tensor]:
    """Return the state dictionary of g_ema, as rosinality's Generator has it."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in generator.state_dict().items():
        if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
            found[f"style.{int(match[1]) + 1}.{match[2]}"] = tensor
        elif name == "synthesis.b4.const":
            found["input.input"] = tensor[None]
        elif match := re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(?!resample)(.+)", name):
            found |= dict([_rosinality_tensor(int(match[1]), match[2], match[3], tensor)])
    kernel = 4 * generator.state_dict()["synthesis.b4.resample_filter"]
    for i in range(len(generator.config.block_resolutions) - 1):
        found |= {f"convs.{2 * i}.conv.blur.kernel": kernel, f"to_rgbs.{i}.upsample.kernel": kernel.clone()}
    return found


def torch_file(content: object, *, legacy: bool = False) -> bytes:
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def _tensorflow_variable(resolution: int, layer: str, part: str, value: NDArray[Any]) -> tuple[str, Any]:
    first = resolution == 4
    scope = {"conv0": "Conv0_up", "conv1": "Conv" if first else "Conv1", "torgb": "ToRGB", "skip": "Skip"}[layer]
    if part == "noise_const":
        return f"noise{2 * resolution.bit_length() - (7 if layer == 'conv0' else 6)}", value[None, None]
    if part == "weight":
        value = value[:, :, ::-1, ::-1] if layer in ("conv0", "skip") else value
        value = np.ascontiguousarray(value.transpose(2, 3, 1, 0))
    elif part == "affine.weight":
        part, value = "mod_weight", value.T
    elif part == "affine.bias":
        part, value = "mod_bias", value - 1
    return f"{resolution}x{resolution}/{scope}/{part}", np.float32(value) if value.ndim == 0 else value


def _rosinality_tensor(resolution: int, layer: str, part: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    level = resolution.bit_length() - 3  # 0 at 4 px
    index = 2 * level - (1 if layer == "conv0" else 0)
    if layer == "torgb":
        name = f"to_rgbs.{level - 1}" if level else "to_rgb1"
    else:
        name = f"convs.{index - 1}" if index else "conv1"
    if part == "bias" and layer == "torgb":
        return f"{name}.bias", tensor[None, :, None, None]
    if part == "noise_strength":
        return f"{name}.noise.weight", tensor.reshape(1)
    return {
        "weight": (f"{name}.conv.weight", tensor[None]),
        "bias": (f"{name}.activate.bias", tensor),
        "affine.weight": (f"{name}.conv.modulation.weight", tensor),
        "affine.bias": (f"{name}.conv.modulation.bias", tensor),
        "noise_const": (f"noises.noise_{index}", tensor[None, None]),
    }[part]


@contextmanager
def _tensorflow_modules() -> Iterator[None]:
    names = ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network")
    modules = {name: types.ModuleType(name) for name in names}
    kind = type("Network", (), {"__module__": names[-1], "__setstate__": lambda self, state: None})
    vars(modules[names[-1]])["Network"] = kind
    sys.modules |= modules
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
