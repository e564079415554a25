import pickle
import struct
import tracemalloc
import warnings
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from generators import CheckpointError, load_generator
from generators.unpickling import pickles
from generators.unpickling.pickles import load_pickle
from generators.unpickling.records import Array, Ignored, Module, Network, StoredTensor
from tests.generators.hostile import HOSTILE, MAGIC, load_from_bytes, storage_root, stream, text
from tests.generators.published import Persistent, fragment, pickled


@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_in_a_hostile_pickle_is_executed(tmp_path: Path, attack: str):
    sentinel, path = tmp_path / "sentinel", tmp_path / "hostile.pkl"
    path.write_bytes(b"\x80\x04" + HOSTILE[attack](str(sentinel)) + b".")
    with pytest.raises(CheckpointError, match=r"hostile\.pkl"):
        load_generator(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("attack", HOSTILE)
def test_the_same_pickle_does_harm_where_it_is_trusted(tmp_path: Path, attack: str):
    sentinel = tmp_path / "sentinel"
    with warnings.catch_warnings(), suppress(Exception):  # what comes after the harm does not matter
        warnings.simplefilter("ignore")
        pickle.loads(b"\x80\x04" + HOSTILE[attack](str(sentinel)) + b".")
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes.__globals__"),
        ("torch", "FloatStorage"),
        ("numpy", "load"),
        ("pickle", "loads"),
        ("collections", "OrderedDict.update"),
        ("dnnlib.util", "open_url"),
    ],
)
def test_a_refusal_names_what_was_wanted(module: str, name: str):
    with pytest.raises(CheckpointError) as caught:
        load_pickle(b"\x80\x04" + text(module) + text(name) + b"\x93.")
    assert f"wants '{module}.{name}', which is never loaded" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"})" + b"\x85" * 50_000 + b"Ns.",  # deep: the hash of such a key ends a process
        b"\x8f()" + b"\x85" * 50_000 + b"\x90.",
        b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(200)) + b"Ns.",  # its hash takes 2^200 steps
    ],
    ids=["deep key", "deep item of a set", "wide key"],
)
def test_keys_that_are_nested_are_never_hashed(data: bytes):
    content = load_pickle(b"\x80\x04" + data)
    assert isinstance(content, dict | set)
    assert [type(key) for key in content] == [Ignored]


def test_lists_may_be_nested_deep():
    load_pickle(b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b".")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"j\xff\xff\xff\x7f.", "gets memo 2147483647, which was not put"),
        (b"Nr\xff\xff\xff\x7f\x85\x85\x86.", "empty stack"),  # a memo of 2^31 entries
        (b"\x8e" + struct.pack("<Q", 2**40) + b"abc.", "is truncated"),
        (b"\x8d" + struct.pack("<Q", 2**62) + b"abc.", "is truncated"),
        (b"B" + struct.pack("<I", 2**32 - 1) + b"abc.", "is truncated"),
        (b"\x95" + struct.pack("<Q", 2**60), "is truncated"),
        (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1.", "is truncated"),
        (b"\x96" + struct.pack("<Q", 2**40) + b"abc.", "is truncated"),
    ],
    ids=["get", "put", "bytes", "text", "short text", "frame", "number", "bytearray"],
)
def test_announced_sizes_take_no_memory(data: bytes, message: str):
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message):
            load_pickle(b"\x80\x04" + data)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [20, 20_000])
