"""Files of codes: what other tools write is read, and what is something else, hostile or unlike its keys is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from generators.codes import CodesFile, read_codes, write_keys
from generators.errors import CheckpointError
from tests.generators.converted import torch_file
from tests.generators.hostile import HOSTILE, legacy_file, rooted

CODES = np.arange(24, dtype=np.float32).reshape(3, 2, 4)


def keys(folder: Path, *names: tuple[str, str]) -> Path:
    write_keys(folder / "keys.csv", names)
    return folder / "keys.csv"


def test_codes_are_found_by_key_and_by_shard_where_several_have_the_key(tmp_path):
    np.save(tmp_path / "c.npy", CODES)
    file = CodesFile.open(tmp_path / "c.npy", keys(tmp_path, ("a", "1"), ("b", "1"), ("b", "2")))
    np.testing.assert_array_equal(file.of("b", "1"), CODES[1])
    np.testing.assert_array_equal(file.of("elsewhere", "2"), CODES[2])
    assert file.of("elsewhere", "1") is None
    assert file.of("a", "3") is None


def test_keys_need_no_shards(tmp_path):
    np.save(tmp_path / "c.npy", CODES)
    (tmp_path / "k.csv").write_text("key\nx\ny\nz\n")
    np.testing.assert_array_equal(CodesFile.open(tmp_path / "c.npy", tmp_path / "k.csv").of("s", "y"), CODES[1])


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_of_torch_is_read(tmp_path, legacy: bool):
    torch.save(torch.from_numpy(CODES), tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    np.testing.assert_array_equal(read_codes(tmp_path / "c.pt"), CODES)


OTHERS = {
    "a dictionary": (torch_file({"w": torch.zeros(1, 2, 4)}), "holds a dict, not one tensor"),
    "two dimensions": (torch_file(torch.zeros(2, 4)), r"holds \[2, 4\]"),
    "a web page": (b"<html>", "is not a file of codes"),
    "nothing": (b"", "begins with nothing"),
    "half a file": (b"\x93NUMPY\x01\x00v\x00", "truncated or damaged"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_file_is_refused_by_what_it_holds(tmp_path, name: str):
    data, message = OTHERS[name]
    (tmp_path / "c.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_codes(tmp_path / "c.pt")
    assert "c.pt" in str(caught.value)


@pytest.mark.parametrize("attack", HOSTILE)
def test_no_code_of_a_hostile_file_runs(tmp_path, attack: str):
    trace = tmp_path / "touched"
    (tmp_path / "c.pt").write_bytes(legacy_file(rooted(HOSTILE[attack](str(trace)))))
    with pytest.raises(CheckpointError):
        read_codes(tmp_path / "c.pt")
    assert not trace.exists()


def test_keys_that_do_not_belong_to_the_codes_are_refused(tmp_path):
    np.save(tmp_path / "c.npy", CODES)
    with pytest.raises(CheckpointError, match=r"holds 3 codes, and .* names 1"):
        CodesFile.open(tmp_path / "c.npy", keys(tmp_path, ("a", "1")))
    with pytest.raises(CheckpointError, match="names '1' twice"):
        CodesFile.open(tmp_path / "c.npy", keys(tmp_path, ("a", "1"), ("a", "1"), ("a", "2")))
    (tmp_path / "k.csv").write_text("name\nx\n")
    with pytest.raises(CheckpointError, match="no column 'key'"):
        CodesFile.open(tmp_path / "c.npy", tmp_path / "k.csv")
