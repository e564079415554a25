"""Which spaces a run inverts in."""

import pytest

from stages.maps.spaces import chosen_spaces

OFFERED = ("W+", "F2", "F4", "F6")


@pytest.mark.parametrize(
    ("chosen", "found"),
    [(None, OFFERED), (OFFERED, OFFERED), (["W+", "F4"], ("W+", "F4")), (["W+"], ("W+",))],
)
def test_some_of_the_spaces_are_chosen_in_their_order(chosen, found):
    assert chosen_spaces(chosen, OFFERED) == found


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["W+", "F10"], "no space F10, only W\\+, F2, F4, F6"),
        (["F4", "W+"], "the most editable first, W\\+, F4"),
        (["W+", "F4", "F4"], "each space once"),
        (["F2", "F4"], "W\\+ must be among the spaces"),
        ([], "W\\+ must be among the spaces"),
        (["w+", "F4"], "no space w\\+"),
    ],
)
def test_a_choice_that_cannot_be_inverted_in_is_refused_with_what_to_do(chosen, said):
    with pytest.raises(ValueError, match=said):
        chosen_spaces(chosen, OFFERED)
