"""Which pairs a study shows, in which order, on which side: random by seed, balanced, and blind.

Everything that annotators see is named by tokens. The same picture has another token in every comparison, so that
nothing shows which method it shares with another pair. The key, a file of its own, holds what they mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.config import Section
from pipeline.study.settings import Pair, Study

Kind = Literal["comparison", "degraded", "repeated"]
ORIGINAL, DEGRADED = "original", "degraded"
"""What an attention check shows instead of methods."""
_PUBLIC = 16
"""Digits of tokens and of the name of a study."""
_FORMS = "abcdefghijklmnopqrstuvwxyz"


class Subject(Section):
    """What is judged: an image, in a study of edits also how it is edited."""

    image: str  # shard and key of its sample
    edit: str = ""


class Comparison(Section):
    """Two methods on one subject."""

    subject: Subject
    pair: Pair


class Shown(Section):
    """One task of one form: two pictures, left and right, of methods or of an attention check."""

    task: str  # its name in the page and in answers
    code: str  # of its form: page and annotator, as 2-a
    position: int  # in its form, from 0
    kind: Kind
    subject: Subject
    left: str  # method, or `original` or `degraded`
    right: str
    comparison: int = -1  # number of the comparison, of attention checks by degradation -1
    repeats: str = ""  # the task that it repeats with swapped sides


class Key(Section):
    """What a study's tokens mean; never shown to annotators."""

    study: str  # beginning of the digest of settings and images, which answers carry
    secret: str  # the whole digest, from which tokens are made
    task: str
    methods: tuple[str, ...]
    pairs: tuple[Pair, ...]
    wrong: int
    inconsistent: float
    comparisons: tuple[Comparison, ...]
    shown: tuple[Shown, ...]


def designed(study: Study, subjects: Sequence[Subject]) -> Key:
    """Return a study's tasks: every pair of methods on every subject, judged by as many annotators as requested.

    Comparisons are shuffled and cut into pages. Each page has one form per annotator, with an order of its own, and
    each pair of methods has either side in half of the comparisons of a form.
    """
    random = np.random.default_rng([study.seed, 0])
    every = [Comparison(subject=subject, pair=pair) for subject in subjects for pair in study.pairs]
    comparisons = [every[i] for i in random.permutation(len(every))]
    content = [study.model_dump_json(exclude={"config"}), *(one.model_dump_json() for one in comparisons)]
    secret = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    shown: list[Shown] = []
    for page, first in enumerate(range(0, len(comparisons), study.comparisons), 1):
        numbers = range(first, min(first + study.comparisons, len(comparisons)))
        for annotator in range(study.annotators):
            code = f"{page}-{_form(annotator)}"
            shown += _form_of(study, secret, code, numbers, comparisons)
    attention = study.attention
    return Key(
        study=secret[:_PUBLIC],
        secret=secret,
        task=study.task,
        methods=tuple(study.methods),
        pairs=tuple(study.pairs),
        wrong=attention.wrong,
        inconsistent=attention.inconsistent,
        comparisons=tuple(comparisons),
        shown=tuple(shown),
    )


def token(secret: str, *what: object) -> str:
    """Return the name of a picture or task: nothing follows from it without the key."""
    return hashlib.sha256(json.dumps([secret, *map(str, what)]).encode()).hexdigest()[:_PUBLIC]


def tokens_of(key: Key, shown: Shown) -> tuple[str, str, str]:
    """Return the pictures of a task: the photograph, left and right."""
    original = token(key.secret, shown.subject.image, ORIGINAL)
    left, right = (_token(key, shown, side) for side in (shown.left, shown.right))
    return original, left, right


def _token(key: Key, shown: Shown, method: str) -> str:
    """Return the name of one side's picture; a copy of the photograph does not have the photograph's name."""
    if shown.kind == "degraded":
        return token(key.secret, shown.subject.image, "check", method)
    return token(key.secret, shown.comparison, method)


def _form(annotator: int) -> str:
    """Return the letters of an annotator's forms: a to z, then aa, ab, …"""
    head, last = divmod(annotator, len(_FORMS))
    return (_form(head - 1) if head else "") + _FORMS[last]


def _form_of(
    study: Study, secret: str, code: str, numbers: Sequence[int], comparisons: Sequence[Comparison]
) -> list[Shown]:
    """Return the tasks of one form in their order."""
    random = np.random.default_rng([study.seed, 1, *code.encode()])
    swapped = _balanced_sides(random, [comparisons[number].pair for number in numbers])
    order = random.permutation(len(numbers))
    tasks = [_compared(secret, code, numbers[i], comparisons[numbers[i]], swap=swapped[i]) for i in order]
    half = (len(tasks) + 1) // 2
    again = [tasks[i] for i in sorted(random.permutation(half)[: study.attention.repeated])]
    for one in again:  # in the second half, apart from the first time
        tasks.insert(int(random.integers(min(half + 1, len(tasks)), len(tasks) + 1)), _repeated(secret, one))
    sides = random.permutation(study.attention.degraded) % 2
    for check, side in enumerate(sides.tolist()):
        subject = comparisons[numbers[int(random.integers(len(numbers)))]].subject
        left, right = (ORIGINAL, DEGRADED) if side else (DEGRADED, ORIGINAL)
        name = token(secret, code, "check", check)
        found = Shown(task=name, code=code, position=0, kind="degraded", subject=subject, left=left, right=right)
        tasks.insert(int(random.integers(len(tasks) + 1)), found)
    return [task.model_copy(update={"position": position}) for position, task in enumerate(tasks)]


def _balanced_sides(random: np.random.Generator, pairs: Sequence[Pair]) -> list[bool]:
    """Return whether each comparison shows its pair swapped: half of those of each pair, at random."""
    swapped = [False] * len(pairs)
    for pair in dict.fromkeys(pairs):
        places = [i for i, one in enumerate(pairs) if one == pair]
        chosen = random.permutation(places)[: (len(places) + int(random.integers(2))) // 2]
        for place in chosen.tolist():
            swapped[place] = True
    return swapped


def _compared(secret: str, code: str, number: int, comparison: Comparison, *, swap: bool) -> Shown:
    left, right = reversed(comparison.pair) if swap else comparison.pair
    return Shown(
        task=token(secret, code, number),
        code=code,
        position=0,
        kind="comparison",
        subject=comparison.subject,
        left=left,
        right=right,
        comparison=number,
    )


def _repeated(secret: str, task: Shown) -> Shown:
    name = token(secret, task.code, task.comparison, "again")
    return task.model_copy(
        update={"task": name, "kind": "repeated", "left": task.right, "right": task.left, "repeats": task.task}
    )
