"""Bundles are the same bytes for the same input, and open with stock tools."""

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from infra.bundles import Tensor, read_arrays, read_rows, write_arrays, write_rows
from infra.errors import BundleError

SHAPE = (3, 4)


def row(key="a", **changes):
    number = ord(key[0])
    w_plus = (np.arange(12) / 7 + number).astype(np.float16).reshape(SHAPE)
    return {"key": key, "lpips": number / 3, "steps": number, "flipped": number % 2 == 0, "w_plus": w_plus} | changes


def same(read, written):
    assert len(read) == len(written)
    for one, other in zip(read, written, strict=True):
        assert list(one) == list(other)
        for name, value in other.items():
            if isinstance(value, np.ndarray):
                assert one[name].dtype == value.dtype
                np.testing.assert_array_equal(one[name], value)
            else:
                assert one[name] == value
                assert type(one[name]) is type(value)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(write_rows([row("a"), row("b", w_plus=None, lpips=None), row("c")], {"generator": "abc"}))
    return path


# Rows


def test_rows_come_back_as_they_were():
    rows = [row("a"), row("b"), row("c")]
    same(read_rows(write_rows(rows, {})), rows)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 3)])
def test_tensors_keep_dtype_and_shape_next_to_nulls(dtype, shape):
    tensor = (np.arange(np.prod(shape)) % 3).astype(dtype).reshape(shape)
    rows = [{"t": None}, {"t": tensor}, {"t": None}, {"t": tensor[::-1]}]
    same(read_rows(write_rows(rows, {})), rows)


def test_some_columns_can_be_read_alone():
    data = write_rows([row("a"), row("b")], {})
    assert read_rows(data, ["key", "steps"]) == [{"key": "a", "steps": 97}, {"key": "b", "steps": 98}]
    with pytest.raises(BundleError, match=r"no columns \['psnr'\]; they have \['key'"):
        read_rows(data, ["key", "psnr"])


def test_no_rows_still_have_their_columns():
    assert read_rows(write_rows([], {})) == []
    data = write_rows([], {"a": "b"}, {"key": str, "w_plus": Tensor("float16", SHAPE)})
    assert read_rows(data) == []
    assert pq.read_schema(io.BytesIO(data)).names == ["key", "w_plus"]


def test_stated_columns_agree_where_all_values_are_null():
    columns = {"key": str, "lpips": float, "steps": int, "flipped": bool, "w_plus": Tensor("float16", SHAPE)}
    full = write_rows([row("a")], {}, columns)
    null = write_rows([dict.fromkeys(columns)], {}, columns)
    assert pq.read_schema(io.BytesIO(full)) == pq.read_schema(io.BytesIO(null))
    assert read_rows(null) == [dict.fromkeys(columns)]
    assert full == write_rows([row("a")], {})


def test_equal_rows_give_equal_bytes():
    assert write_rows([row("a"), row("b")], {"m": "n"}) == write_rows([row("a"), row("b")], {"m": "n"})


def test_the_metadata_states_the_shapes_and_what_was_given(written):
    metadata = pq.read_schema(written).metadata
    assert json.loads(metadata[b"tensors"]) == {"w_plus": {"dtype": "float16", "shape": list(SHAPE)}}
    assert metadata[b"generator"] == b"abc"


def test_whole_numbers_among_fractions_become_fractions():
    same(read_rows(write_rows([{"x": 1}, {"x": 0.5}], {})), [{"x": 1.0}, {"x": 0.5}])


def test_numpy_scalars_are_taken_as_their_values():
    rows = [{"x": np.float32(0.5), "n": np.int64(3), "b": np.bool_(True), "z": np.array(2.0)}]
    same(read_rows(write_rows(rows, {})), [{"x": 0.5, "n": 3, "b": True, "z": 2.0}])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"a": 1}, {"b": 1}], r"row 1 has columns \['b'\], expected \['a'\]; missing values are None"),
        ([{"a": 1}, {"a": "x"}], "column 'a' mixes"),
        ([{"a": np.zeros(2)}, {"a": np.zeros(3)}], "column 'a' mixes .*same type and shape"),
        ([{"a": np.zeros(2)}, {"a": np.zeros(2, np.float32)}], "column 'a' mixes"),
        ([{"a": True}, {"a": 1}], "column 'a' mixes"),
        ([{"a": [1]}], "column 'a' holds a list"),
        ([{"a": 2**70}], "column 'a' holds a value that is not a 64-bit int"),
        ([{"a": np.array(["x"])}], "column 'a' holds an array of"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, says):
    with pytest.raises(BundleError, match=says):
        write_rows(rows, {})


def test_a_value_of_another_type_than_stated_is_refused():
    with pytest.raises(BundleError, match=r"column 'a' of row 1 .*expected Tensor"):
        write_rows([{"a": np.zeros((2, 2))}, {"a": np.zeros((4,))}], {}, {"a": Tensor("float64", (2, 2))})


@pytest.mark.parametrize("data", [b"", b"PAR1 nothing PAR1"])
def test_something_else_than_parquet_is_refused(data):
    with pytest.raises(BundleError, match="not a whole parquet file"):
        read_rows(data)


