"""A page of a study: one HTML file that needs no server, collects answers and writes them as CSV."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.edits_page import as_data
from pipeline.report.templates import script_digest, verbatim
from pipeline.study.answers import COLUMNS
from pipeline.study.design import Key, Shown, tokens_of
from pipeline.study.pictures import picture_path


def render_page(key: Key, question: str, shown: Sequence[Shown], folder: Path) -> str:
    """Return the page of some forms that show the same comparisons.

    Args:
        key: of the study; nothing of it but tokens gets into the page.
        question: what is asked about each pair.
        shown: the tasks of the forms, each form in its order.
        folder: of the study, where pictures are.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.study", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = verbatim(environment, "study.js")
    return environment.get_template("study.html.j2").render(
        question=question,
        style=verbatim(environment, "study.css"),
        script=script,
        digest=script_digest(script),
        data=as_data(_data(key, shown, folder)),
    )


def _data(key: Key, shown: Sequence[Shown], folder: Path) -> Mapping[str, Any]:
    """Return what the page's script needs: forms of tasks by code, and pictures by token."""
    forms = defaultdict[str, list[Mapping[str, str]]](list)
    pictures: dict[str, str] = {}
    for one in shown:
        original, left, right = tokens_of(key, one)
        forms[one.code].append(
            {"task": one.task, "edit": one.subject.edit, "original": original, "left": left, "right": right}
        )
        for name in (original, left, right):
            if name not in pictures:
                content = base64.b64encode(picture_path(folder, name).read_bytes()).decode("ascii")
                pictures[name] = f"data:image/png;base64,{content}"
    return {"study": key.study, "columns": COLUMNS, "forms": forms, "pictures": pictures}
