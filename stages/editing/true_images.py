"""The true images of a sample's edits, where its shard has them, as procedural scenes can."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from numpy.typing import NDArray

from stages.base.errors import BadSampleError


def read_true_images(data: bytes, name: str) -> dict[str, NDArray[np.uint8]]:
    """Return the true images of edits in an npz, `[H, W, 3]` uint8 by label.

    Args:
        data: of the file, which needs no pickle.
        name: how messages call it.

    Raises:
        BadSampleError: it is not such a file.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            images = {label: arrays[label] for label in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadSampleError(f"true edits {name} are not an npz of images: {error}; write the shard again") from error
    for label, image in images.items():
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise BadSampleError(
                f"true edits {name}: {label} is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3]; "
                "write the shard again"
            )
    return images
