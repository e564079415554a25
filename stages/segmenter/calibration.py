"""Turn predicted roots into mean errors: a monotone function per space, fitted to achieved errors.

A network fitted to square roots predicts (E √e)², which is below the mean error E e wherever an error is
uncertain; a threshold τ on mean errors would then have another meaning. The fit gives, for each predicted root, the
mean error of the pixels with that prediction (isotonic regression).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

POINTS, TOP = 1025, 2.0
"""Points of a table, evenly spaced over square roots of errors from 0 to `TOP`."""

_Array = NDArray[np.float64]
_CELLS = POINTS - 1
_SCALE = _CELLS / TOP


class Calibration(nn.Module):
    """Tables of mean errors, one per space: `error_LK` at the square roots 0 to `TOP`, ascending."""

    error_LK: Tensor

    def __init__(self, error_LK: Tensor) -> None:
        super().__init__()
        self.register_buffer("error_LK", error_LK)

    def forward(self, root_NLHW: Tensor) -> Tensor:
        """Return the error for each predicted square root >= 0; beyond `TOP` it grows like the square."""
        bounded_NLHW = root_NLHW.clamp(max=TOP)
        place_NLHW = bounded_NLHW * _SCALE
        cell_NLHW = place_NLHW.nan_to_num().floor().clamp(max=_CELLS - 1)  # NaN stays NaN
        first_L11 = torch.arange(len(self.error_LK), device=root_NLHW.device)[:, None, None] * POINTS
        index_NLHW = cell_NLHW.long() + first_L11
        low, high = self.error_LK.take(index_NLHW), self.error_LK.take(index_NLHW + 1)
        error_NLHW = torch.lerp(low, high, place_NLHW - cell_NLHW)
        return torch.where(root_NLHW > TOP, error_NLHW * (root_NLHW / TOP).square(), error_NLHW)


class CalibrationSums:
    """Sufficient statistics of the pixels: count, and sums of predicted roots and errors, per space and cell."""

    def __init__(self, spaces: int, device: torch.device) -> None:
        self.total_3LK = torch.zeros(3, spaces, _CELLS + 1, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, root_NLHW: Tensor, error_NLHW: Tensor) -> None:
        """Add predicted square roots >= 0 and the achieved errors."""
        for i in range(root_NLHW.shape[1]):
            root, error = root_NLHW[:, i].flatten().double(), error_NLHW[:, i].flatten().double()
            cell = (root * _SCALE).long().clamp(max=_CELLS)  # the last cell holds all above `TOP`
            for j, values in enumerate((torch.ones_like(root), root, error)):
                self.total_3LK[j, i].index_add_(0, cell, values)

    def fit(self) -> Calibration:
        """Return the monotone functions that fit best, by least squares over pixels.

        Cells below every prediction seen get the error of the smallest; above the largest, errors grow as
        squares do.
        """
        tables = [_table(*sums_3K) for sums_3K in self.total_3LK.cpu().numpy().transpose(1, 0, 2)]
        return Calibration(torch.from_numpy(np.stack(tables)).float())


def _table(
    count_K: NDArray[np.float64], root_K: NDArray[np.float64], error_K: NDArray[np.float64]
) -> NDArray[np.float64]:
    from sklearn.isotonic import IsotonicRegression  # takes a second to import, and only a training needs it

    grid_K = np.arange(POINTS) / _SCALE
    seen = count_K > 0
    if not seen.any():
        return np.asarray(grid_K**2)
    count, root, error = count_K[seen], root_K[seen] / count_K[seen], error_K[seen] / count_K[seen]
    fitted = IsotonicRegression().fit_transform(root, error, sample_weight=count)
    _, block = np.unique(fitted, return_inverse=True)  # neighbours with one value form one point, in their middle
    weight = np.bincount(block, count)
    roots, errors = np.bincount(block, root * count) / weight, np.bincount(block, fitted * count) / weight
    table_K = np.interp(grid_K, roots, errors)
    above = grid_K > roots[-1]
    if roots[-1] * _SCALE >= 1:
        table_K[above] = errors[-1] * (grid_K[above] / roots[-1]) ** 2
    else:  # a head that predicts almost nothing has no scale
        table_K[above] = errors[-1] + grid_K[above] ** 2
    return np.maximum.accumulate(table_K)
