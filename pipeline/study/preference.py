"""What annotators preferred, by pair of methods, with the spread over images and annotators (thesis Table 4.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.study.settings import Pair

DRAWS = 2_000
_TOGETHER = 200  # draws computed at once


@dataclass(frozen=True)
class Vote:
    """One answer to a comparison."""

    pair: Pair
    image: str
    annotator: str
    first: bool  # whether the first method of the pair was preferred


@dataclass(frozen=True)
class Preference:
    """The share of answers that prefer the first method of a pair.

    `spread` is the standard deviation of that share, `low` and `high` its 2.5 and 97.5 percentiles, of samples that are
    drawn with replacement from images and, independently, from annotators.
    """

    pair: Pair
    answers: int
    images: int
    annotators: int
    share: float
    spread: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def preferences(votes: Sequence[Vote], pairs: Sequence[Pair], draws: int = DRAWS, seed: int = 0) -> list[Preference]:
    """Return the preference of each pair that has answers."""
    return [
        _preference(pair, of_pair, draws, seed) for pair in pairs if (of_pair := [v for v in votes if v.pair == pair])
    ]


def _preference(pair: Pair, votes: Sequence[Vote], draws: int, seed: int) -> Preference:
    images, image_N = np.unique([vote.image for vote in votes], return_inverse=True)
    annotators, annotator_N = np.unique([vote.annotator for vote in votes], return_inverse=True)
    first_N = np.array([vote.first for vote in votes], np.float64)
    share_B = np.concatenate(list(_resampled(image_N, annotator_N, first_N, draws, seed)))
    low, high = np.percentile(share_B, [2.5, 97.5]).tolist()
    return Preference(
        pair=pair,
        answers=len(votes),
        images=len(images),
        annotators=len(annotators),
        share=float(first_N.mean()),
        spread=float(share_B.std()),
        low=low,
        high=high,
    )


# Owen 2007, "The pigeonhole bootstrap": both factors are resampled, and an answer counts as often as both were drawn
def _resampled(
    image_N: NDArray[np.integer],
    annotator_N: NDArray[np.integer],
    first_N: NDArray[np.float64],
    draws: int,
    seed: int,
) -> Iterator[NDArray[np.float64]]:
    """Yield the shares of some draws at a time; draws without any answer are left out."""
    random = np.random.default_rng(seed)
    counts = image_N.max() + 1, annotator_N.max() + 1
    for start in range(0, draws, _TOGETHER):
        size = min(_TOGETHER, draws - start)
        of_images_BI, of_annotators_BA = (
            random.multinomial(count, np.full(count, 1 / count), size=size) for count in counts
        )
        weight_BN = of_images_BI[:, image_N] * of_annotators_BA[:, annotator_N]
        total_B = weight_BN.sum(axis=1)
        drawn_B = total_B > 0
        yield (weight_BN[drawn_B] @ first_N) / total_B[drawn_B]
