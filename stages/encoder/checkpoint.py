"""The SAM encoder as a file: safetensors with its configuration, so that nothing else is needed to load it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from stages.base.errors import WeightsError
from stages.encoder.network import EncoderNetwork, SamEncoder

FORMAT = "invertmill-sam-encoder"


def save_encoder(encoder: SamEncoder, about: str, dtype: torch.dtype = torch.float32) -> bytes:
    """Return an encoder as a safetensors file: weights, configuration, and a sentence on its origin.

    Equal encoders give equal bytes. `dtype` is that of the stored weights; they are loaded as float32.
    """
    metadata = {
        "config": encoder.config.model_dump(mode="json"),
        "spaces": encoder.spaces,
        "shapes": encoder.shapes,
        "num_ws": encoder.num_ws,
        "w_dim": encoder.w_dim,
        "resolution": encoder.resolution,
        "about": about,
    }
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in encoder.state_dict().items()}
    # one entry, because safetensors writes several in an order that differs from run to run
    return bytes(safetensors.torch.save(tensors, {FORMAT: json.dumps(metadata)}))


def load_sam_encoder(path: str | Path, device: str | torch.device = "cpu") -> SamEncoder:
    """Return the encoder of a checkpoint, frozen and in evaluation mode, in float32, with the checkpoint's `digest`.

    Raises:
        WeightsError: the file is missing, damaged, not a SAM encoder's, or holds numbers that are not finite.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such encoder; correct the path, or run train_encoder") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    metadata, tensors = _read(path, data)
    try:
        encoder = _built(metadata, tensors)
    except (KeyError, TypeError, ValueError, ValidationError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: its configuration and its weights do not agree ({error}); train it again"
        ) from error
    if odd := next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None):
        raise WeightsError(f"{path} holds {odd} with NaN or infinite numbers; give an undamaged file")
    encoder.digest, encoder.source = hashlib.sha256(data).hexdigest()[:16], str(path)
    return encoder.eval().requires_grad_(False).to(device)


def _built(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> SamEncoder:
    with torch.device("meta"):
        encoder = SamEncoder(
            EncoderNetwork.model_validate(metadata["config"]),
            metadata["spaces"],
            {space: tuple(shape) for space, shape in metadata["shapes"].items()},
            mean_w=torch.empty(int(metadata["w_dim"])),
            num_ws=int(metadata["num_ws"]),
            resolution=int(metadata["resolution"]),
        )
    encoder.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return encoder


def _read(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return metadata and tensors of a file; safetensors runs no code."""
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = json.loads(header["__metadata__"][FORMAT])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: expected a checkpoint written by train_encoder, got none ({type(error).__name__}: {error})"
        ) from error
    return metadata, tensors
