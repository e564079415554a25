"""Answers read back: checked row by row, inattentive annotators excluded and counted, preferences computed."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import CommandError
from pipeline.study.design import ORIGINAL, Key, Shown
from pipeline.study.preference import Preference, Vote, preferences

COLUMNS = ("study", "code", "annotator", "task", "answer", "seconds")
"""Columns of a file of answers; `seconds` may be empty."""
SIDES = ("left", "right")
KEY_FILE = "key.json"


@dataclass(frozen=True)
class Excluded:
    """An annotator whose answers to a form do not count."""

    annotator: str
    code: str
    answers: int
    reason: str


@dataclass(frozen=True)
class StudyResult:
    """What a study found."""

    task: str
    preferences: tuple[Preference, ...]
    annotators: int  # all who answered
    answers: int  # that count, without attention checks
    unanswered: int  # tasks of answered forms
    forms: int  # of the study
    unanswered_forms: tuple[str, ...]  # their codes
    excluded: tuple[Excluded, ...]
    left: float | None  # share of counted answers that are the left picture; far from 0.5 shows a habit

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        values = {name: value for name, value in vars(self).items() if name not in ("preferences", "excluded")}
        values["preferences"] = [one.as_json() for one in self.preferences]
        return values | {"excluded": [vars(one) for one in self.excluded]}


def read_key(folder: Path) -> Key:
    """Return the key of a study in its folder; raise CommandError if it is missing or damaged."""
    path = folder / KEY_FILE
    try:
        return Key.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CommandError(
            f"cannot read the key {path}: {error.strerror}; give the folder that `study make` wrote"
        ) from error
    except ValidationError as error:
        raise CommandError(f"{path} is not the key of a study: {error.errors()[0]['msg']}; restore the file") from error


def read_answers(key: Key, paths: Sequence[Path]) -> StudyResult:
    """Return what the answers in some files say.

    Raises:
        CommandError: a file or row is invalid; the message gives file, line, value and remedy.
    """
    tasks = {shown.task: shown for shown in key.shown}
    sides: dict[str, str] = {}
    forms: dict[str, tuple[str, str]] = {}  # who answered each form, and where it was read
    for where, row in _rows(paths):
        shown = _checked(key, tasks, row, where)
        annotator, code = row["annotator"].strip(), shown.code
        if forms.setdefault(code, (annotator, where))[0] != annotator:
            raise CommandError(
                f"{where}: form {code} was answered by {annotator!r}, and by {forms[code][0]!r} at {forms[code][1]}: "
                "a form belongs to one annotator; keep the rows of one of them"
            )
        if shown.task in sides:
            raise CommandError(f"{where}: task {shown.task} was answered before: remove one of the two rows")
        sides[shown.task] = row["answer"]
    _check_annotators(forms)
    return _result(key, sides, {code: annotator for code, (annotator, _) in forms.items()})


def _rows(paths: Sequence[Path]) -> Iterator[tuple[str, Mapping[str, str]]]:
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"cannot read the answers {path}: {error}; give a CSV file in UTF-8") from error
        reader = csv.DictReader(text.splitlines())
        if lacking := [name for name in COLUMNS[:-1] if name not in (reader.fieldnames or ())]:
            raise CommandError(
                f"{path} lacks the columns {', '.join(lacking)}, got {', '.join(reader.fieldnames or ['nothing'])}: "
                f"give a file as the page writes it, with {', '.join(COLUMNS)}"
            )
        for row in reader:
            yield f"{path}, line {reader.line_num}", {name: row.get(name) or "" for name in COLUMNS}


def _checked(key: Key, tasks: Mapping[str, Shown], row: Mapping[str, str], where: str) -> Shown:
    if row["study"] != key.study:
        raise CommandError(
            f"{where}: the answers are of study {row['study']!r}, and the key is of {key.study!r}: "
            "give the folder of the study that was answered"
        )
    shown = tasks.get(row["task"])
    if shown is None or shown.code != row["code"]:
        raise CommandError(
            f"{where}: form {row['code']!r} has no task {row['task']!r}: correct the row, or ask for the file again"
        )
    if row["answer"] not in SIDES:
        raise CommandError(f"{where}: the answer is {row['answer']!r}: it must be left or right; correct the row")
    if not row["annotator"].strip():
        raise CommandError(f"{where}: the annotator is missing: write a name or number for the person who answered")
    return shown


def _check_annotators(forms: Mapping[str, tuple[str, str]]) -> None:
    """Raise CommandError if a person answered two forms of one page: different people judge a pair."""
    seen: dict[tuple[str, str], str] = {}
    for code, (annotator, where) in forms.items():
        page = code.partition("-")[0]
        if (other := seen.setdefault((annotator, page), code)) != code:
            raise CommandError(
                f"{where}: {annotator!r} answered the forms {other} and {code}, which show the same pairs: "
                "remove the rows of one, and give it to another person"
            )


def _result(key: Key, sides: Mapping[str, str], annotators: Mapping[str, str]) -> StudyResult:
    by_form = defaultdict[str, list[Shown]](list)
    for shown in key.shown:
        by_form[shown.code].append(shown)
    excluded, votes, left = list[Excluded](), list[Vote](), Counter[str]()
    for code, annotator in sorted(annotators.items()):
        answered = [shown for shown in by_form[code] if shown.task in sides]
        compared = [shown for shown in answered if shown.kind == "comparison"]
        if reason := _inattentive(key, answered, sides):
            excluded.append(Excluded(annotator, code, len(compared), reason))
            continue
        left.update(sides[shown.task] for shown in compared)
        votes += [_vote(key, shown, sides[shown.task], annotator) for shown in compared]
    return StudyResult(
        task=key.task,
        preferences=tuple(preferences(votes, key.pairs)),
        annotators=len(set(annotators.values())),
        answers=len(votes),
        unanswered=sum(shown.task not in sides for code in annotators for shown in by_form[code]),
        forms=len(by_form),
        unanswered_forms=tuple(sorted(by_form.keys() - annotators.keys())),
        excluded=tuple(excluded),
        left=left["left"] / len(votes) if votes else None,
    )


def _vote(key: Key, shown: Shown, side: str, annotator: str) -> Vote:
    pair = key.comparisons[shown.comparison].pair
    return Vote(pair, shown.subject.image, annotator, _preferred(shown, side) == pair[0])


def _preferred(shown: Shown, side: str) -> str:
    return shown.left if side == "left" else shown.right


def _inattentive(key: Key, answered: Sequence[Shown], sides: Mapping[str, str]) -> str:
    """Return why the answers of a form do not count; empty if they do."""
    wrong = sum(shown.kind == "degraded" and _preferred(shown, sides[shown.task]) != ORIGINAL for shown in answered)
    if wrong > key.wrong:
        return f"{wrong} degraded pictures preferred to the photograph itself, at most {key.wrong} allowed"
    of_task = {shown.task: shown for shown in answered}
    again = [shown for shown in answered if shown.kind == "repeated" and shown.repeats in of_task]
    different = sum(
        _preferred(shown, sides[shown.task]) != _preferred(of_task[shown.repeats], sides[shown.repeats])
        for shown in again
    )
    if again and different / len(again) > key.inconsistent:
        return (
            f"{different} of {len(again)} repeated pairs answered differently, at most {key.inconsistent:.0%} allowed"
        )
    return ""
