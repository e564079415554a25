"""Directions as others publish them and as our own file holds them, and what is refused."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from generators import DirectionError, GeneratorError, load_direction
from generators.directions import Direction, Provenance, check_fits, read_directions, save_directions
from generators.directions.direction import in_layers, of_codes
from generators.directions.own import FORMAT
from tests.generators.biggan_folder import tiny_biggan
from tests.generators.converted import torch_file
from tests.generators.published import tiny
from tests.web import web_server


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def announcing(shape: str) -> bytes:
    """Return a numpy file of five numbers whose header announces another shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(20)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refused(path: object, name: str | None = None) -> str:
    with pytest.raises(DirectionError) as caught:
        load_direction(path, name)
    return str(caught.value)


def direction(name: str = "size", rows: int = 4, **about) -> Direction:
    random = torch.Generator().manual_seed(len(name))
    return Direction(name, torch.randn(rows, 5, generator=random), Provenance(kind="labels", **about))


# ---- published files


def test_every_published_direction_of_the_authors_is_read_as_it_is(shared: Path):
    paths = sorted(shared.glob("directions/sam/*/*.npy"))
    assert len(paths) == 26
    for path in paths:
        found = load_direction(path)
        assert (found.dtype, found.shape[1]) == (torch.float32, 512)
        assert np.array_equal(found.numpy(), np.load(path)[0])


@pytest.mark.parametrize(("name", "rows"), [("age", 1), ("smile", 1), ("pose", 18)])
def test_published_interfacegan_directions_are_read(shared: Path, name: str, rows: int):
    path = shared / f"directions/e4e/interfacegan_directions/{name}.pt"
    found = load_direction(path)
    assert found.shape == (rows, 512)
    assert torch.equal(found, torch.load(path, "cpu", weights_only=True).reshape(rows, 512))
    assert torch.equal(load_direction(path, name), found)


def test_a_published_ganspace_component_moves_w_by_one_standard_deviation(shared: Path):
    path = shared / "directions/e4e/ganspace_pca/cars_pca.pt"
    content = torch.load(path, "cpu", weights_only=True)
    for i in (0, 7, 79):
        assert torch.equal(load_direction(path, str(i)), content["comp"][i] * content["std"][i])
    assert torch.equal(load_direction(path, 7), load_direction(path, "7"))


def test_a_file_of_several_directions_wants_a_name_and_lists_them(shared: Path):
    path = shared / "directions/e4e/ganspace_pca/ffhq_pca.pt"
    assert "holds 80 directions: give a name, one of 0 to 79" in refused(path)
    assert "has no direction '80': it has 0 to 79" in refused(path, "80")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_dictionary_of_tensors_holds_a_direction_for_each_name(tmp_path: Path, legacy: bool):
    content = {"smile": torch.randn(1, 5), "age": torch.randn(4, 5).double()}
    path = written(tmp_path / "a.pt", torch_file(content, legacy=legacy))
    assert torch.equal(load_direction(path, "age"), content["age"].float())
    assert "one of smile, age" in refused(path)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (4, 5), (1, 4, 5)])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_arrays_of_every_layout_are_read(tmp_path: Path, shape: tuple[int, ...], dtype: str):
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    found = load_direction(written(tmp_path / "a.npy", npy(np.asfortranarray(array))))
    assert np.array_equal(found.numpy(), array.reshape(-1, 5).astype(np.float32))


def test_the_format_is_recognised_by_content_and_not_by_name(tmp_path: Path):
    array = np.ones((1, 4, 5), np.float32)
    assert load_direction(written(tmp_path / "a.pt", npy(array))).shape == (4, 5)
    assert load_direction(written(tmp_path / "b.npy", torch_file(torch.ones(1, 5)))).shape == (1, 5)


def test_a_file_of_one_direction_has_its_name(tmp_path: Path):
    path = written(tmp_path / "csc.old.npy", npy(np.ones((1, 5), np.float32)))
    assert list(read_directions(path).directions) == ["csc.old"]
    assert "has no direction 'young': it has csc.old" in refused(path, "young")


def test_directions_come_from_uris_and_are_checked_by_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INVERTMILL_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path / "a b.npy", npy(np.ones((1, 5), np.float32)))
    assert torch.equal(load_direction(path.as_uri()), torch.ones(1, 5))
    with web_server() as web:
        address = web.put("/smile.npy", path.read_bytes())
        found = read_directions(f"{address}?key=secret")
        assert torch.equal(load_direction(address, sha256=found.digest), torch.ones(1, 5))
    assert list(found.directions) == ["smile"]
    assert "secret" not in found.source
    with pytest.raises(DirectionError, match=f"SHA-256 mismatch .*expected {'0' * 64}, got {found.digest}"):
        load_direction(path, sha256="0" * 64)


