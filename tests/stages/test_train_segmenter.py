from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError

from stages.augmentation import Augmentation
from stages.errors import StageError
from stages.segmenter import SegmenterNetwork, load_segmenter, new_segmenter
from stages.train_segmenter import Example, TrainSegmenter, _is_held_out, _optimiser, rate_at, train

SPACES = ("W+", "F4")
CPU = torch.device("cpu")
PLAIN = Augmentation(flip=False, blur=0, jitter=0)
QUICK = TrainSegmenter(network=SegmenterNetwork(backbone="light"), epochs=4, batch=4, learning_rate=3e-3)


def examples(count: int, size: int = 24) -> list[Example]:
    """Flat images with a square of noise, which inverts badly, and better in the second space."""
    rng = np.random.default_rng(5)
    made = []
    for i in range(count):
        image_HW3 = np.broadcast_to(rng.integers(0, 256, 3, np.uint8), (size, size, 3)).copy()
        top, left = rng.integers(0, size - 10, 2)
        square = np.s_[top : top + 10, left : left + 10]
        image_HW3[square] = rng.integers(0, 256, (10, 10, 3), np.uint8)
        error_LHW = np.full((2, size, size), 0.04, np.float16)
        error_LHW[:, *square] = np.array([0.64, 0.16])[:, None, None]
        made.append(Example(f"image{i}", image_HW3, error_LHW))
    return made


def loaded(trained, tmp_path):
    (tmp_path / "segmenter").write_bytes(trained.checkpoint)
    return load_segmenter(tmp_path / "segmenter")


def network_input(example: Example) -> torch.Tensor:
    return torch.from_numpy(example.image_HW3).permute(2, 0, 1)[None].float() / 127.5 - 1


# ---- what is learnt


@pytest.fixture(scope="module")
def trained():
    stage = QUICK.model_copy(update={"epochs": 25, "batch": 8, "validation_share": 0.2})
    return train(stage, examples(32), CPU, spaces=SPACES)


def test_training_finds_what_inverts_badly_and_where_it_inverts_better(trained, tmp_path):
    segmenter = loaded(trained, tmp_path)
    for example in examples(40)[32:]:
        error_LHW = segmenter(network_input(example))[0]
        bad_HW = torch.from_numpy(example.error_LHW[0] > 0.5)
        assert error_LHW[0][bad_HW].mean() > 4 * error_LHW[0][~bad_HW].mean()
        assert error_LHW[0][bad_HW].mean() > 2 * error_LHW[1][bad_HW].mean()


def test_the_curve_beats_the_mean_and_says_how_well_each_space_is_predicted(trained):
    assert [point["epoch"] for point in trained.curve] == list(range(25))
    first, last = trained.curve[0], trained.curve[-1]
    assert last["train_loss"] < first["train_loss"] / 3
    assert last["val_loss"] < last["mean_loss"] / 3
    assert set(last["correlation"]) == set(SPACES)
    assert min(last["correlation"].values()) > 0.8


def test_the_mean_s_loss_is_the_variance_of_the_roots():
    halves = np.zeros((2, 8, 8), np.float16)
    halves[0, :4], halves[1, :4] = 1.0, 0.25  # roots are 1 and 0, .5 and 0: variances .25 and .0625
    made = [Example(str(i), np.zeros((8, 8, 3), np.uint8), halves) for i in range(2)]
    (point,) = train(QUICK.model_copy(update={"epochs": 1, "validation_share": 0}), made, CPU, spaces=SPACES).curve
    assert point["mean_loss"] == pytest.approx((0.25 + 0.0625) / 2)


def test_the_best_epoch_by_validation_is_kept(tmp_path):
    stage = QUICK.model_copy(update={"epochs": 6, "validation_share": 0.3, "augmentation": PLAIN})
    contrary = [replace(e, error_LHW=0.7 - e.error_LHW) if _is_held_out(stage, e.key) else e for e in examples(16)]
    trained = train(stage, contrary, CPU, spaces=SPACES)
    losses = [point["val_loss"] for point in trained.curve]
    assert losses[-1] > 1.05 * min(losses), "what is held out must contradict what is learnt"
    assert held_out_loss(loaded(trained, tmp_path), contrary, stage) == pytest.approx(min(losses), rel=1e-4)


