"""The first stage: read each new shard once, and commit its keys, offsets and faults."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from infra.receipts import Address, Ledger
from infra.shards.shards import scan_shard
from infra.shards.tar_walk import sha256_of
from infra.stores.store import Store
from pipeline.data.dotted_names import dotted_names
from pipeline.data.inventory import FINGERPRINT, STAGE, ListedShard, outcomes_of
from pipeline.data.receipt_info import InventoryInfo, ShardFaultInfo
from pipeline.data.units import write_inventory
from pipeline.jobs.job import UnitResult


@dataclass(frozen=True)
class InventoryJob:
    """Scans shards; plain reading and hashing, no GPU.

    A shard that was scanned before is read again with `by_digest`, and scanned again if its content differs.
    """

    sources: tuple[Store, ...]
    ledger: Ledger
    by_digest: bool = False
    name: str = STAGE

    def open(self) -> Callable[[ListedShard], UnitResult]:
        """Return the function that scans one shard and commits the result."""
        return self._check if self.by_digest else self._scan

    def _check(self, listed: ListedShard) -> UnitResult:
        address = Address(STAGE, FINGERPRINT, listed.name)
        receipt = self.ledger.receipt(address)
        if receipt is not None:
            with self.sources[listed.address].open(listed.entry.name) as stream:
                digest = sha256_of(stream)
            if digest == InventoryInfo.from_receipt(receipt).sha256:
                return UnitResult.from_receipt(receipt)
            if self.ledger.receipt(address) == receipt:  # another run may have scanned it meanwhile
                self.ledger.store.delete([address.receipt_name])
        return self._scan(listed)

    def _scan(self, listed: ListedShard) -> UnitResult:
        started = time.time()
        store, entry = self.sources[listed.address], listed.entry
        with store.open(entry.name) as stream:
            scan = scan_shard(stream, entry.name, entry.size)
        warning = dotted_names(scan.samples)
        attempt = self.ledger.begin(Address(STAGE, FINGERPRINT, listed.name))
        attempt.put("samples.parquet", write_inventory(scan.samples, entry.name))
        info = InventoryInfo(
            address=listed.address,
            shard=entry.name,
            sha256=scan.sha256,
            bytes=scan.size,
            version=entry.version,
            samples=len(scan.samples),
            faults=tuple(ShardFaultInfo(kind=fault.kind, message=fault.message) for fault in scan.faults),
            notes=(*scan.notes, *([warning] if warning else [])),
            passed_over=scan.passed_over,
            started=started,
            finished=time.time(),
        )
        done = UnitResult.from_receipt(attempt.commit(outcomes_of(scan.samples), info.plain()))
        return replace(done, warnings=(f"{entry.name}: {warning}",)) if warning else done
