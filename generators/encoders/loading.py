"""Load published encoders: the content of a file decides its kind, and no code from it is run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from generators.checkpoints import blaming, checked_digest, checked_sha256, local_path, read_file
from generators.encoders.encoder import Encoder, ReStyle
from generators.encoders.networks import EncoderNetwork, meta_network
from generators.encoders.published import EncoderFile, read_published
from generators.errors import CheckpointError, UnknownFormatError
from generators.formats.content import known_opening
from generators.formats.weights import build, check_finite, float32
from generators.unpickling.pickles import load_pickle
from generators.unpickling.torch_file import LEGACY, ZIP, load_torch_file

READ_TODAY = (
    "read today: encoders of encoder4editing (e4e), pixel2style2pixel (pSp) and restyle-encoder (ReStyle of both), "
    "torch.save files (.pt) with state_dict, latent_avg and opts"
)


def load_encoder(
    path_or_uri: str | Path,
    device: torch.device | str = "cpu",
    *,
    iterations: int | None = None,
    sha256: str | None = None,
) -> Encoder:
    """Return a pretrained encoder: frozen, in eval mode, in float32, with `digest` the SHA-256 of its file.

    Only the encoder's weights are built; for ReStyle, whose passes look at their own inversion, the decoder's too.
    `Encoder.check_fits` says whether it fits a generator.

    Args:
        path_or_uri: a local path, `file://`, `s3://BUCKET/KEY` or `https://…`, as for `load_generator`.
        device: of the result.
        iterations: passes of ReStyle; as published (5) if None. Others make one pass.
        sha256: expected digest of the file.

    Raises:
        CheckpointError: the file is missing, truncated, of another digest, hostile, not an encoder's or of a type that
            is not read, or lacks `latent_avg`.
    """
    if iterations is not None and iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    digest_wanted = None if sha256 is None else checked_sha256(sha256)
    path = local_path(path_or_uri, digest_wanted)
    data = read_file(path, read_today=READ_TODAY)
    digest = checked_digest(path, hashlib.sha256(data).hexdigest(), digest_wanted)
    with blaming(path, READ_TODAY):
        encoder = _built(read_published(_content(data)))
    if iterations is not None and isinstance(encoder, ReStyle):
        encoder.iterations = iterations
    encoder.digest, encoder.source = digest, str(path)
    return encoder.to(device)


def _content(data: bytes) -> object:
    if data.startswith((ZIP, LEGACY)):
        return load_torch_file(data)
    if data.startswith(b"\x80"):
        load_pickle(data)  # a hostile file is refused as such
        raise UnknownFormatError("looks like a pickle of a generator (NVIDIA's), not like an encoder")
    if data[8:9] == b"{":
        raise UnknownFormatError("looks like a safetensors file, not like an encoder")
    raise UnknownFormatError(f"is {known_opening(data)}")


def _built(file: EncoderFile) -> Encoder:
    network = meta_network(file.network)
    tensors = {name: float32(tensor) for name, tensor in file.tensors.items()}
    for name, tensor in tensors.items():
        check_finite(file.stored_names[name], tensor)
    network.load_state_dict(tensors, strict=False, assign=True)  # only the counters of batch norms are omitted
    _without_counters(network)
    if file.network.input_channels == 3:
        encoder = Encoder(file.kind, network, file.latent_avg, file.input_size)
    elif file.decoder is None:
        raise CheckpointError(f"holds an encoder ({file.kind}) without its decoder, whose images its passes look at")
    else:
        decoder = build(file.decoder)
        encoder = ReStyle(
            file.kind, network, file.latent_avg, file.input_size, decoder=decoder, iterations=file.iterations
        )
    return encoder.requires_grad_(False).eval()


def _without_counters(network: EncoderNetwork) -> None:
    """Drop the counters of training steps, which nothing reads in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None