def held_out_loss(segmenter, made, stage) -> float:
    held_out = [example for example in made if _is_held_out(stage, example.key)]
    roots = [(segmenter(network_input(e))[0].sqrt() - torch.from_numpy(e.error_LHW).float().sqrt()) for e in held_out]
    return float(torch.stack(roots).square().mean())


# ---- small and wrong data


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_examples_is_enough(count, tmp_path):
    trained = train(QUICK, examples(count), CPU, spaces=SPACES)
    assert loaded(trained, tmp_path).spaces == SPACES


def test_without_held_out_examples_the_last_epoch_is_kept_and_validation_says_so():
    trained = train(QUICK.model_copy(update={"validation_share": 0}), examples(5), CPU, spaces=SPACES)
    assert all(point["val_loss"] is None for point in trained.curve)
    assert trained.curve[-1]["correlation"] == {"W+": None, "F4": None}
    assert trained.curve[-1]["mean_loss"] > 0


def test_where_all_would_be_held_out_all_are_trained_on():
    (point, *_) = train(QUICK.model_copy(update={"validation_share": 0.999}), examples(3), CPU, spaces=SPACES).curve
    assert point["val_loss"] is None


def test_an_empty_supervision_is_named():
    with pytest.raises(StageError, match=r"the supervision for W\+, F4 holds 0: enlarge the supervision subset"):
        train(QUICK, [], CPU, spaces=SPACES)


@pytest.mark.parametrize(
    ("image_HW3", "error_LHW", "message"),
    [
        (np.zeros((8, 9, 3), np.uint8), np.zeros((2, 8, 8), np.float16), r"odd: wanted an image \[24, 24, 3\]"),
        (np.zeros((24, 24, 3), np.uint8), np.zeros((3, 24, 24), np.float16), r"got \[24, 24, 3\] of uint8 and \[3, 24"),
        (np.zeros((24, 24, 3), np.float32), np.zeros((2, 24, 24), np.float16), "of float32"),
        (
            np.zeros((24, 24, 3), np.uint8),
            np.full((2, 24, 24), np.nan, np.float16),
            "odd: its error maps hold negative",
        ),
        (np.zeros((24, 24, 3), np.uint8), np.full((2, 24, 24), -1, np.float16), "odd: its error maps hold negative"),
    ],
)
def test_an_example_that_does_not_fit_is_named(image_HW3, error_LHW, message):
    with pytest.raises(StageError, match=message):
        train(QUICK, [*examples(1), Example("odd", image_HW3, error_LHW)], CPU, spaces=SPACES)


def test_a_rate_that_diverges_says_what_to_lower():
    with (
        torch.autograd.set_detect_anomaly(False),
        pytest.raises(StageError, match=r"diverged in epoch \d+ .*: lower learning_rate"),
    ):
        train(QUICK.model_copy(update={"optimiser": "sgd", "learning_rate": 1e30}), examples(4), CPU, spaces=SPACES)


# ---- determinism and resuming


def test_equal_trainings_make_equal_checkpoints_whatever_torch_s_generator_says():
    torch.manual_seed(1)
    first = train(QUICK, examples(6), CPU, spaces=SPACES)
    torch.manual_seed(2)
    again = train(QUICK, examples(6), CPU, spaces=SPACES)
    other = train(QUICK.model_copy(update={"seed": 1}), examples(6), CPU, spaces=SPACES)
    assert first == again
    assert first.checkpoint != other.checkpoint


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_resumed_training_ends_as_if_it_had_never_stopped(optimiser):
    stage = QUICK.model_copy(update={"optimiser": optimiser})
    states: list[bytes] = []
    whole = train(stage, examples(6), CPU, spaces=SPACES, report=states.append)
    assert len(states) == stage.epochs
    later: list[bytes] = []
    assert train(stage, examples(6), CPU, spaces=SPACES, report=later.append, resume=states[1]) == whole
    assert len(later) == stage.epochs - 2
    assert train(stage, examples(6), CPU, spaces=SPACES, resume=states[-1]) == whole


