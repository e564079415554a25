"""Sums over receipts: worked by hand."""

from infra.receipts import Address, FileEntry, ReceiptHead
from pipeline.data.tally import Tally, joined


def head(started, finished, recorded=2, quarantined=1, **info):
    files = (FileEntry(name="bundles/s/f/u/a/x", size=10, sha256=""),)
    info = {"started": started, "finished": finished, "device": "cpu", **info}
    return ReceiptHead(Address("s", "f", "u"), "a", files, info, recorded, quarantined)


def test_overlapping_work_counts_once_and_pauses_do_not():
    assert joined([(0, 2), (1, 3), (10, 11), (10.5, 10.8), (12, 12)]) == ((0, 3), (10, 11))
    assert joined([]) == ()


def test_a_tally_adds_up_receipts():
    tally = Tally.from_heads([head(0, 4, computed_s=3), head(3, 5)])
    assert (tally.units, tally.recorded, tally.quarantined, tally.outcomes, tally.samples) == (2, 4, 2, 6, 6)
    assert (tally.busy_s, tally.seconds, tally.size_bytes, tally.devices) == (5, 5, 20, ("cpu",))
    assert tally.rate.hours == 5 / 3600 / 6
    assert Tally().rate is None


def test_a_tally_names_devices_with_the_precision_of_their_work():
    heads = [head(0, 1), head(1, 2, precision="bf16"), head(2, 3, precision="fp32"), head(3, 4, precision=None)]
    assert Tally.from_heads(heads).devices == ("cpu", "cpu, bf16", "cpu, fp32")


def test_the_sum_of_tallies_is_the_tally_of_all_their_receipts():
    heads = [head(n, n + 1.5, device=f"gpu {n % 2}") for n in range(7)]
    assert Tally.summed([Tally.from_heads(heads[:3]), Tally.from_heads(heads[3:])]) == Tally.from_heads(heads)
    assert Tally.summed([]) == Tally()


def test_intervals_are_joined_while_receipts_are_read():
    tally = Tally.from_heads(head(n, n + 1) for n in range(10_000))
    assert tally.worked == ((0, 10_000),)
