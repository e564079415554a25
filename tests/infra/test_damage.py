"""Damaged bundles: their receipts are moved out of the readers' sight, once, and never a good one."""

import pickle

import pytest

from infra.damage import DAMAGED, Damages, set_aside
from infra.errors import Damage, DamagedBundleError
from infra.receipts import Address, Ledger, Receipt
from infra.stores.folder import FolderStore

ADDRESS = Address("invert", "f00d", "shard-000.0007")


@pytest.fixture
def ledger(store):
    return Ledger(store)


@pytest.fixture
def folder_ledger(tmp_path):
    return Ledger(FolderStore(tmp_path / "store"))


def commit(ledger: Ledger) -> Receipt:
    attempt = ledger.begin(ADDRESS)
    attempt.put("rows.parquet", b"rows")
    return attempt.commit({"a": None}, {})


def damage_met(ledger: Ledger) -> Damage:
    """Return the damage that reading the bundle meets."""
    with pytest.raises(DamagedBundleError) as caught:
        read(ledger)
    (damage,) = caught.value.damages
    return damage


def read(ledger: Ledger) -> bytes:
    return ledger.read_file(ledger.receipt(ADDRESS), "rows.parquet")


def harm_file(ledger: Ledger) -> None:
    ledger.store.write(ledger.receipt(ADDRESS).files[0].name, b"altered")


def harm_receipt(ledger: Ledger) -> None:
    ledger.store.write(ADDRESS.receipt_name, b'{"stage": "inv')


@pytest.mark.parametrize("harm", [harm_file, harm_receipt])
def test_a_receipt_set_aside_is_kept_and_its_unit_has_no_bundle(ledger, harm):
    commit(ledger)
    harm(ledger)
    data = ledger.store.read(ADDRESS.receipt_name)
    name = set_aside(ledger.store, damage_met(ledger))
    assert name.startswith(f"{DAMAGED}/invert/f00d/shard-000.0007.")
    assert ledger.store.read(name) == data
    assert ledger.receipt(ADDRESS) is None
    assert ledger.units("invert", "f00d") == set()


@pytest.mark.parametrize("harm", [harm_file, harm_receipt])
def test_a_bundle_that_was_made_again_meanwhile_is_left_alone(ledger, harm):
    commit(ledger)
    harm(ledger)
    damage = damage_met(ledger)
    assert set_aside(ledger.store, damage)
    assert set_aside(ledger.store, damage) is None
    again = commit(ledger)
    assert set_aside(ledger.store, damage) is None
    assert ledger.receipt(ADDRESS) == again


def test_a_message_speaks_of_the_unit_and_says_what_to_do(folder_ledger):
    commit(folder_ledger)
    harm_file(folder_ledger)
    with pytest.raises(DamagedBundleError) as caught:
        folder_ledger.read_file(folder_ledger.receipt(ADDRESS), "rows.parquet")
    assert str(caught.value).startswith("invert unit shard-000.0007: bundles/invert/f00d/shard-000.0007/")
    assert str(caught.value).endswith("; `verify --repair` sets it aside, and the next run makes it again")
    assert "Address(" not in str(caught.value)


def test_a_bundle_that_is_gone_is_made_again_like_a_damaged_one(folder_ledger):
    with pytest.raises(DamagedBundleError, match=r"invert unit shard-000.0007: its bundle is gone") as caught:
        folder_ledger.required(ADDRESS)
    assert set_aside(folder_ledger.store, caught.value.damages[0]) is None
    assert commit(folder_ledger) == folder_ledger.required(ADDRESS)


def test_damage_survives_the_way_from_another_process():
    error = DamagedBundleError([Damage("receipts/invert/f00d/u.json", "1", "gone")] * 2)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.damages, str(copy)) == (error.damages, str(error))
    assert len(copy.damages) == 1


def test_one_pass_notes_all_damage():
    damages, seen = Damages(), []
    for number in range(3):
        with damages.noted():
            if number != 1:
                raise DamagedBundleError([Damage(f"receipts/invert/f00d/{number}.json", None, "cut")])
            seen.append(number)
    assert seen == [1]
    with pytest.raises(DamagedBundleError) as caught:
        damages.check()
    assert [damage.unit for damage in caught.value.damages] == ["0", "2"]
    Damages().check()


def test_receipts_that_cannot_be_read_are_told_next_to_the_others(folder_ledger):
    good = commit(folder_ledger)
    folder_ledger.store.write("receipts/invert/f00d/other.json", b"{")
    damaged = []
    assert list(folder_ledger.receipts("invert", "f00d", damaged)) == [good]
    assert [(damage.stage, damage.unit) for damage in damaged] == [("invert", "other")]
    assert folder_ledger.fingerprints("invert") == {"f00d": ["other", "shard-000.0007"]}
