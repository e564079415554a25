"""Keys that no file system would like pass through shards and bundles unchanged."""

import unicodedata

import numpy as np
import pytest

from infra.bundles import read_arrays, read_rows, write_arrays, write_rows
from infra.receipts import Address, Ledger
from infra.shards.shards import read_samples
from infra.stores.folder import FolderStore
from tests.infra.tars import keys, scan, sound, tar

ODD = [
    "a b",
    "a#1",
    "100%",
    "a%20b",
    "line\nbreak",
    "tab\tand 'quotes\"",
    "./a",
    "/absolute/a",
    "../above/a",
    "deep/" * 60 + "a",
    "x" * 700,
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "Ａ写真🙂",
    "back\\slash",
    "-rf",
    "a:b|c<d>*?",
    "CON",
]


def test_odd_keys_are_read_back_from_a_shard(tmp_path):
    data = tar(*((f"{key}.{extension}", key.encode()) for key in ODD for extension in ("jpg", "txt")))
    folder = FolderStore(tmp_path)
    folder.write("a.tar", data)
    scanned = scan(data)
    assert keys(scanned) == sound(scanned) == ODD
    assert [raw.members["jpg"] for raw in read_samples(folder, "a.tar", scanned.samples)] == [
        key.encode() for key in ODD
    ]


@pytest.mark.parametrize("names", [ODD, ["caf\\xe9", "\\x83\\", "a\\x00b"]], ids=["as they are", "escaped"])
def test_odd_keys_pass_through_bundles_and_receipts(tmp_path, names):
    arrays = dict(read_arrays(write_arrays(((key, {"x": np.arange(3)}) for key in names), "invert")))
    assert list(arrays) == names
    rows = read_rows(write_rows([{"key": key} for key in names], {}))
    assert [row["key"] for row in rows] == names
    ledger = Ledger(FolderStore(tmp_path))
    address = Address("invert", "f", "u")
    ledger.begin(address).commit(dict.fromkeys(names), {})
    assert list(ledger.receipt(address).outcomes) == names


def test_keys_that_differ_in_unicode_form_or_case_are_different_samples():
    names = [unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), "A", "a"]
    assert sound(scan(tar(*((f"{name}.jpg", b"1") for name in names)))) == names


def test_an_extension_in_two_cases_is_one_extension():
    (found,) = scan(tar(("a.JPG", b"1"), ("a.jpg", b"2"))).samples
    assert "second 'jpg'" in found.unusable["jpg"]
