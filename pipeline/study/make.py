"""`invertmill study make`: pages, pictures, tasks and key of a study, from committed results."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.files import put
from pipeline.errors import CommandError
from pipeline.study.answers import KEY_FILE
from pipeline.study.design import DEGRADED, ORIGINAL, Key, Subject, designed, token, tokens_of
from pipeline.study.page import render_page
from pipeline.study.pictures import MethodResults, Pixels, chosen_subjects, degraded, picture_path
from pipeline.study.settings import Study
from stages.images.encoding import encoded

TASKS_FILE = "tasks.csv"
TASK_COLUMNS = ("study", "code", "position", "task", "question", "edit", "original", "left", "right")


@dataclass(frozen=True)
class Made:
    """What was written."""

    images: int
    comparisons: int
    pages: int
    forms: int


def make_study(study: Study, folder: Path) -> Made:
    """Write a study into a new folder.

    Raises:
        CommandError: the folder holds something already.
        ConfigError: the configuration of a method is invalid.
        RunError: the results of a method are not there.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CommandError(f"{folder} is not empty: choose another folder with --out, or remove it")
    methods = [MethodResults.from_study(study, name) for name in study.methods]
    subjects = chosen_subjects(study, methods)
    key = designed(study, subjects)
    _write_pictures(key, methods, subjects, folder)
    pages = list(dict.fromkeys(shown.code.partition("-")[0] for shown in key.shown))
    for page in pages:
        of_page = [shown for shown in key.shown if shown.code.partition("-")[0] == page]
        put(folder / f"study-{page}.html", render_page(key, study.asked, of_page, folder).encode())
    put(folder / TASKS_FILE, _tasks(key, study.asked).encode())
    put(folder / KEY_FILE, key.model_dump_json(indent=1).encode())
    forms = len({shown.code for shown in key.shown})
    return Made(len(subjects), len(key.comparisons), len(pages), forms)


def _write_pictures(key: Key, methods: Sequence[MethodResults], subjects: Sequence[Subject], folder: Path) -> None:
    """Write every picture under each of its names."""
    names = defaultdict[tuple[str, str], set[str]](set)  # by image and method
    for shown in key.shown:
        _, left, right = tokens_of(key, shown)
        names[shown.subject.image, shown.left].add(left)
        names[shown.subject.image, shown.right].add(right)
    for image, pixels_HW3 in methods[0].photographs([subject.image for subject in subjects]):
        copies = names[image, ORIGINAL] | {token(key.secret, image, ORIGINAL)}
        _write(folder, copies, pixels_HW3)
        if names[image, DEGRADED]:
            _write(folder, names[image, DEGRADED], degraded(pixels_HW3))
    for method in methods:
        for subject, pixels_HW3 in method.pictures(subjects):
            _write(folder, names[subject.image, method.name], pixels_HW3)


def _write(folder: Path, names: set[str], pixels_HW3: Pixels) -> None:
    content = encoded(pixels_HW3, "png")
    for name in names:
        put(picture_path(folder, name), content)


def _tasks(key: Key, question: str) -> str:
    """Return the tasks as CSV for a platform that shows its own pages: no method, no kind."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(TASK_COLUMNS)
    writer.writerows(_task_rows(key, question))
    return sink.getvalue()


def _task_rows(key: Key, question: str) -> Iterator[tuple[str | int, ...]]:
    for shown in key.shown:
        pictures = (picture_path(Path(), name).as_posix() for name in tokens_of(key, shown))
        yield key.study, shown.code, shown.position, shown.task, question, shown.subject.edit, *pictures
