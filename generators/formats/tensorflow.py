"""StyleGAN2 from NVIDIA's TensorFlow repositories: a pickle of the networks G, D and Gs, of which Gs is read.

They differ from the PyTorch networks in the names of variables, in their layout (kernels are `[h, w, in, out]`), in
flipped kernels of upsampling convolutions, and in modulation biases, to which 1 is added on use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from generators.errors import CheckpointError, UnknownFormatError
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.formats.arguments import check_argument, number, one_of
from generators.formats.weights import (
    Weights,
    check_shared,
    network,
    resample_filters,
    stylegan2_config,
    with_block_channels,
)
from generators.unpickling.records import Array, Network, StoredTensor, brief, expect, stored_array

VERSIONS = (4, 5)
"""Versions of the format of StyleGAN2 and StyleGAN2-ADA; StyleGAN and earlier have smaller ones."""
MAX_VARIABLES = 10_000

_FIELDS: Mapping[str, tuple[str, object]] = {  # static kwarg: field of the configuration, default
    "latent_size": ("z_dim", 512),
    "dlatent_size": ("w_dim", 512),
    "label_size": ("c_dim", 0),
    "resolution": ("img_resolution", 1024),
    "num_channels": ("img_channels", 3),
    "mapping_layers": ("mapping_layers", 8),
    "mapping_lrmul": ("mapping_lr_multiplier", 0.01),
    "fmap_max": ("channel_max", 512),
    "conv_clamp": ("conv_clamp", None),
}
_ONLY: Mapping[str, tuple[object, ...]] = {
    "nonlinearity": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "resample_kernel": (None, [1, 3, 3, 1]),
    "use_noise": (True,),
    "normalize_latents": (True,),
    "dtype": ("float32",),
    "synthesis_func": ("G_synthesis", "G_synthesis_stylegan2"),
    "mapping_func": ("G_mapping",),
}
_NO_MATTER = frozenset(  # training, speed, and defaults of arguments of `Generator.map`
    (
        *("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "style_mixing_prob"),
        *("dlatent_avg_beta", "w_avg_beta", "randomize_noise", "fused_modconv", "num_fp16_res", "structure"),
        *("fmap_decay", "fmap_min"),  # the channels follow from the variables
        *("conditioning", "func_name", "is_training", "is_validation", "is_template_graph", "return_dlatents"),
    )
)
_SIDES = ("resolution_w", "resolution_h")
_UNUSED = frozenset(("lod",))

_Change = Callable[[StoredTensor], StoredTensor | Tensor]
_Sources = Mapping[str, tuple[str, _Change]]


def read_tensorflow(networks: tuple[Network, ...]) -> Weights:
    """Return the generator Gs, the running mean of G, of a pickle of networks.

    Raises:
        CheckpointError: they are not G, D and Gs of a published StyleGAN2.
    """
    if len(networks) != 3:
        raise UnknownFormatError(f"is a TensorFlow pickle of {len(networks)} networks, not of G, D and Gs")
    state = _state(networks[2])
    version = state.get("version")
    if version not in VERSIONS:
        raise UnknownFormatError(
            f"is a TensorFlow pickle of version {brief(version)}: only 4 and 5, StyleGAN2, is read; StyleGAN has 3"
        )
    config = stylegan2_config(_config(state.get("static_kwargs")))
    variables = dict(_variables(state))
    config = with_block_channels(config, _channels(config, variables))
    generator = network(config, len(variables))
    assert isinstance(generator, StyleGAN2)
    names = {name: variable for name, (variable, _) in sources(config).items()}
    tensors = dict(_converted(sources(config), variables)) | resample_filters(generator)
    return Weights(config, tensors, stored_names=names)


def sources(config: StyleGAN2Config) -> _Sources:
    """Return for each tensor, except the resampling filters, its TensorFlow variable and the conversion."""
    found: dict[str, tuple[str, _Change]] = {"mapping.w_avg": ("dlatent_avg", _same)}
    layers = [(f"fc{i}", f"Dense{i}") for i in range(config.mapping_layers)]
    for name, variable in [("embed", "LabelEmbed"), *layers] if config.c_dim else layers:
        found[f"mapping.{name}.weight"] = (f"mapping/{variable}/weight", _transposed)
        found[f"mapping.{name}.bias"] = (f"mapping/{variable}/bias", _same)
    found["synthesis.b4.const"] = ("synthesis/4x4/Const/const", lambda stored: stored.without(0))
    noises = 0
    for resolution in config.block_resolutions:
        block, scope = f"synthesis.b{resolution}", f"synthesis/{resolution}x{resolution}"
        convolutions = (("conv0", "Conv0_up", _flipped_kernel), ("conv1", "Conv1", _kernel))
        for name, variable, change in convolutions if resolution > 4 else (("conv1", "Conv", _kernel),):
            found |= _modulated(f"{block}.{name}", f"{scope}/{variable}", change)
            found[f"{block}.{name}.noise_strength"] = (f"{scope}/{variable}/noise_strength", _same)
            found[f"{block}.{name}.noise_const"] = (f"synthesis/noise{noises}", lambda stored: stored.without(0, 1))
            noises += 1
        if config.architecture == "resnet" and resolution > 4:
            found[f"{block}.skip.weight"] = (f"{scope}/Skip/weight", _flipped_kernel)
        if config.architecture == "skip" or resolution == config.img_resolution:
            found |= _modulated(f"{block}.torgb", f"{scope}/ToRGB", _kernel)
    return found


def _modulated(name: str, variable: str, change: _Change) -> _Sources:
    return {
        f"{name}.weight": (f"{variable}/weight", change),
        f"{name}.bias": (f"{variable}/bias", _same),
        f"{name}.affine.weight": (f"{variable}/mod_weight", _transposed),
        f"{name}.affine.bias": (f"{variable}/mod_bias", _plus_one),
    }


def _channels(config: StyleGAN2Config, variables: Mapping[str, StoredTensor | Tensor]) -> list[int]:
    """Return the channels of the kernels, first block to last; too few if a kernel is missing."""
    names = [f"synthesis/{r}x{r}/{'Conv' if r == 4 else 'Conv1'}/weight" for r in config.block_resolutions]
    kernels = [variables[name] for name in names if name in variables]
    return [kernel.shape[3] for kernel in kernels if len(kernel.shape) == 4]


def _check_square(kwargs: Mapping[Any, object]) -> None:
    """Raise CheckpointError if a fork's separate width and height say that images are not square."""
    side = kwargs.get("resolution", _FIELDS["resolution"][1])
    for name in _SIDES:
        found = kwargs.get(name)
        if found is not None and found != side:
            raise CheckpointError(
                f"holds a StyleGAN2 whose images are not square: {name} {brief(found)}, resolution {brief(side)}"
            )


