"""What a run does about damaged bundles: each is made again, once."""

import pytest

from infra.errors import DamagedBundleError
from infra.receipts import Address, Ledger
from infra.stores.folder import FolderStore
from pipeline.errors import RunError
from pipeline.execution.repair import Repairs, damaged_bundles
from tests import tiny


@pytest.fixture
def ledger(tmp_path):
    return Ledger(FolderStore(tmp_path / "store"))


@pytest.fixture
def told():
    return []


@pytest.fixture
def repairs(ledger, told):
    return Repairs(ledger.store, told.append)


def bundle(ledger, unit):
    attempt = ledger.begin(Address("invert", "f00d", unit))
    attempt.put("rows", unit.encode())
    return attempt.commit({}, {})


def harm(ledger, unit):
    ledger.store.write(ledger.receipt(Address("invert", "f00d", unit)).files[0].name, b"altered")


def work_on(ledger, *units):
    """Return work that makes the bundles that are missing, and reads all."""

    def work():
        missing = [unit for unit in units if unit not in ledger.units("invert", "f00d")]
        receipts = {unit: ledger.receipt(Address("invert", "f00d", unit)) or bundle(ledger, unit) for unit in units}
        return [ledger.read_file(receipt, "rows") for receipt in receipts.values()], missing

    return work


def test_damaged_bundles_are_made_again_and_named(ledger, repairs, told):
    work = work_on(ledger, "a", "b", "c")
    work()
    harm(ledger, "a")
    harm(ledger, "c")
    assert repairs.until_whole(work) == ([b"a", b"b", b"c"], ["c"])
    assert [line.partition(": bundles/")[0] for line in told] == [
        "[yellow]damaged:[/] invert unit a",
        "[yellow]damaged:[/] invert unit c",
    ]
    assert "its receipt is kept as damaged/invert/f00d/a." in told[0]


def test_a_bundle_that_is_damaged_again_stops_the_run(ledger, repairs, told):
    work = work_on(ledger, "a")

    def harmful():
        bundle(ledger, "a")
        harm(ledger, "a")
        return work()

    with pytest.raises(RunError, match=r"invert unit a: .*after it was made again in this run; check the disk"):
        repairs.until_whole(harmful)
    assert len(told) == 1


def test_other_errors_pass(repairs):
    with pytest.raises(RunError, match="no weights"):
        repairs.until_whole(lambda: (_ for _ in ()).throw(RunError("no weights")))


def test_all_damaged_bundles_of_a_stage_are_found(ledger):
    for unit in "abcd":
        bundle(ledger, unit)
    harm(ledger, "b")
    ledger.store.write("receipts/invert/f00d/d.json", b"{")
    assert {damage.unit for damage in damaged_bundles(ledger, "invert", "f00d")} == {"b", "d"}


def test_every_damaged_inventory_is_met_in_one_pass(committed):
    for path in (committed.folder / "store/bundles/inventory").rglob("*.parquet"):
        tiny.truncated(path, 0.5)
    plan = committed.plan("supervision.share=1.0")
    with pytest.raises(DamagedBundleError) as caught:
        plan.units(plan.inventories(), plan.supervision)
    assert {damage.stage for damage in caught.value.damages} == {"inventory"}
    assert len(caught.value.damages) == 2


def test_every_damaged_inventory_is_met_while_supervision_is_chosen(committed):
    for path in (committed.folder / "store/bundles/inventory").rglob("*.parquet"):
        tiny.truncated(path, 0.5)
    plan = committed.plan("supervision.samples=3")
    with pytest.raises(DamagedBundleError) as caught:
        plan.choose_supervision(plan.inventories())
    assert len(caught.value.damages) == 2


def test_every_damaged_receipt_of_an_inventory_is_met_in_one_pass(committed):
    for path in (committed.folder / "store/receipts/inventory").rglob("*.json"):
        path.write_text("{}")
    with pytest.raises(DamagedBundleError) as caught:
        committed.plan().inventories()
    assert len(caught.value.damages) == 2
