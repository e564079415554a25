"""The codes of inverted images by key, for fitting directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from generators.directions.source import StoredCodes
from infra.bundles import read_rows
from infra.receipts import Ledger
from pipeline.errors import RunError
from pipeline.publish.index import published, read_index


def stored_codes(ledger: Ledger, generator_sha256: str) -> StoredCodes:
    """Return the function that gives w_plus of published images by key; only requested ones are kept.

    Args:
        ledger: of a run's store.
        generator_sha256: digest of the generator that they must have been inverted with.

    Raises:
        RunError: nothing is published; from the function: a key is there twice, or was inverted with another generator.
    """
    receipt = published(ledger)
    if receipt is None:
        raise RunError(f"{ledger.store.url} holds no published result: run `invertmill run` first")
    files = defaultdict[str, list[str]](list)
    for row in read_index(ledger, receipt):
        if row["outcome"] == "recorded":
            files[row["key"]].append(row["records"])

    def codes(keys: Sequence[str]) -> Mapping[str, Tensor]:
        wanted = defaultdict[str, set[str]](set)
        for key in keys:
            if len(files.get(key, ())) > 1:
                raise RunError(f"{key} is the key of two images in {ledger.store.url}: remove it from the scores")
            for name in files.get(key, ()):
                wanted[name].add(key)
        found = (_read(ledger, name, members, generator_sha256) for name, members in wanted.items())
        return {key: w_plus for part in found for key, w_plus in part.items()}

    return codes


def _read(ledger: Ledger, name: str, keys: Container[str], generator_sha256: str) -> dict[str, Tensor]:
    """Return w_plus `[num_ws, w_dim]` float32 of some images of a bundle."""
    found = {}
    for row in read_rows(ledger.store.read(name), ["key", "w_plus", "generator"]):
        if row["key"] in keys:
            _check_generator(row["key"], row["generator"], generator_sha256)
            found[row["key"]] = torch.from_numpy(row["w_plus"].astype(np.float32))
    return found


def _check_generator(key: str, inverted_with: str, generator_sha256: str) -> None:
    if inverted_with != generator_sha256:
        raise RunError(
            f"{key} was inverted with the generator of SHA-256 {inverted_with}, got {generator_sha256}: give the former"
        )
