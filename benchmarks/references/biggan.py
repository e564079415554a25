"""BigGAN-deep against pytorch-pretrained-BigGAN: every truncation, every layer, gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.references.comparison import CODES, GRADIENTS, IMAGES, Arrays, Row, Setting, guarded
from generators import load_generator

FOLDER = "3_biggan/biggan_deep_128struct_ch8"
TRUNCATIONS = {0.02: "img_t0p02", 0.43: "img_t0p43", 0.7: "img_t0p7", 0.999: "img_t0p999", 1.0: "img_t1p0"}
LAYERS_TRUNCATION = 0.4

NOT_COMPARED = {
    f"{FOLDER}/truncated_noise_t0p7": "z is drawn from torch's generator, not with scipy's from numpy's; the "
    "distribution is the same"
}


def rows(setting: Setting) -> Iterator[Row]:
    """Yield every comparison with the references of the folder."""
    wanted = setting.arrays(f"{FOLDER}/outputs.npz")
    for truncation, name in TRUNCATIONS.items():
        yield from guarded(f"{FOLDER}/{name}", _images(setting, wanted, truncation, name))
    yield from guarded(f"{FOLDER}/layers", _layers(setting, wanted))
    yield from guarded(f"{FOLDER}/gradients", _gradients(setting, wanted))


@torch.no_grad()
def _images(setting: Setting, wanted: Arrays, truncation: float, name: str) -> Iterator[Row]:
    generator = load_generator(setting.golden / FOLDER, setting.device, truncation)
    w = generator.map(wanted["z"], wanted["class_vec"])
    if truncation == 1.0:
        yield setting.row(f"{FOLDER}/cond_vector", w[:, 0], wanted["cond_vector"], CODES)
    yield setting.row(f"{FOLDER}/{name}", generator.synthesize(w), wanted[name], IMAGES)


@torch.no_grad()
def _layers(setting: Setting, wanted: Arrays) -> Iterator[Row]:
    from generators.families.biggan_deep import BigGANDeep

    generator = load_generator(setting.golden / FOLDER, setting.device, LAYERS_TRUNCATION)
    assert isinstance(generator, BigGANDeep)
    w, attention = generator.map(wanted["z"], wanted["class_vec"]), generator.config.attention_layer_position
    yield setting.row(f"{FOLDER}/t0p4_embed", w[:, 1, generator.z_dim :], wanted["t0p4_embed"], CODES)
    state = generator.begin(w)
    first = state.feature.permute(0, 2, 3, 1).flatten(1)
    yield setting.row(f"{FOLDER}/t0p4_gen_z_out", first, wanted["t0p4_gen_z_out"], IMAGES)
    for index in range(len(generator.config.layers)):
        if index == attention:
            name = f"t0p4_layer{index}_out"
            found = generator.layers[index](state.feature)[: len(wanted[name])]
            yield setting.row(f"{FOLDER}/{name}", found, wanted[name], IMAGES)
        state = generator.run_block(index, state, w)
        name = f"t0p4_layer{index + (index >= attention)}_out"
        if name in wanted:
            yield setting.row(f"{FOLDER}/{name}", state.feature[: len(wanted[name])], wanted[name], IMAGES)
    last = generator.bn(state.feature)[:1]
    row = setting.row(f"{FOLDER}/t0p4_bn_out", last, wanted["t0p4_bn_out"].relu(), IMAGES)
    yield Row(row.name, row.error, row.tolerance, "after the ReLU, which is one step with the batch norm here")
    yield setting.row(f"{FOLDER}/t0p4_img", generator.finish(state)[:1], wanted["t0p4_img"], IMAGES)


def _gradients(setting: Setting, wanted: Arrays) -> Iterator[Row]:
    generator = load_generator(setting.golden / FOLDER, setting.device, LAYERS_TRUNCATION)
    z, classes = (wanted[key][:1].clone().requires_grad_() for key in ("z", "class_vec"))
    loss = generator.synthesize(generator.map(z, classes)).square().sum()
    for name, gradient in zip(("grad_z", "grad_class"), torch.autograd.grad(loss, (z, classes)), strict=True):
        yield setting.row(f"{FOLDER}/{name}", gradient, wanted[name], GRADIENTS)
