"""The method against its authors' code: image formation, editing, losses, statistics, schedules, maps, images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.references.comparison import GRADIENTS, IMAGES, Arrays, Row, Setting, exact, guarded, helpers
from generators.generator import Generator
from generators.latents import resize_masks
from generators.prior import Prior, draw_w, prior_of
from stages.engine.schedule import Schedule
from stages.maps.assignment import assign_spaces, segment_means
from stages.maps.region import Region, fit, to_uint8
from stages.objective.objective import gaussian_term, variation_term
from stages.perceptual.distance import Perceptual
from stages.perceptual.weights import load_perceptual
from stages.segmenter.network import SegmenterNetwork, new_segmenter
from stages.segmenter.optimiser import rate_at

FOLDER = "2_sam"
FEATURES = ("F4", "F6", "F8", "F10")
SPACES = ("W+", *FEATURES)
RESIZED = 0.25
"""Maximum difference of bilinear masks from Lanczos ones; the difference is a decision, not an error."""

NOT_COMPARED = {
    f"{FOLDER}/forward_edit/img_*_random": "noise is never random: a result would depend on its batch",
    f"{FOLDER}/losses/mvg_w_b1": "the prior is of made-Gaussian w only",
    f"{FOLDER}/mvg_stats_w512/inv_cov_w_*": "the prior is of made-Gaussian w only",
    f"{FOLDER}/refine_*/b_refine_label_tau0p225": "the authors' batched version misaligns its images",
    f"{FOLDER}/invertibility_recipe_outputs/backbone|low": "the backbone is torchvision's DeepLab, another network",
    f"{FOLDER}/lpips_vgg_recipe/scalar_normalize_01_inputs": "images are in [-1, 1] everywhere",
    f"{FOLDER}/resize_masks_square256/in_*": "inputs",
}


def rows(setting: Setting) -> Iterator[Row]:
    """Yield every comparison with the references of the folder except those of whole inversions."""
    parts = {
        "forward_edit": _forward,
        "losses": _losses,
        "mvg_stats_w512": _statistics,
        "lr_schedule": _rates,
        "train_poly_lr": _segmenter_rates,
        "refine": _assignments,
        "resize_masks": _masks,
        "preprocess": _images,
        "lpips_vgg_recipe": _perceptual,
        "invertibility_recipe_outputs": _heads,
    }
    for name, part in parts.items():
        yield from guarded(f"{FOLDER}/{name}", part(setting))


def recipe_vgg(setting: Setting, weights: Arrays | None = None) -> Perceptual:
    """Return LPIPS with the VGG trunk of the recipe, and with these heads in place of the lpips package's."""
    with tempfile.TemporaryDirectory() as folder:
        trunk, heads = Path(folder) / "trunk.safetensors", Path(folder) / "heads.safetensors"
        save_file(helpers("recipe").vgg_trunk(), trunk)
        if weights is None:
            return load_perceptual("vgg", weights=trunk, device=setting.device)
        save_file({f"lin{i}.weight": weights[f"weight_lin{i}"].cpu() for i in range(5)}, heads)
        return load_perceptual("vgg", weights=trunk, heads=heads, device=setting.device)


def recipe_generator(setting: Setting, name: str) -> Generator:
    """Return a generator of the folder, with weights made by its recipe."""
    generator: Generator = helpers("recipe").recipe_generator(setting.golden / FOLDER, name)
    return generator.to(setting.device)


def published_prior(arrays: Arrays, prefix: str = "", space: str = "_v") -> Prior:
    """Return the prior of the authors' statistics."""
    mean = arrays[f"{prefix}mean_v"].double()
    return Prior(mean, arrays[f"{prefix}inv_cov{space}"], torch.zeros_like(mean))


