"""A whole tiny run, committed without Ray: each job opened and called in this process."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from infra.receipts import Address
from pipeline.config import RunConfig, load_config
from pipeline.data.records import read_records
from pipeline.data.stores import Stores
from pipeline.data.units import Unit
from pipeline.jobs.inventory_job import InventoryJob
from pipeline.jobs.map_job import MapJob
from pipeline.plan.plan import MapStep, Plan
from pipeline.publish.index import Index
from pipeline.training.train_job import TrainJob
from stages.base.stage import Record
from tests import tiny
from tests.browser import Browser

COUNTS = {"train-a": 5, "held-b": 3}
LIGHT = {"epochs": 1, "batch": 4, "network": {"backbone": "light"}}


@dataclass(frozen=True)
class Committed:
    """A folder with a run in it."""

    folder: Path

    def settings(self, *overrides: str) -> RunConfig:
        """Return the run's configuration, changed."""
        return load_config(self.folder / "run.yaml", overrides)

    def plan(self, *overrides: str) -> Plan:
        """Return a plan that has read nothing yet."""
        settings = self.settings(*overrides)
        return Plan(settings, Stores.from_config(settings))

    def index(self, *overrides: str) -> Index:
        """Return the index of what is committed."""
        plan = self.plan(*overrides)
        segmenter = plan.ledger.receipt(plan.train_segmenter())
        return Index.from_plan(plan, plan.inventories(), segmenter, len(plan.missing_inventories()))

    def records(self, step: MapStep, unit: Unit) -> dict[str, Record]:
        """Return what a stage recorded about the samples of a unit, by key."""
        ledger = self.plan().ledger
        receipt = ledger.receipt(Address(step.stage.name, step.fingerprint, unit.name))
        return read_records(ledger.read_file, receipt) if receipt else {}

    def files(self) -> dict[str, bytes]:
        """Return every file of the store."""
        return contents(self.folder / "store")

    def file(self, pattern: str) -> Path:
        """Return one file of the store."""
        return sorted((self.folder / "store").glob(pattern))[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scan_input(plan: Plan) -> None:
    """Commit the inventories that are missing."""
    scan = InventoryJob(plan.sources, plan.ledger).open()
    for listed in plan.missing_inventories():
        scan(listed)


def compute(plan: Plan, step: MapStep) -> None:
    """Commit the units of a step that are missing."""
    shards = plan.inventories()
    inventories = {shard: receipt.unit for shard, receipt in shards.items()}
    job = MapJob(
        step.stage,
        step.fingerprint,
        plan.sources,
        plan.ledger,
        step.upstream,
        inventories,
        step.selection,
        step.segmenter,
        start=plan.start_codes(step.stage),
    )
    work = job.open()
    for unit in plan.remaining(step, plan.units(shards, step.selection)):
        work(unit)


def train(plan: Plan) -> None:
    """Commit the segmenter."""
    TrainJob.from_plan(plan, plan.inventories()).run(torch.device("cpu"))


def commit_all(plan: Plan) -> None:
    """Commit everything up to the index."""
    scan_input(plan)
    compute(plan, plan.error_maps())
    train(plan)
    for step in plan.map_steps(plan.ledger.receipt(plan.train_segmenter())):
        compute(plan, step)


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> Path:
    """The folder of a run that every test copies; all paths in it are relative."""
    folder = tmp_path_factory.mktemp("committed")
    tiny.write_networks(folder / "networks")
    tiny.write_shards(folder / "shards", COUNTS)
    networks = {name: Path(f"networks/{name}.safetensors") for name in ("generator", "perceptual")}
    tiny.config(folder, networks, train_segmenter=LIGHT)
    threads = torch.get_num_threads()
    try:
        run = Committed(folder)
        commit_all(run.plan())
        run.index().publish()
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium on the PATH")
    browser = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def committed(first_run, tmp_path) -> Committed:
    """A run of its own, complete and published."""
    shutil.copytree(first_run, tmp_path / "run", copy_function=shutil.copy2)
    return Committed(tmp_path / "run")


@pytest.fixture
def private_cache(tmp_path, monkeypatch) -> Path:
    """The folder of a cache that no other test fills; it does not exist yet."""
    monkeypatch.setenv("INVERTMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fresh(first_run, tmp_path) -> Committed:
    """A run that has not begun."""
    for part in ("networks", "shards"):
        shutil.copytree(first_run / part, tmp_path / "run" / part, copy_function=shutil.copy2)
    shutil.copy2(first_run / "run.yaml", tmp_path / "run")
    return Committed(tmp_path / "run")


@pytest.fixture
def invertmill(monkeypatch, capsys):
    """Return a function that runs the command line here and returns exit status, output and errors."""
    from pipeline.cli.commands import main

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["invertmill", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return (caught.value.code or 0, *capsys.readouterr())

    return run
