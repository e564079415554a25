import hashlib
import json
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from generators import CheckpointError, checkpoints, load_generator
from generators.checkpoints import save_generator
from generators.formats.own import FORMAT
from tests.generators.published import (
    Persistent,
    ada_arguments,
    fragment,
    network_pickle,
    persistent,
    pickled,
    sg3_arguments,
    tiny,
)

PUBLISHED = ("sg2ada_r64", "sg2ada_r64_cond10", "sg3repo_stylegan2_r64")


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def saved(path: Path, **options) -> Path:
    save_generator(tiny(), path, about="random", **options)
    return path


def refused(path: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    return str(caught.value)


def same(found: torch.nn.Module, wanted: torch.nn.Module) -> bool:
    left, right = found.state_dict(), wanted.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in right)


def test_what_is_saved_is_loaded(tmp_path: Path):
    generator = load_generator(saved(tmp_path / "tiny.safetensors"))
    assert same(generator, tiny())
    assert generator.config == tiny().config


def test_a_loaded_generator_is_frozen_in_eval_mode_and_knows_its_digest(tmp_path: Path):
    path = saved(tmp_path / "tiny.safetensors")
    generator = load_generator(path)
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert generator.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_half_precision_is_loaded_as_float32(tmp_path: Path):
    generator = load_generator(saved(tmp_path / "half.safetensors", dtype=torch.float16))
    assert {tensor.dtype for tensor in generator.state_dict().values()} == {torch.float32}
    assert torch.equal(generator.synthesis.b4.const, tiny().synthesis.b4.const.half().float())


def test_the_format_is_recognised_by_content_and_not_by_name(tmp_path: Path):
    assert same(load_generator(saved(tmp_path / "a.pkl")), tiny())
    generator = tiny()
    data = network_pickle(generator.state_dict(), ada_arguments(generator.config))
    assert same(load_generator(written(tmp_path / "b.safetensors", data)), generator)


def test_file_uris_are_read(tmp_path: Path):
    path = saved(tmp_path / "a name with % and spaces.safetensors")
    assert same(load_generator(path.as_uri()), tiny())
    assert same(load_generator(str(path)), tiny())


@pytest.mark.parametrize("uri", ["gs://bucket/a.pkl", "ftp://host/a.pkl", "file://host/a.pkl"])
def test_other_schemes_are_refused_with_what_to_do(uri: str):
    assert f"cannot fetch {uri}: checkpoints are read from local paths" in refused(uri)


def test_noise_is_chosen_when_loading(tmp_path: Path):
    path = saved(tmp_path / "tiny.safetensors")
    w = torch.randn(1, 4, 5)
    assert not torch.equal(load_generator(path).synthesize(w), load_generator(path, noise="none").synthesize(w))
    with pytest.raises(ValueError, match="noise must be one of const, none, got 'random'"):
        load_generator(path, noise="random")


def test_truncation_of_a_stylegan2_belongs_to_map(tmp_path: Path):
    with pytest.raises(ValueError, match=r"use G.map\(z, truncation=0.7\)"):
        load_generator(saved(tmp_path / "tiny.safetensors"), truncation=0.7)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_pickles_hold_what_their_reference_says(shared: Path, name: str):
    folder = shared / "golden/1_stylegan2" / name
    generator = load_generator(folder / "network-snapshot.pkl")
    wanted = load_file(folder / "G_ema.safetensors")
    assert generator.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in generator.state_dict().items())
    arguments = json.loads((folder / "meta.json").read_text())["G_ema_init_kwargs"]
    assert (generator.z_dim, generator.label_dim) == (arguments["z_dim"], arguments["c_dim"])
    assert generator.config.conv_clamp == (256 if "sg3" in name else None)


