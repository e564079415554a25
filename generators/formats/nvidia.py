"""StyleGAN2 from NVIDIA's PyTorch repositories: a pickle whose dictionary holds the network G_ema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from generators.errors import CheckpointError, UnknownFormatError
from generators.families.stylegan2 import StyleGAN2Config
from generators.formats.arguments import check_argument, number, one_of
from generators.formats.other_networks import refuse_other
from generators.formats.weights import Weights, stylegan2_config, with_block_channels
from generators.unpickling.records import Module, StoredTensor, brief, expect, refusal_of

_T = TypeVar("_T")

MAX_DEPTH = 8
MAX_MODULES = 10_000
MAX_ENTRIES = 100_000
"""Names of parameters, buffers and modules."""
MAX_NAME = 200

# Values of init arguments of which only one is read.
_ONLY: Mapping[str, tuple[object, ...]] = {
    "activation": ("lrelu",),
    "kernel_size": (3,),
    "resample_filter": ([1, 3, 3, 1],),
    "use_noise": (True,),
}
_NO_MATTER = frozenset(  # affect speed, precision and training only
    ("num_fp16_res", "use_fp16", "fp16_channels_last", "channels_last", "fused_modconv_default", "w_avg_beta")
)
_ARGUMENTS = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")


def read_nvidia(content: Mapping[Any, object]) -> Weights:
    """Return the generator of a pickle that holds a dictionary.

    Raises:
        CheckpointError: it holds no network G_ema, or one that differs from the published StyleGAN2.
    """
    network = content.get("G_ema")
    if refusal := refusal_of(network):
        raise CheckpointError(f"{refusal}; it represents the network G_ema")
    if not isinstance(network, Module):
        names = ", ".join(brief(name) for name in list(content)[:10]) or "nothing"
        raise UnknownFormatError(f"is a pickle without a network named G_ema: it holds {names}")
    config, tensors = stylegan2_config(_published_config(network)), _state_dict(network)
    kernels = [tensors.get(f"synthesis.b{resolution}.conv1.weight") for resolution in config.block_resolutions]
    found = [kernel.shape[0] for kernel in kernels if kernel is not None and len(kernel.shape) == 4]
    return Weights(with_block_channels(config, found), tensors)


def _published_config(network: Module) -> dict[str, Any]:
    """Return the fields of a StyleGAN2Config for the init arguments of a published generator.

    stylegan2-ada-pytorch nests those of the synthesis network and does not clamp by default; stylegan3's repository
    has them flat and clamps at 256.
    """
    arguments = _mapping(network.state.get("_init_kwargs", {}), "_init_kwargs")
    arguments |= dict(zip(_ARGUMENTS, expect(tuple, network.state.get("_init_args", ()), "_init_args"), strict=False))
    mapping = _mapping(arguments.pop("mapping_kwargs", {}), "mapping_kwargs")
    clamp = None if "synthesis_kwargs" in arguments else 256.0
    synthesis = _mapping(arguments.pop("synthesis_kwargs", {}), "synthesis_kwargs")
    refuse_other(network, arguments | synthesis | mapping)
    config: dict[str, Any] = {"conv_clamp": clamp}
    for name, value in (arguments | synthesis).items():
        if name in StyleGAN2Config.model_fields and not name.startswith("mapping_"):
            config[name] = value if name == "architecture" else number(name, value)
        else:
            check_argument(name, value, _ONLY, _NO_MATTER)
    return config | _mapping_config(mapping, config.get("w_dim"))


def _mapping_config(arguments: dict[str, Any], w_dim: object) -> dict[str, Any]:
    config = {
        field: number(name, arguments.pop(name))
        for name, field in (("num_layers", "mapping_layers"), ("lr_multiplier", "mapping_lr_multiplier"))
        if name in arguments
    }
    for name, value in arguments.items():
        if name in ("embed_features", "layer_features"):
            one_of(name, value, (None, w_dim))
        else:
            check_argument(name, value, _ONLY, _NO_MATTER)
    return config


def _mapping(value: object, name: str) -> dict[str, Any]:
    return dict(expect(dict, value, name))


def _state_dict(network: Module) -> dict[str, StoredTensor]:
    """Return the parameters and buffers of a module and its submodules, by their full names."""
    tensors: dict[str, StoredTensor] = {}
    waiting, seen, entries = [("", network, 0)], 0, 0
    while waiting:
        prefix, module, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH or seen + len(waiting) > MAX_MODULES:
            raise CheckpointError(f"nests its modules deeper than {MAX_DEPTH} or has more than {MAX_MODULES:,} of them")
        entries += sum(len(_group(module, group)) for group in ("_parameters", "_buffers", "_modules"))
        if entries > MAX_ENTRIES:  # one pickled dictionary can occur in any number of modules
            raise CheckpointError(f"holds more than {MAX_ENTRIES:,} parameters, buffers and modules")
        for group in ("_parameters", "_buffers"):
            for name, value in _named(module, group, prefix):
                tensors[name] = _checked(StoredTensor, value, f"the tensor {brief(name)}")
        for name, value in _named(module, "_modules", prefix):
            waiting.append((f"{name}.", _checked(Module, value, f"the module {brief(name)}"), depth + 1))
    return tensors


def _checked(kind: type[_T], value: object, what: str) -> _T:
    if refusal := refusal_of(value):
        raise CheckpointError(f"{refusal}; it represents {what}")
    if not isinstance(value, kind):
        raise CheckpointError(f"holds a {type(value).__name__} for {what}")
    return value


def _named(module: Module, group: str, prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in _group(module, group).items():
        if len(prefix) + len(expect(str, name, "a name")) > MAX_NAME:
            raise CheckpointError(f"holds a name of more than {MAX_NAME} characters: {brief(prefix + name[:80])}")
        if value is not None:
            yield prefix + name, value


def _group(module: Module, group: str) -> dict[Any, object]:
    return expect(dict, module.state.get(group, {}), group)
