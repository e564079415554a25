"""Training the SAM encoder: what it learns, that it resumes and repeats exactly, and what it refuses."""

import itertools

import pytest
import torch
from pydantic import ValidationError

from generators import load_generator
from generators.latents import Codes
from stages.base.errors import StageError, WeightsError
from stages.base.stage import Rejected
from stages.encoder.checkpoint import load_sam_encoder
from stages.encoder.stream import FIRST, Stream
from stages.train_encoder import train_encoder
from stages.training.workers import Workers
from tests import tiny
from tests.stages.encoder.pictures import InMemory, examples, stage

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors on many threads of a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    tiny.write_networks(folder)
    return folder


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


# ---- what is learnt


def test_the_loss_falls_and_the_curve_gives_its_terms_and_the_held_out_images(networks, tmp_path):
    trained = train_encoder(
        stage(networks, training_steps=24, batch=3, points=4, learning_rate=1e-2), InMemory(examples(12)), CPU
    )
    assert [point["step"] for point in trained.curve] == [6, 12, 18, 24]
    first, last = trained.curve[0], trained.curve[-1]
    assert last["loss"] < 0.8 * first["loss"]
    assert sum(last["terms"].values()) == pytest.approx(last["loss"])
    assert last["val_psnr_db"] > first["val_psnr_db"]
    (tmp_path / "encoder").write_bytes(trained.checkpoint)
    encoder = load_sam_encoder(tmp_path / "encoder")
    encoder.check_fits(load_generator(networks / "generator.safetensors"), tiny.SPACES)
    assert encoder.spaces == tiny.SPACES


def test_known_codes_are_approached_by_the_images_that_have_them(networks):
    w_plus = load_generator(networks / "generator.safetensors").map(torch.randn(1, 8, generator=torch.manual_seed(1)))
    recipe = stage(
        networks, training_steps=24, batch=3, points=4, learning_rate=1e-2, lambda_codes=10.0, codes="store", flip=False
    )
    curve = train_encoder(recipe, InMemory(examples(9, Codes(w_plus))), CPU).curve
    assert curve[-1]["terms"]["codes"] < 0.5 * curve[0]["terms"]["codes"]
    without = train_encoder(stage(networks), InMemory(examples(9)), CPU).curve
    assert [point["terms"]["codes"] for point in without] == [0.0] * 3


def test_without_held_out_images_validation_says_so(networks):
    curve = train_encoder(stage(networks, validation_share=0, training_steps=1), InMemory(examples(3)), CPU).curve
    assert [(point["val_loss"], point["val_psnr_db"]) for point in curve] == [(None, None)]


# ---- determinism, resuming, workers


def test_a_training_resumed_at_any_step_ends_as_if_it_had_never_stopped(networks):
    recipe, states = stage(networks), Kept()
    whole = train_encoder(recipe, InMemory(examples(11)), CPU, states=states)
    assert len(states.all) == recipe.training_steps
    for step in (0, 2, 5):
        later = Kept(states.all[step])
        resumed = train_encoder(recipe, InMemory(examples(11)), CPU, states=later)
        assert resumed == whole
        assert len(later.all) == recipe.training_steps - step - 1


def test_a_resumed_training_decodes_only_what_follows(networks):
    recipe, states = stage(networks, validation_share=0, training_steps=3, batch=2), Kept()
    train_encoder(recipe, InMemory(examples(12), in_a_unit=12), CPU, states=states)
    source = InMemory(examples(12), in_a_unit=12)
    train_encoder(recipe, source, CPU, states=Kept(states.all[-2]))
    assert len(source.decoded) <= 2 + 2 * 2 + 2, "the last batch, and what is decoded ahead"


def test_another_seed_or_other_examples_give_another_encoder(networks):
    recipe = stage(networks, training_steps=2)
    first, again, seeded, fewer = (
        train_encoder(settings, InMemory(examples(count)), CPU).checkpoint
        for settings, count in ((recipe, 7), (recipe, 7), (recipe.model_copy(update={"seed": 1}), 7), (recipe, 4))
    )
    assert first == again
    assert len({first, seeded, fewer}) == 3


def test_a_state_of_another_training_is_refused(networks):
    recipe, states = stage(networks, training_steps=2), Kept()
    train_encoder(recipe, InMemory(examples(4)), CPU, states=states)
    others = [
        (recipe.model_copy(update={"seed": 9}), InMemory(examples(4)), states.all[0]),
        (recipe, InMemory(examples(7)), states.all[0]),
        (recipe, InMemory(examples(4), identity="codes of another night"), states.all[0]),
        (recipe, InMemory(examples(4)), states.all[0][:-900]),
    ]
    for settings, source, data in others:
        with pytest.raises(StageError, match="the state to resume train_encoder from is unusable"):
            train_encoder(settings, source, CPU, states=Kept(data))
    train_encoder(recipe.model_copy(update={"checkpoint_every_s": 1}), InMemory(examples(4)), CPU, states=states)


