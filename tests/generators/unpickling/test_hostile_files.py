"""Files that would do harm, of every format: each is one CheckpointError; nothing is executed, nothing is written."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from generators import CheckpointError, load_encoder, load_generator
from stages.base.errors import WeightsError
from stages.perceptual import load_perceptual
from tests.generators.archives import archive_of, archive_of_pairs, bomb, entries_of, put, with_directory
from tests.generators.converted import (
    rosinality_state,
    tensorflow_arguments,
    tensorflow_pickle,
    tensorflow_variables,
    torch_file,
)
from tests.generators.encoders.small import published
from tests.generators.hostile import HOSTILE, load_from_bytes, storage_root, stream, text
from tests.generators.published import tiny

PICKLE = "archive/data.pkl"
LOADERS: dict[str, Callable[[Path], object]] = {
    "load_generator": load_generator,
    "load_encoder": load_encoder,
    "load_perceptual": lambda path: load_perceptual("squeeze", path),
}

CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "NVIDIA's pickle": lambda attack: b"\x80\x04}" + text("G_ema") + attack + b"s.",
    "a storage in a pickle": lambda attack: b"\x80\x04" + load_from_bytes(stream(b"\x80\x02" + attack + b".")) + b".",
    "a zip of torch.save": lambda attack: archive_of({PICKLE: b"\x80\x02}" + text("g_ema") + attack + b"s."}),
    "a legacy torch.save": lambda attack: stream(b"\x80\x02}" + text("g_ema") + attack + b"s.", keys=()),
    "a TensorFlow pickle": lambda attack: (
        b"\x80\x04" + b"cdnnlib.tflib.network\nNetwork\n)R}" + text("static_kwargs") + attack + b"sb" + b"\x85."
    ),
    "an encoder's arguments": lambda attack: archive_of(
        {PICKLE: b"\x80\x02}(" + text("state_dict") + b"}" + text("opts") + attack + b"u."}
    ),
    "an encoder's namespace": lambda attack: archive_of(
        {PICKLE: b"\x80\x02}" + text("opts") + b"cargparse\nNamespace\n)\x81}" + text("path") + attack + b"sbs."}
    ),
}


def small() -> dict[str, bytes]:
    return entries_of({"g_ema": {"x": torch.zeros(3)}})


def named(name: str) -> Callable[[], bytes]:
    return lambda: archive_of({**small(), name: b"evil"})


def tensorflow(**changes: object) -> bytes:
    generator = tiny()
    arguments = {**tensorflow_arguments(generator.config), **changes}
    return tensorflow_pickle(tensorflow_variables(generator), arguments)


FILES: dict[str, Callable[[], bytes]] = {
    "path to a parent": named("archive/../../../evil"),
    "absolute path": named("/tmp/evil"),
    "path of Windows": named("..\\evil"),
    "folder": named("archive/evil/"),
    "two entries of one name": lambda: archive_of_pairs([*small().items(), (PICKLE, b"\x80\x02N.")]),
    "bomb": bomb,
    "pickle bomb": lambda: archive_of({PICKLE: b"\x80\x02N." + bytes(2**26)}, zipfile.ZIP_DEFLATED),
    "larger than the file": lambda: with_directory(archive_of(small()), "archive/data/0", put(24, "<I", 2**32 - 2)),
    "place beyond the file": lambda: with_directory(archive_of(small()), "archive/data/0", put(42, "<I", 2**31)),
    "zip of nothing": lambda: archive_of({"a/b": b""}),
    "zip cut short": lambda: archive_of(small())[:200],
    "storage of 4 TB": lambda: stream(storage_root(count=2**40), b"", 2**40),
    "storage of -1": lambda: stream(storage_root(count=-1), b"", -1),
    "legacy cut short": lambda: stream(storage_root(), bytes(8), 2)[:100],
    "stream in a stream": lambda: stream(b"\x80\x02" + load_from_bytes(stream(storage_root())) + b"."),
    "deep key": lambda: archive_of({PICKLE: b"\x80\x02})" + b"\x85" * 50_000 + b"Ns."}),
    "wide key": lambda: archive_of(
        {PICKLE: b"\x80\x02})" + b"".join(b"q%cq%c\x86" % (i, i) for i in range(99)) + b"s."}
    ),
    "deep list": lambda: archive_of({PICKLE: b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."}),
    "text encoded many times over": lambda: archive_of(
        {
            PICKLE: b"\x80\x02c_codecs\nencode\nq\x01"
            + text("x" * 10**6)
            + b"q\x02"
            + b"h\x01h\x02X\x06\0\0\0latin1\x86R" * 999
        }
    ),
    "memo of 2^31": lambda: archive_of({PICKLE: b"\x80\x02Nr\xff\xff\xff\x7f."}),
    "TensorFlow of 2^200 px": lambda: tensorflow(resolution=2**200),
    "TensorFlow of 10^12 layers": lambda: tensorflow(mapping_layers=10**12),
    "TensorFlow of -1 px": lambda: tensorflow(resolution=-1),
    "TensorFlow without end": lambda: b"\x80\x04cdnnlib.tflib.network\nNetwork\n)R}q\x01bh\x01\x85.",
    "safetensors header of 8 EB": lambda: b"\xff" * 7 + b"\x7f{}",
    "safetensors header that is deep": lambda: (100_000).to_bytes(8, "little") + b'{"a":' * 20_000,
}


def seen(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(folder: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, loader: str) -> str:
    """Load a file and return why it is refused; fail if a file appears in its folder or above."""
    inside = folder / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    (inside / "hostile.bin").write_bytes(data)
    before = seen(folder)
    with pytest.raises((CheckpointError, WeightsError)) as caught:
        LOADERS[loader](inside / "hostile.bin")
    assert seen(folder) == before
    assert not Path("/tmp/evil").exists()
    return str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_is_executed_wherever_a_pickle_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, attack: str, loader: str
):
    sentinel = tmp_path / "sentinel"
    refuse(tmp_path, CONTAINERS[container](HOSTILE[attack](str(sentinel))), monkeypatch, loader)
    assert not sentinel.exists()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", FILES)
def test_no_file_does_more_than_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, loader: str):
    assert "hostile.bin" in refuse(tmp_path, FILES[name](), monkeypatch, loader)


@pytest.mark.parametrize("kind", ["zip", "legacy", "tensorflow"])
def test_a_file_truncated_anywhere_is_refused(tmp_path: Path, kind: str):
    generator = tiny(z_dim=5)
    content = {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}
    data = tensorflow() if kind == "tensorflow" else torch_file(content, legacy=kind == "legacy")
    for length in (*range(1, 40), *range(40, len(data), len(data) // 60), len(data) - 1):
        (tmp_path / "truncated").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"truncated|read today"):
            load_generator(tmp_path / "truncated")


@pytest.mark.parametrize("legacy", [False, True])
def test_an_encoders_file_truncated_anywhere_is_refused(tmp_path: Path, legacy: bool):
    data = torch_file(published("SingleStyleCodeEncoder").content, legacy=legacy)
    for length in (*range(1, 40), *range(40, len(data), len(data) // 60), len(data) - 1):
        (tmp_path / "truncated").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"truncated|read today"):
            load_encoder(tmp_path / "truncated")


def test_there_are_many_of_them():
    assert len(CONTAINERS) * len(HOSTILE) + len(FILES) >= 50
