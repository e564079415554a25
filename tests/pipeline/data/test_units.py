"""Units and selections: stable names, stable choices."""

import dataclasses

import pytest

from infra.receipts import Address, Ledger
from infra.shards.shards import Member, ShardSample
from infra.stores.storage import open_store
from pipeline.config import Supervision
from pipeline.data.units import Selection, Shard, cut, outcome_key, read_inventory, write_inventory

SHARD = Shard(0, "deep/cars-000000.tar", "ab" * 32, 10)
KEYS = [f"image-{i:05d}" for i in range(2000)]


def sample(key="a", fault=None, start=512, **more):
    return ShardSample(key, start, (Member("png", start, start + 512, 7),), fault, **more)


def test_units_cover_all_samples_once():
    units = list(cut(SHARD, 10, 4))
    assert [(unit.first, unit.stop) for unit in units] == [(0, 4), (4, 8), (8, 10)]
    assert len({unit.name for unit in units}) == 3


def test_no_samples_make_no_units():
    assert list(cut(SHARD, 0, 4)) == []


@pytest.mark.parametrize("other", [{"sha256": "cd" * 32}, {"name": "deep/cars-000001.tar"}, {"address": 1}])
def test_another_content_name_or_input_is_another_unit(other):
    changed = dataclasses.replace(SHARD, **other)
    assert next(cut(SHARD, 4, 4)).name != next(cut(changed, 4, 4)).name


def test_another_cut_is_another_unit():
    assert next(cut(SHARD, 8, 4)).name != next(cut(SHARD, 8, 8)).name


def test_unit_names_fit_an_address_whatever_the_shard_is_called():
    for name in ("a b/ü*?.tar", "....tar", "x" * 300 + ".tar"):
        Address("invert", "f" * 16, next(cut(Shard(0, name, "ab", 1), 1, 1)).name)


def test_without_supervision_everything_is_selected():
    assert all(Selection().includes("any.tar", key) for key in KEYS[:10])


def test_a_share_is_about_that_share_and_stays_when_it_grows():
    small, large = (Selection(Supervision(share=share)) for share in (0.1, 0.3))
    chosen = {key for key in KEYS if small.includes("s.tar", key)}
    assert 0.07 < len(chosen) / len(KEYS) < 0.13
    assert chosen <= {key for key in KEYS if large.includes("s.tar", key)}


def test_held_out_shards_are_never_supervision():
    selection = Selection(Supervision(shards="*", held_out_shards="held-*"))
    assert {selection.role("held-0.tar", key) for key in KEYS[:50]} == {"held_out"}
    assert {selection.role("train-0.tar", key) for key in KEYS[:50]} == {"supervision"}


def test_without_held_out_shards_a_share_of_the_chosen_is_held_out():
    selection = Selection(Supervision(share=0.5, held_out_share=0.2))
    roles = [selection.role("s.tar", key) for key in KEYS]
    held_out, supervision = roles.count("held_out"), roles.count("supervision")
    assert 0.15 < held_out / (held_out + supervision) < 0.25


def test_shards_outside_the_patterns_are_not_looked_at():
    selection = Selection(Supervision(shards="train-*", held_out_shards="held-*"))
    assert selection.role("other.tar", "a") is None


def test_a_repeated_key_has_an_outcome_of_its_own():
    assert outcome_key(sample("a")) == "a"
    assert outcome_key(sample("a", "a fault that speaks of a duplicate key", 4096)) == "a"
    assert outcome_key(sample("a", "there already", 4096, repeated=True)) == "a@4096"


def test_an_inventory_comes_back_as_it_was_written(tmp_path):
    ledger = Ledger(open_store(str(tmp_path)))
    samples = (
        sample("a"),
        sample("b", "incomplete", 4096, unusable={"txt": "it lacks txt"}),
        sample("a", "there already", 9000, repeated=True),
    )
    attempt = ledger.begin(Address("inventory", "f", "u"))
    attempt.put("samples.parquet", write_inventory(samples, "s.tar"))
    assert read_inventory(ledger, attempt.commit({}, {})) == list(samples)
