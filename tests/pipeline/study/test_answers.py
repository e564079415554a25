"""Answers read back: who preferred what, whose answers do not count, and which files are refused."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pipeline.errors import CommandError
from pipeline.study.answers import COLUMNS, KEY_FILE, read_answers, read_key
from pipeline.study.design import Key, Shown, designed
from tests.pipeline.study.test_design import SUBJECTS, study

Choose = Callable[[Shown], str]


@pytest.fixture(scope="module")
def key() -> Key:
    return designed(study(), SUBJECTS)


def attentive(shown: Shown) -> str:
    """Prefer the photograph, then SAM, then PTI."""
    ranked = ("original", "SAM", "PTI", "W+", "degraded")
    return "left" if ranked.index(shown.left) < ranked.index(shown.right) else "right"


def other(side: str) -> str:
    return {"left": "right", "right": "left"}[side]


def write(path: Path, key: Key, codes: Iterable[str], choose: Choose = attentive) -> Path:
    """Write the answers to some forms, each by an annotator of its own."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for shown in key.shown:
            if shown.code in codes:
                writer.writerow([key.study, shown.code, f"ann-{shown.code}", shown.task, choose(shown), "1.5"])
    return path


def codes(key: Key) -> list[str]:
    return list(dict.fromkeys(shown.code for shown in key.shown))


def test_preferences_are_by_pair_over_all_files(key, tmp_path):
    every = codes(key)
    files = [write(tmp_path / "a.csv", key, every[:4]), write(tmp_path / "b.csv", key, every[4:])]
    result = read_answers(key, files)
    assert {one.pair: one.share for one in result.preferences} == {("SAM", "W+"): 1, ("SAM", "PTI"): 1}
    assert (result.answers, result.annotators, result.unanswered, result.excluded) == (180, 9, 0, ())
    assert result.left == pytest.approx(0.5, abs=0.03)
    assert [(one.images, one.annotators) for one in result.preferences] == [(30, 9), (30, 9)]


def test_who_prefers_a_degraded_photograph_does_not_count(key, tmp_path):
    careless = write(tmp_path / "a.csv", key, ["1-a"], lambda s: other(attentive(s)))
    good = write(tmp_path / "b.csv", key, ["1-b"])
    result = read_answers(key, [careless, good])
    assert [(one.annotator, one.code, one.answers) for one in result.excluded] == [("ann-1-a", "1-a", 25)]
    assert "2 degraded pictures preferred to the photograph itself, at most 0 allowed" in result.excluded[0].reason
    assert {one.share for one in result.preferences} == {1}
    assert result.unanswered_forms == tuple(sorted(set(codes(key)) - {"1-a", "1-b"}))


def test_who_always_clicks_left_does_not_count(key, tmp_path):
    def left(shown: Shown) -> str:
        return attentive(shown) if shown.kind == "degraded" else "left"

    result = read_answers(key, [write(tmp_path / "a.csv", key, ["1-a"], left)])
    assert "3 of 3 repeated pairs answered differently" in result.excluded[0].reason
    assert (result.preferences, result.left) == ((), None)


def test_missing_answers_are_counted_and_repeats_are_not_votes(key, tmp_path):
    path = write(tmp_path / "a.csv", key, ["1-a"])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]))
    result = read_answers(key, [path])
    kept = {line.split(",")[3] for line in lines[1:-3]}
    assert result.unanswered == 3
    assert result.answers == sum(shown.kind == "comparison" and shown.task in kept for shown in key.shown)


def test_a_key_is_read_as_it_was_written(key, tmp_path):
    (tmp_path / KEY_FILE).write_text(key.model_dump_json())
    assert read_key(tmp_path) == key


def change(column: str, value: str) -> Callable[[list[str]], list[str]]:
    def changed(lines: list[str]) -> list[str]:
        row = lines[2].split(",")
        row[COLUMNS.index(column)] = value
        return [*lines[:2], ",".join(row), *lines[3:]]

    return changed


BAD = {
    "another study": (
        change("study", "0" * 16),
        r"line 3: the answers are of study '0000000000000000', .*give the folder",
    ),
    "an unknown task": (change("task", "nothing"), r"line 3: form '1-a' has no task 'nothing': correct the row"),
    "a task of another form": (change("code", "2-a"), r"line 3: form '2-a' has no task"),
    "neither side": (change("answer", "both"), r"line 3: the answer is 'both': it must be left or right; correct"),
    "no annotator": (change("annotator", " "), r"line 3: the annotator is missing: write a name"),
    "two annotators of one form": (
        change("annotator", "eve"),
        r"by 'eve', and by 'ann-1-a' at .*line 2: a form belongs",
    ),
    "an answer twice": (lambda lines: [*lines, lines[1]], r"was answered before: remove one of the two rows"),
    "no header": (lambda lines: lines[1:], r"lacks the columns study, .*give a file as the page writes it"),
    "nothing": (lambda _: [], r"lacks the columns .* got nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_its_line_and_value(key, tmp_path, case):
    damage, message = BAD[case]
    path = write(tmp_path / "a.csv", key, ["1-a"])
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(CommandError, match=message):
        read_answers(key, [path])


def test_one_person_may_not_judge_the_same_pairs_twice(key, tmp_path):
    path = write(tmp_path / "a.csv", key, ["1-a", "1-b"])
    path.write_text(path.read_text().replace("ann-1-b", "ann-1-a"))
    with pytest.raises(CommandError, match="'ann-1-a' answered the forms 1-a and 1-b, which show the same pairs"):
        read_answers(key, [path])


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_missing_or_damaged_key_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / KEY_FILE).write_text(content)
    with pytest.raises(CommandError, match=r"key"):
        read_key(tmp_path)
