"""Published encoders load from their files and give codes as the published code does; what does not fit is refused."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from generators import CheckpointError, load_encoder, load_generator
from generators.encoders.encoder import Encoder, ReStyle
from generators.encoders.published import TYPES
from generators.errors import ArgumentError, UnknownFormatError
from tests.generators.biggan_folder import tiny_biggan
from tests.generators.converted import torch_file
from tests.generators.encoders.small import W_DIM, Published, pictures, published
from tests.generators.published import network_pickle, tiny

RESTYLE = [name for name, (kind, _) in TYPES.items() if kind.startswith("ReStyle")]
ONE_PASS = [name for name in TYPES if name not in RESTYLE]


def loaded(folder: Path, file: Published | bytes, **arguments: Any) -> Encoder:
    path = folder / "encoder.pt"
    path.write_bytes(file if isinstance(file, bytes) else file.data)
    return load_encoder(path, **arguments)


def changed(file: Published, **changes: Any) -> bytes:
    """Return the file with other content; None leaves a key out."""
    return torch_file({key: value for key, value in {**file.content, **changes}.items() if value is not None})


def average_of(file: Published) -> Tensor:
    return file.generator.mapping.w_avg


@pytest.mark.parametrize("encoder_type", ONE_PASS)
def test_codes_are_the_networks_with_the_latent_average_added(tmp_path: Path, encoder_type: str):
    file = published(encoder_type)
    encoder = loaded(tmp_path, file)
    codes = encoder(pictures())
    assert codes.shape == (2, 6, W_DIM)
    assert (encoder.kind, encoder.num_ws, encoder.w_dim, encoder.resolution) == (TYPES[encoder_type][0], 6, W_DIM, 16)
    torch.testing.assert_close(codes, file.network(pictures()) + average_of(file))


def test_e4e_adds_an_offset_to_the_first_row_where_psp_has_the_row_itself(tmp_path: Path):
    file = published("Encoder4Editing")
    e4e = loaded(tmp_path, file)(pictures()) - average_of(file)
    psp = loaded(tmp_path, published("GradualStyleEncoder"))(pictures()) - average_of(file)
    torch.testing.assert_close(e4e[:, 0], psp[:, 0])
    torch.testing.assert_close(e4e[:, 1:], psp[:, :1] + psp[:, 1:])


def test_a_one_code_encoder_gives_the_same_w_in_every_row(tmp_path: Path):
    codes = loaded(tmp_path, published("SingleStyleCodeEncoder"))(pictures())
    assert bool((codes == codes[:, :1]).all())
    assert float(codes.std(0).max()) > 0


@pytest.mark.parametrize("encoder_type", RESTYLE)
def test_restyle_looks_at_its_inversion_five_times_from_the_average_image(tmp_path: Path, encoder_type: str):
    file = published(encoder_type)
    images = pictures()
    codes = average_of(file).expand(2, 6, W_DIM)
    for _ in range(5):
        inversion = F.adaptive_avg_pool2d(file.generator.synthesize(codes), (256, 256))
        codes = codes + file.network(torch.cat([images, inversion], dim=1))
    encoder = loaded(tmp_path, file)
    assert encoder.iterations == 5
    torch.testing.assert_close(encoder(images), codes, rtol=1e-3, atol=1e-3)


def test_restyle_makes_as_many_passes_as_its_file_says_or_the_caller(tmp_path: Path):
    file = published("BackboneEncoder", n_iters_per_batch=2)
    two, one = loaded(tmp_path, file), loaded(tmp_path, file, iterations=1)
    assert (two.iterations, one.iterations) == (2, 1)
    assert not torch.allclose(two(pictures()), one(pictures()))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        loaded(tmp_path, file, iterations=0)


def test_an_encoder_of_cars_takes_192_by_256_pixels_and_restyle_sees_the_middle_of_its_inversion(tmp_path: Path):
    assert loaded(tmp_path, published("Encoder4Editing", dataset_type="cars_encode")).input_size == (192, 256)
    file = published("BackboneEncoder", dataset_type="cars_encode", n_iters_per_batch=1)
    images = pictures(height=192)
    inversion = F.adaptive_avg_pool2d(file.generator.synthesize(average_of(file).expand(1, 6, W_DIM)), 256)
    middle = inversion[:, :, 32:224].expand(2, -1, -1, -1)
    expected = file.network(torch.cat([images, middle], dim=1)) + average_of(file)
    torch.testing.assert_close(loaded(tmp_path, file)(images), expected)


def test_images_of_another_size_are_resized_with_antialiasing(tmp_path: Path):
    encoder = loaded(tmp_path, published("GradualStyleEncoder"))
    large = pictures(height=512, width=384)
    resized = F.interpolate(large, (256, 256), mode="bilinear", antialias=True)
    torch.testing.assert_close(encoder(large), encoder(resized))


@pytest.mark.parametrize("shape", [(3, 256, 256), (1, 1, 256, 256), (1, 256, 256, 3)])
def test_images_of_another_layout_are_refused(tmp_path: Path, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected images \[N, 3, h, w\]"):
        loaded(tmp_path, published("GradualStyleEncoder"))(torch.zeros(shape))


@pytest.mark.parametrize("encoder_type", ["Encoder4Editing", "ResNetBackboneEncoder"])
def test_an_images_codes_do_not_depend_on_its_neighbours(tmp_path: Path, encoder_type: str):
    encoder = loaded(tmp_path, published(encoder_type))
    images = pictures(3)
    torch.testing.assert_close(encoder(images)[1:2], encoder(images[1:2]), rtol=1e-4, atol=1e-4)
    assert encoder(images[:0]).shape == (0, 6, W_DIM)


def test_the_arguments_may_be_a_namespace(tmp_path: Path):
    file = published("Encoder4Editing")
    namespace = changed(file, opts=argparse.Namespace(**file.content["opts"], exp_dir=Path("experiment")))
    torch.testing.assert_close(loaded(tmp_path, namespace)(pictures()), loaded(tmp_path, file)(pictures()))


def test_an_encoder_that_makes_more_rows_than_its_decoder_takes_gives_the_first_ones(tmp_path: Path):
    file = published("Encoder4Editing", rows=8)
    encoder = loaded(tmp_path, file)
    assert (encoder.num_ws, encoder.resolution) == (6, 16)
    torch.testing.assert_close(encoder(pictures()), file.network(pictures())[:, :6] + average_of(file))


def test_an_encoder_trained_without_the_latent_average_makes_absolute_codes(tmp_path: Path):
    file = published("GradualStyleEncoder", start_from_latent_avg=False)
    torch.testing.assert_close(loaded(tmp_path, changed(file, latent_avg=None))(pictures()), file.network(pictures()))


@pytest.mark.parametrize("encoder_type", ["Encoder4Editing", "BackboneEncoder"])
def test_an_encoder_without_the_latent_average_is_refused(tmp_path: Path, encoder_type: str):
    with pytest.raises(CheckpointError, match=r"encoder\.pt holds an encoder .* without latent_avg"):
        loaded(tmp_path, changed(published(encoder_type), latent_avg=None))


def test_an_encoder_fits_the_generator_that_it_was_trained_for(tmp_path: Path):
    file = published("Encoder4Editing")
    loaded(tmp_path, file).check_fits(file.generator)


def test_an_encoder_of_another_generator_is_refused_by_name(tmp_path: Path):
    encoder = loaded(tmp_path, published("Encoder4Editing"))
    for other in (tiny(32, w_dim=W_DIM), tiny(16, w_dim=7)):
        with pytest.raises(ArgumentError, match=r"encoder\.pt \(e4e\) was trained for a generator of 16 px, num_ws 6"):
            encoder.check_fits(other)
    with pytest.raises(ArgumentError, match="work with StyleGAN2 only"):
        encoder.check_fits(tiny_biggan())


def test_the_digest_is_that_of_the_file_and_a_different_one_is_refused(tmp_path: Path):
    file = published("Encoder4Editing")
    encoder = loaded(tmp_path, file)
    assert encoder.digest == hashlib.sha256((tmp_path / "encoder.pt").read_bytes()).hexdigest()
    assert load_encoder((tmp_path / "encoder.pt").as_uri(), sha256=encoder.digest).digest == encoder.digest
    with pytest.raises(CheckpointError, match="0000"):
        load_encoder(tmp_path / "encoder.pt", sha256="0" * 64)


def test_an_encoder_is_frozen_and_has_no_decoder_unless_it_looks_at_images(tmp_path: Path):
    e4e, restyle = (loaded(tmp_path, published(name)) for name in ("Encoder4Editing", "BackboneEncoder"))
    assert not e4e.training
    assert not any(parameter.requires_grad for parameter in e4e.parameters())
    assert not any("synthesis" in name for name in e4e.state_dict())
    assert isinstance(restyle, ReStyle)
    assert restyle.decoder.resolution == 16


def test_restyle_without_its_decoder_is_refused(tmp_path: Path):
    file = published("BackboneEncoder")
    state = {name: tensor for name, tensor in file.content["state_dict"].items() if name.startswith("encoder.")}
    with pytest.raises(CheckpointError, match="without its decoder"):
        loaded(tmp_path, changed(file, state_dict=state))


OTHERS = {
    "of an unknown type": (lambda file: changed(file, opts={"encoder_type": "NoSuch"}), "type 'NoSuch'"),
    "without a type": (lambda file: changed(file, opts={"device": "cuda"}), "type None"),
    "without opts": (lambda file: changed(file, opts=None), "without opts"),
    "with unknown opts": (lambda file: changed(file, opts=Unknown()), "Unknown'"),
    "a generator": (
        lambda file: torch_file({"g_ema": file.content["state_dict"]}),
        "a generator, which load_generator",
    ),
    "a HyperStyle": (lambda _: torch_file({"state_dict": {"hypernet.a": torch.zeros(1)}}), "a HyperStyle"),
    "a tensor": (lambda _: torch_file(torch.zeros(3)), "a StoredTensor"),
    "something else": (lambda _: torch_file({"weights": torch.zeros(3)}), "holds 'weights'"),
    "NVIDIA's pickle": (lambda _: network_pickle({"a.b": torch.zeros(1)}, {}), "a pickle of a generator"),
    "empty": (lambda _: b"", "an empty file"),
    "a web page": (lambda _: b"<html>", "a web page"),
}


class Unknown:
    """What no published file holds."""


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_not_an_encoder_of_a_known_type_is_refused_by_what_it_looks_like(tmp_path: Path, name: str):
    make, message = OTHERS[name]
    with pytest.raises(UnknownFormatError if "unknown opts" not in name else CheckpointError, match=message) as caught:
        loaded(tmp_path, make(published("Encoder4Editing")))
    assert "encoder.pt" in str(caught.value)


def without(file: Published, name: str) -> bytes:
    return changed(file, state_dict={key: value for key, value in file.content["state_dict"].items() if key != name})


def replaced(file: Published, name: str, tensor: Tensor) -> bytes:
    return changed(file, state_dict={**file.content["state_dict"], name: tensor})


FIRST, BIAS = "encoder.input_layer.0.weight", "encoder.styles.0.linear.bias"
DAMAGED = {
    "a missing tensor": (lambda file: without(file, "encoder.body.4.res_layer.1.weight"), "lacks 'trunk.body.4"),
    "no stem": (lambda file: without(file, FIRST), "input_layer.0.weight no such tensor"),
    "an additional tensor": (lambda file: replaced(file, "encoder.more", torch.zeros(1)), "'head.more' besides"),
    "sketches as input": (lambda file: replaced(file, FIRST, torch.zeros(4, 1, 3, 3)), "1 input channels"),
    "another shape": (
        lambda file: replaced(file, "encoder.latlayer1.bias", torch.zeros(3)),
        r"latlayer1.bias of \[3\]",
    ),
    "NaN": (
        lambda file: replaced(file, BIAS, torch.full((W_DIM,), torch.nan)),
        "encoder.styles.0.linear.bias'? with 5",
    ),
    "integers": (lambda file: replaced(file, BIAS, torch.zeros(W_DIM, dtype=torch.int64)), "int64"),
    "an average of another size": (lambda file: changed(file, latent_avg=torch.zeros(6, 9)), r"latent_avg of \[6, 9\]"),
    "an average of few rows": (lambda file: changed(file, latent_avg=torch.zeros(3, W_DIM)), r"latent_avg of \[3, 5\]"),
    "an average that is NaN": (lambda file: changed(file, latent_avg=torch.full((6, W_DIM), torch.nan)), "latent_avg"),
    "an average that is a text": (lambda file: changed(file, latent_avg="mean"), "latent_avg"),
    "much from little": (
        lambda file: replaced(file, "encoder.latlayer1.weight", torch.zeros(1).expand(32, 2**20, 1, 1)),
        r"announces a tensor of \[32, 1048576, 1, 1\]",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_encoder_is_refused(tmp_path: Path, name: str):
    make, message = DAMAGED[name]
    with pytest.raises(CheckpointError, match=message):
        loaded(tmp_path, make(published("Encoder4Editing")))


def test_a_file_in_which_many_tensors_share_their_numbers_is_refused(tmp_path: Path):
    file = published("Encoder4Editing", w_dim=64)
    state, numbers = file.content["state_dict"], torch.randn(64, 64, 3, 3)
    shared = {name: numbers for name, tensor in state.items() if tensor.shape == numbers.shape}
    assert "encoder.body" not in " ".join(shared)
    with pytest.raises(CheckpointError, match=r"announces tensors of [\d,]+ bytes, but holds"):
        loaded(tmp_path, changed(file, state_dict={**state, **shared}))


def test_the_generator_in_an_encoders_file_is_not_read_as_a_generator(tmp_path: Path):
    (tmp_path / "encoder.pt").write_bytes(published("Encoder4Editing").data)
    with pytest.raises(CheckpointError, match="an encoder's file"):
        load_generator(tmp_path / "encoder.pt")