# ---- what is refused


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path):
    array = np.ones((2, 5), np.float32)
    array[1, 2:4] = np.nan, np.inf
    assert "direction 'a' holds NaN or infinity: 2 of 10 numbers" in refused(written(tmp_path / "a.npy", npy(array)))
    too_large = np.full((1, 5), 1e300)
    assert "holds NaN or infinity: 5 of 5" in refused(written(tmp_path / "b.npy", npy(too_large)))
    ganspace = {"comp": torch.ones(2, 1, 5), "std": torch.tensor([1.0, float("nan")])}
    assert "negative or NaN" in refused(written(tmp_path / "c.pt", torch_file(ganspace)), "0")


ODD: dict[str, tuple[bytes, str]] = {
    "four dimensions": (npy(np.ones((1, 1, 4, 5), np.float32)), r"is \[1, 1, 4, 5\]"),
    "several": (npy(np.ones((3, 1, 5), np.float32)), r"is \[3, 1, 5\]"),
    "empty": (npy(np.ones((0, 5), np.float32)), r"is \[0, 5\]"),
    "one number": (npy(np.float32(1)), r"is \[\]"),
    "integers": (npy(np.ones((1, 5), np.int64)), "int64: float16, float32 and float64 are read"),
    "objects": (npy(np.array([{}], dtype=object)), "object: float16"),
    "structures": (npy(np.zeros(3, [("a", "f4")])), "float16, float32 and float64 are read"),
    "announced": (announcing("(9, 9)"), r"announces \[9, 9\]"),
    "huge": (announcing(f"({10**15},)"), "but holds 20 bytes"),
    "negative": (announcing("(-1, -5)"), "truncated or damaged"),
    "version": (b"\x93NUMPY\x03\x00" + npy(np.ones(5))[8:], r"version \(3, 0\)"),
    "npy cut short": (npy(np.ones(5))[:30], "truncated or damaged"),
    "header with code": (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 40) + b"__import__('os').system('touch evil')   \n",
        "truncated or damaged",
    ),
    "deep header": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "truncated or damaged"),
    "tensor of integers": (torch_file(torch.ones(1, 5, dtype=torch.int64)), "torch.int64: floating-point"),
    "list": (torch_file([torch.ones(1, 5)]), "holds a list"),
    "text in a dictionary": (torch_file({"a": torch.ones(1, 5), "b": "c"}), "holds a str for 'b', not a tensor"),
    "empty dictionary": (torch_file({}), "a dictionary of 0 directions"),
    "GANSpace of two lengths": (torch_file({"comp": torch.ones(3, 1, 5), "std": torch.ones(2)}), r"comp \[3, 1, 5\]"),
    "GANSpace of texts": (torch_file({"comp": "a", "std": "b"}), "holds a str for 'comp'"),
    "nothing": (b"", "unknown format, beginning with the bytes of nothing; read: .npy"),
    "pickle": (b"\x80\x04}.", "unknown format, beginning with the bytes 80 04"),
    "web page": (b"<html>", "unknown format"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_holds_no_direction_is_one_error_that_names_the_file(tmp_path: Path, case: str):
    data, message = ODD[case]
    path = written(tmp_path / "odd.bin", data)
    with pytest.raises(DirectionError, match=message) as caught:
        load_direction(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_paths_that_hold_no_file_are_refused(tmp_path: Path):
    assert "cannot be read: No such file" in refused(tmp_path / "missing.npy")
    assert "is not a regular file" in refused(tmp_path)
    assert "cannot fetch gs://a/b.npy" in refused("gs://a/b.npy")


def test_a_direction_fits_codes_of_its_rows_or_has_one_row():
    check_fits(torch.ones(4, 5), 4, 5, "a")
    check_fits(torch.ones(1, 5), 4, 5, "a")
    with pytest.raises(DirectionError, match=r"'a' is \[16, 5\], and this generator's codes take \[4, 5\] or \[1, 5\]"):
        check_fits(torch.ones(16, 5), 4, 5, "a")
    with pytest.raises(DirectionError, match="made for another generator; use a direction of this one"):
        check_fits(direction(rows=1).delta, 4, 512, "size")
    with pytest.raises(GeneratorError, match="1 of 5 numbers"):
        check_fits(torch.tensor([[1.0, 2.0, 3.0, 4.0, float("nan")]]), 4, 5, "a")


def test_a_direction_of_z_fits_codes_that_begin_with_z_and_leaves_the_class_as_it_is():
    generator = tiny_biggan()  # z of 6 numbers, a class embedding of 5, 6 rows
    for rows in (1, 6):
        found = of_codes(torch.ones(rows, 6), generator, "a")
        assert found.shape == (rows, 11)
        assert (found[:, :6] == 1).all()
        assert (found[:, 6:] == 0).all()
    whole = torch.ones(6, 11)
    assert torch.equal(of_codes(whole, generator, "a"), whole)
    with pytest.raises(DirectionError, match=r"is \[1, 5\].* \[6, 11\] or \[1, 11\], or 6 numbers per row for z alone"):
        of_codes(torch.ones(1, 5), generator, "a")
    with pytest.raises(DirectionError, match="NaN"):
        of_codes(torch.full((1, 6), float("nan")), generator, "a")


def test_a_direction_of_z_does_not_fit_codes_in_w():
    with pytest.raises(DirectionError, match="another generator"):
        of_codes(torch.ones(1, 6), tiny(z_dim=6, w_dim=5), "a")


def test_layers_are_first_and_last_row_and_the_others_stay():
    found = in_layers(torch.ones(1, 5), (1, 2), 4, "a")
    assert found[:, 0].tolist() == [0, 1, 1, 0]
    with pytest.raises(DirectionError, match="layers 2-4 of direction 'a': this generator has rows 0 to 3"):
        in_layers(torch.ones(1, 5), (2, 4), 4, "a")


# ---- our own file


def test_what_is_saved_is_read_with_its_provenance(tmp_path: Path):
    made = [direction("size", layers=(0, 2), generator_sha256="ab", figures={"held_out_accuracy": 0.9}), direction("b")]
    save_directions(made, tmp_path / "a.safetensors")
    found = read_directions(tmp_path / "a.safetensors").directions
    assert list(found) == ["b", "size"]
    assert found["size"].provenance == made[0].provenance
    assert torch.equal(load_direction(tmp_path / "a.safetensors", "size"), made[0].delta)
    assert "give a name, one of b, size" in refused(tmp_path / "a.safetensors")


def test_numbered_directions_keep_their_order(tmp_path: Path):
    save_directions([direction(str(i)) for i in range(12)], tmp_path / "a.safetensors")
    assert list(read_directions(tmp_path / "a.safetensors").directions) == [str(i) for i in range(12)]


def test_equal_directions_are_equal_files(tmp_path: Path):
    for name in ("a", "b"):
        save_directions([direction("x"), direction("yy")], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb"])
def test_names_that_messages_cannot_show_are_not_written(tmp_path: Path, name: str):
    with pytest.raises(DirectionError, match="1 to 100 printable characters"):
        save_directions([direction(name)], tmp_path / "a")
    with pytest.raises(DirectionError, match="different names"):
        save_directions([direction("a"), direction("a")], tmp_path / "a")
    assert not list(tmp_path.iterdir())


def own(tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> bytes:
    import safetensors.torch

    about = {"size": {"kind": "labels"}}
    stated = {"format": FORMAT, "version": "1", "directions": json.dumps(about)} | metadata
    return safetensors.torch.save({"size": torch.ones(1, 5)} if tensors is None else tensors, stated)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "another format": (own(format="invertmill-generator"), "is a safetensors file without directions; read:"),
    "later version": (own(version="2"), "is of version '2'; this invertmill reads version 1"),
    "other names": (own(directions='{"hue": {"kind": "labels"}}'), "names other directions"),
    "list": (own(directions="[]"), "names other directions"),
    "no directions": (own({}, directions="{}"), "names other directions"),
    "no kind": (own(directions='{"size": {}}'), "no valid provenance for 'size': kind: Field required"),
    "negative layer": (own(directions='{"size": {"kind": "a", "layers": [-1, 2]}}'), "layers.0: Input should be"),
    "deep provenance": (own(directions='{"a":' * 5000), "truncated or damaged"),
    "not finite": (own({"size": torch.full((1, 5), float("nan"))}), "holds NaN or infinity: 5 of 5"),
    "cut short": (own()[:-3], "truncated or damaged"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_of_ours_that_is_damaged_is_one_error(tmp_path: Path, case: str):
    data, message = DAMAGED[case]
    with pytest.raises(DirectionError, match=message):
        load_direction(written(tmp_path / "own.safetensors", data))


def test_the_provenance_of_a_published_file_is_its_digest(tmp_path: Path):
    path = written(tmp_path / "a.npy", npy(np.ones((1, 5), np.float32)))
    found = read_directions(path)
    provenance = found.direction().provenance
    assert (provenance.source, provenance.source_sha256) == ("a.npy", found.digest)
