"""The stores of a run: of its shards and of its bundles."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from infra.addresses.addresses import InputAddress, shown
from infra.addresses.found import Found
from infra.errors import NotFoundError, StoreError
from infra.receipts import BUNDLES, Ledger
from infra.stores.storage import AnyOptions, Store, open_store
from pipeline.config import RunConfig
from pipeline.data.inventory import ListedShard
from pipeline.data.shard_check import instead_of_tars
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Input:
    """One input address; its shards are searched once, at the first request."""

    address: InputAddress
    options: AnyOptions

    @property
    def store(self) -> Store:
        """The store that holds its shards."""
        return self.found.store

    @functools.cached_property
    def found(self) -> Found:
        """The shards of the address.

        Raises:
            ConfigError: there are none, one named without a pattern is missing, or they cannot be read.
        """
        try:
            return self.address.find(self.options)
        except NotFoundError as error:
            raise ConfigError(f"input {shown(self.address.written)}: {error}{self._instead()}") from error
        except StoreError as error:
            raise ConfigError(f"input {shown(self.address.written)}: {error}") from error

    def _instead(self) -> str:
        """Return what the address holds if it is a folder without tars; empty otherwise."""
        try:
            found = InputAddress.parse(f"{self.address.written.rstrip('/')}/*").find(self.options)
        except StoreError:
            return ""
        return f"; {instead_of_tars(found)}"

    def patient(self) -> Input:
        """Return this input, with its shards as found, with a store whose calls wait while it is unavailable."""
        patient = Input(self.address, self.options)
        patient.__dict__["found"] = replace(self.found, store=self.store.patient())
        return patient


@dataclass(frozen=True)
class Stores:
    """Input and output of a run; nothing is contacted before use."""

    inputs: tuple[Input, ...]
    ledger: Ledger

    @classmethod
    def from_config(cls, config: RunConfig) -> Stores:
        """Return the stores that a configuration names."""
        inputs = tuple(Input(InputAddress.parse(url), config.storage.input) for url in config.inputs)
        return cls(inputs, Ledger(open_store(config.output, config.storage.output)))

    def patient(self) -> Stores:
        """Return these stores with calls that wait while a store is unavailable; for a run, once all have answered."""
        inputs = tuple(one.patient() for one in self.inputs)
        return Stores(inputs, Ledger(self.ledger.store.patient()))

    @property
    def sources(self) -> tuple[Store, ...]:
        """The stores of the inputs, in order."""
        return tuple(one.store for one in self.inputs)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about what was skipped in the inputs."""
        warnings = [warning for one in self.inputs for warning in one.found.warnings]
        if again := sum(len(one.found.entries) for one in self.inputs) - len(self.shards()):
            warnings.append(f"input: {again} shards are named by an earlier address too; each is read once")
        return tuple(warnings)

    def check(self, *, write: bool) -> None:
        """Return if everything can be reached, otherwise raise with a remedy. Only writing needs an output folder."""
        self.shards()
        try:
            self.ledger.store.check(write=write)
        except NotFoundError:
            if write:
                raise

    def shards(self) -> list[ListedShard]:
        """Return the shards of the input, each once, even if several addresses name it.

        Raises:
            ConfigError: an input address names no shards, or bundles of the output.
        """
        bundles = f"{self.ledger.store.url}/{BUNDLES}/"
        for one in self.inputs:
            if any(f"{one.store.url}/{entry.name}".startswith(bundles) for entry in one.found.entries):
                raise ConfigError(
                    f"input {shown(one.address.written)} reaches into the output {self.ledger.store.url}, whose "
                    "bundles are not shards; choose another output, or a narrower address"
                )
        listed: dict[str, ListedShard] = {}
        for number, one in enumerate(self.inputs):
            for entry in one.found.entries:
                listed.setdefault(f"{one.store.url}/{entry.name}", ListedShard(number, entry))
        return list(listed.values())
