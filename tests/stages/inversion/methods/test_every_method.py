"""What holds for every method: samples in, records of the same keys out, each as if its sample were alone."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from stages.base.stage import Record, Rejected
from tests.generators.encoders.small import published
from tests.stages.inversion.methods.inverted import CPU, inverted, sam_encoder, sample, sources, stage_of

ENCODER, SAM_ENCODER = "the encoder", "the SAM encoder"
METHODS = {
    "in the spaces of maps": {"kind": "optimise"},
    "in W": {"kind": "optimise", "spaces": "W"},
    "with the Gaussian prior": {"kind": "gaussian_prior"},
    "from an encoder": {"kind": "hybrid", "encoder": ENCODER, "spaces": "W+"},
    "from an encoder, in the spaces of maps": {"kind": "hybrid", "encoder": ENCODER},
    "from a SAM encoder": {"kind": "hybrid", "encoder": {"kind": "sam", "checkpoint": SAM_ENCODER}},
    "by an encoder": {"kind": "encode", "encoder": ENCODER},
    "by a SAM encoder": {"kind": "sam_encoder", "checkpoint": SAM_ENCODER},
    "with a tuned generator": {
        "kind": "pivotal",
        "pivot": {"steps": 4, "learning_rate": 0.05},
        "tuning": {"steps": 3, "stop_lpips": 0},
    },
}
BROKEN = replace(sample(7), members={"png": b"\x89PNG\r\n\x1a\n rot"})


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def e4e(tmp_path_factory, networks):
    path = tmp_path_factory.mktemp("encoder") / "e4e.pt"
    path.write_bytes(published("Encoder4Editing", resolution=32, rows=8, w_dim=8).data)
    path.with_name("sam.safetensors").write_bytes(sam_encoder(networks))
    return path


def configured(networks, e4e, name: str, **settings):
    files = {ENCODER: {"checkpoint": e4e}, SAM_ENCODER: e4e.with_name("sam.safetensors")}
    return stage_of(networks, filled(METHODS[name], files), **settings)


def filled(value, files):
    """Return settings with the files that names stand for."""
    if isinstance(value, dict):
        return {key: filled(item, files) for key, item in value.items()}
    return files.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", METHODS)
def test_samples_keep_their_keys_and_a_bad_one_fails_alone(networks, e4e, name: str):
    stage = configured(networks, e4e, name)
    assert pickle.loads(pickle.dumps(stage)) == stage
    work = stage.setup(CPU)
    assert list(work([])) == []
    good, broken, other = work([sample(0), BROKEN, sample(1)])
    assert [result.key for result in (good, broken, other)] == ["s0", "s7", "s1"]
    assert isinstance(broken, Rejected)
    assert all(isinstance(result, Record) and np.isfinite(result.row["psnr_db"]) for result in (good, other))
    assert len({record.row["steps"] for record in (good, other)}) == 1
    (alone,) = work([sample(1)])
    np.testing.assert_allclose(alone.row["w_plus"], other.row["w_plus"], atol=2e-3)
    np.testing.assert_array_equal(alone.arrays["assignment_HW"], other.arrays["assignment_HW"])


def test_the_gaussian_prior_is_the_only_regularisation_and_needs_a_weight(networks, e4e):
    strong = networks["objective"].model_copy(update={"lambda_gaussian": 1e-3, "lambda_variation": 10.0})
    same = strong.model_copy(update={"lambda_variation": 0.0})
    ours, theirs = (
        inverted(stage_of(networks | {"objective": objective}, {"kind": kind, **spaces}), sample(0))[0]
        for objective, kind, spaces in ((strong, "gaussian_prior", {}), (same, "optimise", {"spaces": "W+"}))
    )
    np.testing.assert_array_equal(ours.row["w_plus"], theirs.row["w_plus"])
    none = networks["objective"].model_copy(update={"lambda_gaussian": 0.0})
    with pytest.raises(ValueError, match=r"needs objective\.lambda_gaussian above 0"):
        stage_of(networks | {"objective": none}, {"kind": "gaussian_prior"})
