import argparse
import struct
import tracemalloc
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch

from generators import CheckpointError
from generators.unpickling import torch_file
from generators.unpickling.records import Ignored
from generators.unpickling.torch_file import load_torch_file
from tests.generators.archives import archive_of, archive_of_pairs, bomb, entries_of, put, with_directory
from tests.generators.converted import torch_file as saved
from tests.generators.hostile import MAGIC, rooted, storage_root, stream, text

SMALL = {"x": torch.arange(3.0)}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool],
    ids=str,
)
def test_tensors_are_read_with_their_type_and_layout(legacy: bool, dtype: torch.dtype):
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    wanted = {"whole": whole, "part": whole[1:, 2:5], "turned": whole.T, "one": whole[3, 5], "none": whole[:0]}
    found = load_torch_file(saved(wanted, legacy=legacy))
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (dtype, tuple(tensor.shape))
        assert torch.equal(found[name].tensor(), tensor)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_stands_next_to_tensors_is_read_or_ignored(legacy: bool):
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    held = {
        "state": network.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "optimiser": torch.optim.Adam(network.parameters()).state_dict(),
        "args": argparse.Namespace(size=8, device=torch.device("cpu")),
        "size": torch.Size([1, 2]),
        "number": np.float64(0.5),
        "array": np.arange(3, dtype=np.float32),
        7: [1, None, (2.5, True)],
    }
    found = load_torch_file(saved(held, legacy=legacy))
    assert list(found["state"]) == list(network.state_dict())
    assert torch.equal(found["state"]["0.weight"].tensor(), network[0].weight)
    assert found["parameter"].tensor().tolist() == [1, 1]
    assert found["optimiser"]["param_groups"][0]["lr"] == 0.001
    assert found["args"]["size"] == 8
    assert isinstance(found["args"]["device"], Ignored)
    assert (found["size"], found["number"], found[7]) == ((1, 2), 0.5, held[7])
    assert found["array"].value.tolist() == [0, 1, 2]


def test_only_what_is_used_takes_memory():
    data = saved({"big": torch.zeros(10_000_000), "small": torch.ones(3)})
    tracemalloc.start()
    try:
        assert load_torch_file(data)["small"].tensor().tolist() == [1, 1, 1]
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def entries() -> dict[str, bytes]:
    return entries_of(SMALL)


def with_entry(name: str, data: bytes = b"x") -> Callable[[], bytes]:
    return lambda: archive_of({**entries(), name: data})


def changed(name: str, at: int, code: str, value: int) -> Callable[[], bytes]:
    return lambda: with_directory(archive_of(entries()), name, put(at, code, value))


def renamed(record: bytearray) -> None:
    record[-1:] = b"7"


