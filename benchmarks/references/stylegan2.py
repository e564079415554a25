"""StyleGAN2 against NVIDIA's three implementations and rosinality's: checkpoints, codes, images, layers, gradients."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.references.comparison import CODES, GRADIENTS, IMAGES, Arrays, Row, Setting, exact, guarded, helpers
from generators import load_generator
from generators.families.stylegan2 import StyleGAN2

FOLDER = "1_stylegan2"
PICKLES = ("sg2ada_r64", "sg2ada_r64_cond10", "sg3repo_stylegan2_r64")
CUTOFF = 4

NOT_COMPARED = {f"{FOLDER}/*/D_logits_img_const": "discriminators are not read"}


def rows(setting: Setting) -> Iterator[Row]:
    """Yield every comparison with the references of the folder."""
    for name in PICKLES:
        yield from guarded(f"{FOLDER}/{name}", _pickle(setting, name))
    yield from guarded(f"{FOLDER}/tf_config_f_r64", _tensorflow(setting))
    yield from guarded(f"{FOLDER}/rosinality_r64", _rosinality(setting))
    yield from guarded(f"{FOLDER}/rosinality_r64/fullwidth", _full_width(setting))


@torch.no_grad()
def _pickle(setting: Setting, name: str) -> Iterator[Row]:
    top, folder = f"{FOLDER}/{name}", setting.golden / FOLDER / name
    generator, wanted = _load(setting, folder / "network-snapshot.pkl"), setting.arrays(f"{top}/outputs.npz")
    yield _same_tensors(f"{top}/G_ema", generator, folder / "G_ema.safetensors")
    yield from _codes(setting, top, generator, wanted)
    full, truncated, wsplus = (wanted[key] for key in ("ws_psi1", "ws_psi0p7", "wsplus"))
    for key, w in (("img_const", full), ("img_wsplus_const", wsplus), ("img_full_psi0p7_const", truncated)):
        yield setting.row(f"{top}/{key}", generator.synthesize(w), wanted[key], IMAGES)
    yield setting.row(
        f"{top}/img_wsplus_const_unfused", generator.synthesize(wsplus), wanted["img_wsplus_const_unfused"], IMAGES
    )
    generator.noise = "none"
    yield setting.row(f"{top}/img_none", generator.synthesize(full), wanted["img_none"], IMAGES)
    generator.noise = "const"
    yield from _layers(setting, top, generator, wanted)
    yield _gradients(setting, top, generator, wanted)
    random = _random_noise(generator, len(wsplus), int(wanted["img_wsplus_random_seed"]))
    images = torch.cat([_with_noise(generator, wsplus[i : i + 1], noise) for i, noise in enumerate(random)])
    yield setting.row(f"{top}/img_wsplus_random", images, wanted["img_wsplus_random"], IMAGES)


def _codes(setting: Setting, top: str, generator: StyleGAN2, wanted: Arrays) -> Iterator[Row]:
    z, label = wanted["z"], wanted["c"] if generator.label_dim else None
    full, truncated = generator.map(z, label), generator.map(z, label, truncation=0.7)
    yield setting.row(f"{top}/ws_psi1", full, wanted["ws_psi1"], CODES)
    yield setting.row(f"{top}/ws_psi0p7", truncated, wanted["ws_psi0p7"], CODES)
    mixed = torch.cat([truncated[:, :CUTOFF], full[:, CUTOFF:]], dim=1)
    yield setting.row(f"{top}/ws_psi0p7_cutoff4", mixed, wanted["ws_psi0p7_cutoff4"], CODES)


def _layers(setting: Setting, top: str, generator: StyleGAN2, wanted: Arrays) -> Iterator[Row]:
    w = wanted["wsplus"]
    state = generator.begin(w)
    for index, resolution in enumerate(generator.config.block_resolutions):
        state = generator.run_block(index, state, w)
        feature = wanted[f"x_b{resolution}"]
        yield setting.row(f"{top}/x_b{resolution}", state.feature[: len(feature)], feature, IMAGES)
        if (key := f"img_b{resolution}") in wanted and state.image is not None:
            yield setting.row(f"{top}/{key}", state.image, wanted[key], IMAGES)


@torch.enable_grad()
def _gradients(setting: Setting, top: str, generator: StyleGAN2, wanted: Arrays) -> Row:
    w = wanted["wsplus"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad((generator.synthesize(w) * wanted["grad_proj"]).sum(), w)
    return setting.row(f"{top}/grad_ws", gradient, wanted["grad_ws"], GRADIENTS)


@torch.no_grad()
def _tensorflow(setting: Setting) -> Iterator[Row]:
    top, folder = f"{FOLDER}/tf_config_f_r64", setting.golden / FOLDER / "tf_config_f_r64"
    generator, wanted = _load(setting, folder / "stylegan2-tf-format.pkl"), setting.arrays(f"{top}/outputs.npz")
    yield _same_tensors(f"{top}/G_ema.converted", generator, folder / "G_ema.converted.safetensors")
    for psi, codes, image in ((1.0, "ws_psi1", "img_const"), (0.7, "ws_psi0p7", "img_psi0p7_const")):
        w = generator.map(wanted["z"], truncation=psi)
        yield setting.row(f"{top}/{codes}", w, wanted[codes], CODES)
        yield setting.row(f"{top}/{image}", generator.synthesize(w), wanted[image], IMAGES)


@torch.no_grad()
def _rosinality(setting: Setting) -> Iterator[Row]:
    top, folder = f"{FOLDER}/rosinality_r64", setting.golden / FOLDER / "rosinality_r64"
    generator, wanted = _load(setting, folder / "rosinality_ckpt.pt"), setting.arrays(f"{top}/outputs.npz")
    for psi, codes, key in ((1.0, "w", "img_z_buffers"), (0.7, "w_psi0p7", "img_z_psi0p7_buffers")):
        w = generator.map(wanted["z"], truncation=psi)
        yield setting.row(f"{top}/{codes}", w[:, 0], wanted[codes], CODES)
        yield setting.row(f"{top}/{key}", generator.synthesize(w), wanted[key], IMAGES)
    wplus = wanted["wplus"]
    yield setting.row(f"{top}/img_wplus_buffers", generator.synthesize(wplus), wanted["img_wplus_buffers"], IMAGES)
    generator.noise = "none"
    image = generator.synthesize(wplus)
    yield setting.row(f"{top}/img_wplus_zero_noise", image, wanted["img_wplus_zero_noise"], IMAGES)
    generator.noise = "const"
    yield from _rosinality_layers(setting, top, generator, wanted)
    noise = [wanted[f"noise_given_{i}"][0, 0] for i in range(len(_noise_buffers(generator)))]
    image = _with_noise(generator, wplus, noise)
    yield setting.row(f"{top}/img_wplus_noise_given", image, wanted["img_wplus_noise_given"], IMAGES)


def _rosinality_layers(setting: Setting, top: str, generator: StyleGAN2, wanted: Arrays) -> Iterator[Row]:
    w = wanted["wplus"][:1]
    state = generator.begin(w)
    for index, resolution in enumerate(generator.config.block_resolutions):
        before, state = state, generator.run_block(index, state, w)
        feature = f"x_convs{2 * index - 1}" if index else "x_conv1"
        image = f"rgb_to_rgbs{index - 1}" if index else "rgb_to_rgb1"
        if index:
            up = generator.synthesis.block(resolution).conv0(before.feature, w[:, 2 * index - 1], "const")
            yield setting.row(f"{top}/x_convs{2 * index - 2}", up, wanted[f"x_convs{2 * index - 2}"], IMAGES)
        yield setting.row(f"{top}/{feature}", state.feature, wanted[feature][:1], IMAGES)
        assert state.image is not None
        yield setting.row(f"{top}/{image}", state.image, wanted[image][:1], IMAGES)


@torch.no_grad()
def _full_width(setting: Setting) -> Iterator[Row]:
    """The published width, with weights by recipe, through a file in rosinality's layout."""
    top = f"{FOLDER}/rosinality_r64/fullwidth_r32"
    wanted = setting.arrays(f"{FOLDER}/rosinality_r64/fullwidth_r32_recipe_outputs.npz")
    converted, recipe = helpers("generators.converted"), helpers("recipe").rosinality_tensor
    from generators.formats.rosinality import sources

    shape = {"z_dim": 512, "w_dim": 512, "mapping_layers": 8, "channel_base": 512 * 32, "channel_max": 512}
    some = helpers("generators.published").tiny(32, **shape)
    state = converted.rosinality_state(some)
    known = {source for source, _ in sources(some.config).values()}
    state |= {key: recipe(key, tuple(tensor.shape)) for key, tensor in state.items() if key in known}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.pt"
        path.write_bytes(converted.torch_file({"g_ema": state, "latent_avg": torch.zeros(512)}))
        generator = _load(setting, path)
    w = generator.map(wanted["z"])
    yield setting.row(f"{top}/w", w[:, 0], wanted["w"], CODES)
    yield setting.row(f"{top}/img", generator.synthesize(w), wanted["img"], IMAGES)