def _same(stored: StoredTensor) -> StoredTensor:
    return stored


def _plus_one(stored: StoredTensor) -> Tensor:
    return stored.tensor() + 1


def _transposed(stored: StoredTensor) -> StoredTensor:
    return _of_rank(2, stored).permuted(1, 0)


def _kernel(stored: StoredTensor) -> StoredTensor:
    return _of_rank(4, stored).permuted(3, 2, 0, 1)


def _flipped_kernel(stored: StoredTensor) -> StoredTensor:
    return _kernel(stored).flipped(2, 3)


def _of_rank(rank: int, stored: StoredTensor) -> StoredTensor:
    if len(stored.shape) != rank:
        raise CheckpointError(f"holds a tensor of {list(stored.shape)} where one of {rank} dimensions is read")
    return stored


def _config(static_kwargs: object) -> dict[str, Any]:
    config: dict[str, Any] = dict(_FIELDS.values())
    base: object = 16 << 10
    kwargs = expect(dict, static_kwargs, "static_kwargs")
    _check_square(kwargs)
    for name, value in kwargs.items():
        if name in _FIELDS:
            config[_FIELDS[name][0]] = number(name, value)
        elif name == "fmap_base":
            base = value
        elif name == "architecture":
            config[name] = value
        elif name not in ("mapping_fmaps", "label_fmaps", *_SIDES):
            check_argument(name, value, _ONLY, _NO_MATTER)
    config["channel_base"] = 2 * expect(int, base, "fmap_base")
    for name in ("mapping_fmaps", "label_fmaps"):
        one_of(name, kwargs.get(name), (None, config["w_dim"]))
    return config


def _variables(state: Mapping[str, Any]) -> Iterator[tuple[str, StoredTensor | Tensor]]:
    components = expect(dict, state.get("components"), "the components of a network")
    if components.keys() != {"mapping", "synthesis"}:
        names = ", ".join(map(brief, list(components)[:5])) or "none"
        raise CheckpointError(f"holds a network of the components {names}, not of mapping and synthesis")
    scopes = [("", state), *((f"{name}/", _state(network)) for name, network in components.items())]
    for scope, part in scopes:
        listed = expect(list, part.get("variables"), "the variables of a network")
        if len(listed) > MAX_VARIABLES:
            raise CheckpointError(f"holds more than {MAX_VARIABLES:,} variables")
        for pair in listed:
            name, value = expect(tuple, pair, "a variable")
            name = scope + expect(str, name, "the name of a variable")
            if name not in _UNUSED:
                yield name, _number_or_array(name, value)


def _number_or_array(name: str, value: object) -> StoredTensor | Tensor:
    if isinstance(value, Array):
        return stored_array(value)
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    raise CheckpointError(f"holds a {type(value).__name__} for the variable {brief(name)}")


def _converted(
    sources: _Sources, variables: Mapping[str, StoredTensor | Tensor]
) -> Iterator[tuple[str, StoredTensor | Tensor]]:
    wanted = {variable for variable, _ in sources.values()}
    missing, unexpected = sorted(wanted - variables.keys()), sorted(variables.keys() - wanted)
    if missing or unexpected:
        few = [", ".join(map(brief, names[:5])) or "none" for names in (missing, unexpected)]
        raise CheckpointError(f"does not fit a StyleGAN2: it lacks the variables {few[0]}, and has {few[1]} besides")
    check_shared(variables)
    for name, (variable, change) in sources.items():
        value = variables[variable]
        try:
            yield name, change(value) if isinstance(value, StoredTensor) else value
        except CheckpointError as error:
            raise CheckpointError(f"{error}: the variable {brief(variable)}") from error


def _state(network: object) -> Mapping[str, Any]:
    return expect(dict, expect(Network, network, "a component").state, "the state of a network")
