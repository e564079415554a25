"""Generators of other families with a pickle layout like StyleGAN2's: recognised by their special features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generators.errors import UnknownFormatError
from generators.unpickling.records import Module, brief

_CLASSES = {
    "SuperresGenerator": "StyleGAN-XL",
    "TriPlaneGenerator": "EG3D",
    "NeRFGenerator": "StyleNeRF",
    "FastganSynthesis": "FastGAN (Projected GAN)",
    "FastganSynthesisCond": "FastGAN (Projected GAN)",
}
_ARGUMENTS = {
    "path_stem": "StyleGAN-XL",
    "head_layer_names": "StyleGAN-XL",
    "up_factor": "StyleGAN-XL",
    "rand_embedding": "StyleGAN-XL",
    "rendering_kwargs": "EG3D",
    "sr_num_fp16_res": "EG3D",
    "ngf": "FastGAN (Projected GAN)",
    "square": "StyleGAN-Human, whose images may not be square",
    "use_radial_filters": "StyleGAN3",
    "first_cutoff": "StyleGAN3",
    "first_stopband": "StyleGAN3",
    "last_stopband_rel": "StyleGAN3",
    "conv_kernel": "StyleGAN3",
    "magnitude_ema_beta": "StyleGAN3",
    "num_critical": "StyleGAN3",
    "margin_size": "StyleGAN3",
}
_RADIAL = "use_radial_filters"  # of StyleGAN3-r, whose networks are equivariant to rotation


def refuse_other(network: Module, arguments: Mapping[str, Any]) -> None:
    """Raise UnknownFormatError if a network is of another family.

    Args:
        network: the content of G_ema.
        arguments: its init arguments, including those of its synthesis network.
    """
    if network.class_name in _CLASSES:
        _refuse(_CLASSES[network.class_name], f"its class is {brief(network.class_name)}")
    if _is_embedded(network):
        _refuse("StyleGAN-XL", "its mapping network has the module 'embed_proj'")
    for name, family in _ARGUMENTS.items():
        if name in arguments:
            variant = "" if family != "StyleGAN3" else "-r" if arguments.get(_RADIAL) is True else "-t"
            _refuse(f"{family}{variant}", f"it has the init argument {brief(name)}, which no StyleGAN2 has")
    for name in _modules(_modules(network).get("synthesis")):
        if name == "input" or (name[:1] == "L" and name[1:2].isdigit()):
            _refuse("StyleGAN3", f"its synthesis network has the module {brief(name)}")
        if name.startswith("feat_"):
            _refuse("FastGAN (Projected GAN)", f"its synthesis network has the module {brief(name)}")


def _is_embedded(network: Module) -> bool:
    return "embed_proj" in _modules(_modules(network).get("mapping"))


def _modules(module: object) -> Mapping[str, object]:
    inside = module.state.get("_modules") if isinstance(module, Module) else None
    return {name: value for name, value in inside.items() if isinstance(name, str)} if isinstance(inside, dict) else {}


def _refuse(family: str, reason: str) -> None:
    raise UnknownFormatError(f"holds a generator of the family {family}, not a StyleGAN2: {reason}")
