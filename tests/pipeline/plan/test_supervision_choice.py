"""A number of samples for supervision: the same ones whatever comes later, and never more."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from infra.shards.shards import write_shard
from pipeline.config import Supervision
from pipeline.data.units import read_inventory
from pipeline.errors import ConfigError, RunError
from pipeline.plan.plan import Plan
from pipeline.plan.supervision_choice import choose_for_good
from tests import tiny
from tests.pipeline.conftest import COUNTS, Committed, scan_input

SHARDS = "supervision={shards: train-*}"


def choosing(run: Committed, *overrides: str) -> Plan:
    """Return the plan of a run that has read its input and chosen."""
    plan = run.plan(SHARDS, *overrides)
    scan_input(plan)
    plan.choose_supervision(plan.inventories())
    return plan


def chosen(plan: Plan) -> set[str]:
    listed = [
        (shard.name, sample.key)
        for shard, receipt in plan.inventories().items()
        for sample in read_inventory(plan.ledger, receipt)
    ]
    return {key for shard, key in listed if plan.supervision.includes(shard, key)}


def add(run: Committed, name: str, count: int) -> None:
    write_shard(run.folder / f"shards/{name}.tar", tiny.samples(name, count))


def test_as_many_are_chosen_as_asked_for_and_those_with_the_smallest_hashes(fresh):
    add(fresh, "train-b", 30)
    some, more, all_ = (chosen(choosing(fresh, f"supervision.samples={n}")) for n in (6, 20, 1000))
    assert (len(some), len(more), len(all_)) == (6, 20, COUNTS["train-a"] + 30)
    assert some < more < all_
    assert len({key[:7] for key in more}) == 2, "shards are mixed"


def test_new_shards_fill_up_what_is_left_and_change_nothing(fresh):
    first = choosing(fresh, "supervision.samples=12")
    units = {unit.name for unit in first.units(first.inventories(), first.supervision)}
    before = chosen(first)
    assert len(before) == COUNTS["train-a"]

    add(fresh, "train-b", 30)
    second = choosing(fresh, "supervision.samples=12")
    assert before < chosen(second)
    assert len(chosen(second)) == 12
    assert units <= {unit.name for unit in second.units(second.inventories(), second.supervision)}
    assert second.error_maps().fingerprint == first.error_maps().fingerprint
    assert second.train_segmenter() == first.train_segmenter()

    add(fresh, "train-c", 30)
    third = choosing(fresh, "supervision.samples=12")
    assert chosen(third) == chosen(second)
    assert not any(u.shard.name == "train-c.tar" for u in third.units(third.inventories(), third.supervision))


def test_what_a_plan_says_before_anything_is_chosen_is_what_a_run_chooses(fresh):
    add(fresh, "train-b", 30)
    plan = fresh.plan(SHARDS, "supervision.samples=9")
    scan_input(plan)
    before = chosen(plan)
    assert not list(plan.ledger.store.list("supervision/"))
    assert chosen(choosing(fresh, "supervision.samples=9")) == before


def test_a_shard_of_another_content_keeps_the_samples_it_had(fresh):
    before = chosen(choosing(fresh, "supervision.samples=3"))
    add(fresh, "train-a", 9)
    after = chosen(choosing(fresh, "supervision.samples=3"))
    assert before <= after


def test_of_many_that_choose_at_once_each_round_has_one_winner(fresh):
    for name in ("train-b", "train-c"):
        add(fresh, name, 30)
    plan = fresh.plan(SHARDS, "supervision.samples=20")
    scan_input(plan)
    everything = list(plan.inventories().items())
    parts = [dict(everything[:i]) for i in range(1, len(everything) + 1)] * 3  # as listings at several times
    with ThreadPoolExecutor(len(parts)) as threads:
        choices = list(threads.map(partial(choose_for_good, plan.ledger, plan.config.supervision), parts))
    rounds = max((choice.rounds for choice in choices), key=len)
    assert all(choice.rounds == rounds[: len(choice.rounds)] for choice in choices)
    names = [name for one in rounds for name in one.taken]
    assert sorted(names) == ["train-a.tar", "train-b.tar", "train-c.tar"]
    assert sum(count for one in rounds for count in one.taken.values()) == 20


def test_a_round_that_is_gone_is_chosen_again_after_the_others(fresh):
    choosing(fresh, "supervision.samples=20")
    add(fresh, "train-b", 30)
    plan = choosing(fresh, "supervision.samples=20")
    first, second = (entry.name for entry in plan.ledger.store.list("supervision/"))
    plan.ledger.store.delete([first])
    assert len(chosen(choosing(fresh, "supervision.samples=20"))) == 20
    names = [entry.name for entry in plan.ledger.store.list("supervision/")]
    assert names == [second, second.replace("000001", "000002")]


def test_faulty_samples_count_as_the_inventory_lists_them(fresh):
    write_shard(fresh.folder / "shards/train-b.tar", [{"__key__": f"b{i}", "png": b"no png"} for i in range(5)])
    plan = choosing(fresh, "supervision.samples=7")
    units = plan.units(plan.inventories(), plan.supervision)
    assert sum(unit.stop - unit.first for unit in units) == 7


def test_a_damaged_choice_is_named(fresh):
    plan = choosing(fresh)
    (entry,) = plan.ledger.store.list("supervision/")
    plan.ledger.store.write(entry.name, b"{}")
    with pytest.raises(RunError, match=r"000000\.json does not say which samples were chosen"):
        choosing(fresh)


# ---- configuration


def test_ten_thousand_samples_are_chosen_unless_a_run_says_otherwise():
    assert Supervision().number == 10_000
    assert Supervision(samples=5).number == 5
    assert Supervision(share=1.0).number is None


def test_samples_and_a_share_contradict_each_other(fresh):
    with pytest.raises(ConfigError, match=r"samples \(7\) and share \(0.5\) both say .* keep one of them"):
        fresh.settings("supervision.samples=7", "supervision.share=0.5")


def test_a_share_leaves_no_choice_in_the_store_and_takes_its_part_of_new_shards(fresh):
    add(fresh, "train-b", 30)
    plan = choosing(fresh, "supervision.share=1.0")
    assert not list(plan.ledger.store.list("supervision/"))
    assert len(chosen(plan)) == COUNTS["train-a"] + 30