def test_states_are_reported_as_often_as_asked():
    states: list[bytes] = []
    stage = QUICK.model_copy(update={"report_every": 3})
    train(stage, examples(2), CPU, spaces=SPACES, report=states.append)
    assert len(states) == 1


def test_a_state_of_another_training_is_refused():
    states: list[bytes] = []
    train(QUICK, examples(3), CPU, spaces=SPACES, report=states.append)
    others = [
        (QUICK.model_copy(update={"seed": 9}), examples(3), SPACES, states[0]),
        (QUICK, examples(4), SPACES, states[0]),
        (QUICK, examples(3), ("W+", "F6"), states[0]),
        (QUICK, examples(3), SPACES, states[0][:-900]),
        (QUICK, examples(3), SPACES, b""),
    ]
    for stage, made, spaces, state in others:
        with pytest.raises(StageError, match="the state to resume train_segmenter from cannot be used"):
            train(stage, made, CPU, spaces=spaces, resume=state)
    train(QUICK.model_copy(update={"report_every": 2}), examples(3), CPU, spaces=SPACES, resume=states[0])


def test_held_out_examples_are_chosen_by_key_and_stay_as_data_grow():
    chosen = [i for i in range(2000) if _is_held_out(QUICK, f"image{i}")]
    assert 150 < len(chosen) < 250
    assert chosen != [i for i in range(2000) if _is_held_out(QUICK.model_copy(update={"seed": 1}), f"image{i}")]


# ---- rates


def test_sgd_s_rate_falls_as_in_the_authors_code(shared):
    golden = np.load(shared / "golden/2_sam/train_poly_lr.npz")
    per_epoch, steps = int(golden["iters_per_epoch"]), int(golden["iters_per_epoch"]) * int(golden["epochs"])
    for epoch, step, backbone, *heads in golden["rows_epoch_iter_lr7"]:
        rate = rate_at("sgd", int(epoch) * per_epoch + int(step), steps)
        assert backbone == pytest.approx(1e-4 * rate, rel=1e-9)
        assert heads == pytest.approx([1e-3 * rate] * 6, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_adamw_s_rate_rises_to_one_and_falls_towards_zero(steps):
    rates = [rate_at("adamw", step, steps) for step in range(steps)]
    peak = rates.index(max(rates))
    assert max(rates) == 1.0
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


# ---- configuration


def test_a_stage_is_frozen_and_refuses_unknown_settings():
    with pytest.raises(ValidationError, match="frozen"):
        QUICK.epochs = 3
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainSegmenter.model_validate({"epoch": 3})
    assert TrainSegmenter.model_validate_json(QUICK.model_dump_json()) == QUICK
    assert TrainSegmenter().network.backbone == "deeplabv3_resnet101"


def test_a_pretrained_backbone_learns_ten_times_slower(tmp_path):
    torch.save(torchvision.models.mobilenet_v3_large(weights=None).state_dict(), tmp_path / "mobilenet.pth")
    network = SegmenterNetwork(backbone="deeplabv3_mobilenet_v3_large", weights=tmp_path / "mobilenet.pth")
    stage = QUICK.model_copy(update={"network": network, "learning_rate": 1e-3})
    assert stage.weight_files() == (tmp_path / "mobilenet.pth",)
    segmenter = new_segmenter(network, SPACES, seed=0)
    slow, fast = _optimiser(stage, segmenter).param_groups
    assert (slow["largest_lr"], fast["largest_lr"]) == (pytest.approx(1e-4), 1e-3)
    assert len(slow["params"]) == len(list(segmenter.backbone.backbone.parameters()))
    assert len(fast["params"]) == len(list(segmenter.parameters())) - len(slow["params"])