def test_stock_pyarrow_reads_the_tensors(written):
    column = pq.read_table(written).column("w_plus").combine_chunks()
    assert column.null_count == 1
    np.testing.assert_array_equal(column.drop_null().to_numpy_ndarray()[1], row("c")["w_plus"])


def test_stock_pandas_reads_the_rows(written):
    frame = pd.read_parquet(written)
    assert frame["key"].tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(np.reshape(frame["w_plus"][2], SHAPE), row("c")["w_plus"])


def test_stock_duckdb_queries_the_rows(written):
    with duckdb.connect() as connection:
        found = connection.sql(
            f"SELECT key, lpips, w_plus FROM '{written}' WHERE lpips IS NOT NULL ORDER BY key"
        ).fetchall()
    assert [(key, lpips) for key, lpips, _ in found] == [("a", 97 / 3), ("c", 99 / 3)]
    np.testing.assert_array_equal(np.reshape(found[1][2], SHAPE), row("c")["w_plus"])


# Arrays


def arrays(key):
    return {
        "mask": np.arange(4, dtype=np.uint8) + ord(key[-1]),
        "values": np.linspace(0, 1, 6, dtype=np.float16).reshape(2, 3),
    }


def test_arrays_come_back_as_they_were():
    written = [(key, arrays(key)) for key in ("d/a", "b", f"{'long/' * 40}c")]
    read = list(read_arrays(write_arrays(written, "codes")))
    assert [key for key, _ in read] == [key for key, _ in written]
    for (_, one), (_, other) in zip(read, written, strict=True):
        same([one], [other])


def test_no_items_and_no_arrays_are_fine():
    assert list(read_arrays(write_arrays([], "codes"))) == []
    assert list(read_arrays(write_arrays([("a", {})], "codes"))) == [("a", {})]


def test_of_many_arrays_only_the_wanted_ones_are_unpacked():
    written = [(key, {"small": np.arange(3), "large": np.zeros((9, 9))}) for key in ("a", "b", "c")]
    read = dict(read_arrays(write_arrays(written, "codes"), {"a", "c"}.__contains__, {"small", "other"}))
    assert {key: list(arrays) for key, arrays in read.items()} == {"a": ["small"], "c": ["small"]}
    np.testing.assert_array_equal(read["c"]["small"], np.arange(3))


def test_equal_arrays_give_equal_bytes():
    assert write_arrays([("a", arrays("a"))], "codes") == write_arrays([("a", arrays("a"))], "codes")


def test_odd_arrays_survive():
    odd = {
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 3), np.float32),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "strided": np.arange(10)[::2],
        "text": np.array(["W+", "F4"]),
    }
    [(_, read)] = read_arrays(write_arrays([("a", odd)], "codes"))
    same([read], [odd])


def test_each_member_is_a_stock_npz_named_after_its_key():
    with tarfile.open(fileobj=io.BytesIO(write_arrays([("d/a", arrays("a"))], "codes"))) as archive:
        [info] = archive.getmembers()
        assert (info.name, info.mtime) == ("d/a.codes.npz", 0)
        with np.load(io.BytesIO(archive.extractfile(info).read()), allow_pickle=False) as loaded:
            same([dict(loaded)], [arrays("a")])


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_the_members(tmp_path):
    (tmp_path / "arrays.tar").write_bytes(write_arrays([("d/a", arrays("a")), ("d/b", arrays("b"))], "codes"))
    read = list(wds.WebDataset(str(tmp_path / "arrays.tar"), shardshuffle=False))
    assert [found["__key__"] for found in read] == ["d/a", "d/b"]
    with np.load(io.BytesIO(read[1]["codes.npz"]), allow_pickle=False) as loaded:
        same([dict(loaded)], [arrays("b")])


def test_python_objects_are_refused():
    with pytest.raises(BundleError, match="array 'x' of 'a' holds Python objects"):
        write_arrays([("a", {"x": np.array([{}])})], "codes")


def test_keys_that_webdataset_would_split_are_refused():
    with pytest.raises(BundleError, match="would be read back"):
        write_arrays([("a.b", arrays("a"))], "codes")


def test_something_else_than_a_tar_of_npz_is_refused():
    whole = write_arrays([("a", arrays("a"))], "codes")
    for data in (b"x" * 2000, whole[:700], whole.replace(b"PK\x03\x04", b"XX\x03\x04"), whole.replace(b"npz", b"npy")):
        with pytest.raises(BundleError, match=r"not a whole tar|not a KEY"):
            list(read_arrays(data))


def test_arrays_are_read_by_many_threads_at_once():
    arrays = {f"{i}": {name: np.full((3, 4), i, np.float16) for name in "abcdefgh"} for i in range(40)}
    data = write_arrays(arrays.items(), "test")
    with ThreadPoolExecutor(8) as pool:
        for read in pool.map(lambda _: dict(read_arrays(data)), range(60)):
            assert {key: found["h"][2, 3] for key, found in read.items()} == {key: int(key) for key in arrays}
