"""Files of the published encoders: torch.save files of `state_dict`, `latent_avg` and `opts`.

The tensors of `state_dict` are named `encoder.*` and `decoder.*`; the decoder is the generator. `opts.encoder_type`
says which network it is, because e4e's and pSp's have the same tensors. Sizes follow from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from generators.encoders.networks import NetworkConfig, meta_network
from generators.errors import CheckpointError, UnknownFormatError
from generators.formats.rosinality import read_rosinality
from generators.formats.state_dictionaries import PUBLISHED, known_contents
from generators.formats.weights import Weights, check_finite, check_fit, check_shared, float32
from generators.unpickling.records import StoredTensor, brief, expect, named_tensor, refusal_of

ITERATIONS = 5
"""Passes of ReStyle where the file does not say another number, as published."""
MAX_ITERATIONS = 100
DEFAULT_PX = 1024
"""Output size where a one-code encoder's file has none: that of pSp's first files."""
SQUARE_PX, CARS_PX = (256, 256), (192, 256)
CARS = "cars_encode"

_PYRAMID, _LAST = {"trunk": "ir_se_50", "head": "pyramid"}, {"trunk": "ir_se_50", "head": "last_feature"}
_RESNET = {"trunk": "resnet_34", "head": "last_feature"}
_ONE_CODE = {"trunk": "ir_se_50", "head": "one_code"}
TYPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Encoder4Editing": ("e4e", {**_PYRAMID, "progressive": True}),
    "GradualStyleEncoder": ("pSp", _PYRAMID),
    "BackboneEncoderUsingLastLayerIntoW": ("pSp", _ONE_CODE),
    "SingleStyleCodeEncoder": ("pSp", _ONE_CODE),
    "BackboneEncoder": ("ReStyle (pSp)", {**_LAST, "input_channels": 6}),
    "ResNetBackboneEncoder": ("ReStyle (pSp)", {**_RESNET, "input_channels": 6}),
    "ProgressiveBackboneEncoder": ("ReStyle (e4e)", {**_LAST, "input_channels": 6, "progressive": True}),
    "ResNetProgressiveBackboneEncoder": ("ReStyle (e4e)", {**_RESNET, "input_channels": 6, "progressive": True}),
}
"""Kind and network by `opts.encoder_type`."""

_TRUNK = ("input_layer.", "body.", "conv1.", "bn1.", "relu.")
_STEMS = {"ir_se_50": "input_layer.0.weight", "resnet_34": "conv1.weight"}
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class EncoderFile:
    """What a file says: the network with its tensors in our names, and how the published code runs it."""

    kind: str
    network: NetworkConfig
    tensors: Mapping[str, StoredTensor]
    latent_avg: Tensor  # [num_ws, w_dim], zeros where the encoder was trained without
    num_ws: int  # rows that the generator takes; the network may make more
    input_size: tuple[int, int]
    iterations: int = 1
    decoder: Weights | None = None  # the generator in a ReStyle file
    stored_names: Mapping[str, str] = field(default_factory=dict)


def read_published(content: object) -> EncoderFile:
    """Return the encoder of what a torch.save file holds.

    Raises:
        UnknownFormatError: the file is not an encoder's, or of a type that is not read; says what it looks like.
        CheckpointError: the encoder lacks `latent_avg`, or its tensors are not as published.
    """
    state = _state(content)
    assert isinstance(content, dict)
    opts = _options(content)
    kind, shape = _type(opts)
    stored = _encoder_tensors(state)
    network = _config(shape, stored, state, opts)
    names = {_renamed(name): name for name in stored}
    tensors = {new: stored[name] for new, name in names.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in meta_network(network).state_dict().items()}
    check_fit(f"{kind} encoder", {name: shape for name, shape in wanted.items() if _COUNTER not in name}, tensors)
    check_shared(tensors)
    num_ws = min(network.num_ws, _decoder_rows(state) or network.num_ws)
    average = _latent_avg(content, opts, kind, num_ws, network.w_dim)
    restyle = network.input_channels == 6
    return EncoderFile(
        kind,
        network,
        tensors,
        torch.zeros(num_ws, network.w_dim) if average is None else _rows(average, num_ws),
        num_ws,
        CARS_PX if opts.get("dataset_type") == CARS else SQUARE_PX,
        _iterations(opts) if restyle else 1,
        _decoder(state, average, kind) if restyle else None,
        {new: f"encoder.{name}" for new, name in names.items()},
    )


def _state(content: object) -> Mapping[str, object]:
    """Return `state_dict`; raises UnknownFormatError, saying what the file looks like, where there is no encoder."""
    root = content if isinstance(content, dict) else {}
    if refusal := refusal_of(root.get("state_dict")):
        raise CheckpointError(f"{refusal}; it stands for 'state_dict'")
    state = root.get("state_dict")
    if isinstance(state, dict) and any(isinstance(name, str) and name.startswith("encoder.") for name in state):
        return state
    if PUBLISHED in root:
        what = "a StyleGAN2 of rosinality's repository: a generator, which load_generator reads"
    elif not isinstance(content, dict):
        what = f"a torch.save file of {brief(content)}"
    else:
        keys = ", ".join(map(brief, list(root)[:10])) or "nothing"
        what = known_contents(root) or f"a torch.save file that holds {keys}"
    raise UnknownFormatError(f"looks like {what}, not like an encoder: it has no state_dict with names 'encoder.…'")


def _options(content: Mapping[Any, object]) -> Mapping[Any, object]:
    opts = content.get("opts")
    if opts is None:
        raise UnknownFormatError(
            "holds an encoder without opts: e4e's and pSp's tensors are alike, and only opts.encoder_type tells them "
            "apart; save {'state_dict', 'latent_avg', 'opts'} as the training did"
        )
    return expect(dict, opts, "opts")


def _type(opts: Mapping[Any, object]) -> tuple[str, Mapping[str, Any]]:
    encoder_type = opts.get("encoder_type")
    if not isinstance(encoder_type, str) or encoder_type not in TYPES:
        raise UnknownFormatError(
            f"holds an encoder of the type {brief(encoder_type)} (opts.encoder_type), which is not read"
        )
    return TYPES[encoder_type]


def _encoder_tensors(state: Mapping[str, object]) -> dict[str, StoredTensor]:
    prefix = "encoder."
    return {
        name.removeprefix(prefix): named_tensor(name, value)
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(prefix) and not name.endswith(_COUNTER)
    }


def _config(
    shape: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    state: Mapping[str, object],
    opts: Mapping[Any, object],
) -> NetworkConfig:
    """Return the network: widths, rows and w_dim as the tensors say."""
    stem = _sized(stored, _STEMS[shape["trunk"]], 4)
    channels = shape.get("input_channels", 3)
    if stem[1] != channels:
        raise CheckpointError(
            f"holds an encoder of {stem[1]} input channels, not of {channels}: it does not take pictures, but maybe "
            "sketches or segmentations"
        )
    if shape["head"] == "one_code":
        num_ws, bias = _one_code_rows(state, opts), "linear.bias"
    else:
        num_ws, bias = sum(re.fullmatch(r"styles\.\d+\.linear\.bias", name) is not None for name in stored), ""
    (w_dim,) = _sized(stored, bias or "styles.0.linear.bias", 1)
    try:
        return NetworkConfig(**shape, num_ws=num_ws, w_dim=w_dim, width=stem[0])
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise CheckpointError(
            f"holds an encoder that is not read: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def _sized(stored: Mapping[str, StoredTensor], name: str, rank: int) -> tuple[int, ...]:
    if name not in stored or len(stored[name].shape) != rank:
        shape = list(stored[name].shape) if name in stored else "no such tensor"
        raise CheckpointError(f"holds for encoder.{name} {shape}, not a tensor of {rank} dimensions")
    return stored[name].shape


def _decoder_rows(state: Mapping[str, object]) -> int:
    """Return how many rows of codes the decoder in the file takes; 0 if there is none.

    e4e's first cars encoder makes 18 rows for a generator of 512 px, and the published code uses the first 16.
    """
    blocks = sum(isinstance(name, str) and bool(re.fullmatch(r"decoder\.to_rgbs\.\d+\.bias", name)) for name in state)
    return 2 * blocks + 2 if blocks else 0


def _one_code_rows(state: Mapping[str, object], opts: Mapping[Any, object]) -> int:
    size = opts.get("output_size") or opts.get("stylegan_size") or DEFAULT_PX
    if not isinstance(size, int) or not 4 <= size <= 2**20 or size & (size - 1):
        raise CheckpointError(f"says an output size of {brief(size)}, which is not a power of two from 4")
    return _decoder_rows(state) or 2 * size.bit_length() - 4


def _latent_avg(
    content: Mapping[Any, object], opts: Mapping[Any, object], kind: str, num_ws: int, w_dim: int
) -> StoredTensor | None:
    """Return the mean w that codes are relative to; None where the encoder was trained to make absolute ones."""
    average = content.get("latent_avg")
    if average is None:
        if opts.get("start_from_latent_avg") is False and not kind.startswith("ReStyle"):
            return None
        raise CheckpointError(
            f"holds an encoder ({kind}) without latent_avg, to which its codes are relative; take the file as "
            "published, or add the mean w of its generator under that name"
        )
    stored = named_tensor("latent_avg", average)
    rows = stored.shape[0] if len(stored.shape) == 2 else 1
    if stored.shape[-1:] != (w_dim,) or len(stored.shape) > 2 or not (rows == 1 or rows >= num_ws):
        raise CheckpointError(f"holds latent_avg of {list(stored.shape)}, not of [{num_ws}, {w_dim}]")
    if opts.get("start_from_latent_avg") is False and not kind.startswith("ReStyle"):
        return None
    return stored


def _rows(average: StoredTensor, num_ws: int) -> Tensor:
    """Return `latent_avg` with a row for each of the generator's, `[num_ws, w_dim]` float32."""
    tensor = float32(average)
    check_finite("latent_avg", tensor)
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows[:num_ws].expand(num_ws, -1).clone()


def _iterations(opts: Mapping[Any, object]) -> int:
    count = opts.get("n_iters_per_batch")
    return count if type(count) is int and 1 <= count <= MAX_ITERATIONS else ITERATIONS


def _decoder(state: Mapping[str, object], average: StoredTensor | None, kind: str) -> Weights | None:
    """Return the generator of a ReStyle file, whose images its iterations look at; None where the file has none."""
    prefix = "decoder."
    tensors = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
    if not tensors or average is None:
        return None
    first = replace(average, shape=average.shape[-1:], stride=average.stride[-1:])
    try:
        return replace(read_rosinality({PUBLISHED: tensors, "latent_avg": first}), format=f"decoder of {kind}")
    except CheckpointError as error:
        raise CheckpointError(f"holds a decoder that is not read: it {error}") from error


def _renamed(name: str) -> str:
    return f"{'trunk' if name.startswith(_TRUNK) else 'head'}.{name}"
