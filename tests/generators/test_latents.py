import pytest
import torch

from generators.latents import Codes, feature_space, masks_of, resize_masks, zero_deltas

SPACES = ("W+", "F4", "F6")
SHAPES = {"F4": (3, 2, 2), "F6": (2, 4, 4)}


@pytest.mark.parametrize(("resolution", "name"), [(8, "F2"), (16, "F4"), (32, "F6"), (64, "F8"), (128, "F10")])
def test_a_space_is_named_after_its_last_convolution(resolution: int, name: str):
    assert feature_space(resolution) == name


def test_halving_a_mask_worked_by_hand():
    # the triangle of width 4 around the middle of two pixels weighs its three pixels inside 3, 3, 1 (over 7)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 1, 4, 4)
    wanted = torch.tensor([6 / 7, 1 / 7]).expand(1, 1, 2, 2)
    torch.testing.assert_close(resize_masks(mask, (2, 2)), wanted)


def test_both_axes_of_a_mask_are_resized_alike():
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, :2, :2] = 1
    wanted = torch.tensor([[36.0, 6.0], [6.0, 1.0]]) / 49
    torch.testing.assert_close(resize_masks(mask, (2, 2))[0, 0], wanted)


def test_enlarging_a_mask_worked_by_hand():
    mask = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    wanted = torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 1, 4, 4)
    torch.testing.assert_close(resize_masks(mask, (4, 4)), wanted)


def test_a_mask_of_the_right_size_is_left_alone():
    mask = torch.rand(2, 1, 4, 6)
    assert torch.equal(resize_masks(mask, (4, 6)), mask)


def test_resized_masks_stay_between_0_and_1():
    torch.manual_seed(0)
    resized = resize_masks((torch.rand(3, 1, 48, 64) > 0.5).float(), (12, 16))
    assert resized.shape == (3, 1, 12, 16)
    assert 0 <= float(resized.min()) < float(resized.max()) <= 1


def test_masks_of_all_spaces_add_up_to_one():
    torch.manual_seed(0)
    assignment = torch.randint(0, 3, (2, 8, 8))
    shapes = dict.fromkeys(SPACES, (1, 4, 4))
    masks = masks_of(assignment, SPACES, shapes)
    torch.testing.assert_close(sum(masks.values()), torch.ones(2, 1, 4, 4))


def test_masks_follow_the_assignment():
    assignment = torch.tensor([[[0, 0, 2, 2]] * 4, [[0, 0, 0, 0]] * 4], dtype=torch.uint8)
    masks = masks_of(assignment, SPACES, SHAPES)
    assert list(masks) == ["F6"]
    assert masks["F6"].tolist() == [[[[0, 0, 1, 1]] * 4], [[[0, 0, 0, 0]] * 4]]
    assert masks["F6"].dtype == torch.float32


def test_zero_deltas_have_the_shape_of_their_space():
    deltas = zero_deltas({"F4": torch.ones(5, 1, 2, 2)}, SHAPES)
    assert deltas["F4"].shape == (5, 3, 2, 2)
    assert not deltas["F4"].any()


def test_codes_have_no_deltas_unless_given():
    codes = Codes(torch.zeros(1, 4, 5))
    assert codes.deltas == codes.masks == {}
