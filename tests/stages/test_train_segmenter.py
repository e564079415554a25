import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError

from stages.base.errors import StageError
from stages.base.progress import listening
from stages.base.stage import Rejected, sample_seed
from stages.segmenter.augmentation import Augmentation
from stages.segmenter.examples import Example
from stages.segmenter.network import SegmenterNetwork, load_segmenter, new_segmenter
from stages.segmenter.optimiser import new_optimiser, rate_at
from stages.segmenter.survey import PICTURED
from stages.train_segmenter import Trained, TrainSegmenter, train
from tests.stages.in_memory import InMemory

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


@pytest.fixture(scope="module", params=["error", "root"])
def trained(request):
    stage = QUICK.model_copy(update={"epochs": 25, "batch": 8, "validation_share": 0.2, "target": request.param})
    return train(stage, InMemory(examples(32)), CPU)


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


@pytest.mark.parametrize(
    ("target", "variance"),
    [("root", (0.25 + 0.0625) / 2), ("error", (0.25 + 0.015625) / 2)],  # errors are 1 and 0, .25 and 0
)
def test_the_mean_s_loss_is_the_variance_of_the_target(target, variance):
    halves = np.zeros((2, 8, 8), np.float16)
    halves[0, :4], halves[1, :4] = 1.0, 0.25  # roots are 1 and 0, .5 and 0: variances .25 and .0625
    made = [Example(str(i), np.zeros((8, 8, 3), np.uint8), halves) for i in range(2)]
    stage = QUICK.model_copy(update={"epochs": 1, "validation_share": 0, "target": target})
    (point,) = train(stage, InMemory(made, size=(8, 8)), CPU).curve
    assert point["mean_loss"] == pytest.approx(variance)


def test_the_last_epoch_is_kept_that_is_as_good_as_the_best_by_validation(tmp_path):
    stage = QUICK.model_copy(update={"epochs": 6, "validation_share": 0.3, "augmentation": PLAIN})
    contrary = [replace(e, error_LHW=0.7 - e.error_LHW) if stage.holds_out(e.key) else e for e in examples(16)]
    trained = train(stage, InMemory(contrary), CPU)
    least = min(trained.curve, key=lambda point: point["val_loss"])
    assert trained.curve[-1]["val_loss"] > 1.05 * least["val_loss"], "what is held out must contradict what is learnt"
    good = [p for p in trained.curve if p["val_loss"] <= least["val_loss"] + least["val_deviation"]]
    assert [p for p in trained.curve if p["kept"]][-1] == good[-1] != trained.curve[-1]
    assert held_out_loss(loaded(trained, tmp_path), contrary, stage) == pytest.approx(good[-1]["val_loss"], rel=1e-4)


def test_one_held_out_example_judges_nothing():
    made = examples(16)
    (alone, *_) = sorted(made, key=lambda one: sample_seed(QUICK.seed, f"held out/{one.key}"))
    share = 1.001 * sample_seed(QUICK.seed, f"held out/{alone.key}") / 2**56
    trained = train(QUICK.model_copy(update={"epochs": 3, "validation_share": share}), InMemory(made), CPU)
    assert all(point["val_loss"] is not None and point["val_deviation"] is None for point in trained.curve)
    assert all(point["kept"] for point in trained.curve)


def held_out_loss(segmenter, made, stage) -> float:
    held_out = [example for example in made if stage.holds_out(example.key)]
    missed = [segmenter(network_input(e))[0] - torch.from_numpy(e.error_LHW).float() for e in held_out]
    return float(torch.stack(missed).square().mean())


def test_a_few_held_out_examples_are_predicted_for_people_to_look_at(trained, tmp_path):
    made = {example.key: example for example in examples(32)}
    segmenter = loaded(trained, tmp_path)
    assert len(trained.predicted) == PICTURED
    for one in trained.predicted:
        assert QUICK.model_copy(update={"validation_share": 0.2}).holds_out(one.key)
        np.testing.assert_array_equal(one.true_LHW, made[one.key].error_LHW)
        np.testing.assert_allclose(one.predicted_LHW, segmenter(network_input(made[one.key]))[0], rtol=1e-4, atol=1e-6)


# ---- small and wrong data


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_examples_is_enough(count, tmp_path):
    trained = train(QUICK, InMemory(examples(count)), CPU)
    assert loaded(trained, tmp_path).spaces == SPACES


def test_without_held_out_examples_the_last_epoch_is_kept_and_validation_says_so():
    trained = train(QUICK.model_copy(update={"validation_share": 0}), InMemory(examples(5)), CPU)
    assert all(point["val_loss"] is None for point in trained.curve)
    assert trained.curve[-1]["correlation"] == {"W+": None, "F4": None}
    assert trained.curve[-1]["mean_loss"] > 0


