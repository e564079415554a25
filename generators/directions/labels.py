"""InterFaceGAN: the normal of a linear boundary between samples with high and low scores (Shen et al. 2020)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from generators.directions.direction import STANDARD_DEVIATION, Direction, Provenance, in_layers, is_of_z, of_codes
from generators.directions.sampling import seeded_w
from generators.directions.source import DirectionSource, StoredCodes
from generators.errors import DirectionError
from generators.generator import Generator

SEED, KEY = "seed", "key"
"""The columns that say which sample a score is of: a generator's by its seed, or an inverted image by its key."""
HELD_OUT = 0.2
LEAST = 20
"""Samples with high scores, and with low ones, without which no boundary is fitted."""


@dataclass(frozen=True, eq=False)
class Boundary:
    """A linear boundary: `normal [w_dim]` of length 1 towards high scores, and how many held-out samples it tells."""

    normal: NDArray[np.float64]
    held_out_accuracy: float
    fitted: int


class Labels(DirectionSource):
    """The direction in which scores rise: the normal of a boundary between the samples that score highest and lowest.

    It is as long as the standard deviation of the samples' codes along it. Where codes are z and a class embedding, as
    of a BigGAN-deep, the boundary is one of z: what images of one class have in common does not count.
    """

    kind: Literal["labels"] = "labels"
    scores: Path  # a parquet with the column `seed` (a generator's samples) or `key` (inverted images), and scores
    column: str  # of the scores: numbers, or true and false
    name: str = ""  # of the direction; that of the column by default
    classifier: Literal["svm", "logistic"] = "svm"  # which linear boundary
    share: float = Field(0.3, gt=0, le=0.5)  # of the samples, on each side; all where there are only two scores
    truncation: float = 1.0  # of a generator's samples that were scored
    label: int | None = None  # their class, of a conditional generator; drawn by default
    seed: int = 0  # of the choice of held-out samples

    def check(self) -> None:
        """Raise DirectionError if the scores are missing or not usable."""
        self._read()

    def fit(self, generator: Generator, stored: StoredCodes | None = None) -> tuple[Direction, ...]:
        """Return one direction.

        Raises:
            DirectionError: the scores cannot be used, an inverted image is unknown or of another generator, or there
                are too few samples.
        """
        name = self.name or self.column
        in_layers(torch.zeros(1, generator.w_dim), self.layers, generator.num_ws, name)
        samples, scores_S, digest = self._read()
        codes_Sw, scores_S = self._codes(generator, samples, scores_S, stored)
        codes_Sw = codes_Sw[:, : generator.z_dim] if is_of_z(generator) else codes_Sw
        boundary = boundary_of(codes_Sw, scores_S, self.share, self.classifier, self.seed)
        stdev = float((codes_Sw @ boundary.normal).std())
        figures = {
            "held_out_accuracy": boundary.held_out_accuracy,
            "fitted_samples": float(boundary.fitted),
            "stdev": stdev,
        }
        source = f"{self.scores.name}, column {self.column}, {len(scores_S)} samples"
        provenance = Provenance(
            kind=self.kind, unit=STANDARD_DEVIATION, source=source, source_sha256=digest, figures=figures
        )
        delta_1w = of_codes(torch.from_numpy(boundary.normal * stdev)[None], generator, name)
        return (self._direction(name, delta_1w, generator, provenance),)

    def _read(self) -> tuple[Sequence[int] | Sequence[str], NDArray[np.float64], str]:
        """Return the seeds or keys of the scored samples, their scores `[S]`, and the digest of the file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            data = self.scores.read_bytes()
            file = pq.ParquetFile(pa.BufferReader(data))
            named = [column for column in (SEED, KEY) if column in file.schema_arrow.names]
            if len(named) != 1 or self.column not in file.schema_arrow.names:
                raise DirectionError(
                    f"scores {self.scores} have the columns {', '.join(file.schema_arrow.names)}: expected {SEED} "
                    f"or {KEY}, and {self.column}"
                )
            table = file.read(columns=[named[0], self.column]).drop_null()
        except (OSError, pa.ArrowException) as error:
            raise DirectionError(f"scores {self.scores} cannot be read as parquet: {error}") from error
        samples = table.column(named[0]).to_pylist()
        kind = int if named[0] == SEED else str
        if not all(type(sample) is kind for sample in samples):
            raise DirectionError(
                f"scores {self.scores} hold other values than {kind.__name__} in the column {named[0]}"
            )
        if len(set(samples)) < len(samples):
            raise DirectionError(f"scores {self.scores} name a {named[0]} twice: keep one row per sample")
        return samples, self._numbers(table.column(self.column)), hashlib.sha256(data).hexdigest()

    def _numbers(self, column: Any) -> NDArray[np.float64]:  # noqa: ANN401  # pyarrow has no types
        try:
            scores_S = np.asarray(column.to_pylist(), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DirectionError(f"scores {self.scores}: the column {self.column} does not hold numbers") from error
        if scores_S.ndim != 1 or not np.isfinite(scores_S).all():
            raise DirectionError(
                f"scores {self.scores}: the column {self.column} holds NaN or infinity; leave those out"
            )
        return scores_S

    def _codes(
        self,
        generator: Generator,
        samples: Sequence[int] | Sequence[str],
        scores_S: NDArray[np.float64],
        stored: StoredCodes | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return codes `[S, w_dim]`, the mean over the rows that are changed, and their scores."""
        seeds = [sample for sample in samples if isinstance(sample, int)]
        keys = [sample for sample in samples if isinstance(sample, str)]
        if seeds or not keys:
            batches = seeded_w(generator, seeds, self.label, self.truncation)
            means = [self._mean(w_plus) for w_plus in batches]
            return np.concatenate([np.zeros((0, generator.w_dim)), *means]), scores_S
        if stored is None:
            raise DirectionError(
                f"scores {self.scores} are of inverted images, by key: say in which store they are, or give scores of "
                f"the generator's samples, by {SEED}"
            )
        codes = stored(keys)
        if not codes:
            raise DirectionError(
                f"scores {self.scores}: none of the {len(keys)} keys, such as {keys[0]!r}, was inverted"
            )
        known = [(key, score) for key, score in zip(keys, scores_S, strict=True) if key in codes]
        w_plus_SNw = torch.stack([codes[key] for key, _ in known])
        if w_plus_SNw.shape[1:] != (generator.num_ws, generator.w_dim):
            raise DirectionError(
                f"the inverted images have codes {list(w_plus_SNw.shape[1:])}, and the generator's are "
                f"[{generator.num_ws}, {generator.w_dim}]: give the generator they were inverted with"
            )
        return self._mean(w_plus_SNw), np.array([score for _, score in known])

    def _mean(self, w_plus: Tensor) -> NDArray[np.float64]:
        first, last = self.layers or (0, w_plus.shape[1] - 1)
        mean: NDArray[np.float64] = w_plus[:, first : last + 1].double().mean(dim=1).numpy()
        return mean