@torch.no_grad()
def _forward(setting: Setting) -> Iterator[Row]:
    top, wanted = f"{FOLDER}/forward_edit", setting.arrays(f"{FOLDER}/forward_edit.npz")
    generator = recipe_generator(setting, "G256_w512")
    w, masks = wanted["lat_W+"], {space: wanted[f"mask_{space}"] for space in FEATURES}
    binary = {space: (mask > 0.5).float() for space, mask in masks.items()}
    deltas = {space: wanted[f"lat_{space}"] for space in ("F4", "F6")}
    for space in ("F8", "F10"):
        numbers = 0.4 * helpers("recipe").normal(f"forward:{space}", (1, *generator.feature_shape(space)))
        deltas[space] = torch.from_numpy(numbers.astype(np.float32)).to(setting.device)

    def row(name: str, image: Tensor) -> Row:
        step = image.shape[-1] // wanted[name].shape[-1]
        found = image[:, : wanted[name].shape[1], ::step, ::step]
        return setting.row(f"{top}/{name}", found, wanted[name], IMAGES)

    whole = generator.synthesize(w, deltas, masks)
    yield row("img_multi_const", whole)
    yield row("img_multi_binmask_const", generator.synthesize(w, deltas, binary))
    for space in SPACES:
        alone = {space: deltas[space]} if space in deltas else {}
        yield row(f"img_single_{space}_const", generator.synthesize(w, alone))
    state = generator.begin(w)
    for index, space_there in enumerate(generator.block_spaces):
        state = generator.run_block(index, state, w)
        if space_there is not None:
            state = type(state)(state.feature + masks[space_there] * deltas[space_there], state.image)
            name = f"partial_{space_there}_const"
            yield row(name if name in wanted else f"{name}_first4ch", state.feature)
    directions = {"img_edit": wanted["edit_dir"], "img_edit_all_x2": 2 * wanted["edit_dir_all"]}
    directions["img_edit_zero"] = torch.zeros_like(wanted["edit_dir"])
    for name, direction in directions.items():
        yield row(f"{name}_const", generator.edit(w, deltas, masks, direction, published=True))
    yield row("img_edit_binmask_const", generator.edit(w, deltas, binary, wanted["edit_dir"], published=True))
    zero = directions["img_edit_zero"]
    missed = (generator.edit(w, deltas, masks, zero, published=True) - whole).abs().max()
    yield setting.row(f"{top}/edit_zero_minus_recon_maxabs", missed, wanted["edit_zero_minus_recon_maxabs"], IMAGES)
    equal = torch.equal(generator.edit(w, deltas, masks, zero), whole)
    yield exact(f"{top}/a zero edit is the reconstruction", equal, "ours; the authors' is not, by the row above")
    generator.noise = "none"  # type: ignore[assignment]  # a StyleGAN2 has it
    yield row("img_multi_none", generator.synthesize(w, deltas, masks))


