"""What the gallery shows is chosen from columns: the same rows as from all rows in memory."""

import numpy as np
import pytest

from infra.bundles import write_rows
from infra.receipts import Address, Ledger
from infra.stores.folder import FolderStore
from pipeline.publish.rows import IndexRows
from pipeline.report.gallery import choose, worst
from pipeline.report.shown import shown_rows


def row(number, random):
    outcome = "quarantined" if random.random() < 0.1 else "recorded"
    return {
        "key": f"{random.integers(1000):03d}-{number}",
        "role": random.choice(["held_out", "supervision", None]),
        "outcome": outcome,
        "invert.psnr_db": float(random.integers(20, 25)) if outcome == "recorded" else None,
        "error_maps.occluded": random.choice([True, False, None]),
    }


def index_of(folder, rows, part_rows):
    ledger = Ledger(FolderStore(folder))
    attempt = ledger.begin(Address("publish", "f", "index"))
    types = {"role": str, "invert.psnr_db": float, "error_maps.occluded": bool, "outcome": str, "key": str}
    for number, first in enumerate(range(0, len(rows), part_rows)):
        attempt.put(f"part-{number:05d}.parquet", write_rows(rows[first : first + part_rows], {}, types))
    return IndexRows(ledger, attempt.commit({}, {}))


def gallery_of(rows):
    bad = worst(rows)
    taken = {id(one) for one in bad}
    return bad, choose([one for one in rows if id(one) not in taken])


@pytest.mark.parametrize("count", [1, 2, 5, 11, 12, 13, 29, 30, 31, 100, 400])
def test_the_choice_is_the_same_as_from_all_rows_in_memory(tmp_path, count):
    random = np.random.default_rng(count)
    rows = [row(number, random) for number in range(count)]
    rows = [{**one, "role": one["role"] and str(one["role"])} for one in rows]
    recorded = [one for one in rows if one["outcome"] == "recorded"]
    assert gallery_of(shown_rows(index_of(tmp_path, rows, part_rows=7))) == gallery_of(recorded)


def test_rows_are_found_by_what_they_hold_and_by_their_numbers(tmp_path):
    rows = [{**row(number, np.random.default_rng(number)), "outcome": "recorded", "role": None} for number in range(9)]
    rows[5]["role"] = "held_out"
    index = index_of(tmp_path, rows, part_rows=4)
    assert index.rows(role="held_out") == [rows[5]]
    assert index.at([8, 0, 4]) == [rows[0], rows[4], rows[8]]
