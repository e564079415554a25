"""`invertmill inspect` and `convert`: what they say, what they make, and what they leave alone."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from generators import load_generator
from generators.checkpoints import save_generator
from generators.generator import Generator
from tests.generators.biggan_folder import tiny_biggan, write_folder
from tests.generators.converted import rosinality_state, tensorflow_arguments, tensorflow_pickle, tensorflow_variables
from tests.generators.converted import torch_file as saved_by_torch
from tests.generators.published import ada_arguments, network_pickle, tiny
from tests.web import web_server


def nvidia(folder: Path, **changes) -> Path:
    generator = tiny(**changes)
    path = folder / "network.pkl"
    path.write_bytes(network_pickle(generator.state_dict(), ada_arguments(generator.config)))
    return path


def tensorflow(folder: Path) -> Path:
    generator = tiny()
    path = folder / "old.pkl"
    path.write_bytes(tensorflow_pickle(tensorflow_variables(generator), tensorflow_arguments(generator.config)))
    return path


def rosinality(folder: Path) -> Path:
    generator = tiny(z_dim=5)
    path = folder / "550000.pt"
    path.write_bytes(saved_by_torch({"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}))
    return path


def biggan(folder: Path) -> Path:
    return write_folder(folder / "biggan", tiny_biggan())


def own(folder: Path) -> Path:
    save_generator(tiny(), folder / "own.safetensors", about="random numbers")
    return folder / "own.safetensors"


FORMATS = {
    "NVIDIA PyTorch pickle": nvidia,
    "NVIDIA TensorFlow pickle": tensorflow,
    "rosinality torch file": rosinality,
    "BigGAN-deep folder": biggan,
    "invertmill safetensors": own,
}


def images(generator: Generator) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    z = torch.randn(2, generator.z_dim, generator=random)
    label = torch.eye(generator.label_dim)[:2] if generator.label_dim else None
    return generator.synthesize(generator.map(z, label))


# ---- inspect


@pytest.mark.parametrize("name", FORMATS)
def test_inspect_names_the_format_of_every_checkpoint(invertmill, tmp_path, name):
    code, output, errors = invertmill("inspect", FORMATS[name](tmp_path), "--json")
    assert (code, errors) == (0, "")
    assert json.loads(output)["format"] == name


def test_inspect_says_all_that_a_checkpoint_is(invertmill, tmp_path):
    path = own(tmp_path)
    _, output, _ = invertmill("inspect", path, "--json")
    generator = tiny()
    assert json.loads(output) == {
        "checkpoint": str(path),
        "format": "invertmill safetensors",
        "family": "stylegan2",
        "resolution_px": 8,
        "z_dim": 6,
        "label_dim": 0,
        "spaces": {"W+": [4, 5]},
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "about": "random numbers",
    }


def test_inspect_lists_the_shape_of_every_space(invertmill, tmp_path):
    code, output, _ = invertmill("inspect", biggan(tmp_path))
    assert code == 0
    assert "spaces        Z+ 6 × 11, F2 16 × 8 × 8" in output
    assert "label_dim     7" in output


def test_inspect_reads_an_address_and_checks_a_digest(invertmill, tmp_path, monkeypatch):
    monkeypatch.setenv("INVERTMILL_CACHE", str(tmp_path / "cache"))
    with web_server() as web:
        address = web.put("/own.safetensors", own(tmp_path).read_bytes())
        code, output, _ = invertmill("inspect", f"{address}?signature=secret", "--json")
        assert (code, json.loads(output)["checkpoint"]) == (0, address)
        code, output, errors = invertmill("inspect", address, "--sha256", "0" * 64)
    assert (code, output) == (2, "")
    assert f"expected {'0' * 64}, got" in errors


def test_inspect_of_what_is_not_a_checkpoint_is_one_message(invertmill, tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"<html>")
    code, output, errors = invertmill("inspect", tmp_path / "a.pkl")
    assert (code, output) == (2, "")
    assert errors.startswith(f"error: checkpoint {tmp_path}/a.pkl is a web page or XML")
    assert len(errors.splitlines()) == 1


# ---- samples


def sheet(invertmill, source: Path, path: Path, *options: object) -> np.ndarray:
    code, _, errors = invertmill("inspect", source, "--samples", path, *options)
    assert (code, errors) == (0, "")
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("make", [nvidia, biggan])
def test_a_sheet_shows_sixteen_images_that_follow_the_seed(invertmill, tmp_path, make):
    source = make(tmp_path)
    side = 4 * load_generator(source).resolution
    first, again, other = (
        sheet(invertmill, source, tmp_path / f"{i}.png", "--seed", seed) for i, seed in enumerate((1, 1, 2))
    )
    assert first.shape == (side, side, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    tiles = first.reshape(4, side // 4, 4, side // 4, 3).swapaxes(1, 2).reshape(16, -1)
    assert len(np.unique(tiles, axis=0)) == 16


def test_the_images_of_a_sheet_are_the_generator_s(invertmill, tmp_path):
    source = nvidia(tmp_path)
    found = sheet(invertmill, source, tmp_path / "sheet.png", "--truncation", 0.5)
    generator = load_generator(source)
    z = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    wanted = generator.synthesize(generator.map(z, truncation=0.5))
    wanted = ((wanted.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found[8:16, 16:24].astype(float), wanted[6], atol=1)


def test_classes_of_a_conditional_sheet_are_drawn(invertmill, tmp_path):
    assert sheet(invertmill, nvidia(tmp_path, c_dim=3), tmp_path / "sheet.png").shape == (32, 32, 3)


def test_truncation_moves_the_samples_of_both_families(invertmill, tmp_path):
    for make in (nvidia, biggan):
        whole, half = (
            sheet(invertmill, make(tmp_path), tmp_path / f"{psi}.png", "--truncation", psi) for psi in (1.0, 0.5)
        )
        assert not np.array_equal(whole, half)
    code, _, errors = invertmill("inspect", biggan(tmp_path), "--samples", tmp_path / "a.png", "--truncation", 2)
    assert code == 2
    assert "truncation must be less than or equal to 1, got 2.0" in errors


def test_a_sheet_that_cannot_be_written_is_named(invertmill, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    code, _, errors = invertmill("inspect", own(tmp_path), "--samples", tmp_path / "file/sheet.png")
    assert code == 2
    assert errors.startswith(f"error: cannot write {tmp_path}/file/sheet.png: ")


# ---- convert


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_converted_to_one_that_makes_the_same_images(invertmill, tmp_path, name):
    source, target = FORMATS[name](tmp_path), tmp_path / "made/target.safetensors"
    code, output, errors = invertmill("convert", source, target)
    assert (code, errors) == (0, "")
    converted = load_generator(target)
    assert torch.equal(images(converted), images(load_generator(source)))
    assert f"{target}: {target.stat().st_size:,} bytes, float32" in output
    assert f"sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}" in output
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_what_is_converted_says_where_it_comes_from(invertmill, tmp_path):
    source = nvidia(tmp_path)
    invertmill("convert", source, tmp_path / "a.safetensors")
    invertmill("convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--dtype", "float16")
    about = f"NVIDIA PyTorch pickle network.pkl, SHA-256 {load_generator(source).digest[:16]}"
    assert load_generator(tmp_path / "a.safetensors").about == about
    assert load_generator(tmp_path / "b.safetensors").about == f"{about}, half precision"


def test_converting_twice_makes_equal_files(invertmill, tmp_path):
    source = nvidia(tmp_path)
    for name in "abcd":
        invertmill("convert", source, tmp_path / f"{name}.safetensors")
    assert len({(tmp_path / f"{name}.safetensors").read_bytes() for name in "abcd"}) == 1


@pytest.mark.parametrize("make", [nvidia, biggan])
def test_half_precision_halves_the_file_and_is_stated(invertmill, tmp_path, make):
    source, whole, half = make(tmp_path), tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    invertmill("convert", source, whole)
    _, output, _ = invertmill("convert", source, half, "--dtype", "float16")
    assert "float16; half precision: images differ slightly from the source's" in output
    tensors = load_generator(source).state_dict()
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(
        2 * sum(tensor.numel() for tensor in tensors.values()), abs=2000
    )
    assert all(torch.equal(found, tensors[name].half()) for name, found in load_generator(half).state_dict().items())
    difference = (images(load_generator(half)) - images(load_generator(whole))).abs().max()
    assert 0 < difference < 0.05


def test_a_weight_beyond_half_precision_is_refused(invertmill, tmp_path):
    generator = tiny()
    generator.mapping.fc0.weight[0, 0] = 70_000
    save_generator(generator, tmp_path / "large.safetensors", about="")
    code, _, errors = invertmill(
        "convert", tmp_path / "large.safetensors", tmp_path / "a.safetensors", "--dtype", "float16"
    )
    assert code == 2
    assert "mapping.fc0.weight does not fit into torch.float16: its largest value is 70000" in errors
    assert not (tmp_path / "a.safetensors").exists()


def test_a_file_that_is_there_is_left_alone_unless_forced(invertmill, tmp_path):
    source, target = nvidia(tmp_path), tmp_path / "target.safetensors"
    target.write_bytes(b"precious")
    code, _, errors = invertmill("convert", source, target)
    assert (code, target.read_bytes()) == (2, b"precious")
    assert errors == f"error: {target} exists already; choose another name, or replace it with --force\n"
    assert invertmill("convert", source, target, "--force")[0] == 0
    assert torch.equal(images(load_generator(target)), images(load_generator(source)))


def test_a_conversion_that_fails_leaves_nothing(invertmill, tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04truncated")
    (tmp_path / "made").mkdir()
    assert invertmill("convert", tmp_path / "a.pkl", tmp_path / "made/a.safetensors")[0] == 2
    assert list((tmp_path / "made").iterdir()) == []


def test_a_target_of_another_ending_or_without_a_place_is_refused(invertmill, tmp_path):
    source = own(tmp_path)
    assert "must end in .safetensors" in invertmill("convert", source, tmp_path / "a.pkl")[2]
    (tmp_path / "file").write_bytes(b"")
    code, _, errors = invertmill("convert", source, tmp_path / "file/a.safetensors")
    assert code == 2
    assert errors.startswith(f"error: cannot write {tmp_path}/file/a.safetensors: ")


def test_a_published_pickle_is_converted(invertmill, tmp_path, shared):
    source = shared / "golden/1_stylegan2/sg2ada_r64_cond10/network-snapshot.pkl"
    assert invertmill("convert", source, tmp_path / "a.safetensors")[0] == 0
    assert torch.equal(images(load_generator(tmp_path / "a.safetensors")), images(load_generator(source)))
