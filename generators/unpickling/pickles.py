"""Read the pickles of published generators without running code from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from generators.errors import CheckpointError
from generators.unpickling.machine import Budget, Machine, Makers, View
from generators.unpickling.records import (
    Array,
    Network,
    default_of,
    dtype_of,
    expect,
    latin_bytes_of,
    module_of,
    ordered_of,
    parameter_of,
    scalar_of,
    tensor_of,
)
from generators.unpickling.torch_streams import never, read_storage

MAX_OPERATIONS = 2_000_000
"""Operations per file, including nested streams; a generator of 1024 px with its discriminator has about 100,000."""


def load_pickle(data: bytes) -> object:
    """Return the content of a pickle as plain values and records that are views of it.

    Args:
        data: the whole file.

    Raises:
        CheckpointError: the file is truncated, hostile, or represents something that is never loaded.
    """
    try:
        budget = Budget(MAX_OPERATIONS)
        content = Machine(View(data), budget, _published(budget), passes_over=True).run()
        return expect(object, content, "its content")
    except CheckpointError:
        raise
    except Exception as error:  # whatever a hostile file provokes is the file's fault
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"is truncated or not a valid pickle ({reason})") from error


def _published(budget: Budget) -> Makers:
    """Return all names of the published pickles."""
    makers: dict[str, Callable[..., object]] = {
        "torch_utils.persistence _reconstruct_persistent_obj": module_of,
        "dnnlib.util EasyDict": default_of,
        "dnnlib.tflib.network Network": Network,
        "collections OrderedDict": ordered_of,
        "collections defaultdict": default_of,
        "torch.storage _load_from_bytes": partial(read_storage, budget),
        "torch._utils _rebuild_tensor_v2": tensor_of,
        "torch._utils _rebuild_parameter": parameter_of,
    }
    return makers | numpy_makers()


def numpy_makers() -> dict[str, Callable[..., object]]:
    """Return all names of pickled numpy numbers; they moved from `numpy.core` to `numpy._core`.

    Until protocol 3, bytes are pickled as text that must be encoded.
    """
    makers: dict[str, Callable[..., object]] = {
        "numpy dtype": dtype_of,
        "numpy ndarray": never,
        "_codecs encode": latin_bytes_of,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        makers |= {f"{core} scalar": scalar_of, f"{core} _reconstruct": lambda *_: Array()}
    return makers
