from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from generators import CheckpointError, load_generator
from generators.families.stylegan2 import StyleGAN2
from tests.generators.converted import tensorflow_arguments, tensorflow_pickle, tensorflow_variables
from tests.generators.published import tiny
from tests.generators.reference import distance

FOLDER = "golden/1_stylegan2/tf_config_f_r64"


def pickled(generator: StyleGAN2, changed: dict | None = None, arguments: dict | None = None, **changes) -> bytes:
    named = {**tensorflow_variables(generator), **(changed or {})}
    named = {name: value for name, value in named.items() if value is not ...}
    return tensorflow_pickle(named, {**tensorflow_arguments(generator.config), **(arguments or {})}, **changes)


def loaded(folder: Path, data: bytes) -> StyleGAN2:
    (folder / "a.pkl").write_bytes(data)
    return load_generator(folder / "a.pkl")


def refused(folder: Path, data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        loaded(folder, data)
    return str(caught.value)


def test_the_reference_pickle_holds_exactly_what_nvidias_converter_makes_of_it(shared: Path):
    generator = load_generator(shared / FOLDER / "stylegan2-tf-format.pkl")
    wanted = load_file(shared / FOLDER / "G_ema.converted.safetensors")
    found = generator.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_codes_and_images_equal_the_reference(shared: Path):
    generator = load_generator(shared / FOLDER / "stylegan2-tf-format.pkl")
    with np.load(shared / FOLDER / "outputs.npz") as outputs:
        wanted = dict(outputs)
    z = torch.from_numpy(wanted["z"])
    whole, truncated = generator.map(z), generator.map(z, truncation=0.7)
    assert distance(whole, wanted["ws_psi1"]) < 1e-5
    assert distance(truncated, wanted["ws_psi0p7"]) < 1e-5
    assert distance(generator.synthesize(whole), wanted["img_const"]) < 1e-5
    assert distance(generator.synthesize(truncated), wanted["img_psi0p7_const"]) < 1e-5


@pytest.mark.parametrize(
    "changes", [{}, {"c_dim": 3}, {"architecture": "resnet"}, {"architecture": "orig"}, {"mapping_layers": 4}], ids=str
)
def test_a_pickle_in_that_layout_holds_the_generator_it_was_made_of(tmp_path: Path, changes: dict):
    generator = tiny(16, **changes)
    found = loaded(tmp_path, pickled(generator))
    assert found.config == generator.config
    for name, wanted in generator.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], wanted, rtol=0, atol=1e-6)  # biases of modulation: −1 + 1
    assert all(tensor.is_contiguous() for tensor in found.state_dict().values())


def test_arguments_have_the_published_defaults(tmp_path: Path):
    generator = tiny(8, z_dim=512, w_dim=512, mapping_layers=8, channel_base=32768, channel_max=4)
    data = tensorflow_pickle(tensorflow_variables(generator), {"resolution": 8, "fmap_max": 4})
    assert loaded(tmp_path, data).config == generator.config


def test_scalars_may_be_stored_as_numbers_or_as_arrays(tmp_path: Path):
    generator = tiny()
    name = "synthesis/4x4/Conv/noise_strength"
    found = [loaded(tmp_path, pickled(generator, {name: kind(0.5)})) for kind in (np.float32, float, np.array)]
    assert [float(one.synthesis.b4.conv1.noise_strength) for one in found] == [0.5] * 3


