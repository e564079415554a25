import hashlib
import json
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generators import CheckpointError, checkpoints, load_generator
from generators.checkpoints import save_generator
from tests.generators.biggan_folder import published_tensors, tiny_biggan, write_folder

CONFIG, WEIGHTS = "config.json", "pytorch_model.bin"


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    return str(caught.value)


def image(generator: torch.nn.Module) -> Tensor:
    torch.manual_seed(5)
    return generator.synthesize(generator.map(torch.randn(2, 6), torch.eye(7)[:2]))


def test_a_folder_is_read_and_its_spectral_norms_folded(tmp_path: Path):
    generator = load_generator(write_folder(tmp_path, tiny_biggan()))
    wanted = tiny_biggan().state_dict()
    assert generator.state_dict().keys() == wanted.keys()
    for name, tensor in generator.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-6)
    assert generator.config == tiny_biggan().config
    torch.testing.assert_close(image(generator), image(tiny_biggan()), rtol=0, atol=1e-4)


def test_a_loaded_folder_is_frozen_in_eval_mode_and_in_float32(tmp_path: Path):
    generator = load_generator(write_folder(tmp_path, tiny_biggan()))
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert {tensor.dtype for tensor in generator.state_dict().values()} == {torch.float32}


def test_the_truncation_is_chosen_when_loading_from_the_folder_and_from_our_own_file(tmp_path: Path):
    folder, own = write_folder(tmp_path / "folder", tiny_biggan()), tmp_path / "own.safetensors"
    save_generator(load_generator(folder, truncation=0.35), own, about="random")
    for truncation in (0.1, 0.35, 1.0):
        loaded = load_generator(own, truncation=truncation)
        assert torch.equal(image(loaded), image(load_generator(folder, truncation=truncation)))
        torch.testing.assert_close(image(loaded), image(tiny_biggan(truncation=truncation)), rtol=0, atol=1e-4)
    assert not torch.allclose(image(load_generator(own)), image(load_generator(own, truncation=0.35)))
    with pytest.raises(ValueError, match=r"truncation must be greater than 0, got 0\.0"):
        load_generator(folder, truncation=0.0)


def test_the_digest_is_that_of_sha256sum_over_both_files(tmp_path: Path):
    folder = write_folder(tmp_path, tiny_biggan())
    listed = subprocess.run(["sha256sum", CONFIG, WEIGHTS], cwd=folder, capture_output=True, check=True).stdout
    digest = load_generator(folder).digest
    assert digest == hashlib.sha256(listed).hexdigest()
    assert load_generator(folder, sha256=digest).digest == digest
    (folder / CONFIG).write_text((folder / CONFIG).read_text() + "\n")
    assert load_generator(folder).digest != digest
    with pytest.raises(CheckpointError, match=f"expected {digest}, got"):
        load_generator(folder, sha256=digest)


def test_legacy_files_and_half_precision_are_read(tmp_path: Path):
    folder = write_folder(tmp_path, tiny_biggan())
    whole = image(load_generator(folder))
    tensors = published_tensors(tiny_biggan())
    torch.save(tensors, folder / WEIGHTS, _use_new_zipfile_serialization=False)
    assert torch.equal(image(load_generator(folder)), whole)
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, folder / WEIGHTS)
    torch.testing.assert_close(image(load_generator(folder)), whole, rtol=0, atol=0.05)


def test_a_folder_is_recognised_by_the_two_files_in_it(tmp_path: Path):
    assert f"checkpoint {tmp_path} is a folder without {CONFIG} and {WEIGHTS}; read today" in refused(tmp_path)
    folder = write_folder(tmp_path / "whole", tiny_biggan())
    (folder / "README.md").write_text("other files do not matter")
    load_generator(folder)
    (folder / CONFIG).unlink()
    assert f"is a folder without {CONFIG}; read today" in refused(folder)
    (folder / CONFIG).mkdir()
    assert f"checkpoint {folder / CONFIG} is not a regular file" in refused(folder)


