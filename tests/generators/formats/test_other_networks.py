"""Generators of other families in the layouts that are read: each is named in one refusal."""

from pathlib import Path

import numpy as np
import pytest
import torch

from generators import CheckpointError, load_generator
from tests.generators.converted import tensorflow_arguments, tensorflow_pickle, tensorflow_variables
from tests.generators.published import Persistent, ada_arguments, persistent, pickled, sg3_arguments, tiny


def refused(folder: Path, content: object) -> str:
    (folder / "a.pkl").write_bytes(content if isinstance(content, bytes) else pickled(content))
    with pytest.raises(CheckpointError) as caught:
        load_generator(folder / "a.pkl")
    return str(caught.value)


def network(tensors: dict[str, torch.Tensor] | None = None, name: str = "Generator", **arguments: object) -> Persistent:
    generator = tiny()
    flat = sg3_arguments(generator.config) | arguments
    made = persistent(generator.state_dict() if tensors is None else tensors, _init_args=(), _init_kwargs=flat)
    made.name = name
    return made


@pytest.mark.parametrize(
    ("made", "family"),
    [
        (lambda: network(magnitude_ema_beta=0.999), "StyleGAN3-t"),
        (lambda: network(conv_kernel=1, use_radial_filters=True, magnitude_ema_beta=0.999), "StyleGAN3-r"),
        (lambda: network({"synthesis.L0_36_512.weight": torch.ones(1)}), "StyleGAN3"),
        (lambda: network({"synthesis.input.freqs": torch.ones(1)}), "StyleGAN3"),
        (lambda: network(path_stem="64.pkl", head_layer_names=["L1"], up_factor=2), "StyleGAN-XL"),
        (lambda: network({"mapping.embed_proj.weight": torch.ones(1)}, magnitude_ema_beta=0.5), "StyleGAN-XL"),
        (lambda: network(name="SuperresGenerator"), "StyleGAN-XL"),
        (lambda: network(name="TriPlaneGenerator", rendering_kwargs={}), "EG3D"),
        (lambda: network(square=False), "StyleGAN-Human, whose images may not be square"),
        (lambda: network({"synthesis.feat_8.weight": torch.ones(1)}, cond=0), "FastGAN (Projected GAN)"),
    ],
)
def test_networks_of_other_families_in_nvidias_layout_are_named(tmp_path: Path, made, family: str):
    message = refused(tmp_path, {"G_ema": made()})
    assert f"holds a generator of the family {family}, not a StyleGAN2" in message
    assert "hostile" not in message
    assert "read today" in message


def test_a_family_is_named_where_its_discriminator_holds_other_software(tmp_path: Path):
    content = {"G": None, "D": torch.nn.Conv2d(3, 3, 1), "G_ema": network(path_stem="64.pkl")}
    assert "of the family StyleGAN-XL" in refused(tmp_path, content)


def test_a_module_of_other_software_is_named(tmp_path: Path):
    made = Persistent(
        "Generator", _init_kwargs=ada_arguments(tiny().config), _modules={"mapping": torch.nn.Linear(2, 2)}
    )
    message = refused(tmp_path, {"G_ema": made})
    assert "wants 'torch.nn.modules.linear.Linear', which is never loaded" in message
    assert "it represents the module 'mapping'" in message


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_networks_are_named_by_their_channels(tmp_path: Path, channels: int):
    assert "img_channels: Input should be 3" in refused(tmp_path, {"G_ema": network(img_channels=channels)})


def tensorflow(networks: int = 3, arguments: dict | None = None, **changes: object) -> bytes:
    generator = tiny()
    named = tensorflow_variables(generator)
    return tensorflow_pickle(named, tensorflow_arguments(generator.config) | (arguments or {}), networks, **changes)


def test_stylegan_is_recognised_by_its_version(tmp_path: Path):
    assert "version 3: only 4 and 5, StyleGAN2, is read; StyleGAN has 3" in refused(tmp_path, tensorflow(version=3))


def test_one_tensorflow_network_is_named(tmp_path: Path):
    whole = tensorflow(1)
    assert whole.endswith(b"\x85\x94.")
    assert "is a TensorFlow pickle of one network" in refused(tmp_path, whole.removesuffix(b"\x85\x94.") + b".")


def test_progressive_gan_is_named(tmp_path: Path):
    data = b"\x80\x04" + b"cnetwork\nNetwork\n)R}b" * 3 + b"\x87."
    message = refused(tmp_path, data)
    assert "other networks than StyleGAN2's" in message
    assert "network.Network" in message


@pytest.mark.parametrize("sides", [{"resolution_w": 8, "resolution_h": 8}, {"resolution_w": None}])
def test_a_width_and_a_height_that_are_equal_are_read(tmp_path: Path, sides: dict):
    (tmp_path / "a.pkl").write_bytes(tensorflow(arguments=sides))
    np.testing.assert_array_equal(load_generator(tmp_path / "a.pkl").synthesis.b4.const, tiny().synthesis.b4.const)


@pytest.mark.parametrize("sides", [{"resolution_h": 16}, {"resolution_w": 4, "resolution_h": 8}, {"resolution_w": "8"}])
def test_images_that_are_not_square_are_refused(tmp_path: Path, sides: dict):
    assert "whose images are not square" in refused(tmp_path, tensorflow(arguments=sides))