def test_where_all_would_be_held_out_all_are_trained_on():
    (point, *_) = train(QUICK.model_copy(update={"validation_share": 0.999}), InMemory(examples(3)), CPU).curve
    assert point["val_loss"] is None


def test_an_empty_supervision_is_named():
    with pytest.raises(StageError, match=r"found no sound error maps for W\+, F4: enlarge the supervision subset"):
        train(QUICK, InMemory([]), CPU)


def zeros(height: int, width: int, maps: int = 2, value: float = 0.1) -> Example:
    error_LHW = np.full((maps, height, width), value, np.float16)
    return Example("odd", np.zeros((height, width, 3), np.uint8), error_LHW)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (zeros(24, 23), "expected an image [24, 24, 3] of uint8 and maps [2, 24, 24] for W+, F4, got [24, 23, 3]"),
        (zeros(24, 24, maps=3), "got [24, 24, 3] of uint8 and [3, 24, 24]"),
        (replace(zeros(24, 24), image_HW3=np.zeros((24, 24, 3), np.float32)), "of float32"),
        (zeros(24, 24, value=np.nan), "its error maps hold negative or unbounded numbers"),
        (zeros(24, 24, value=np.inf), "its error maps hold negative or unbounded numbers"),
        (zeros(24, 24, value=-1), "its error maps hold negative or unbounded numbers"),
        (zeros(24, 24, value=0), "its error maps are zero everywhere"),
        (Rejected("odd", "odd.png does not decode"), "odd.png does not decode"),
    ],
)
def test_an_example_that_is_unfit_is_left_out_and_named(odd, reason):
    stage = QUICK.model_copy(update={"epochs": 1})
    sound = examples(5)
    trained = train(stage, InMemory([*sound[:2], odd, *sound[2:]], in_a_unit=9), CPU)
    assert list(trained.rejected) == ["unit0"]
    assert list(trained.rejected["unit0"]) == ["odd"]
    assert reason in trained.rejected["unit0"]["odd"]
    assert trained.checkpoint == train(stage, InMemory(sound, in_a_unit=9), CPU).checkpoint
    with pytest.raises(StageError, match=r"found no sound error maps for W\+, F4; 1 are unfit, the first is odd: "):
        train(stage, InMemory([odd]), CPU)


def test_a_rate_that_diverges_says_what_to_lower():
    with (
        torch.autograd.set_detect_anomaly(False),
        pytest.raises(StageError, match=r"diverged in epoch \d+ .*: lower learning_rate"),
    ):
        train(QUICK.model_copy(update={"optimiser": "sgd", "learning_rate": 1e30}), InMemory(examples(4)), CPU)


# ---- determinism and resuming


def equal(one: Trained, other: Trained) -> bool:
    return one.checkpoint == other.checkpoint and one.curve == other.curve


def test_equal_trainings_make_equal_checkpoints_whatever_is_cached_and_torch_s_generator_says():
    torch.manual_seed(1)
    first = train(QUICK, InMemory(examples(6)), CPU)
    torch.manual_seed(2)
    again = train(QUICK.model_copy(update={"cache_mb": 0}), InMemory(examples(6)), CPU)
    other = train(QUICK.model_copy(update={"seed": 1}), InMemory(examples(6)), CPU)
    assert equal(first, again)
    assert first.checkpoint != other.checkpoint


DEEP = QUICK.model_copy(
    update={"network": SegmenterNetwork(backbone="deeplabv3_mobilenet_v3_large"), "epochs": 2, "validation_share": 0.3}
)
"""Its head has dropout."""


def test_a_training_with_dropout_depends_on_the_seed_alone_and_resumed_ends_as_if_it_had_never_stopped():
    made, states = examples(9, size=32), Kept()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    whole = train(DEEP, InMemory(made, size=(32, 32)), CPU, states=states)
    assert torch.equal(torch.get_rng_state(), before), "the process's generator is left as it was"
    torch.manual_seed(2)
    assert equal(train(DEEP, InMemory(made, size=(32, 32)), CPU), whole)
    for i, state in enumerate(states.all[1:-1:3]):
        torch.manual_seed(3 + i)
        assert equal(train(DEEP, InMemory(made, size=(32, 32)), CPU, states=Kept(state)), whole)


def test_every_step_drops_other_features():
    masks: list[torch.Tensor] = []
    made = examples(5, size=32)

    def note(module, _inputs, output):
        if isinstance(module, torch.nn.Dropout) and module.training:
            masks.append(output == 0)

    with torch.nn.modules.module.register_module_forward_hook(note):
        train(DEEP, InMemory(made, size=(32, 32)), CPU)
    assert len(masks) >= DEEP.epochs
    assert all(
        not torch.equal(one, other) for one, other in itertools.combinations(masks, 2) if one.shape == other.shape
    )