@pytest.mark.parametrize("label_dim", [0, 3])
def test_a_pickle_of_stylegan2_ada_is_read(tmp_path: Path, label_dim: int):
    generator = tiny(16, c_dim=label_dim, conv_clamp=7.0)
    data = network_pickle(generator.state_dict(), ada_arguments(generator.config))
    loaded = load_generator(written(tmp_path / "a.pkl", data))
    assert same(loaded, generator)
    assert loaded.config == generator.config


def test_a_pickle_of_the_stylegan3_repository_is_read_and_clamps(tmp_path: Path):
    generator = tiny()
    data = network_pickle(generator.state_dict(), sg3_arguments(generator.config))
    loaded = load_generator(written(tmp_path / "a.pkl", data))
    assert same(loaded, generator)
    assert loaded.config == generator.config.model_copy(update={"conv_clamp": 256.0})


def test_positional_init_arguments_are_read(tmp_path: Path):
    generator = tiny()
    arguments = ada_arguments(generator.config)
    order = [arguments.pop(name) for name in ("z_dim", "c_dim", "w_dim")]
    data = network_pickle(generator.state_dict(), arguments, *order)
    assert same(load_generator(written(tmp_path / "a.pkl", data)), generator)


def test_stored_layout_and_precision_do_not_matter(tmp_path: Path):
    generator = tiny()
    tensors = generator.state_dict()
    strided = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor.clone()
        for name, tensor in tensors.items()
    }
    strided["mapping.fc0.weight"] = torch.cat([torch.zeros(3, 6), tensors["mapping.fc0.weight"]])[3:]
    strided["synthesis.b8.resample_filter"] = tensors["synthesis.b8.resample_filter"].half()
    assert strided["mapping.fc0.weight"].storage_offset() == 18
    assert not strided["synthesis.b4.conv1.weight"].is_contiguous()
    loaded = load_generator(written(tmp_path / "a.pkl", network_pickle(strided, ada_arguments(generator.config))))
    assert same(loaded, generator)
    assert all(tensor.is_contiguous() for tensor in loaded.state_dict().values())


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        ("synthesis_kwargs", "architecture", "dense", "architecture: Input should be 'skip', 'resnet' or 'orig'"),
        ("synthesis_kwargs", "activation", "relu", "activation 'relu': only 'lrelu' is read"),
        ("synthesis_kwargs", "resample_filter", [1, 1], "resample_filter a list"),
        ("synthesis_kwargs", "use_noise", False, "use_noise False: only True is read"),
        (
            "synthesis_kwargs",
            "magnitude_ema_beta",
            0.5,
            "the init argument 'magnitude_ema_beta', which no StyleGAN2 has",
        ),
        ("synthesis_kwargs", "channel_base", "many", "channel_base 'many': expected a number"),
        ("mapping_kwargs", "activation", "linear", "activation 'linear': only 'lrelu' is read"),
        ("mapping_kwargs", "layer_features", 9, "layer_features 9: only 5 is read"),
        ("mapping_kwargs", "num_layers", [8], "num_layers a list: expected a number"),
        (None, "img_channels", 1, "img_channels: Input should be 3"),
        (None, "img_resolution", 12, "img_resolution must be a power of two of at least 8, got 12"),
        (None, "mapping_kwargs", [], "mapping_kwargs is a list, not a dict"),
        ("synthesis_kwargs", "conv_clamp", -1.0, "conv_clamp: Input should be greater than 0"),
        (None, "c_dim", -1, "c_dim: Input should be greater than or equal to 0"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, group, name, value, message):
    generator = tiny()
    arguments = ada_arguments(generator.config)
    (arguments[group] if group else arguments)[name] = value
    path = written(tmp_path / "a.pkl", network_pickle(generator.state_dict(), arguments))
    assert message in refused(path)


def test_arguments_that_do_not_change_the_image_are_passed_over(tmp_path: Path):
    generator = tiny()
    arguments = ada_arguments(generator.config)
    arguments["synthesis_kwargs"] |= {"num_fp16_res": 4, "architecture": "skip", "resample_filter": [1, 3, 3, 1]}
    arguments["mapping_kwargs"] |= {"w_avg_beta": 0.995, "layer_features": 5, "embed_features": None}
    path = written(tmp_path / "a.pkl", network_pickle(generator.state_dict(), arguments))
    assert same(load_generator(path), generator)


