"""A boundary between samples with high and low scores: its normal, its length, and scores that make none."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from generators import DirectionError
from generators.directions import Labels
from generators.directions.labels import boundary_of
from generators.directions.sampling import seeded_w
from tests.generators.biggan_folder import tiny_biggan
from tests.generators.published import tiny

COUNT = 600
AXIS = np.array([0.6, 0.0, -0.8, 0.0, 0.0])


def scores_file(folder: Path, **columns: object) -> Path:
    path = folder / "scores.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def codes(generator, count: int = COUNT) -> torch.Tensor:
    return torch.cat(list(seeded_w(generator, range(count))))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def scored(folder: Path, **columns: object) -> Path:
    """Write the score of each of the samples with seeds from 0: how far w lies along an axis."""
    w = codes(tiny())[:, 0].double().numpy()
    return scores_file(folder, **({"seed": list(range(COUNT)), "size": w @ AXIS} | columns))


@pytest.mark.parametrize("classifier", ["svm", "logistic"])
def test_the_normal_points_to_where_scores_rise(classifier: str):
    x = np.random.default_rng(0).standard_normal((2000, 5)) * [1, 2, 1, 0.5, 1] + 7
    found = boundary_of(x, x @ AXIS, 0.3, classifier, 0)
    assert cosine(found.normal, AXIS) > 0.99
    assert np.linalg.norm(found.normal) == pytest.approx(1)
    assert found.held_out_accuracy > 0.98
    assert found.fitted == 1200


def test_the_accuracy_shows_scores_that_say_nothing():
    random = np.random.default_rng(0)
    found = boundary_of(random.standard_normal((2000, 5)), random.standard_normal(2000), 0.3, "svm", 0)
    assert 0.4 < found.held_out_accuracy < 0.6


def test_two_scores_are_the_classes_themselves():
    x = np.random.default_rng(0).standard_normal((300, 5))
    found = boundary_of(x, (x @ AXIS > 1).astype(float), 0.1, "logistic", 0)
    assert found.fitted == 300
    assert cosine(found.normal, AXIS) > 0.95


def test_samples_of_equal_score_are_never_on_both_sides():
    x = np.random.default_rng(0).standard_normal((300, 5))
    scores = np.where(x @ AXIS > 0, 5.0, 1.0)
    scores[:3] = 3.0
    found = boundary_of(x, scores, 0.5, "svm", 0)
    assert found.held_out_accuracy > 0.85
    assert cosine(found.normal, AXIS) > 0.95


@pytest.mark.parametrize("classifier", ["svm", "logistic"])
def test_a_direction_is_fitted_to_scores_of_samples_by_seed(tmp_path: Path, classifier: str):
    path, generator = scored(tmp_path), tiny()
    (found,) = Labels(scores=path, column="size", classifier=classifier).fit(generator)
    w = codes(generator)[:, 0].double()
    normal = found.delta[0].double() / found.delta[0].double().norm()
    moved = (w + found.delta[0]) @ torch.from_numpy(AXIS) - w @ torch.from_numpy(AXIS)
    assert (found.name, found.delta.shape, found.delta.dtype) == ("size", (1, 5), torch.float32)
    assert moved.min() > 0
    assert float(found.delta.norm()) == pytest.approx(float((w @ normal).std(correction=0)), rel=1e-4)
    about = found.provenance
    assert (about.kind, about.unit) == ("labels", "standard deviation")
    assert about.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert about.source == f"scores.parquet, column size, {COUNT} samples"
    assert about.figures["held_out_accuracy"] > 0.9


def test_the_order_of_rows_does_not_matter_for_which_code_has_which_score(tmp_path: Path):
    w = codes(tiny())[:, 0].double().numpy()
    order = np.random.default_rng(0).permutation(COUNT)
    path = scores_file(tmp_path, seed=order, size=(w @ AXIS)[order])
    (found,) = Labels(scores=path, column="size").fit(tiny())
    (wanted,) = Labels(scores=scored(tmp_path), column="size").fit(tiny())
    assert cosine(found.delta[0].numpy(), wanted.delta[0].numpy()) > 0.999


def test_a_direction_is_fitted_to_inverted_images_by_key(tmp_path: Path):
    generator = tiny()
    random = torch.Generator().manual_seed(0)
    w_plus = {f"car-{i}": torch.randn(4, 5, generator=random) for i in range(300)}
    scores = {key: float(w[1:3].mean(0).double() @ torch.from_numpy(AXIS)) for key, w in w_plus.items()}
    path = scores_file(tmp_path, key=[*scores, "unknown"], size=[*scores.values(), 9.0])
    source = Labels(scores=path, column="size", name="large", layers=(1, 2))
    (found,) = source.fit(generator, lambda keys: {key: w_plus[key] for key in keys if key in w_plus})
    assert found.name == "large"
    assert found.provenance.source == "scores.parquet, column size, 300 samples"
    assert found.delta[[0, 3]].abs().sum() == 0
    assert torch.equal(found.delta[1], found.delta[2])
    assert cosine(found.delta[1].numpy(), AXIS) > 0.97


def test_inverted_images_need_a_store_and_the_generator_of_theirs(tmp_path: Path):
    source = Labels(scores=scores_file(tmp_path, key=["a", "b"], size=[0.0, 1.0]), column="size")
    with pytest.raises(DirectionError, match="are of inverted images, by key: say in which store they are"):
        source.fit(tiny())
    with pytest.raises(DirectionError, match="none of the 2 keys, such as 'a', was inverted"):
        source.fit(tiny(), lambda _keys: {})
    with pytest.raises(DirectionError, match=r"have codes \[6, 5\], and the generator's are \[4, 5\]"):
        source.fit(tiny(), lambda keys: {key: torch.ones(6, 5) for key in keys})


def test_a_boundary_of_a_generator_without_w_is_one_of_z(tmp_path: Path):
    generator = tiny_biggan()
    z = torch.cat(list(seeded_w(generator, range(COUNT))))[:, 0, : generator.z_dim].double().numpy()
    axis = np.array([0.6, 0.0, -0.8, 0.0, 0.0, 0.0])
    path = scores_file(tmp_path, seed=list(range(COUNT)), size=z @ axis)
    (found,) = Labels(scores=path, column="size").fit(generator)
    assert found.delta.shape == (1, generator.w_dim)
    assert found.delta[0, generator.z_dim :].abs().max() == 0
    assert cosine(found.delta[0, : generator.z_dim].numpy(), axis) > 0.95


SEEDS = list(range(COUNT))
ODD: dict[str, tuple[dict[str, object], str]] = {
    "no sample": ({"id": SEEDS, "size": SEEDS}, "have the columns id, size: expected seed or key, and size"),
    "both": ({"seed": SEEDS, "key": SEEDS, "size": SEEDS}, "expected seed or key"),
    "no scores": ({"seed": SEEDS, "hue": SEEDS}, "have the columns seed, hue"),
    "twice": ({"seed": [1, 1], "size": [0, 1]}, "name a seed twice"),
    "text": ({"seed": SEEDS, "size": ["large"] * COUNT}, "the column size does not hold numbers"),
    "lists": ({"seed": SEEDS, "size": [[1.0, 2.0]] * COUNT}, "holds NaN or infinity|does not hold numbers"),
    "not finite": ({"seed": SEEDS, "size": [float("nan"), *SEEDS[1:]]}, "holds NaN or infinity"),
    "seeds as text": ({"seed": [str(i) for i in SEEDS], "size": SEEDS}, "other values than int in the column seed"),
    "equal": ({"seed": SEEDS, "size": [2.5] * COUNT}, "all 600 scores are 2.5"),
    "none": ({"seed": pa.array([], pa.int64()), "size": pa.array([], pa.float64())}, "all 0 scores are missing"),
    "few": ({"seed": [1, 2, 3], "size": [0, 1, 1]}, "2 samples of 3 have high scores: a boundary needs 20"),
    "negative": ({"seed": [-1, *SEEDS[1:]], "size": SEEDS}, "seeds are 0 to 4294967295, got -1"),
}


@pytest.mark.parametrize("case", ODD)
def test_scores_that_make_no_boundary_are_one_error(tmp_path: Path, case: str):
    columns, message = ODD[case]
    source = Labels(scores=scores_file(tmp_path, **columns), column="size")
    with pytest.raises(DirectionError, match=message):
        source.fit(tiny())


def test_scores_in_another_format_are_refused_before_a_generator_is_needed(tmp_path: Path):
    (tmp_path / "scores.parquet").write_text("seed,size\n1,2\n")
    with pytest.raises(DirectionError, match="cannot be read as parquet"):
        Labels(scores=tmp_path / "scores.parquet", column="size").check()
    with pytest.raises(DirectionError, match="No such file"):
        Labels(scores=tmp_path / "missing.parquet", column="size").check()


def test_missing_scores_are_left_out(tmp_path: Path):
    w = codes(tiny())[:, 0].double().numpy() @ AXIS
    path = scored(tmp_path, size=[None if i % 3 == 0 else float(w[i]) for i in range(COUNT)])
    (found,) = Labels(scores=path, column="size").fit(tiny())
    assert found.provenance.source.endswith("400 samples")