def boundary_of(
    codes_Sw: NDArray[np.float64], scores_S: NDArray[np.float64], share: float, classifier: str, seed: int
) -> Boundary:
    """Return the linear boundary between samples with high and with low scores.

    Codes are centred and divided by one number for all dimensions. Scaling each by its own would let the normal run
    along dimensions in which w barely varies.

    Args:
        codes_Sw: `[S, w_dim]`.
        scores_S: `[S]`; two different values are the classes themselves.
        share: of the samples that count as high, and that count as low.
        classifier: `svm` or `logistic`.
        seed: of the choice of held-out samples, `HELD_OUT` of those chosen.

    Raises:
        DirectionError: all scores are equal, or a side has fewer than `LEAST` samples.
    """
    chosen, is_high = _sides(scores_S, share)
    for side, count in (("high", int(is_high.sum())), ("low", int((~is_high).sum()))):
        if count < LEAST:
            raise DirectionError(
                f"{count} samples of {len(scores_S)} have {side} scores: a boundary needs {LEAST} on each side; score "
                "more samples"
            )
    x_Sw = codes_Sw[chosen] - codes_Sw.mean(axis=0)
    x_Sw = x_Sw / (np.sqrt((x_Sw**2).mean()) or 1.0)
    order = np.random.default_rng(seed).permutation(len(x_Sw))
    tested, trained = np.split(order, [max(1, round(HELD_OUT * len(order)))])
    model = _model(classifier).fit(x_Sw[trained], is_high[trained])
    accuracy = float(model.score(x_Sw[tested], is_high[tested]))
    normal = _model(classifier).fit(x_Sw, is_high).coef_[0].astype(np.float64)
    return Boundary(normal / np.linalg.norm(normal), accuracy, len(chosen))


def _sides(scores_S: NDArray[np.float64], share: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return which samples are used, and which of them score high; never samples of equal score on both sides."""
    values = np.unique(scores_S)
    if len(values) < 2:
        shown = f"{values[0]:g}" if len(values) else "missing"
        raise DirectionError(f"all {len(scores_S)} scores are {shown}: a boundary needs two kinds of samples")
    if len(values) == 2:
        return np.arange(len(scores_S)), scores_S == values[1]
    ordered_S, count = np.sort(scores_S), max(1, int(share * len(scores_S)))
    low, high = ordered_S[count - 1], ordered_S[-count]
    is_low = scores_S <= min(low, values[-2])
    is_high = (scores_S >= high) & ~is_low
    chosen = np.flatnonzero(is_low | is_high)
    return chosen, is_high[chosen]


def _model(classifier: str) -> Any:  # noqa: ANN401  # scikit-learn has no types
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    return LinearSVC(dual=False, random_state=0) if classifier == "svm" else LogisticRegression(max_iter=1000)
