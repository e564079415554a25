"""Small pickles that would take hours or all memory: each uses something large again and again, by its memo."""

from __future__ import annotations

import time

import pytest
import torch

from generators import CheckpointError
from generators.formats import nvidia, state_dictionaries
from generators.formats.nvidia import read_nvidia
from generators.formats.state_dictionaries import find_state_dictionary
from generators.unpickling import pickles
from generators.unpickling.pickles import load_pickle
from generators.unpickling.records import Ignored, Module, Storage, StoredTensor
from generators.unpickling.torch_file import load_torch_file
from tests.generators.archives import archive_of
from tests.generators.hostile import text

START = b"\x80\x04"
MANY_PARTS = b"(" + b"".join(b"K%c" % i for i in range(9)) + b"\x91"
TOO_MANY = "has more than 2,000,000 operations"


def long_number(size: int) -> bytes:
    return b"\x8b" + size.to_bytes(4, "little") + b"\x7f" * size


def nested_sets(memo: bytes, levels: int) -> bytes:
    """Return a frozen set of two sets of two sets ... that hold the same innermost set: 2^levels to compare."""
    level = b"q" + memo + b"0(h" + memo + b"h" + memo + b"\x85\x91"
    return b"(K\x01\x91" + level * levels


@pytest.mark.parametrize(
    "key",
    [
        long_number(500),
        text("x" * 5_000),
        nested_sets(b"\x01", 3),
        b"(" + b"".join(b"K%c" % i for i in range(9)) + b"\x91",
    ],
    ids=["number", "text", "nested sets", "many parts"],
)
@pytest.mark.parametrize("container", ["dictionary", "set"])
def test_a_key_whose_hash_or_comparison_takes_long_is_an_object_of_its_own(key: bytes, container: str):
    data = b"}" + key + b"Ns" if container == "dictionary" else b"\x8f(" + key + b"\x90"
    content = load_pickle(START + data + b".")
    assert isinstance(content, dict | set)
    assert [type(item) for item in content] == [Ignored]


def test_keys_of_usual_kinds_are_kept():
    content = load_pickle(START + b"}(K\x07N" + text("name") + b"NK\x01K\x02\x86N(K\x01K\x02\x91Nu.")
    assert isinstance(content, dict)
    assert list(content) == [7, "name", (1, 2), frozenset((1, 2))]


def test_what_a_call_looks_at_counts_as_operations():
    arguments = b"(" + b"N" * 10_000 + b"tq\x010"
    calls = b"h\x00h\x01R0" * 300
    with pytest.raises(CheckpointError, match=TOO_MANY):
        load_pickle(START + b"ccollections\ndefaultdict\nq\x000" + arguments + calls + b"}.")


def test_items_of_a_dictionary_that_a_call_copies_count_as_operations():
    items = b"](" + b"".join(b"](" + text(str(i)) + b"Ne" for i in range(10_000)) + b"e\x85q\x010"
    with pytest.raises(CheckpointError, match=TOO_MANY):
        load_pickle(START + b"ccollections\nOrderedDict\nq\x000" + items + b"h\x00h\x01R0" * 300 + b"}.")


def test_long_texts_count_as_operations_each_time_they_are_copied(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 2_000)
    text_of_a_megabyte = START + text("x" * 2**20) + b"0"
    load_pickle(text_of_a_megabyte + b"N.")
    with pytest.raises(CheckpointError, match="has more than 2,000 operations"):
        load_pickle(text_of_a_megabyte + text("x" * 2**20) + b"0N.")


def test_names_on_the_stack_are_short():
    with pytest.raises(CheckpointError, match="wants a name of more than 1,024 characters"):
        load_pickle(START + text("os") + text("x" * 1025) + b"\x93.")


def test_keys_of_storages_are_short():
    root = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("7" * 257) + text("cpu") + b"K\x00tQ."
    with pytest.raises(CheckpointError, match="not one whole storage"):
        load_torch_file(archive_of({"a/data.pkl": START + root}))


def test_one_dictionary_under_many_keys_is_looked_at_a_limited_number_of_times(monkeypatch: pytest.MonkeyPatch):
    looked_at = []
    monkeypatch.setattr(state_dictionaries, "_named", lambda held: looked_at.append(held) or "")
    inner = {f"b{i}": None for i in range(300)}
    with pytest.raises(CheckpointError, match="without a state dictionary named g_ema"):
        find_state_dictionary({f"a{i}": inner for i in range(2_000)})
    assert sum(map(len, looked_at)) <= state_dictionaries.MAX_NAMES


def test_long_names_that_almost_name_a_generator_are_told_at_once():
    inner = {f"{i}" + "input." * 600: None for i in range(199)}
    started = time.process_time()
    with pytest.raises(CheckpointError, match="without a state dictionary named g_ema"):
        find_state_dictionary({f"a{i}": inner for i in range(1_000)})
    assert time.process_time() - started < 6  # 0.4 s; a pattern tried at every letter took 23 s


def test_one_dictionary_of_parameters_in_many_modules_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nvidia, "MAX_ENTRIES", 1_000)
    tensor = StoredTensor(Storage(torch.float32, 1, memoryview(bytes(4))), 0, (1,), (1,))
    shared = {f"weight{i}": tensor for i in range(300)}
    inside = {f"layer{i}": Module("Layer", {"_parameters": shared}) for i in range(10)}
    arguments = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 8, "img_channels": 3}
    network = Module("Generator", {"_modules": inside, "_init_kwargs": arguments})
    with pytest.raises(CheckpointError, match="more than 1,000 parameters, buffers and modules"):
        read_nvidia({"G_ema": network})
