"""A run: every stage in order, resumed from whatever is committed, ending in an index, a summary and a report."""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra.errors import DamagedBundleError, InfraError
from infra.receipts import Receipt, ReceiptHead
from infra.stores import waiting
from pipeline.config import RunConfig
from pipeline.data.input_check import check_first_shards, check_input
from pipeline.data.inventory import FINGERPRINT, STAGE
from pipeline.data.reading import Cut
from pipeline.data.stores import Stores
from pipeline.data.trained_networks import SEGMENTER_UNIT, TrainedEncoder
from pipeline.data.units import Shard, Unit
from pipeline.data.unread import Unread
from pipeline.data.weights import weights_of
from pipeline.errors import ConfigError, RunError
from pipeline.execution.cluster import Cluster
from pipeline.execution.hosts import Hosts
from pipeline.execution.leftovers import remove_leftovers
from pipeline.execution.progress import Progress
from pipeline.execution.repair import Repairs, damaged_bundles
from pipeline.execution.resources import resources_of
from pipeline.execution.supervisor import Outcome, Supervisor
from pipeline.jobs.inventory_job import InventoryJob
from pipeline.jobs.job import Job
from pipeline.jobs.map_job import MapJob
from pipeline.operations.verify import restore_network
from pipeline.plan.graph import maps_samples
from pipeline.plan.plan import MapStep, Plan
from pipeline.plan.steps import Steps
from pipeline.publish.index import Index
from pipeline.training.adoption import adopt
from pipeline.training.encoder_job import EncoderJob
from pipeline.training.gaps import Gaps, check_examples
from pipeline.training.job import TrainingJob
from pipeline.training.states import drop_states
from pipeline.training.train_job import TrainJob
from pipeline.tune.curve import TradeOffCurve
from pipeline.tune.trade_off import ask, curve_of
from stages.base.errors import StageError
from stages.base.stage import Stage
from stages.refine_maps import RefineMaps
from stages.segmenter.choice import Published
from stages.train_encoder import TrainEncoder

FIRST_SHARDS = 4
"""Number of shards of a new input that are checked before all others are read."""


@dataclass(frozen=True)
class RunResult:
    """The result of a run, or the subject of a report: an index, and the units that were given up."""

    plan: Plan
    shards: Mapping[Shard, ReceiptHead]
    index: Index
    published: Receipt
    failed: dict[str, str]
    computed: int  # units that this call computed; 0 if there was nothing to do
    moved: bool = True  # whether readers are pointed to the index
    gaps: Mapping[str, Any] = field(default_factory=dict)  # gaps of the index

    @property
    def unread(self) -> Unread:
        """Input that could not be read."""
        return Unread.from_inventories(self.shards, self.plan.sources)


