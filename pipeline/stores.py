"""The stores of a run: where its shards are read, and where its bundles are written."""

from __future__ import annotations

from dataclasses import dataclass

from infra.errors import NotFoundError
from infra.receipts import Ledger
from infra.storage import Store, find, open_store, split_glob
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.inventory import Listed


@dataclass(frozen=True)
class Input:
    """One input address: a store and the patterns of the shards in it."""

    url: str
    store: Store
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Stores:
    """Input and output of a run; nothing is contacted until it is used."""

    inputs: tuple[Input, ...]
    ledger: Ledger

    @classmethod
    def of(cls, config: RunConfig) -> Stores:
        """Return the stores that a configuration names."""
        inputs = []
        for url in config.inputs:
            root, patterns = split_glob(url)
            inputs.append(Input(url, open_store(root, config.storage.input), patterns))
        return cls(tuple(inputs), Ledger(open_store(config.output, config.storage.output)))

    @property
    def sources(self) -> tuple[Store, ...]:
        """The stores of the inputs, in order."""
        return tuple(one.store for one in self.inputs)

    def check(self, *, write: bool) -> None:
        """Return if everything can be reached, else raise what to do about it. Only writing needs an output folder."""
        for one in self.inputs:
            one.store.check(write=False)
        try:
            self.ledger.store.check(write=write)
        except NotFoundError:
            if write:
                raise

    def shards(self) -> list[Listed]:
        """Return the shards of the input as they are listed now.

        Raises:
            ConfigError: an input address names no shards.
        """
        listed = []
        for number, one in enumerate(self.inputs):
            try:
                entries = find(one.store, one.patterns)
            except NotFoundError as error:
                raise ConfigError(f"input {one.url}: {error}") from error
            if not entries:
                raise ConfigError(f"input {one.url} names no shards; check the address and the pattern")
            listed += [Listed(number, entry) for entry in entries]
        return listed