def keys_of_a_pass(monkeypatch, rank: int, world: int) -> list[str]:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    source = InMemory(examples(12))
    with Stream(source, lambda key: False, 4, 0, Workers(rank, world)) as stream:
        batches = (batch for batch, position in stream.batches(1, FIRST))
        return [batch[0].key for batch in itertools.islice(batches, 12 // world)]


def test_two_workers_share_the_examples_of_one(monkeypatch):
    (alone,) = (keys_of_a_pass(monkeypatch, 0, 1),)
    first, second = (keys_of_a_pass(monkeypatch, rank, 2) for rank in (0, 1))
    assert sorted(first + second) == sorted(alone) == sorted(example.key for example in examples(12))
    assert alone != sorted(alone)


def test_the_mean_of_two_workers_gradients_is_that_of_one(networks):
    from stages.encoder.examples import as_batch
    from stages.train_encoder import _Training

    def gradients(made) -> list[torch.Tensor]:
        recipe = stage(networks)
        with Stream(InMemory(made), recipe.holds_out, 3, 0, Workers()) as stream:
            training = _Training(recipe, stream, CPU, lambda module: module, None)
            with torch.no_grad():
                for parameter in training.encoder.parameters():
                    parameter.add_(0.01)  # so that all layers act
            training._terms(as_batch(made, CPU)).sum(dim=0).mean().backward()
            return [parameter.grad for parameter in training.encoder.parameters()]

    made = examples(4)
    whole, *halves = (gradients(part) for part in (made, made[:2], made[2:]))
    for of_one, *of_two in zip(whole, *halves, strict=True):
        torch.testing.assert_close(sum(of_two) / 2, of_one, rtol=1e-4, atol=1e-7)


# ---- unfit data and settings


def test_an_example_that_is_unfit_is_left_out_and_named(networks):
    recipe = stage(networks, training_steps=3, validation_share=0)
    made = [*examples(3), Rejected("odd", "odd.png does not decode")]
    trained = train_encoder(recipe, InMemory(made, in_a_unit=9), CPU)
    assert trained.rejected == {"unit0": {"odd": "odd.png does not decode"}}


def test_no_example_at_all_is_refused_with_the_first_reason(networks):
    with pytest.raises(StageError, match=r"no example in a whole pass over 1 units .* the first is odd: broken"):
        train_encoder(stage(networks), InMemory([Rejected("odd", "broken")]), CPU)
    with pytest.raises(StageError, match="no example in a whole pass over 0 units"):
        train_encoder(stage(networks), InMemory([]), CPU)


def test_a_batch_that_workers_cannot_share_is_refused(networks):
    with pytest.raises(StageError, match=r"train_encoder\.batch is 2, which 3 workers cannot share equally"):
        train_encoder(stage(networks), InMemory(examples(3)), CPU, workers=Workers(0, 3))


def test_a_rate_that_diverges_says_what_to_lower(networks):
    with pytest.raises(StageError, match=r"train_encoder diverged .*: lower learning_rate, now 1e\+30"):
        train_encoder(stage(networks, learning_rate=1e30), InMemory(examples(3)), CPU)


@pytest.mark.parametrize("half", [{"codes": "store"}, {"lambda_codes": 1.0}])
def test_codes_without_a_weight_or_a_weight_without_codes_are_refused(networks, half):
    with pytest.raises(ValidationError, match="belong together: set both, or neither"):
        stage(networks, **half)


def test_a_network_too_small_for_a_feature_space_is_refused(networks):
    recipe = stage(networks)
    small = recipe.network.model_copy(update={"side_px": 16})
    with pytest.raises(StageError, match=r"train_encoder\.network\.side_px must be at least 32 for features of 16 px"):
        train_encoder(recipe.model_copy(update={"network": small}), InMemory(examples(3)), CPU)


def test_a_file_that_is_not_an_encoder_is_refused_by_name(networks, tmp_path):
    data = train_encoder(stage(networks, training_steps=1), InMemory(examples(3)), CPU).checkpoint
    path = tmp_path / "encoder"
    for harm, message in (
        (lambda: path.write_bytes(data[:-9]), "expected a checkpoint written by train_encoder"),
        (lambda: path.write_bytes((networks / "generator.safetensors").read_bytes()), "written by train_encoder"),
        (path.unlink, "no such encoder"),
    ):
        harm()
        with pytest.raises(WeightsError, match=message):
            load_sam_encoder(path)


def test_an_encoder_of_another_generator_or_other_spaces_is_refused(networks, tmp_path):
    path = tmp_path / "encoder"
    path.write_bytes(train_encoder(stage(networks, training_steps=1), InMemory(examples(3)), CPU).checkpoint)
    encoder, generator = load_sam_encoder(path), load_generator(networks / "generator.safetensors")
    with pytest.raises(Exception, match=r"gives codes in W\+, F2, F4, but this run inverts in W\+, F4"):
        encoder.check_fits(generator, ("W+", "F4"))
    encoder.num_ws += 2
    with pytest.raises(Exception, match="give the encoder of this generator"):
        encoder.check_fits(generator, tiny.SPACES)