def changed(**changes: torch.Tensor | None) -> bytes:
    generator = tiny()
    tensors = generator.state_dict() | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return network_pickle(tensors, ada_arguments(generator.config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mapping__w_avg": None}, "it lacks 'mapping.w_avg', and has nothing besides"),
        ({"mapping__fc9": torch.ones(1)}, "it lacks nothing, and has 'mapping.fc9' besides"),
        ({"mapping__w_avg": torch.ones(4)}, "holds mapping.w_avg of [4], not the [5] it announces"),
        ({"mapping__w_avg": torch.ones(5, dtype=torch.int64)}, "holds mapping.w_avg as torch.int64"),
        ({"synthesis__b4__resample_filter": torch.ones(4, 4) / 16}, "synthesis.b4.resample_filter other than that of"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, changes, message):
    assert message in refused(written(tmp_path / "a.pkl", changed(**changes)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("z_dim", 2**40), ("w_dim", 2**62), ("img_resolution", 2**200), ("img_resolution", 2**20), ("c_dim", 2**50)],
)
def test_announced_sizes_take_no_memory(tmp_path: Path, name: str, value: int):
    generator = tiny()
    arguments = ada_arguments(generator.config) | {name: value}
    assert refused(written(tmp_path / "a.pkl", network_pickle(generator.state_dict(), arguments)))


def test_announced_layers_are_not_made_before_they_are_counted(tmp_path: Path):
    generator = tiny()
    arguments = ada_arguments(generator.config) | {"mapping_kwargs": {"num_layers": 10**12}}
    message = refused(written(tmp_path / "a.pkl", network_pickle(generator.state_dict(), arguments)))
    assert "announces 1000000000000 mapping layers and 8 px, but holds only" in message


def module_with(**state: object) -> bytes:
    return pickled({"G_ema": Persistent("Generator", _init_kwargs=ada_arguments(tiny().config), **state)})


def test_what_is_not_a_module_or_tensor_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "a.pkl"
    assert "holds a list for the module 'm'" in refused(written(path, module_with(_modules={"m": []})))
    assert "holds a int for the tensor 'p'" in refused(written(path, module_with(_parameters={"p": 3})))


def test_modules_that_hold_themselves_are_refused(tmp_path: Path):
    meta = fragment({"class_name": "Generator", "state": {"_init_kwargs": ada_arguments(tiny().config)}})
    network = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n" + meta[:-2]  # both dictionaries are open
    network += b"s" + fragment("_modules") + b"}q\x01su\x85Rq\x02"
    itself = fragment("x") + b"h\x01" + fragment("again") + b"h\x02s" + b"s"
    data = b"\x80\x04}" + fragment("G_ema") + network + b"s" + itself + b"."
    assert "nests its modules deeper than 8" in refused(written(tmp_path / "a.pkl", data))


def test_modules_nested_too_deep_are_refused(tmp_path: Path):
    module = persistent({"x": torch.ones(1)})
    for _ in range(12):
        module = Persistent("Deeper", _modules={"m": module})
    path = written(tmp_path / "a.pkl", module_with(_modules={"m": module}))
    assert "nests its modules deeper than 8" in refused(path)


def test_modules_that_fan_out_without_end_are_refused(tmp_path: Path):
    module = Persistent("Leaf")
    for _ in range(6):
        module = Persistent("Wider", _modules={f"m{i}": module for i in range(100)})
    assert "more than 10,000 of them" in refused(written(tmp_path / "a.pkl", module_with(_modules={"m": module})))


def test_names_without_end_are_refused(tmp_path: Path):
    path = written(tmp_path / "a.pkl", module_with(_parameters={"x" * 1_000: torch.ones(1)}))
    assert "holds a name of more than 200 characters" in refused(path)
    path = written(tmp_path / "b.pkl", module_with(_parameters={"x" * 10_000: torch.ones(1)}))
    assert "uses a key that is too long or too deep" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"G": 1, "step": 2}, "is a pickle without a network named G_ema: it holds 'G', 'step'"),
        ({}, "it holds nothing"),
        ({"G_ema": {"a": 1}}, "is a pickle without a network named G_ema"),
        ([1, 2], "is a pickle of a list, not of a dictionary with G_ema"),
        ((), "is a pickle of a tuple, not of a dictionary with G_ema"),
        (None, "is a pickle of a NoneType"),
        ({"G_ema": Persistent("G")}, "z_dim: Field required"),
    ],
)
def test_other_pickles_say_what_they_are(tmp_path: Path, content: object, message: str):
    assert message in refused(written(tmp_path / "a.pkl", pickled(content)))