def _losses(setting: Setting) -> Iterator[Row]:
    top, wanted = f"{FOLDER}/losses", setting.arrays(f"{FOLDER}/losses.npz")
    prior = published_prior(setting.arrays(f"{FOLDER}/mvg_stats_w512.npz"))
    for batch in ("b1", "b3"):
        w_plus = wanted[f"wp_{batch}"]
        yield setting.row(f"{top}/b_mvg_{batch}", gaussian_term(w_plus, prior).mean(), wanted[f"b_mvg_{batch}"], 1e-7)
        yield setting.row(f"{top}/delta_{batch}", variation_term(w_plus).mean(), wanted[f"delta_{batch}"], 1e-6)
    yield setting.row(f"{top}/mvg_wp_b1", gaussian_term(wanted["wp_b1"], prior)[0], wanted["mvg_wp_b1"], 1e-7)
    mixed = wanted["mvg_wp_b3_official_quirk_first_sample_only"].diagonal()
    yield setting.row(f"{top}/mvg_wp_b3 diagonal", gaussian_term(wanted["wp_b3"], prior), mixed, 1e-7)
    small = published_prior(wanted, "small_", "")
    yield setting.row(f"{top}/small_mvg", gaussian_term(wanted["small_wp"], small)[0], wanted["small_mvg"], 1e-6)
    yield setting.row(f"{top}/small_delta", variation_term(wanted["small_wp"])[0], wanted["small_delta"], 1e-6)
    w_plus = wanted["wp_b1"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian_term(w_plus, prior).sum(), w_plus)
    yield setting.row(f"{top}/grad_mvg_wp_b1", gradient, wanted["grad_mvg_wp_b1"], 1e-6)
    (gradient,) = torch.autograd.grad(variation_term(w_plus).sum(), w_plus)
    yield setting.row(f"{top}/grad_delta_b1", gradient, wanted["grad_delta_b1"], 1e-6)
    equal = wanted["wp_b1"][:, :1].repeat(1, 14, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(variation_term(equal).sum(), equal)
    yield exact(f"{top}/grad_delta_at_all_equal", torch.equal(gradient, wanted["grad_delta_at_all_equal"]))


def _statistics(setting: Setting) -> Iterator[Row]:
    top, wanted = f"{FOLDER}/mvg_stats_w512", setting.arrays(f"{FOLDER}/mvg_stats_w512.npz")
    z = torch.randn(5000, 512, generator=torch.Generator().manual_seed(int(wanted["seed"])))
    yield exact(f"{top}/first8_z", torch.equal(z[:8], wanted["first8_z"].cpu()))
    prior = prior_of(draw_w(recipe_generator(setting, "G256_w512"), 5000, int(wanted["seed"])), published_mean=True)
    yield setting.row(f"{top}/mean_w", prior.mean_w, wanted["mean_w"], 1e-5)
    yield setting.row(f"{top}/mean_v", prior.mean, wanted["mean_v"], 1e-5)
    covariance, reference = torch.linalg.inv(prior.precision), torch.linalg.inv(wanted["inv_cov_v"].cpu())
    yield setting.row(f"{top}/cov_v", covariance, reference, 1e-5)
    yield setting.row(f"{top}/inv_cov_v", prior.precision, wanted["inv_cov_v"], 1e-3)


def _rates(setting: Setting) -> Iterator[Row]:
    for name, wanted in setting.arrays(f"{FOLDER}/lr_schedule.npz").items():
        schedule = Schedule(steps=len(wanted))
        found = np.array([schedule.rate(step) for step in range(len(wanted))])
        yield setting.row(f"{FOLDER}/lr_schedule/{name}", found, wanted, 1e-12)


def _segmenter_rates(setting: Setting) -> Iterator[Row]:
    wanted = setting.arrays(f"{FOLDER}/train_poly_lr.npz")
    per_epoch, epochs = int(wanted["iters_per_epoch"]), int(wanted["epochs"])
    epoch_step, rates = wanted["rows_epoch_iter_lr7"][:, :2].cpu(), wanted["rows_epoch_iter_lr7"][:, 2:]
    factors = [rate_at("sgd", int(epoch) * per_epoch + int(step), per_epoch * epochs) for epoch, step in epoch_step]
    found = float(wanted["base_lr"]) * np.outer(factors, [1.0, *[10.0] * 6])
    yield setting.row(f"{FOLDER}/train_poly_lr", found, rates, 1e-9)


def _assignments(setting: Setting) -> Iterator[Row]:
    for name in ("refine_a", "refine_b"):
        with np.load(setting.golden / FOLDER / f"{name}.npz", allow_pickle=False) as file:
            wanted = {key: file[key] for key in file.files}
        scaled = "inv_W+" not in wanted
        maps = [wanted[f"inv_{'x4096_' if scaled else ''}{space}"][0, 0] for space in SPACES]
        error_LHW = np.stack(maps).astype(np.float32) / (4096 if scaled else 1)
        means = segment_means(error_LHW, wanted["seg"])[1]
        yield setting.row(f"{FOLDER}/{name}/segment_means", means, wanted["segment_means_Wp_F4_F6_F8_F10"], 1e-6)
        for tau, label_HW in zip(wanted["taus"], wanted["label_idx_F10_F8_F6_F4_Wp"], strict=True):
            equal = np.array_equal(assign_spaces(error_LHW, wanted["seg"], float(tau)), 4 - label_HW)
            yield exact(f"{FOLDER}/{name}/label at tau {tau:.9g}", equal)


def _masks(setting: Setting) -> Iterator[Row]:
    note = "differs by decision: bilinear with antialiasing, where the authors take Lanczos"
    for name in ("square256", "cars192x256", "soft40"):
        wanted = setting.arrays(f"{FOLDER}/resize_masks_{name}.npz")
        for space in FEATURES:
            if f"out_{space}" not in wanted:
                continue
            mask = (
                wanted[f"in_{space}"] if "label" not in wanted else _square(wanted["label"] == 4 - SPACES.index(space))
            )
            height, width = wanted[f"out_{space}"].shape[-2:]
            resized = resize_masks(mask.float(), (height, width))
            row = setting.row(f"{FOLDER}/resize_masks_{name}/{space}", resized, wanted[f"out_{space}"], RESIZED)
            yield Row(row.name, row.error, row.tolerance, note)
        if "out_W+" in wanted:
            equal = torch.equal(_square(wanted["label"] == 4), wanted["out_W+"].bool())
            yield exact(f"{FOLDER}/resize_masks_{name}/W+", equal)


def _square(mask_HW: Tensor) -> Tensor:
    """Return a mask `[1, 1, S, S]` with as many zeros above as below, or left as right."""
    height, width = mask_HW.shape
    side = max(height, width)
    canvas = mask_HW.new_zeros(1, 1, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[0, 0, top : top + height, left : left + width] = mask_HW
    return canvas


def _images(setting: Setting) -> Iterator[Row]:
    top, wanted = f"{FOLDER}/preprocess", setting.arrays(f"{FOLDER}/preprocess.npz")
    for i in (0, 1):
        image = wanted[f"img{i}"].cpu().numpy()
        small = fit(image, Region(height=24, width=32, fit="stretch"))
        full = fit(image, Region(height=image.shape[0], width=image.shape[1]))
        yield setting.row(f"{top}/build_t_24x32_{i}", small, wanted[f"build_t_24x32_{i}"], 1e-6)
        yield setting.row(f"{top}/build_t_full_{i}", full, wanted[f"build_t_full_{i}"], 1e-6)
    above = to_uint8(wanted["tensor2pil_in"][None])[0].astype(int) - wanted["tensor2pil_out"].cpu().numpy()
    note = "differs by decision: rounds, where the authors cut off; never below, never more than one level above"
    yield exact(f"{top}/tensor2pil_out", set(np.unique(above)) <= {0, 1}, note)


def _perceptual(setting: Setting) -> Iterator[Row]:
    top, wanted = f"{FOLDER}/lpips_vgg_recipe", setting.arrays(f"{FOLDER}/lpips_vgg_recipe.npz")
    vgg = recipe_vgg(setting, wanted)
    import lpips

    for suffix in ("", "2"):
        x, y = wanted[f"a{suffix}"], wanted[f"b{suffix}"]
        with torch.no_grad():
            errors = vgg.layer_errors(x, vgg.features(y))
            yield setting.row(f"{top}/scalar{suffix}", vgg(x, y), wanted[f"scalar{suffix}"].reshape(1), IMAGES)
            yield setting.row(f"{top}/map{suffix}", vgg.map(x, y), wanted[f"map{suffix}"][0], IMAGES)
        layers = torch.stack([error.mean() for error in errors])
        yield setting.row(f"{top}/scalar_per_layer{suffix}", layers, wanted[f"scalar_per_layer{suffix}"], IMAGES)
        for i, error in enumerate(errors):
            name = f"map{suffix}_layer{i}"
            found = lpips.upsample(error[None], out_HW=tuple(x.shape[2:]))
            yield setting.row(f"{top}/{name}", found, wanted[name], IMAGES)
    x = wanted["a"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(vgg.distance(x, vgg.features(wanted["b"])).sum(), x)
    yield setting.row(f"{top}/grad_a", gradient, wanted["grad_a"], GRADIENTS)


@torch.no_grad()
def _heads(setting: Setting) -> Iterator[Row]:
    """The heads of the segmenter, on the authors' backbone's output."""
    top = f"{FOLDER}/invertibility_recipe_outputs"
    wanted = setting.arrays(f"{top}.npz")
    network = new_segmenter(SegmenterNetwork(backbone="light"), SPACES, seed=0)
    published = helpers("recipe").published_heads(SPACES)
    network.heads.load_state_dict(published | {"1.num_batches_tracked": torch.tensor(0)})
    heads = network.heads.eval().to(setting.device)
    for size in ("B2_64x64", "B1_96x128"):
        found_1LHW = heads(wanted[f"base_{size}"]).relu()
        for i, space in enumerate(SPACES):
            name = f"{space}_{size}"
            yield setting.row(f"{top}/{name}", found_1LHW[0, i], wanted[name][0, 0], 1e-3)
