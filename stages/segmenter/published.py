"""The segmenters that the method's authors published: a torch.save file of `sd_base` and a state dictionary per space.

Their training wrote other files, one per network with the prefix `module.`; those are refused with how to join them.
Their heads are transposed convolutions, which are convolutions with the kernel flipped and its channels exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from generators.errors import CheckpointError
from generators.formats.weights import check_finite, check_fit, check_shared, float32
from generators.unpickling.records import brief, expect, named_tensor
from generators.unpickling.torch_file import LEGACY, ZIP, load_torch_file

BASE = "sd_base"
OPENINGS = (ZIP, LEGACY)
"""How the files begin."""
COUNTER = "num_batches_tracked"

_SPACE = re.compile(r"W\+|F\d{1,2}")
_LAYERS = {"m.0.": "heads.0.", "m.1.": "heads.1.", "m.3.": "heads.3."}
_LAST = "decoder.last_conv.8.weight"


def read_published(data: bytes) -> tuple[tuple[str, ...], int, dict[str, Tensor]]:
    """Return the spaces, most editable first, the number of shared features, and the tensors in a segmenter's names.

    Raises:
        CheckpointError: the file is hostile, truncated, or not a segmenter as published.
    """
    content = load_torch_file(data)
    if not isinstance(content, dict) or BASE not in content:
        held = ", ".join(map(brief, list(content)[:5])) if isinstance(content, dict) else brief(content)
        raise CheckpointError(
            f"is a torch.save file without {BASE!r}: it holds {held or 'nothing'}. Wanted {{'{BASE}': the backbone's "
            "state dictionary, 'W+': a head's, 'F4': …}, without the prefix 'module.'"
        )
    base = _tensors(content[BASE], BASE)
    found = [key for key in content if isinstance(key, str) and _SPACE.fullmatch(key)]
    spaces = tuple(sorted(found, key=lambda space: int(space[1:].replace("+", "0"))))
    if not spaces:
        raise CheckpointError("holds no head: expected a state dictionary per space, named 'W+', 'F4', …")
    if _LAST not in base or len(base[_LAST].shape) != 4:
        raise CheckpointError(f"holds a backbone without {_LAST}: it is not a DeepLabV3+")
    heads = [_tensors(content[space], space) for space in spaces]
    tensors = {f"backbone.{name}": tensor for name, tensor in base.items()}
    return spaces, base[_LAST].shape[0], tensors | _grouped(heads, spaces)


def _grouped(heads: list[dict[str, Tensor]], spaces: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors of heads side by side in grouped layers."""
    first = {name: tensor.shape for name, tensor in heads[0].items()}
    for space, head in zip(spaces, heads, strict=True):
        check_fit(f"segmenter's head {space}", first, head)
    grouped = {}
    for name in heads[0]:
        layer = next((new + name.removeprefix(old) for old, new in _LAYERS.items() if name.startswith(old)), name)
        each = [head[name] for head in heads]
        if name.endswith("weight") and each[0].ndim == 4:
            each = [weight.flip(2, 3).transpose(0, 1) for weight in each]
        grouped[layer] = torch.cat(each)
    return grouped


def _tensors(state: object, place: str) -> dict[str, Tensor]:
    found: Mapping[Any, object] = expect(dict, state, place)
    stored = {name: named_tensor(name, value) for name, value in found.items() if not str(name).endswith(COUNTER)}
    check_shared(stored)
    tensors = {}
    for name, tensor in stored.items():
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"holds {place}.{brief(name)} as {tensor.dtype}, not as floating-point numbers")
        tensors[name] = float32(tensor)
        check_finite(f"{place}.{name}", tensors[name])
    return tensors
