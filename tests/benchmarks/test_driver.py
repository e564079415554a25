"""The benchmark of the driver: what it writes is a complete run, and its figures tell per-unit costs from others."""

from benchmarks import driver
from benchmarks.harness.driver_work import WORK
from benchmarks.harness.synthetic_run import UNIT_SAMPLES, add_shard, config_in, write_run
from pipeline.data.stores import Stores
from pipeline.plan.plan import Plan


def test_the_run_that_is_written_is_complete_and_whole_and_grows(tmp_path):
    write_run(tmp_path, 3)
    for name in ("publish", "status", "verify", "figures"):  # each asserts what it finds
        WORK[name](config_in(tmp_path))
    add_shard(tmp_path, 1)
    for name in ("publish", "verify"):
        WORK[name](config_in(tmp_path))
    config = config_in(tmp_path)
    shards = Plan(config, Stores.from_config(config)).inventories()
    assert sorted(shard.samples for shard in shards) == [UNIT_SAMPLES, 3 * UNIT_SAMPLES]


def test_what_a_unit_adds_is_the_difference_of_two_sizes():
    small, large = ({"cpu_s": 1.0 + n / 100, "wall_s": 2.0 + n / 50, "peak_mb": 500 + n} for n in (10, 110))
    added = driver._per_unit(small, large, 100)
    assert added == {"cpu_ms_per_unit": 10.0, "wall_ms_per_unit": 20.0, "peak_bytes_per_unit": 2**20}
