"""The change of an edit inside and outside each space's region, worked by hand."""

import torch

from stages.maps.change import change_by_space


def test_the_change_of_four_pixels_worked_by_hand():
    before = torch.zeros(1, 3, 2, 2)
    after = before.clone()
    after[0, :, 0, 0] = 1.0  # half of the range of values in each channel
    after[0, 0, 1, 1] = -0.6  # 0.3 of the range in one channel of three
    assignment = torch.tensor([[[0, 0], [1, 1]]])
    inside, outside = change_by_space(after, before, assignment, 3)
    torch.testing.assert_close(inside[0, :2], torch.tensor([0.25, 0.05]))
    torch.testing.assert_close(outside[0], torch.tensor([0.05, 0.25, 0.15]))
    assert inside[0, 2].isnan(), "no pixel is in the third space"


def test_a_space_that_fills_an_image_has_nothing_outside():
    image = torch.rand(2, 3, 4, 4)
    inside, outside = change_by_space(image, image, torch.zeros(2, 4, 4, dtype=torch.uint8), 1)
    assert not inside.any()
    assert outside.isnan().all()