def test_only_the_running_mean_is_read(tmp_path: Path):
    generator = tiny()
    data = pickled(generator)
    assert data.count(b"LabelConcat") == 0
    assert torch.equal(loaded(tmp_path, data).synthesis.b4.const, generator.synthesis.b4.const)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "dense"}, "architecture: Input should be 'skip', 'resnet' or 'orig'"),
        ({"nonlinearity": "relu"}, "nonlinearity 'relu': only 'lrelu' is read"),
        ({"resample_kernel": [1, 1]}, "resample_kernel a list: only [1, 3, 3, 1] is read"),
        ({"use_noise": False}, "use_noise False: only True is read"),
        ({"resolution_w": 8, "resolution_h": 16}, "images are not square: resolution_h 16, resolution 8"),
        ({"synthesis_func": "G_synthesis_stylegan1"}, "only 'G_synthesis_stylegan2' is read"),
        ({"fmap_base": "many"}, "fmap_base is a str, not a int"),
        ({"resolution": None}, "img_resolution: Input should be a valid integer"),
        ({"resolution": 12}, "img_resolution must be a power of two"),
        ({"mapping_fmaps": 9}, "mapping_fmaps 9: only 5 is read"),
        ({"mapping_layers": 10**12}, "announces 1000000000000 mapping layers"),
        ({"resolution": 2**300}, "px, but holds only"),
        ({"latent_size": 2**60}, "is truncated or not as published"),
        ({"latent_size": 2**40}, "holds mapping.fc0.weight of [5, 6], not the [5, 1099511627776]"),
        ({"blur_filter": [1, 2, 1]}, "the init argument 'blur_filter', which no StyleGAN2 has"),
    ],
)
def test_arguments_that_are_not_read_are_named(tmp_path: Path, arguments: dict, message: str):
    assert message in refused(tmp_path, pickled(tiny(), arguments=arguments))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"dlatent_avg": ...}, "it lacks the variables 'dlatent_avg', and has none besides"),
        ({"mapping/LabelConcat/weight": np.ones(2)}, "and has 'mapping/LabelConcat/weight' besides"),
        ({"synthesis/noise9": np.ones(2)}, "and has 'synthesis/noise9' besides"),
        ({"mapping/Dense0/weight": np.ones((5, 6), np.float32)}, "holds mapping.fc0.weight of [6, 5], not the [5, 6]"),
        ({"mapping/Dense0/weight": np.ones(5)}, "of 2 dimensions is read: the variable 'mapping/Dense0/weight'"),
        ({"mapping/Dense0/weight": np.ones(5, int)}, "holds an array of int64"),
        ({"mapping/Dense0/weight": "ones"}, "holds a str for the variable 'mapping/Dense0/weight'"),
        ({"mapping/Dense0/weight": 1.0}, "holds mapping.fc0.weight of [], not the [5, 6]"),
        (
            {"synthesis/4x4/Const/const": np.ones((2, 7, 4, 4))},
            "dimensions [0] must be 1: the variable 'synthesis/4x4/C",
        ),
        ({"synthesis/8x8/Conv0_up/weight": np.ones((3, 3))}, "where one of 4 dimensions is read"),
    ],
)
def test_variables_that_do_not_fit_are_named(tmp_path: Path, variables: dict, message: str):
    assert message in refused(tmp_path, pickled(tiny(), variables))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": 2}, "is a TensorFlow pickle of 2 networks, not of G, D and Gs"),
        ({"version": 3}, "is a TensorFlow pickle of version 3: only 4 and 5, StyleGAN2, is read"),
        ({"version": None}, "is a TensorFlow pickle of version None"),
        ({"static_kwargs": []}, "static_kwargs is a list, not a dict"),
        ({"components": {}}, "holds a network of the components none, not of mapping and synthesis"),
        ({"components": {"mapping": 1, "synthesis": 2}}, "a component is a int, not a Network"),
        ({"variables": {}}, "the variables of a network is a dict, not a list"),
        ({"variables": ["lod"]}, "a variable is a str, not a tuple"),
        ({"variables": [("lod",)]}, "is truncated or not as published"),
        ({"variables": [(1, 2)]}, "the name of a variable is a int"),
        ({"variables": [("lod", 0)] * 10_001}, "holds more than 10,000 variables"),
    ],
)
def test_networks_that_are_not_as_published_are_refused(tmp_path: Path, changes: dict, message: str):
    assert message in refused(tmp_path, pickled(tiny(), **changes))


def test_variables_that_are_all_the_same_numbers_are_refused(tmp_path: Path):
    generator = tiny(8, w_dim=400, z_dim=400, mapping_layers=8)
    one = np.ones((400, 400), np.float32)
    data = pickled(generator, {f"mapping/Dense{i}/weight": one for i in range(8)})
    assert "announces tensors of 5," in refused(tmp_path, data)