def test_a_small_set_is_read_once_only():
    source = InMemory(examples(14))
    train(QUICK, source, CPU)
    assert sorted(key for read in source.reads for key in read) == sorted(one.key for one in source.examples)


class Kept:
    """States that are due at every step; all are kept."""

    def __init__(self, state: bytes | None = None) -> None:
        self.state, self.all = state, []

    def load(self) -> bytes | None:
        return self.state

    def due(self) -> bool:
        return True

    def keep(self, state: bytes) -> None:
        self.all.append(state)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_training_resumed_at_any_step_ends_as_if_it_had_never_stopped(optimiser):
    stage = QUICK.model_copy(update={"optimiser": optimiser, "epochs": 3, "shuffle_window": 5, "validation_share": 0.2})
    made, states = examples(11), Kept()
    whole = train(stage, InMemory(made), CPU, states=states)
    steps = len(states.all) // stage.epochs
    assert steps > 1
    for step, state in list(enumerate(states.all))[::2]:
        later = Kept(state)
        assert equal(train(stage, InMemory(made), CPU, states=later), whole)
        assert len(later.all) == stage.epochs * steps - step - 1


def test_a_resumed_training_does_not_look_at_everything_again():
    states, source = Kept(), InMemory(examples(40))
    stage = QUICK.model_copy(update={"epochs": 1, "validation_share": 0, "shuffle_window": 4, "cache_mb": 0})
    train(stage, source, CPU, states=states)
    source.reads.clear()
    train(stage, source, CPU, states=Kept(states.all[-2]))
    assert sum(map(len, source.reads)) <= 3 * 4 + 4, "windows of the last step, and pictures"


def test_a_state_of_another_training_is_refused():
    states = Kept()
    train(QUICK, InMemory(examples(3)), CPU, states=states)
    state = states.all[0]
    others = [
        (QUICK.model_copy(update={"seed": 9}), InMemory(examples(3)), state),
        (QUICK, InMemory(examples(5)), state),
        (QUICK, InMemory(examples(3), spaces=("W+", "F6")), state),
        (QUICK, InMemory(examples(3)), state[:-900]),
        (QUICK, InMemory(examples(3)), b""),
    ]
    for stage, source, data in others:
        with pytest.raises(StageError, match="the state to resume train_segmenter from is unusable"):
            train(stage, source, CPU, states=Kept(data))
    train(QUICK.model_copy(update={"cache_mb": 1}), InMemory(examples(3)), CPU, states=Kept(state))


def test_held_out_examples_are_chosen_by_key_and_stay_as_data_grow():
    chosen = [i for i in range(2000) if QUICK.holds_out(f"image{i}")]
    assert 150 < len(chosen) < 250
    assert chosen != [i for i in range(2000) if QUICK.model_copy(update={"seed": 1}).holds_out(f"image{i}")]


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
    assert TrainSegmenter().network.backbone == "auto"


def test_the_default_network_suits_the_images_and_progress_names_it(tmp_path):
    default = SegmenterNetwork()
    assert [default.for_images(n).backbone for n in (1, 1999, 2000)] == ["light", "light", "deeplabv3_resnet101"]
    assert SegmenterNetwork(weights="resnet101.pth").for_images(40).backbone == "deeplabv3_resnet101"
    assert SegmenterNetwork(backbone="deeplabv3_resnet50").for_images(1).backbone == "deeplabv3_resnet50"
    heard = []
    stage = QUICK.model_copy(update={"network": default, "epochs": 2})
    with listening(heard.append):
        trained = train(stage, InMemory(examples(9)), CPU)
    assert loaded(trained, tmp_path).config.backbone == "light"
    steps = heard[0].total
    assert [one.done for one in heard] == list(range(1, steps + 1))
    assert heard[-1].note == "epoch 2 of 2, light"


def test_a_pretrained_backbone_learns_ten_times_slower(tmp_path):
    torch.save(torchvision.models.mobilenet_v3_large(weights=None).state_dict(), tmp_path / "mobilenet.pth")
    network = SegmenterNetwork(backbone="deeplabv3_mobilenet_v3_large", weights=tmp_path / "mobilenet.pth")
    stage = QUICK.model_copy(update={"network": network, "learning_rate": 1e-3})
    assert stage.weight_files() == (tmp_path / "mobilenet.pth",)
    segmenter = new_segmenter(network, SPACES, seed=0)
    slow, fast = new_optimiser("adamw", segmenter, stage.learning_rate, 1e-4, pretrained=True).param_groups
    assert (slow["largest_lr"], fast["largest_lr"]) == (pytest.approx(1e-4), 1e-3)
    assert len(slow["params"]) == len(list(segmenter.backbone.backbone.parameters()))
    assert len(fast["params"]) == len(list(segmenter.parameters())) - len(slow["params"])
