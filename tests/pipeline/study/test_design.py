"""Which pairs a study shows, in which order and on which side."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from pipeline.study.design import Key, Subject, designed, tokens_of
from pipeline.study.settings import Attention, Study

SUBJECTS = [Subject(image=f"shard/{i:03d}") for i in range(30)]


def study(**changes) -> Study:
    settings = {
        "config": Path("run.yaml"),
        "methods": {"SAM": {}, "W+": {}, "PTI": {}},
        "against": "SAM",
        "comparisons": 25,
        "attention": Attention(degraded=2, repeated=3),
    }
    return Study.model_validate(settings | changes)


@pytest.fixture(scope="module")
def key() -> Key:
    return designed(study(), SUBJECTS)


def forms(key: Key) -> dict[str, list]:
    found = defaultdict(list)
    for shown in key.shown:
        found[shown.code].append(shown)
    return found


def test_every_pair_of_every_image_is_judged_by_as_many_annotators_as_requested(key):
    judged = Counter((s.subject.image, *sorted((s.left, s.right))) for s in key.shown if s.kind == "comparison")
    assert set(judged.values()) == {3}
    assert len(judged) == 2 * len(SUBJECTS)
    assert {pair[1:] for pair in judged} == {("SAM", "W+"), ("PTI", "SAM")}


def test_pages_hold_at_most_the_requested_number_and_their_forms_show_the_same_pairs(key):
    compared = {code: {s.comparison for s in shown if s.kind == "comparison"} for code, shown in forms(key).items()}
    assert [len(compared[f"{page}-a"]) for page in (1, 2, 3)] == [25, 25, 10]
    for code, numbers in compared.items():
        assert numbers == compared[f"{code[0]}-a"]


def test_each_form_has_an_order_of_its_own_and_both_sides_equally_often(key):
    orders = {code: [s.comparison for s in shown if s.kind == "comparison"] for code, shown in forms(key).items()}
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    assert all(order != sorted(order) for order in orders.values())
    for shown in forms(key).values():
        for pair in key.pairs:
            of_pair = [s for s in shown if s.kind == "comparison" and {s.left, s.right} == set(pair)]
            assert abs(2 * sum(s.left == pair[0] for s in of_pair) - len(of_pair)) <= 1


def test_repeated_pairs_come_later_with_swapped_sides(key):
    for shown in forms(key).values():
        by_task = {s.task: s for s in shown}
        again = [s for s in shown if s.kind == "repeated"]
        assert len(again) == 3
        for one in again:
            before = by_task[one.repeats]
            assert (one.left, one.right) == (before.right, before.left)
            assert one.position > before.position
        checks = [s for s in shown if s.kind == "degraded"]
        assert [{s.left, s.right} for s in checks] == [{"original", "degraded"}] * 2
        assert [s.position for s in shown] == list(range(len(shown)))


def test_no_two_pictures_of_one_page_share_a_name_unless_they_are_one_photograph_or_pair(key):
    sides = defaultdict(set)
    for shown in key.shown:
        _, left, right = tokens_of(key, shown)
        for method, name in ((shown.left, left), (shown.right, right)):
            sides[name].add((shown.subject.image, shown.comparison, method))
    assert all(len(what) == 1 for what in sides.values())
    originals = {tokens_of(key, shown)[0] for shown in key.shown}
    assert len(originals) == len(SUBJECTS)
    assert not originals & sides.keys()


def test_the_seed_decides_and_nothing_else(key):
    assert designed(study(), SUBJECTS) == key
    other = designed(study(seed=1), SUBJECTS)
    assert other.study != key.study
    assert [s.comparison for s in other.shown] != [s.comparison for s in key.shown]


def test_a_page_of_one_pair_has_its_checks():
    key = designed(study(methods={"SAM": {}, "W+": {}}, annotators=1), SUBJECTS[:1])
    assert sorted(s.kind for s in key.shown) == ["comparison", "degraded", "degraded", "repeated"]