def test_files_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_folder(tmp_path, tiny_biggan())
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text + " " * 2**20)
    assert f"checkpoint {folder / CONFIG} has" in refused(folder)
    (folder / CONFIG).write_text(text)
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 1000)
    assert f"checkpoint {folder / WEIGHTS} has" in refused(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is truncated or not as published (JSONDecodeError"),
        ("{", "is truncated or not as published (JSONDecodeError"),
        ("\0" * 100, "is truncated or not as published (JSONDecodeError"),
        ("[" * 500_000, "is truncated or not as published (RecursionError"),
        ('{"output_dim": ' + "9" * 100_000 + "}", "is truncated or not as published (ValueError"),
        ("[]", "holds a BigGAN-deep that is not read: configuration: Input should be"),
        ("{}", "holds a BigGAN-deep that is not read: output_dim: Field required"),
        ('{"output_dim": 8, "layers": 3}', "layers: Input should be a valid tuple"),
        ('{"output_dim": NaN, "layers": []}', "output_dim: Input should be a finite number"),
    ],
)
def test_configurations_that_are_not_read_name_their_file(tmp_path: Path, text: str, message: str):
    folder = write_folder(tmp_path, tiny_biggan())
    (folder / CONFIG).write_text(text)
    found = refused(folder)
    assert found.startswith(f"checkpoint {folder / CONFIG} ")
    assert message in found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("z_dim", 2**40),
        ("num_classes", 2**62),
        ("channel_width", 2**31),
        ("n_stats", 2**50),
        ("class_embed_dim", 2**63),
    ],
)
def test_announced_sizes_take_no_memory(tmp_path: Path, name: str, value: int):
    folder = write_folder(tmp_path, tiny_biggan())
    config = json.loads((folder / CONFIG).read_text()) | {name: value}
    (folder / CONFIG).write_text(json.dumps(config))
    assert refused(folder).startswith(f"checkpoint {folder / WEIGHTS} ")


def test_announced_layers_are_not_made_before_they_are_counted(tmp_path: Path):
    folder = write_folder(tmp_path, tiny_biggan())
    config = json.loads((folder / CONFIG).read_text())
    config["layers"] = [[False, 16, 16]] * 20_000 + config["layers"]
    (folder / CONFIG).write_text(json.dumps(config))
    assert "announces 20005 layers, but holds only" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings__weight": None}, "it lacks 'embeddings.weight', and has nothing besides"),
        ({"generator__gen_z__weight_v": None}, "it lacks 'generator.gen_z.weight_v', and has nothing besides"),
        ({"generator__gen_z__weight": torch.ones(2)}, "it lacks nothing, and has 'generator.gen_z.weight' besides"),
        ({"generator__gen_z__weight_u": torch.ones(3)}, "holds generator.gen_z.weight_u of [3], not the [1024]"),
        ({"generator__bn__running_means": torch.ones(51, 4)}, "running_means of [51, 4], not the [11, 4]"),
        ({"generator__bn__bias": torch.ones(4, dtype=torch.int32)}, "holds generator.bn.bias as torch.int32"),
        ({"generator__conv_to_rgb__weight_u": torch.zeros(4)}, "conv_to_rgb.weight with a spectral norm of 0"),
        (
            {"generator__conv_to_rgb__weight_u": torch.full((4,), torch.nan)},
            "holds 'generator.conv_to_rgb.weight_u' with 4 of 4 numbers NaN or infinite",
        ),
        ({"generator__bn__bias": {"a": 1}}, "holds a dict for 'generator.bn.bias', not a tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_their_file(tmp_path: Path, changes, message: str):
    found = refused(write_folder(tmp_path, tiny_biggan(), **changes))
    assert found.startswith(f"checkpoint {tmp_path / WEIGHTS} ")
    assert message in found


class Hostile:
    def __reduce__(self):
        return print, ("code from the file was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "its content is a list, not a dict"),
        ({"state_dict": {}}, "holds a dict for 'state_dict', not a tensor"),
        ({}, "announces 5 layers, but holds only 0 tensors"),
        ({1: torch.ones(1)}, "holds a StoredTensor for 1, not a tensor"),
        ({"x": Hostile()}, "which is never loaded"),
    ],
)
def test_other_weights_are_refused_and_run_nothing(tmp_path: Path, capsys, content: object, message: str):
    folder = write_folder(tmp_path, tiny_biggan())
    torch.save(content, folder / WEIGHTS)
    found = refused(folder)
    assert found.startswith(f"checkpoint {folder / WEIGHTS} ")
    assert message in found
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "data", [b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x04N."]
)
def test_weights_of_another_format_are_refused(tmp_path: Path, data: bytes):
    folder = write_folder(tmp_path, tiny_biggan())
    (folder / WEIGHTS).write_bytes(data)
    assert refused(folder).startswith(f"checkpoint {folder / WEIGHTS} ")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_file_truncated_anywhere_is_refused_by_name(tmp_path: Path, name: str):
    path = write_folder(tmp_path, tiny_biggan()) / name
    data = path.read_bytes()
    for length in (*range(0, len(data), len(data) // 40), len(data) - 1):
        path.write_bytes(data[:length])
        assert refused(tmp_path).startswith(f"checkpoint {path} ")


def test_a_folder_damaged_anywhere_is_loaded_or_refused(tmp_path: Path):
    folder = write_folder(tmp_path, tiny_biggan())
    random = torch.Generator().manual_seed(0)
    for name in (CONFIG, WEIGHTS):
        data = (folder / name).read_bytes()
        for _ in range(40):
            at, value = (int(torch.randint(high, (), generator=random)) for high in (len(data), 256))
            damaged = bytearray(data)
            damaged[at] = value
            (folder / name).write_bytes(bytes(damaged))
            with suppress(CheckpointError):  # and nothing else
                load_generator(folder)
        (folder / name).write_bytes(data)