def test_what_cannot_be_opened_is_refused(tmp_path: Path):
    missing = tmp_path / "missing.pkl"
    assert refused(missing) == f"checkpoint {missing} cannot be read: No such file or directory"
    assert "is a folder" in refused(tmp_path)
    assert "is not a regular file" in refused("/dev/zero")


def test_files_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 10)
    assert "has 11 bytes: at most 10 are read" in refused(written(tmp_path / "a", b"0123456789a"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file"),
        (b"\x1f\x8b\x08\x00", "is a gzip file"),
        (b"<!DOCTYPE html>", "perhaps a failed download"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
        (b"\x00\x01ab", "of an unknown format, beginning with the bytes 00 01 61 62"),
    ],
)
def test_other_formats_are_described(tmp_path: Path, data: bytes, message: str):
    found = refused(written(tmp_path / "a.pkl", data))
    assert message in found
    assert "read today: invertmill's .safetensors" in found


def test_zip_archives_are_described(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("word/document.xml", b"")
    assert "is a zip archive without the data.pkl of torch.save; read today" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "is a safetensors file without the configuration of a generator"),
        ({"format": "pt"}, "is a safetensors file without the configuration of a generator"),
        ({"format": FORMAT, "family": "vae"}, "holds a generator of the family 'vae'"),
        ({"format": FORMAT, "family": "stylegan2"}, "is truncated or not as published (KeyError: 'config')"),
        ({"format": FORMAT, "family": "stylegan2", "config": "{"}, "is truncated or not as published (JSONDecodeError"),
        ({"format": FORMAT, "family": "stylegan2", "config": "[" * 100_000}, "is truncated or not as published"),
        ({"format": FORMAT, "family": "stylegan2", "config": "{}"}, "z_dim: Field required"),
    ],
)
def test_other_safetensors_are_refused(tmp_path: Path, metadata, message):
    save_file({"x": torch.ones(2)}, tmp_path / "a.safetensors", metadata)
    assert message in refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_a_file_truncated_anywhere_is_refused(tmp_path: Path, kind: str):
    generator = tiny()
    data = (
        saved(tmp_path / "whole").read_bytes()
        if kind == "safetensors"
        else network_pickle(generator.state_dict(), ada_arguments(generator.config))
    )
    for length in (*range(1, 40), *range(40, len(data), len(data) // 60), len(data) - 1):
        assert (
            "read today" in (message := refused(written(tmp_path / "truncated", data[:length])))
            or "truncated" in message
        )


def test_a_pickle_damaged_anywhere_is_loaded_or_refused(tmp_path: Path):
    generator = tiny()
    data = bytearray(network_pickle(generator.state_dict(), ada_arguments(generator.config)))
    random = torch.Generator().manual_seed(0)
    for _ in range(60):
        at, value = (int(torch.randint(high, (), generator=random)) for high in (len(data), 256))
        damaged = bytearray(data)
        damaged[at] = value
        with suppress(CheckpointError):  # and nothing else
            load_generator(written(tmp_path / "damaged", bytes(damaged)))