def test_modules_nested_without_end_are_refused(tmp_path: Path, depth: int):
    opening = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}(" + text("class_name") + text("M")
    opening += text("state") + b"}" + text("_modules") + b"}" + text("m")
    data = b"\x80\x04}" + text("G_ema") + opening * depth + b"N" + b"ssu\x85R" * depth + b"s."
    (tmp_path / "bomb.pkl").write_bytes(data)
    with pytest.raises(CheckpointError):
        load_generator(tmp_path / "bomb.pkl")


def test_operations_are_counted_through_nested_streams(monkeypatch: pytest.MonkeyPatch):
    data = pickled(torch.zeros(2))
    assert isinstance(load_pickle(data), StoredTensor)
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 60)
    assert load_pickle(pickled([1, 2])) == [1, 2]
    with pytest.raises(CheckpointError, match="has more than 60 operations"):
        load_pickle(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04.", "takes from an empty stack"),
        (b"\x80\x04t.", "goes back to a mark that was not set"),
        (b"\x80\x04K\x01(\x85.", "takes from an empty stack"),
        (b"\x80\x04K\x01", "is truncated"),
        (b"\x80\x04\xff.", "is truncated"),
        (b"\x80\x04K\x01)R.", "what is called is a int"),
        (b"\x80\x04ccollections\nOrderedDict\nNR.", "the arguments of a call is a NoneType"),
        (b"\x80\x04ccollections\nOrderedDict\nK\x01\x85R.", "the items of an OrderedDict is a int"),
        (b"\x80\x04]K\x01K\x02s.", "what items are set in is a list"),
        (b"\x80\x04}K\x01a.", "what is appended to is a dict"),
        (b"\x80\x04}(K\x01u.", "is truncated or not a valid pickle"),
        (b"\x80\x04}(]K\x02u.", "a key is a list"),
        (b"\x80\x04ccollections\nOrderedDict\n]]()\x85\x85K\x01ea\x85R.", "a key is a tuple"),
        (b"\x80\x04}}b.", "sets the state of a dict, which has none"),
        (b"\x80\x04ccollections\nOrderedDict\n}b.", "sets the state of a Global"),
        (b"\x80\x04\x82\x01.", "uses the pickle operation EXT1"),
        (b"\x80\x05\x97.", "uses the pickle operation NEXT_BUFFER"),
        (b"\x80\x04Px\n.", "uses the pickle operation PERSID"),
        (b"\x80\x04K\x01Q.", "refers to data outside of it by a persistent id"),
        (b"\x80\x04cnumpy\nndarray\nK\x05\x85R.", "calls a type"),
        (b"\x80\x04cdnnlib.tflib.network\nNetwork\n)\x81Nb.", "the state of a network is a NoneType"),
        (
            b"\x80\x04ctorch_utils.persistence\n_reconstruct_persistent_obj\n}\x85R.",
            "the class name of a persistent object",
        ),
        (b"\x80\x04ctorch._utils\n_rebuild_parameter\nN\x85R.", "the data of a parameter is a NoneType"),
        (b"\x80\x04cnumpy\ndtype\n" + text("O") + b"\x85R.", "holds numpy numbers of type 'O'"),
        (b"\x80\x04cnumpy\ndtype\n" + text("f8,(9999999,)f8") + b"\x85R.", "only plain numbers are read"),
        (b"\x80\x04cnumpy\ndtype\n" + text("f8") + b"\x85R(K\x03" + text(">") + b"tb.", "only little-endian is read"),
        (b"\x80\x04cnumpy\ndtype\n" + text("f8") + b"\x85RNb.", "the state of a numpy dtype is a NoneType"),
        (b"\x80\x04cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + text("f8") + b"\x85RC\x01a\x86R.", "truncated"),
    ],
)
def test_pickles_that_no_generator_has_are_refused(data: bytes, message: str):
    with pytest.raises(CheckpointError, match=message):
        load_pickle(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, (3,), (1,)), r"announces a tensor of \[3\], strides \[1\], from number 0 of a storage of 2"),
        ((1, (2,), (1,)), r"from number 1 of a storage of 2"),
        ((0, (2,), (2,)), r"strides \[2\]"),
        ((0, (2**39, 2**39), (0, 0)), r"announces a tensor of \[549755813888, 549755813888\]"),
        ((0, (2,), (1, 1)), "1 sizes and 2 strides"),
        ((-1, (1,), (1,)), "numbers from 0"),
        ((0, (1,), (-1,)), "numbers from 0"),
        ((0, (1.0,), (1,)), "numbers from 0"),
        ((0, (1,) * 9, (1,) * 9), "at most 8"),
        ((0, [1], [1]), "a shape is a list"),
        ((3, (0,), (1,)), "from number 3 of a storage of 2"),
    ],
)
def test_tensors_stay_inside_their_storage(arguments: tuple[object, ...], message: str):
    storage = load_from_bytes(stream(storage_root(), bytes(8), 2))
    tail = b"".join(map(fragment, arguments))
    data = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(" + storage + tail + b"\x89}tR."
    with pytest.raises(CheckpointError, match=message):
        load_pickle(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is truncated"),
        (stream(storage_root(), bytes(8), 3), "announces a storage of 2 numbers, then of 3, in 8 bytes"),
        (stream(storage_root(), bytes(7), 2), "announces a storage of 2 numbers, then of 2, in 7 bytes"),
        (stream(storage_root(count=2**40), bytes(8), 2**40), "announces a storage of 1099511627776 numbers"),
        (stream(storage_root(count=-2), bytes(8), -2), "a persistent id that is not one whole storage"),
        (stream(storage_root(view=text("view")), bytes(8), 2), "a persistent id that is not one whole storage"),
        (stream(storage_root(b"torch\nload"), bytes(8), 2), "wants 'torch.load', which is never loaded"),
        (stream(storage_root(b"collections\nOrderedDict"), bytes(8), 2), "wants 'collections.OrderedDict'"),
        (stream(storage_root(), bytes(8), 2, keys=("8",)), "lists other storages than '7'"),
        (stream(b"\x80\x02N.", keys=()), "the root of a storage stream is a NoneType"),
        (stream(b"\x80\x02(" + text("module") + b"NNNtQ."), "a persistent id that is not one whole storage"),
        (stream(b"\x80\x02ctorch\nFloatStorage\nK\x09\x85R."), "wants 'torch.FloatStorage'|calls a type"),
        (pickle.dumps(MAGIC) + pickle.dumps(1000), "not the legacy torch.save's"),
        (pickle.dumps(1) + pickle.dumps(1001), "not the legacy torch.save's"),
        (pickle.dumps(MAGIC) + pickle.dumps(1001) + pickle.dumps({"little_endian": False}), "not little-endian"),
        (load_from_bytes(b""), "is truncated|never loaded"),
    ],
)
def test_storages_that_torch_would_not_write_are_refused(data: bytes, message: str):
    with pytest.raises(CheckpointError, match=message):
        load_pickle(b"\x80\x04" + load_from_bytes(data) + b".")


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool],
    ids=str,
)
def test_tensors_are_read_with_their_type_and_layout(dtype: torch.dtype):
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    wanted = {"whole": whole, "part": whole[1:, 2:5], "turned": whole.T, "one": whole[3, 5], "none": whole[:0]}
    found = load_pickle(pickled(wanted))
    for name, tensor in wanted.items():
        stored = found[name]
        assert (stored.dtype, stored.shape) == (dtype, tuple(tensor.shape))
        assert torch.equal(stored.tensor(), tensor)


