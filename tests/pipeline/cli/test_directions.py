"""`invertmill directions`: what fit, import and show make, say and refuse."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from generators import load_direction, load_generator
from generators.checkpoints import save_generator
from generators.directions import read_directions
from generators.directions.sampling import seeded_w
from infra.bundles import read_rows
from tests.generators.biggan_folder import tiny_biggan, write_folder
from tests.generators.published import tiny
from tests.generators.tiny_clip import write_clip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_generator(tiny(), tmp_path / "generator.safetensors", about="random numbers")
    return tmp_path / "generator.safetensors"


def npy(path: Path, rows: int = 1, dims: int = 5) -> Path:
    np.save(path, np.random.default_rng(0).standard_normal((1, rows, dims)).astype(np.float32))
    return path


def scores(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def refused(answer: tuple[int, str, str]) -> str:
    code, output, errors = answer
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    return errors


def test_components_are_fitted_written_and_listed(invertmill, tmp_path, checkpoint):
    target = tmp_path / "pca.safetensors"
    options = ("--components", 2, "--samples", 300, "--seed", 5, "--layers", "1-2")
    code, output, errors = invertmill("directions", "fit", "ganspace", checkpoint, target, *options, "--json")
    made = json.loads(output)
    assert (code, errors, made["file"]) == (0, "", str(target))
    assert [direction["name"] for direction in made["directions"]] == ["0", "1"]
    assert made["directions"][0]["generator_sha256"] == load_generator(checkpoint).digest
    assert made["directions"][0]["layers"] == [1, 2]
    assert load_direction(target, "1").shape == (4, 5)
    code, output, _ = invertmill("directions", "show", target)
    assert code == 0
    assert "0: ganspace, 4 × 5, unit: standard deviation, layers 1-2, share of variance" in output
    assert json.loads(invertmill("directions", "show", target, "--json")[1])["directions"] == made["directions"]


def test_a_direction_is_fitted_to_scores_of_samples(invertmill, tmp_path, checkpoint):
    w = torch.cat(list(seeded_w(tiny(), range(200))))[:, 0, 0]
    path = scores(tmp_path / "scores.parquet", seed=list(range(200)), size=w.tolist())
    target = tmp_path / "size.safetensors"
    options = ("--scores", path, "--column", "size", "--name", "large", "--classifier", "logistic")
    code, output, _ = invertmill("directions", "fit", "labels", checkpoint, target, *options)
    assert code == 0
    assert "large: labels, 1 × 5, unit: standard deviation, held out accuracy" in output
    assert ", fitted samples 120, " in output
    assert load_direction(target)[0, 0] > 0


def test_a_direction_is_fitted_to_scores_of_inverted_images(invertmill, tmp_path, committed, monkeypatch):
    monkeypatch.setattr("generators.directions.labels.LEAST", 1)
    codes = {
        row["key"]: row["w_plus"].astype(np.float64).mean(0)
        for path in (committed.folder / "store").glob("bundles/invert/**/records.parquet")
        for row in read_rows(path.read_bytes(), ["key", "w_plus"])
    }
    assert len(codes) == 8
    path = scores(tmp_path / "scores.parquet", key=list(codes), size=[float(w[0]) for w in codes.values()])
    target, run = tmp_path / "size.safetensors", committed.folder / "run.yaml"
    generator = committed.settings().generator.checkpoint
    options = ("--scores", path, "--column", "size", "--share", 0.5)
    code, output, errors = invertmill("directions", "fit", "labels", generator, target, *options, "--run", run)
    assert (code, errors) == (0, "")
    assert "of scores.parquet, column size, 8 samples" in output
    delta = load_direction(target)[0].numpy()
    spread = np.array([w @ delta for w in codes.values()])
    assert np.corrcoef(spread, [w[0] for w in codes.values()])[0, 1] > 0.5
    assert "say in which store they are" in refused(
        invertmill("directions", "fit", "labels", generator, target, *options, "--force")
    )


def test_scores_of_images_of_another_generator_are_refused(invertmill, tmp_path, committed, checkpoint):
    path = scores(tmp_path / "scores.parquet", key=["train-a-000", "held-b-000"], size=[0.0, 1.0])
    answer = invertmill(
        *("directions", "fit", "labels", checkpoint, tmp_path / "a.safetensors"),
        *("--scores", path, "--column", "size", "--run", committed.folder / "run.yaml"),
    )
    assert "was inverted with the generator of SHA-256" in refused(answer)


def test_images_that_were_never_published_are_refused(invertmill, tmp_path, fresh, checkpoint):
    path = scores(tmp_path / "scores.parquet", key=["a", "b"], size=[0.0, 1.0])
    answer = invertmill(
        *("directions", "fit", "labels", checkpoint, tmp_path / "a.safetensors"),
        *("--scores", path, "--column", "size", "--run", fresh.folder / "run.yaml"),
    )
    assert "holds no published result: run `invertmill run` first" in refused(answer)


def test_directions_by_text_are_fitted_to_all_images_and_to_one(invertmill, tmp_path, committed):
    pytest.importorskip("transformers")
    clip, target = write_clip(tmp_path / "clip"), tmp_path / "red.safetensors"
    generator, run = committed.settings().generator.checkpoint, committed.folder / "run.yaml"
    fit = ("directions", "fit")
    texts = ("--neutral", "a car", "--text", "a red car", "--name", "red", "--samples", 4)
    code, output, errors = invertmill(*fit, "styleclip", generator, target, *texts, "--clip", clip)
    assert (code, errors) == (0, "")
    assert "red: styleclip, 8 × 8, unit: standard deviation, gain" in output
    assert load_direction(target, "red").shape == (8, 8)
    image = ("--text", "a red car", "--steps", 3, "--clip", clip, "--force")
    for chosen in (("--image-seed", 3), ("--image-key", "train-a-000", "--run", run)):
        code, output, _ = invertmill(*fit, "styleclip-image", generator, target, *image, *chosen)
        assert code == 0
        assert "a red car: styleclip-image, 8 × 8, unit: the whole edit, gain" in output
    both = ("--image-seed", 3, "--image-key", "train-a-000")
    answer = invertmill(*fit, "styleclip-image", generator, target, *image, *both)
    assert refused(answer) == "error: one image is edited: give its image_seed or its image_key\n"
    answer = invertmill(*fit, "styleclip", generator, tmp_path / "b.safetensors", *texts)
    assert "a CLIP model is a local folder, or OWNER/NAME of the hub with the commit" in refused(answer)


def test_published_files_are_imported_with_their_provenance(invertmill, tmp_path, checkpoint):
    source, target = npy(tmp_path / "csc_old.npy"), tmp_path / "old.safetensors"
    options = ("--as", "old", "--layers", "0-1", "--generator", checkpoint)
    code, output, errors = invertmill("directions", "import", source, target, *options)
    assert (code, errors) == (0, "")
    assert "old: npy, 4 × 5, unit: as published, layers 0-1, of csc_old.npy, generator" in output
    found = read_directions(target).direction("old")
    assert torch.equal(found.delta[:2], load_direction(source).expand(2, -1))
    assert found.delta[2:].abs().sum() == 0
    assert found.provenance.source_sha256 == read_directions(source).digest
    assert found.provenance.generator_sha256 == load_generator(checkpoint).digest


def test_importing_a_published_file_of_ganspace_keeps_every_component(invertmill, tmp_path, shared):
    source, target = shared / "directions/e4e/ganspace_pca/cars_pca.pt", tmp_path / "cars.safetensors"
    assert invertmill("directions", "import", source, target)[0] == 0
    found = read_directions(target).directions
    assert list(found) == [str(i) for i in range(80)]
    assert torch.equal(found["10"].delta, load_direction(source, "10"))
    assert (
        invertmill("directions", "import", source, tmp_path / "one.safetensors", "--name", 10, "--as", "cube")[0] == 0
    )
    assert torch.equal(load_direction(tmp_path / "one.safetensors", "cube"), found["10"].delta)


def sheet(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_sheet_shows_each_sample_at_each_magnitude(invertmill, tmp_path, checkpoint):
    source, path = npy(tmp_path / "a.npy", rows=4), tmp_path / "sheet.png"
    options = ("--magnitudes", "-2,0,1.5", "--samples", 2, "--seed", 7, "--truncation", 0.5)
    code, output, errors = invertmill(
        "directions", "show", source, "--generator", checkpoint, "--sheet", path, *options
    )
    assert (code, errors) == (0, "")
    assert f"sheet: {path}" in output
    found, generator = sheet(path)[20:], tiny()
    assert found.shape == (16, 24, 3)
    for row, seed in enumerate((7, 8)):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 6)).float()
        for column, magnitude in enumerate((-2, 0, 1.5)):
            image = generator.synthesize(generator.map(z, truncation=0.5) + magnitude * load_direction(source))
            wanted = ((image[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
            tile = found[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].astype(float)
            np.testing.assert_allclose(tile, wanted, atol=1)


def test_a_sheet_of_a_biggan_shows_its_classes(invertmill, tmp_path):
    generator = tiny_biggan()
    folder, path = write_folder(tmp_path / "biggan", generator), tmp_path / "sheet.png"
    source = npy(tmp_path / "z.npy", dims=generator.w_dim)
    options = ("--generator", folder, "--sheet", path, "--magnitudes", "0,1", "--samples", 1, "--class", 2)
    assert invertmill("directions", "show", source, *options)[0] == 0
    left, right = np.split(sheet(path)[20:], 2, axis=1)
    assert left.shape[:2] == (generator.resolution, generator.resolution)
    assert not np.array_equal(left, right)


def test_components_of_z_are_fitted_to_a_biggan_and_drawn(invertmill, tmp_path):
    generator = tiny_biggan()
    folder, target = write_folder(tmp_path / "biggan", generator), tmp_path / "z.safetensors"
    code, output, _ = invertmill("directions", "fit", "ganspace", folder, target, "--components", 2)
    assert code == 0
    assert "0: ganspace, 1 × 11, unit: standard deviation, stdev 1, share of variance" in " ".join(output.split())
    drawn = ("--generator", folder, "--sheet", tmp_path / "sheet.png", "--magnitudes", "0,2", "--samples", 1)
    assert invertmill("directions", "show", target, "--name", 1, *drawn)[0] == 0
    left, right = np.split(sheet(tmp_path / "sheet.png")[20:], 2, axis=1)
    assert not np.array_equal(left, right)


def test_a_direction_of_z_is_imported_for_the_codes_of_a_biggan(invertmill, tmp_path):
    folder, target = write_folder(tmp_path / "biggan", tiny_biggan()), tmp_path / "z.safetensors"
    source = npy(tmp_path / "z.npy", dims=6)
    assert invertmill("directions", "import", source, target, "--generator", folder, "--layers", "0-1")[0] == 0
    delta = load_direction(target)
    assert delta.shape == (6, 11)
    assert torch.equal(delta[:2, :6], load_direction(source).expand(2, -1))
    assert delta[:, 6:].abs().max() == delta[2:].abs().max() == 0


def test_every_published_file_is_imported_as_it_is(invertmill, tmp_path, shared):
    paths = sorted(path for path in (shared / "directions").rglob("*") if path.suffix in (".npy", ".pt"))
    assert len(paths) == 31
    for number, path in enumerate(paths):
        target = tmp_path / f"{number}.safetensors"
        assert invertmill("directions", "import", path, target)[0] == 0
        source, made = read_directions(path).directions, read_directions(target).directions
        assert made.keys() == source.keys()
        assert all(torch.equal(made[name].delta, source[name].delta) for name in source)


@pytest.mark.parametrize(("rows", "dims"), [(16, 5), (4, 512), (1, 6)])
def test_a_direction_of_another_generator_is_refused_before_any_image(invertmill, tmp_path, checkpoint, rows, dims):
    source, path = npy(tmp_path / "a.npy", rows, dims), tmp_path / "sheet.png"
    message = f"direction 'a' is [{rows}, {dims}], and this generator's codes take [4, 5] or [1, 5]"
    assert message in refused(invertmill("directions", "show", source, "--generator", checkpoint, "--sheet", path))
    assert message in refused(
        invertmill("directions", "import", source, tmp_path / "b.safetensors", "--generator", checkpoint)
    )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.npy", "generator.safetensors"]


def test_a_sheet_of_another_generator_of_the_same_shape_warns(invertmill, tmp_path, checkpoint):
    target = tmp_path / "pca.safetensors"
    fitted = ("directions", "fit", "ganspace", checkpoint, target, "--components", 1, "--samples", 300)
    assert invertmill(*fitted)[0] == 0
    save_generator(tiny(seed=1), tmp_path / "other.safetensors", about="random numbers")
    options = ("--sheet", tmp_path / "sheet.png", "--samples", 1)
    _, same, _ = invertmill("directions", "show", target, "--generator", checkpoint, *options)
    _, other, _ = invertmill("directions", "show", target, "--generator", tmp_path / "other.safetensors", *options)
    assert "warning" not in same
    assert "warning: direction '0' was made for the generator of SHA-256" in other


def test_what_cannot_be_done_is_one_message(invertmill, tmp_path, checkpoint):
    source = npy(tmp_path / "a.npy")
    target = tmp_path / "a.safetensors"
    show, bring = ("directions", "show", source), ("directions", "import", source)
    drawn = (*show, "--sheet", tmp_path / "a.png", "--generator", checkpoint)
    assert "give its checkpoint with --generator" in refused(invertmill(*show, "--sheet", tmp_path / "a.png"))
    assert "has no direction 'b': it has a" in refused(invertmill(*show, "--name", "b"))
    assert "numbers such as -3,0,3, got '1,x'" in refused(invertmill(*drawn, "--magnitudes", "1,x"))
    assert "numbers such as -3,0,3, got 'nan'" in refused(invertmill(*drawn, "--magnitudes", "nan"))
    assert "must end in .safetensors" in refused(invertmill(*bring, tmp_path / "a.pt"))
    assert "such as 0-5, got '5-'" in refused(invertmill(*bring, target, "--layers", "5-"))
    assert "give the generator with --generator" in refused(invertmill(*bring, target, "--layers", "0-1"))
    assert "SHA-256 mismatch" in refused(invertmill(*bring, target, "--sha256", "0" * 64))
    assert invertmill(*bring, target)[0] == 0
    assert "exists already; choose another name, or replace it with --force" in refused(invertmill(*bring, target))
    assert invertmill(*bring, target, "--force")[0] == 0
    assert "cannot write" in refused(invertmill(*bring, source / "b.safetensors"))
    fitted = ("directions", "fit", "labels", checkpoint, tmp_path / "b.safetensors", "--column", "size")
    assert "No such file" in refused(invertmill(*fitted, "--scores", tmp_path / "missing.parquet"))
    assert "share: Input should be less than or equal to 0.5, got 0.7" in refused(
        invertmill(*fitted, "--scores", tmp_path / "missing.parquet", "--share", 0.7)
    )


def test_the_commands_are_listed_without_loading_a_network_library():
    code = (
        "import sys; from pipeline.cli.commands import app; "
        "sys.exit(bool({'torch', 'sklearn', 'pyarrow', 'ray', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
