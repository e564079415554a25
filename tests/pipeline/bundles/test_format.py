"""Stock tools read the files of a result, as docs/bundle-format.md says."""

import io
import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from webdataset.tariterators import group_by_keys, tar_file_expander

from infra.bundles import ROW_GROUP, write_table
from pipeline import open_bundles
from stages.inversion.packing import unpack_codes

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/stages/inversion/golden"
GOOD = "lpips < 0.2 AND share_w_plus > 0.6"


@pytest.fixture(scope="module")
def documented():
    """The reader that the document gives."""
    namespace: dict = {}
    text = (ROOT / "docs/bundle-format.md").read_text()
    exec(re.search("```python\n(.*?)```", text, re.DOTALL)[1], namespace)
    return namespace["read"]


def by_webdataset(names: list[str]):
    """Yield webdataset's samples; it would leave the files open."""
    for name in names:
        with Path(name).open("rb") as stream:
            yield from group_by_keys(tar_file_expander([{"url": name, "stream": stream}]))


def files(store: Path, name: str) -> list[str]:
    return sorted(map(str, store.glob(f"bundles/invert/*/*/*/{name}")))


@pytest.mark.parametrize("version", ["version_2", "version_2_float16", "version_3"])
def test_the_reader_of_the_document_reads_the_golden_files(documented, version):
    data = (GOLDEN / f"{version}.npz").read_bytes()
    w_plus, deltas, masks = documented(data)
    with np.load(GOLDEN / f"{version}.decoded.npz") as decoded:
        np.testing.assert_array_equal(w_plus, decoded["w_plus"][0])
        for space in ("F2", "F4"):
            np.testing.assert_array_equal(deltas[space], decoded[f"{space}.delta"][0])
            np.testing.assert_array_equal(masks[space], decoded[f"{space}.mask"][0, 0])


def test_webdataset_and_numpy_read_the_codes_of_every_image(store, documented):
    bundles, keys = open_bundles(store), []
    for sample in by_webdataset(files(store, "arrays.tar")):
        keys.append(sample["__key__"])
        with np.load(io.BytesIO(sample["codes.npz"]), allow_pickle=False) as arrays:
            assert arrays["version"] in (2, 3)
            codes = unpack_codes(None, dict(arrays))
        assert torch.equal(codes.w_plus, bundles[sample["__key__"]].codes.w_plus)
        np.testing.assert_array_equal(documented(sample["codes.npz"])[0], codes.w_plus[0].numpy())
    assert sorted(keys) == sorted(bundles.keys())


def test_a_row_leads_to_the_bytes_of_its_npz(store):
    for name in files(store, "records.parquet"):
        tar = Path(name).with_name("arrays.tar").read_bytes()
        for row in pq.read_table(name).to_pylist():
            npz = tar[row["codes_offset"] : row["codes_offset"] + row["codes_bytes"]]
            with np.load(io.BytesIO(npz)) as arrays:
                assert arrays["w_plus"].ravel().tolist() == pytest.approx(row["w_plus"])
            assert row["shard_offset"] % 512 == 0
            assert row["codes_format"] in ("int8", "int16", "float16")
            assert row["psnr_loss_db"] <= 0.05
            assert row["lpips_loss"] <= 0.001


def test_every_stock_tool_selects_the_same_rows(store):
    records = files(store, "records.parquet")
    half = float(np.median(ds.dataset(records).to_table(columns=["lpips"])["lpips"].to_numpy()))
    wanted = sorted(ds.dataset(records).to_table(filter=ds.field("lpips") <= half)["key"].to_pylist())
    assert 0 < len(wanted) < 8
    names = ", ".join(f"'{name}'" for name in records)
    query = duckdb.sql(f"SELECT key FROM read_parquet([{names}]) WHERE lpips <= {half!r} ORDER BY key").fetchall()
    assert [key for (key,) in query] == wanted
    frame = pd.concat(pd.read_parquet(name, columns=["key", "lpips"]) for name in records)
    assert sorted(frame.loc[frame["lpips"] <= half, "key"]) == wanted


def test_polars_selects_them_too(store):
    pl = pytest.importorskip("polars")
    records = files(store, "records.parquet")
    frame = pl.scan_parquet(records).select("key", "lpips").filter(pl.col("lpips") < 1e9).collect()
    assert sorted(frame["key"]) == sorted(open_bundles(store).keys())


def test_a_query_skips_groups_of_rows_by_their_statistics(tmp_path):
    """In an index whose shards differ, as those of a data set in order of its sources."""
    rows = 4 * ROW_GROUP
    lpips = np.repeat([0.5, 0.15, 0.4, 0.1], ROW_GROUP) + np.random.default_rng(0).uniform(0, 0.04, rows)
    share = np.repeat([0.9, 0.7, 0.2, 0.3], ROW_GROUP)
    columns = {"key": pa.array([f"{i:06d}" for i in range(rows)]), "lpips": pa.array(lpips)}
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(write_table({**columns, "share_w_plus": pa.array(share)}, {}))
    assert pq.ParquetFile(path).num_row_groups == 4
    (fragment,) = ds.dataset(path).get_fragments()
    good = (ds.field("lpips") < 0.2) & (ds.field("share_w_plus") > 0.6)
    assert [group.id for piece in fragment.split_by_row_group(good) for group in piece.row_groups] == [1]
    assert duckdb.sql(f"SELECT count(*) FROM '{path}' WHERE {GOOD}").fetchall() == [(ROW_GROUP,)]