def test_parameters_are_read_as_tensors():
    found = load_pickle(pickled(torch.nn.Parameter(torch.ones(3))))
    assert found.tensor().tolist() == [1, 1, 1]
    assert not found.tensor().requires_grad


def test_a_tensor_owns_its_memory():
    data = bytearray(pickled(torch.ones(3)))
    stored = load_pickle(bytes(data))
    stored.tensor().zero_()
    assert stored.tensor().tolist() == [1, 1, 1]


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_is_read_by_its_old_and_new_names(core: str):
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    data = pickle.dumps({"a": array, "s": np.float64(0.5), "i": np.int64(3), "b": np.bool_(True)}, protocol=3)
    data = data.replace(b"numpy._core.multiarray", core.encode())
    found = load_pickle(data)
    assert isinstance(found["a"], Array)
    np.testing.assert_array_equal(found["a"].value, array)
    assert found["a"].value.dtype == np.float32
    assert (found["s"], found["i"], found["b"]) == (0.5, 3, True)


def test_an_array_that_announces_more_than_it_holds_is_refused():
    data = pickle.dumps(np.arange(3, dtype=np.uint8), protocol=3)
    assert b"K\x03\x85" in data
    with pytest.raises(CheckpointError, match=r"announces an array of \[99\] uint8, but holds 3 bytes"):
        load_pickle(data.replace(b"K\x03\x85", b"K\x63\x85"))


def test_the_stock_unpickler_agrees_on_plain_values():
    values = {
        "numbers": [0, -1, 255, 65535, 2**31 - 1, -(2**31), 2**70, 1.5, True, False, None],
        "texts": ("", "ü", "x" * 300, b"", b"y" * 300),
        "nested": {"a": {"b": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}},
        "set": {"p", "q"},
        "again": None,
    }
    values["again"] = values["nested"]
    for protocol in (4, 5):
        assert load_pickle(pickle.dumps(values, protocol)) == values
    del values["set"], values["texts"]  # until protocol 4 sets, until 3 bytes, were calls
    for protocol in (2, 3):
        assert load_pickle(pickle.dumps(values, protocol)) == values


def test_ordered_dictionaries_are_read():
    assert load_pickle(pickle.dumps(OrderedDict(a=1, b=2), protocol=4)) == {"a": 1, "b": 2}


def test_embedded_source_is_neither_run_nor_kept():
    found = load_pickle(pickled(Persistent("Generator", training=False)))
    assert isinstance(found, Module)
    assert (found.class_name, found.state) == ("Generator", {"training": False})


def test_the_tensorflow_layout_is_read_as_records(shared: Path):
    networks = load_pickle((shared / "golden/1_stylegan2/tf_config_f_r64/stylegan2-tf-format.pkl").read_bytes())
    assert all(isinstance(network, Network) for network in networks)
    assert networks[2].state["static_kwargs"]["resolution"] == 64