@dataclass
class Run:
    """One call of `invertmill run`; all its state is in storage, so that the next call resumes from there."""

    config: RunConfig
    progress: Progress
    failed: dict[str, str] = field(default_factory=dict)
    computed: int = 0
    hosts: Hosts = field(default_factory=Hosts)

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.config.compute, self.progress.say, self.config.folder)

    def execute(self) -> RunResult:
        """Return when everything possible is committed and published.

        Raises:
            One of `pipeline.errors.USER_ERRORS`: committed results stay, and the next call resumes from there.
        """
        waiting.listen(self.progress.waits)  # to the end of the process: the report is written after this
        try:
            return self.repairs.until_whole(self._execute_stages)
        finally:
            self.hosts.close()

    @functools.cached_property
    def repairs(self) -> Repairs:
        """This run's handling of damaged bundles."""
        stores = Stores.from_config(self.config)
        restore = functools.partial(restore_network, Plan(self.config, stores))
        return Repairs(stores.ledger.store.patient(), self.progress.say, restore)

    def trade_off(self) -> TradeOffCurve:
        """Return the cost of editability in fidelity, inverting a few samples at several thresholds unless committed.

        Raises:
            RunError: no maps are refined yet, or the samples could not be inverted.
        """
        waiting.listen(self.progress.waits)
        with self.progress.doing("choosing samples to invert"):
            stores = Stores.from_config(self.config)
            stores.check(write=True)
            plan = Plan(self.config, stores.patient())
            asked = ask(plan)
            todo = asked.todo
        try:
            outcome = self._execute(asked.job, todo, {part.name: len(part.samples) for part in todo})
        finally:
            self.hosts.close()
        for reason in outcome.failed.values():
            raise RunError(f"the trade-off could not be measured: {reason}")
        return curve_of(plan, asked)

    def only(self, stage: type[Stage]) -> RunResult:
        """Return when an optional stage is computed and published; compute nothing else.

        Raises:
            ConfigError: the stage is not configured.
            RunError: not everything before it is computed.
        """
        waiting.listen(self.progress.waits)
        try:
            return self.repairs.until_whole(lambda: self._only(stage))
        finally:
            self.hosts.close()

    def _only(self, stage: type[Stage]) -> RunResult:
        name = stage.name
        if getattr(self.config, name) is None:
            raise ConfigError(f"{name}: the configuration has no such section; `invertmill config` prints its keys")
        plan = self.checked_plan()
        with self.progress.doing(f"listing what is left for {name}"):
            shards, segmenter = plan.inventories(), plan.ledger.receipt(plan.train_segmenter())
            if segmenter is None or not shards:
                raise RunError(f"{name}: nothing is inverted yet; `invertmill run` comes first, and does {name} too")
            steps = plan.map_steps(segmenter)
            units = plan.units(shards, plan.everything)
            if missing := plan.remaining(steps.last, units):
                raise RunError(
                    f"{name}: {steps.last.stage.name} has {len(units) - len(missing)} of {len(units)} units; "
                    f"`invertmill run` makes the rest, and does {name} too"
                )
            todo = plan.remaining(steps[stage], units)
        self.map_units(plan, steps[stage], todo, shards)
        with self.progress.doing("writing the index"):
            return self._finish(plan, shards, segmenter)

    def checked_plan(self) -> Plan:
        """Return the plan; whatever is wrong with configuration, weights and input is refused before any work."""
        stores = Stores.from_config(self.config)
        self._check_folder()
        self.cluster.probe()
        with self.progress.doing("checking the configuration and listing the input"):
            stores.check(write=True)
            for warning in stores.warnings:
                self.progress.warn(warning)
            plan = Plan(self.config, stores.patient())
            plan.error_maps()  # missing weights and a region off the canvas are refused before anything is started
            if remark := plan.generator.remark:
                self.progress.warn(f"{self.config.generator.name}: {remark}")
            plan.check_weights()
            plan.check_input()
        return plan

    def _execute_stages(self) -> RunResult:
        plan = self.checked_plan()
        self.scan(plan)
        with self.progress.doing("reading the inventories"):
            shards = plan.inventories()
            if not shards:
                raise RunError(f"not one of {len(plan.listed)} shards could be read; run again to try once more")
            check_input(self.config, plan.ledger, shards)
        segmenter = self.supervise(plan, shards)
        steps = plan.map_steps(segmenter)
        for stage in plan.stages:
            if stage is TrainEncoder:
                self.train_encoder(plan, shards, steps)
            if not maps_samples(stage) or (step := steps.get(stage)) is None:
                continue
            with self.progress.doing(f"listing what is left for {step.stage.name}"):
                todo = plan.remaining(step, plan.units(shards, step.selection))
            self.map_units(plan, step, [unit for unit in todo if unit.name not in self.failed], shards)
        with self.progress.doing("writing the index"):
            finished = self._finish(plan, shards, segmenter)
        if self.computed and finished.moved and not finished.gaps:
            self._remove_leftovers(plan)
        return finished

    def scan(self, plan: Plan) -> None:
        """Scan the new shards, and read through all others if the configuration requests it."""
        by_digest, computed = self.config.input_check == "digest", self.computed
        with self.progress.doing("finding new shards"):
            shards = plan.listed if by_digest else plan.missing_inventories()
            before = plan.ledger.versions(STAGE, FINGERPRINT)
        job = InventoryJob(plan.sources, plan.ledger, by_digest)
        if not before and len(shards) > 2 * FIRST_SHARDS:
            first = shards[:: len(shards) // FIRST_SHARDS][:FIRST_SHARDS]
            self._execute(job, first, {}, workers_use_gpu=False)
            check_first_shards(self.config, plan.ledger, plan.inventories())
            shards = [shard for shard in shards if shard not in first]
        self._execute(job, shards, {}, workers_use_gpu=False)
        with self.progress.doing("finding the shards that were read"):
            found = plan.ledger.versions(STAGE, FINGERPRINT)
        self.computed = computed + sum(before.get(unit) != version for unit, version in found.items())

    def _remove_leftovers(self, plan: Plan) -> None:
        """Remove leftovers of interrupted runs; a store that refuses keeps them."""
        try:
            with self.progress.doing("removing leftovers of interrupted runs from the store"):
                count = remove_leftovers(plan)
            if count:
                self.progress.say(f"removed {count} leftover files of interrupted or earlier runs from the store")
        except InfraError as error:
            self.progress.warn(f"leftovers of interrupted runs stay in the store: {error}")

    def _check_folder(self) -> None:
        """Refuse a folder that the report could not be written to, before hours of work."""
        folder = self.config.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"folder {folder} cannot be written ({error.strerror}); change its permissions or choose another"
            ) from error

    def _finish(self, plan: Plan, shards: Mapping[Shard, ReceiptHead], segmenter: Receipt) -> RunResult:
        """Publish what is committed."""
        index = Index.from_plan(plan, shards, segmenter, len(plan.missing_inventories()))
        publication = index.publish()
        receipt, moved, gaps = publication.receipt, publication.moved, publication.gaps
        return RunResult(plan, shards, index, receipt, self.failed, self.computed, moved, gaps)

    def supervise(self, plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> Receipt:
        """Make missing error maps, and train a segmenter if there is none; or take the published one."""
        if isinstance(self.config.segmenter, Published):
            with self.progress.doing("looking for the published segmenter"):
                return plan.ledger.receipt(plan.train_segmenter()) or adopt(plan, self.config.segmenter)
        with self.progress.doing("choosing the supervision"):
            plan.choose_supervision(shards)
            step = plan.error_maps()
            units = plan.units(shards, step.selection)
            todo = plan.remaining(step, units)
        self.map_units(plan, step, todo, shards)
        with self.progress.doing("looking for a trained segmenter"):
            address = plan.train_segmenter()
            if receipt := plan.ledger.receipt(address):
                drop_states(plan.ledger.store, address.fingerprint)  # a run that died in between would leave them
        if receipt:
            if address.unit != SEGMENTER_UNIT:
                self.progress.warn(
                    "the segmenter was trained on a part of the supervision; set train_segmenter.minimum_share to 1 to "
                    "train on all of it, and make all maps again"
                )
            return receipt
        with self.progress.doing("reading the supervision"):
            gaps = Gaps.from_plan(plan, shards)
            gaps.check(self.config.train_segmenter.minimum_share, self.failed)
            check_examples(plan, units)
            if gaps.any:
                self.progress.warn(gaps.warning())
            job = TrainJob.from_plan(plan, shards)
        try:
            self._train(job)
        except (DamagedBundleError, StageError):  # Ray Train reports its workers' errors as ours
            if damages := damaged_bundles(plan.ledger, step.stage.name, step.fingerprint):  # all in one round
                raise DamagedBundleError(damages) from None
            raise
        trained = plan.ledger.receipt(plan.train_segmenter())
        assert trained is not None
        return trained

    def train_encoder(self, plan: Plan, shards: Mapping[Shard, ReceiptHead], steps: Steps) -> None:
        """Train an encoder unless there is one."""
        with self.progress.doing("looking for a trained encoder"):
            address = plan.train_encoder(steps)
            if plan.ledger.receipt(address) is not None:
                drop_states(plan.ledger.store, address.fingerprint)
                return
        with self.progress.doing("reading the assignments"):
            job = EncoderJob.from_plan(plan, shards, steps)
        try:
            self._train(job)
        except (DamagedBundleError, StageError):
            step = steps[RefineMaps]
            if damages := damaged_bundles(plan.ledger, step.stage.name, step.fingerprint):
                raise DamagedBundleError(damages) from None
            raise

    def _train(self, job: TrainingJob[Any]) -> None:
        workers = self.config.compute.training_workers
        if workers > 1:
            self._train_in_parallel(job, workers)
            return
        outcome = self._execute(job, [job], {}, deadline_s=math.inf)
        if outcome.failed:
            raise RunError(f"{job.name} failed: {outcome.failed[job.name]}")

    def _train_in_parallel(self, job: TrainingJob[Any], workers: int) -> None:
        """Train data-parallel under Ray Train, and commit from here."""
        from pipeline.training.on_ray import train_on_ray  # Ray Train takes seconds to import

        self.cluster.start()
        self.hosts.close()  # Ray Train starts processes of its own, and needs the GPUs
        started = time.time()
        gpus = resources_of(self.config.compute).size.gpus
        with self.progress.doing(f"{job.name} on {workers} workers"):
            trained = self.cluster.wait_for(lambda: train_on_ray(job, workers, gpus))
        job.commit(trained, started, f"{workers} workers")
        self.computed += 1

    def map_units(
        self,
        plan: Plan,
        step: MapStep,
        todo: Sequence[Unit],
        shards: Mapping[Shard, ReceiptHead],
        cuts: Mapping[str, Cut] | None = None,
    ) -> None:
        """Compute the units of a step; `cuts` are of the stages it reads whose units differ, by name."""
        inventories = {unit.shard: shards[unit.shard].unit for unit in todo}
        committed = None if step.segmenter is None else step.segmenter.path
        start = plan.start_codes(step.stage)
        if start is not None:
            start.check(todo, plan.generator.digest)
        encoder = None if step.encoder is None else plan.ledger.receipt(step.encoder)
        job = MapJob(
            stage=step.stage,
            fingerprint=step.fingerprint,
            sources=plan.sources,
            ledger=plan.ledger,
            upstream=step.upstream,
            inventories=inventories,
            selection=step.selection,
            segmenter=step.segmenter,
            encoder=None if encoder is None else TrainedEncoder(encoder),
            weights=weights_of(step.stage, plan.ledger.store, self.config.compute, committed),
            threads=self.config.compute.cpus_per_worker,
            cuts=cuts or {},
            start=start,
        )
        self._execute(job, todo, {unit.name: unit.stop - unit.first for unit in todo})

    def _execute(
        self,
        job: Job[Any],
        tasks: Sequence[Any],
        samples: Mapping[str, int],
        *,
        workers_use_gpu: bool = True,
        deadline_s: float | None = None,
    ) -> Outcome:
        """Run a job's tasks, showing progress; given-up units are reported at the end of the run."""
        if not tasks:
            return Outcome([], {})
        self.cluster.start()
        for task in tasks:  # failures from before damaged bundles were made again are retried
            self.failed.pop(task.name, None)
        with self.progress.stage(job.name, len(tasks), sum(samples.values())) as shown:
            resources = resources_of(self.config.compute, use_gpu=workers_use_gpu)
            resources = replace(resources, unit_deadline_s=deadline_s or resources.unit_deadline_s)
            if isinstance(job, MapJob):
                job = replace(job, samples_ahead=-(-sum(samples.values()) // resources.workers))
            outcome = Supervisor(job, self.hosts, resources, shown, self.cluster.check).execute(tasks)
        self.failed |= {unit: f"{job.name}: {reason}" for unit, reason in outcome.failed.items()}
        self.computed += len(outcome.done)
        if outcome.damaged:
            raise DamagedBundleError(outcome.damaged)
        return outcome
