"""How far something is from the reference data, in its own unit."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def distance(found: torch.Tensor, wanted: NDArray[Any]) -> float:
    """The unit of the reference data: the largest difference over the largest value."""
    reference = torch.from_numpy(np.asarray(wanted))
    assert found.shape == reference.shape
    return float((found - reference).abs().max() / reference.abs().max())
