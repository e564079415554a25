"""Pickles in the layout of the published ones, with any weights."""

import io
import pickle
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config

SOURCE = "raise SystemExit('embedded source was executed')"


def tiny(resolution: int = 8, seed: int = 0, **changes: Any) -> StyleGAN2:
    """Return a random generator in which everything acts: the noise, the biases and the mean w too."""
    torch.manual_seed(seed)
    shape = {"z_dim": 6, "w_dim": 5, "channel_base": 4 * resolution, "channel_max": 7, "mapping_layers": 2} | changes
    generator = StyleGAN2(StyleGAN2Config(img_resolution=resolution, **shape))
    for name, tensor in generator.state_dict().items():
        if name.endswith(("bias", "noise_strength", "w_avg")):
            tensor.add_(0.2 * torch.randn(tensor.shape))
    return generator.freeze()


def ada_arguments(config: StyleGAN2Config) -> dict[str, Any]:
    """Return init arguments as stylegan2-ada-pytorch nests them."""
    return {
        **config.model_dump(include={"z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"}),
        "mapping_kwargs": {"num_layers": config.mapping_layers},
        "synthesis_kwargs": config.model_dump(include={"channel_base", "channel_max", "conv_clamp"}),
    }


def sg3_arguments(config: StyleGAN2Config) -> dict[str, Any]:
    """Return init arguments as the stylegan3 repository has them: flat, and without the clamp, which is 256."""
    nested = ada_arguments(config)
    synthesis: dict[str, Any] = nested.pop("synthesis_kwargs")
    del synthesis["conv_clamp"]
    return nested | synthesis | {"fused_modconv_default": "inference_only", "num_fp16_res": 4}


class Persistent:
    """What pickles as a persistent object of NVIDIA's repositories."""

    def __init__(self, name: str, **state: Any) -> None:
        self.name, self.state = name, state

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def persistent(tensors: Mapping[str, torch.Tensor], **state: Any) -> Persistent:
    """Return the tree of modules that tensors with dotted names come from; the other attributes are the root's."""
    parameters: dict[str, torch.Tensor] = {}
    inside: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if rest:
            inside.setdefault(first, {})[rest] = tensor
        else:
            parameters[first] = tensor
    modules = {name: persistent(tensors) for name, tensors in inside.items()}
    return Persistent("Generator", _parameters=parameters, _buffers={"unset": None}, _modules=modules, **state)


def fragment(value: object) -> bytes:
    """Return the operations that put a plain value on the stack, without memo, to build pickles by hand."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=2)
    pickler.fast = True
    pickler.dump(value)
    return file.getvalue()[2:-1]


def pickled(content: object) -> bytes:
    """Return the pickle of published content."""
    with _published_modules(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own storages deprecated
        return pickle.dumps(content, protocol=4)


def network_pickle(tensors: Mapping[str, torch.Tensor], arguments: Mapping[str, Any], *positional: Any) -> bytes:
    """Return a published pickle with a generator of these tensors and init arguments."""
    network = persistent(tensors, _init_args=positional, _init_kwargs=dict(arguments))
    return pickled({"G": None, "D": None, "G_ema": network, "training_set_kwargs": {"resolution": 8}})


@contextmanager
def _published_modules() -> Iterator[None]:
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: object) -> None:
        raise AssertionError

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    vars(module)[_reconstruct_persistent_obj.__name__] = _reconstruct_persistent_obj
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": module}
    try:
        yield
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]