def overlapping() -> bytes:
    whole = archive_of({**entries(), "archive/data/1": bytes(2000)})
    inner = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 14, 0) + b"archive/data/2"
    nested = archive_of({**entries(), "archive/data/1": inner + bytes(1000), "archive/data/2": bytes(500)})
    assert len(whole)
    at = nested.index(inner)
    return with_directory(nested, "archive/data/2", put(42, "<I", at))


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent folder": (with_entry("archive/../../evil"), "an entry named 'archive/../../evil'"),
    "absolute path": (with_entry("/etc/passwd"), "an entry named '/etc/passwd'"),
    "drive": (with_entry("C:\\evil"), r"an entry named 'C:\\\\evil'"),
    "backslash": (with_entry("archive\\..\\evil"), "which torch.save never writes"),
    "second folder": (with_entry("other/data/9"), "an entry named 'other/data/9'"),
    "no folder": (with_entry("evil"), "an entry named 'evil'"),
    "folder": (with_entry("archive/sub/", b""), "an entry named 'archive/sub/'"),
    "double slash": (with_entry("archive//data/9"), "an entry named 'archive//data/9'"),
    "end of text": (with_entry("archive/data/9\0.txt"), r"an entry named 'archive/data/9\\x00.txt'"),
    "not ASCII": (with_entry("archive/data/\u202e"), "which torch.save never writes"),
    "duplicate": (
        lambda: archive_of_pairs([*entries().items(), ("archive/data/0", bytes(12))]),
        "two entries named 'data/0'",
    ),
    "compressed": (lambda: archive_of(entries(), zipfile.ZIP_DEFLATED), "the compressed or encrypted entry"),
    "bomb": (bomb, "the compressed or encrypted entry"),
    "encrypted": (changed("archive/data/0", 8, "<H", 1), "the compressed or encrypted entry"),
    "two sizes": (changed("archive/data/0", 24, "<I", 2**31), "the compressed or encrypted entry"),
    "overlapping": (overlapping, "lies inside another"),
    "past its end": (changed("archive/data/0", 42, "<I", 2**30), "is truncated"),
    "elsewhere": (changed("archive/data/0", 42, "<I", 3), "is not where its directory says"),
    "another name": (
        lambda: with_directory(archive_of(entries()), "archive/data/0", renamed),
        "is not where its directory says",
    ),
    "too many": (lambda: archive_of(entries()) + b"PK\x01\x02" * 50_001, "more than 50,000 entries"),
    "no pickle": (lambda: archive_of({"archive/version": b"3"}), "without the data.pkl of torch.save"),
    "nothing in it": (lambda: b"PK\x03\x04" + archive_of({}), "without the data.pkl of torch.save|is truncated"),
    "big-endian": (lambda: archive_of({**entries(), "archive/byteorder": b"big"}), "not little-endian"),
    "storage too short": (lambda: archive_of({**entries(), "archive/data/0": b"1234"}), "but holds 4 bytes"),
    "storage too long": (lambda: archive_of({**entries(), "archive/data/0": bytes(99)}), "but holds 99 bytes"),
    "no storage": (
        lambda: archive_of({name: data for name, data in entries().items() if not name.endswith("data/0")}),
        "announces storage '0' of 3 numbers of torch.float32, but holds 0 bytes",
    ),
    "truncated": (lambda: archive_of(entries())[:-30], "is truncated"),
    "script": (
        lambda: archive_of({"archive/data.pkl": rooted(b"c__torch__\nNet\n)\x81")}),
        "wants '__torch__.Net', which is never loaded",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_that_torch_would_not_write_are_refused(case: str):
    made, message = ARCHIVES[case]
    with pytest.raises(CheckpointError, match=message):
        load_torch_file(made())


def test_sizes_that_an_archive_announces_past_its_end_are_refused():
    def larger(record: bytearray) -> None:
        struct.pack_into("<2I", record, 20, 2**31, 2**31)

    with pytest.raises(CheckpointError, match="announces 2,147,483,648 bytes, past its end"):
        load_torch_file(with_directory(archive_of(entries()), "archive/data/0", larger))


def test_a_bomb_takes_no_memory():
    data = bomb()
    assert len(data) < 2e6
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            load_torch_file(data)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def storages(keys: tuple[str, ...], counts: tuple[int, ...]) -> bytes:
    ids = [
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + b"K" + bytes([count]) + b"tQ"
        for key, count in zip(keys, counts, strict=True)
    ]
    return rooted(b"](" + b"".join(ids) + b"e")


LEGACY: dict[str, tuple[bytes, str]] = {
    "numbers missing": (stream(storage_root(), bytes(4), 2), "announces a storage of 2 numbers, then of 2, in 4 bytes"),
    "other count": (stream(storage_root(), bytes(80), 3), "announces a storage of 2 numbers, then of 3"),
    "huge": (stream(storage_root(count=2**40), bytes(8), 2**40), "announces a storage of 1099511627776 numbers"),
    "view": (stream(storage_root(view=text("v")), bytes(8), 2), "is not one whole storage"),
    "other keys": (stream(storage_root(), bytes(8), 2, keys=("8",)), "lists other storages than '7'"),
    "key twice": (
        stream(storages(("7", "8"), (1, 1)), bytes(12), 1, keys=("7", "7")),
        "lists other storages than '7', '8'",
    ),
    "two sizes": (stream(storages(("7", "7"), (1, 2)), bytes(12), 1), "announces storage '7' twice"),
    "keys of keys": (stream(storage_root(), bytes(8), 2, keys=(("7",),)), "lists other storages"),
    "no numbers": (stream(storage_root())[:-8], "is truncated"),
    "truncated": (stream(storage_root(), bytes(8), 2)[:60], "is truncated"),
}


@pytest.mark.parametrize("case", LEGACY)
def test_streams_that_torch_would_not_write_are_refused(case: str):
    data, message = LEGACY[case]
    with pytest.raises(CheckpointError, match=message):
        load_torch_file(data)


def test_other_files_are_not_torch_files():
    with pytest.raises(CheckpointError, match=r"is not a torch\.save file"):
        load_torch_file(b"nothing")
    assert MAGIC.to_bytes(10, "little") in torch_file.LEGACY


def test_operations_are_counted(monkeypatch: pytest.MonkeyPatch):
    data = saved(SMALL)
    monkeypatch.setattr(torch_file, "MAX_OPERATIONS", 10)
    with pytest.raises(CheckpointError, match="has more than 10 operations"):
        load_torch_file(data)