def _load(setting: Setting, path: Path) -> StyleGAN2:
    generator = load_generator(path, setting.device)
    assert isinstance(generator, StyleGAN2)
    return generator


def _same_tensors(name: str, generator: StyleGAN2, path: Path) -> Row:
    wanted, found = load_file(path), generator.state_dict()
    equal = wanted.keys() == found.keys() and all(torch.equal(found[key].cpu(), wanted[key]) for key in wanted)
    return exact(name, equal, f"{len(wanted)} tensors, bit by bit")


def _noise_buffers(generator: StyleGAN2) -> list[Tensor]:
    """Return the noise of every convolution, in their order; written to in place."""
    return [buffer for name, buffer in generator.named_buffers() if name.endswith("noise_const")]


def _random_noise(generator: StyleGAN2, count: int, seed: int) -> list[list[Tensor]]:
    """Return the noise that the official implementations draw per image of a batch, `[r, r]` per convolution."""
    random = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(count, *buffer.shape, generator=random) for buffer in _noise_buffers(generator)]
    return [[noise[i] for noise in drawn] for i in range(count)]


def _with_noise(generator: StyleGAN2, w: Tensor, noise: list[Tensor]) -> Tensor:
    """Return images with other noise than the buffers', which are restored."""
    buffers = _noise_buffers(generator)
    kept = [buffer.clone() for buffer in buffers]
    for buffer, other in zip(buffers, noise, strict=True):
        buffer.copy_(other)
    image = generator.synthesize(w)
    for buffer, before in zip(buffers, kept, strict=True):
        buffer.copy_(before)
    return image
