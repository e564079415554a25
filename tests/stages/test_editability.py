"""Proxies of editability: what samples of the generator have by definition, and what breaks them."""

import io
import pickle

import numpy as np
import pytest
import torch

from generators.directions.sampling import seeded_w
from generators.latents import Codes
from generators.source import GeneratorSource
from stages.base.stage import Record, Sample
from stages.editability import Editability, along, summary_of
from stages.editing.editor import Editor
from stages.inversion.packing import pack_codes
from stages.maps.region import Region, to_uint8
from stages.perceptual.source import PerceptualSource
from tests import tiny

SIDE = tiny.SIDE_PX
EDIT = {"name": "a", "path": "a.npy"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    paths = tiny.write_networks(folder)
    generator = GeneratorSource(checkpoint=paths["generator"]).load("cpu")
    np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(1, generator.w_dim)).astype(np.float32))
    return folder, paths, generator


def stage(networks, **changes):
    folder, paths, _ = networks
    given = {
        "generator": GeneratorSource(checkpoint=paths["generator"]),
        "perceptual": PerceptualSource(backbone="small", weights=paths["perceptual"]),
        "directions": ({"name": "a", "path": folder / "a.npy"},),
        "draws": 24,
    }
    return Editability.model_validate(given | changes)


def sample(networks, w, *, deltas=None, assignment=None, members=None, key="a"):
    _, _, generator = networks
    assignment_HW = np.zeros((SIDE, SIDE), np.uint8) if assignment is None else assignment
    deltas = deltas or {}
    masks = {space: torch.ones(1, 1, *generator.feature_shape(space)[1:]) for space in deltas}
    codes = Codes(w, deltas, masks)
    inverted = Record(key, {"w_plus": w[0].half().numpy()}, pack_codes(codes, 0))
    refined = Record(key, {}, {"assignment_HW": assignment_HW})
    return Sample(key, "shard", members or {}, {"invert": inverted, "refine_maps": refined})


def drawn(networks, count):
    return torch.cat(list(seeded_w(networks[2], range(count)))).split(1)


def test_samples_of_the_generator_have_strength_and_realism_of_about_one(networks):
    one = stage(networks)
    rows = [record.row for record in one.setup(torch.device("cpu"))([sample(networks, w) for w in drawn(networks, 24)])]
    assert np.mean([row["strength"] for row in rows]) == pytest.approx(1, abs=0.02)
    assert all(row["leakage"] is None for row in rows)
    assert np.mean([row["realism"] for row in rows]) > 0.5
    assert all(0 <= row["editability"] <= 1 for row in rows)


def test_codes_in_a_late_space_everywhere_do_not_move(networks):
    space, (w, *_) = tiny.SPACES[-1], drawn(networks, 1)
    delta = torch.zeros(1, *networks[2].feature_shape(space))
    early = {**EDIT, "path": networks[0] / "a.npy", "layers": (0, 1)}
    one = stage(networks, directions=(early,))
    fixed, free = one.setup(torch.device("cpu"))([sample(networks, w, deltas={space: delta}), sample(networks, w)])
    assert fixed.row["strength"] == pytest.approx(0, abs=1e-3)
    assert fixed.row["editability"] == pytest.approx(0, abs=1e-3)
    assert free.row["editability"] > 0.2


def test_change_of_what_should_stay_is_leakage_and_lowers_editability(networks):
    (w,) = drawn(networks, 1)
    half = np.zeros((SIDE, SIDE), np.uint8)
    half[:16] = 1
    one = stage(networks)
    known, unknown = one.setup(torch.device("cpu"))([sample(networks, w, assignment=half), sample(networks, w)])
    assert known.row["leakage"] > 0.1
    assert known.row["editability"] < unknown.row["editability"]
    assert known.row["strength"] == pytest.approx(unknown.row["strength"], abs=1e-5)


def test_where_the_true_edit_is_known_the_rest_of_the_image_should_stay(networks):
    (w,) = drawn(networks, 1)
    before = to_uint8(Editor(networks[2], Region.whole(SIDE)).reconstruction(Codes(w)).image_N3HW)[0]
    sink = io.BytesIO()
    np.savez(sink, **{"a.1": before, "a.-1": 255 - before})
    members = {"png": tiny.png(before), "edits.npz": sink.getvalue()}
    one = stage(networks, truth="edits.npz", magnitudes=(-1.0, 1.0))
    (found,) = one.setup(torch.device("cpu"))([sample(networks, w, members=members)])
    moved, still = found.row["leakage_E"]
    assert still > 0.1  # every pixel should stay, and the edit changes them
    assert not moved >= still  # no pixel should, except those whose level is its own opposite


def test_a_change_goes_along_a_reference_as_far_as_its_length():
    reference = torch.tensor([3.0, 4.0])
    changes = torch.stack([reference, -2 * reference, torch.tensor([-4.0, 3.0])])
    assert along(changes, reference).tolist() == pytest.approx([1, -2, 0])
    assert along(changes, torch.zeros(2)).tolist() == [0, 0, 0]


def test_editability_is_strength_times_one_minus_leakage():
    row = summary_of(np.float32([0.5, 0.7]), np.float32([0.2, np.nan]), np.float32([1, 1]))
    assert row["leakage"] == pytest.approx(0.2)
    assert row["editability"] == pytest.approx(0.6 * 0.8)
    strong = summary_of(np.float32([1.5]), np.float32([np.nan]), np.float32([1]))
    assert (strong["leakage"], strong["editability"]) == (None, 1.0)
    wrong = summary_of(np.float32([-1]), np.float32([2]), np.float32([1]))
    assert wrong["editability"] == 0


def test_records_do_not_depend_on_neighbours_and_keys_are_kept(networks):
    one = pickle.loads(pickle.dumps(stage(networks)))
    assert one == stage(networks)
    samples = [sample(networks, w, key=str(i)) for i, w in enumerate(drawn(networks, 3))]
    work = one.setup(torch.device("cpu"))
    together, alone = list(work(samples)), [next(work([s])) for s in samples]
    assert [record.key for record in together] == ["0", "1", "2"]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.row["strength_E"], b.row["strength_E"], atol=1e-4)
    assert list(work([])) == []
