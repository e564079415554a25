"""The format of a file, recognised by its content and never by its name."""

from __future__ import annotations

from dataclasses import replace

from generators.errors import UnknownFormatError
from generators.formats.nvidia import read_nvidia
from generators.formats.own import read_own
from generators.formats.rosinality import read_rosinality
from generators.formats.tensorflow import read_tensorflow
from generators.formats.weights import Weights
from generators.unpickling.pickles import load_pickle
from generators.unpickling.records import Network, refusal_of
from generators.unpickling.torch_file import LEGACY, ZIP, load_torch_file

READ_TODAY = (
    "read today: invertmill's .safetensors; StyleGAN2 from NVIDIA's repositories stylegan2-ada-pytorch and stylegan3 "
    "(.pkl) and from its TensorFlow ones (.pkl), and from rosinality's stylegan2-pytorch (.pt); the folder of a "
    "BigGAN-deep with config.json and pytorch_model.bin"
)

_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_OPENINGS = {
    b"": "an empty file",
    b"\x1f\x8b": "a gzip file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer instead of the file: run `git lfs pull`",
    b"<": "a web page or XML, perhaps a failed download",
}


def read_weights(data: bytes) -> Weights:
    """Return the generator that a file holds.

    Raises:
        CheckpointError: the file's format is not supported, or it is truncated or hostile.
    """
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return replace(read_own(data), format="invertmill safetensors")
    if data.startswith((ZIP, LEGACY)):
        return replace(read_rosinality(load_torch_file(data)), format="rosinality torch file")
    if data.startswith(_PICKLES):
        return _from_pickle(data)
    raise UnknownFormatError(f"is {known_opening(data)}")


def known_opening(data: bytes) -> str:
    """Return what a file of no format that is read looks like, for a message."""
    known = (what for start, what in _OPENINGS.items() if data.startswith(start) and bool(start) == bool(data))
    return next(known, f"of an unknown format, beginning with the bytes {data[:16].hex(' ')}")


def _from_pickle(data: bytes) -> Weights:
    content = load_pickle(data)
    if isinstance(content, tuple) and content and all(isinstance(part, Network) for part in content):
        return replace(read_tensorflow(content), format="NVIDIA TensorFlow pickle")
    if isinstance(content, Network):
        raise UnknownFormatError("is a TensorFlow pickle of one network, not of G, D and Gs")
    if isinstance(content, tuple) and (refusal := next(filter(None, map(refusal_of, content)), "")):
        raise UnknownFormatError(
            f"is a pickle of other networks than StyleGAN2's, such as Progressive GAN's: it {refusal}"
        )
    if not isinstance(content, dict):
        raise UnknownFormatError(f"is a pickle of a {type(content).__name__}, not of a dictionary with G_ema")
    return replace(read_nvidia(content), format="NVIDIA PyTorch pickle")
