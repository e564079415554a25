"""A study made of committed results: pictures, pages and tasks; answered in a browser; read back."""

import csv
import io
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.errors import ConfigError, RunError
from pipeline.evaluation.compute import committed
from pipeline.plan.plan import Plan
from pipeline.study.design import Key, tokens_of
from pipeline.study.make import make_study
from pipeline.study.pictures import MethodResults, degraded, picture_path
from pipeline.study.settings import load_study
from stages.inversion.packing import unpack_codes
from stages.invert import Invert
from stages.maps.region import to_uint8
from stages.refine_maps import RefineMaps
from tests import tiny
from tests.pipeline.conftest import Committed, compute
from tests.pipeline.evaluation.conftest import work

W_PLUS = {"invert.method": {"kind": "optimise", "spaces": "W+"}}
DIRECTION = "{directions: [{name: tilt, path: tilt.npy}], magnitudes: [3]}"


def inverted(plan: Plan) -> None:
    """Commit what is missing of a plan's inversions."""
    compute(plan, plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))[Invert])


@pytest.fixture(scope="module")
def run(first_run, tmp_path_factory) -> Committed:
    """A run whose images are inverted by two methods, and a direction to edit along."""
    folder = tmp_path_factory.mktemp("two-methods") / "run"
    shutil.copytree(first_run, folder, copy_function=shutil.copy2)
    found = Committed(folder)
    inverted(found.plan("invert.method={kind: optimise, spaces: W+}"))
    np.save(folder / "tilt.npy", np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32))
    return found


def written(run: Committed, name: str, **changes) -> Path:
    settings = {
        "config": "run.yaml",
        "methods": {"SAM-here": {}, "W-plus-here": {"set": W_PLUS}},
        "images": 4,
        "annotators": 2,
        "comparisons": 10,
        "attention": {"degraded": 1, "repeated": 1},
    }
    path = run.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


@pytest.fixture(scope="module")
def made(run) -> Path:
    folder = run.folder / "made"
    make_study(load_study(written(run, "study")), folder)
    return folder


def key_of(folder: Path) -> Key:
    return Key.model_validate_json((folder / "key.json").read_bytes())


def pixels(folder: Path, name: str) -> np.ndarray:
    with Image.open(picture_path(folder, name)) as picture:
        return np.asarray(picture)


def test_pictures_are_those_of_the_codes_as_stored(run, made):
    key = key_of(made)
    results = {name: MethodResults.from_study(load_study(run.folder / "study.yaml"), name) for name in key.methods}
    (shown, *_) = (one for one in key.shown if one.kind == "comparison")
    original, *sides = tokens_of(key, shown)
    sample = shown.subject.image.rpartition("/")[2]
    np.testing.assert_array_equal(pixels(made, original), tiny.pixels_of(int(sample.rpartition("-")[2])))
    for method, name in zip((shown.left, shown.right), sides, strict=True):
        found = results[method]
        record = run.records(found.step, found.units[shown.subject.image])[sample]
        codes = unpack_codes(record.row["w_plus"], record.arrays)
        image_N3HW = found.generator.synthesize(codes.w_plus, codes.deltas, codes.masks)
        np.testing.assert_array_equal(pixels(made, name), to_uint8(image_N3HW)[0])


def test_held_out_images_come_first(made):
    images = {shown.subject.image for shown in key_of(made).shown}
    assert len(images) == 4
    assert sum(image.startswith("held-b") for image in images) == 3


def test_nothing_that_annotators_see_names_a_method_or_an_attention_check(made):
    seen = [made / "study-1.html", made / "tasks.csv", *made.glob("images/*")]
    for path in seen:
        text = path.name + (path.read_text() if path.suffix != ".png" else "")
        assert not re.search("SAM-here|W-plus-here|degraded|repeated|repeats|held-b|train-a", text), path


def test_the_table_of_tasks_has_a_picture_for_every_place(made):
    rows = list(csv.DictReader(io.StringIO((made / "tasks.csv").read_text())))
    assert len(rows) == len(key_of(made).shown) == 2 * (4 + 1 + 1)
    assert all((made / row[place]).is_file() for row in rows for place in ("original", "left", "right"))
    assert {row["code"] for row in rows} == {"1-a", "1-b"}


def test_a_degraded_picture_is_far_from_its_photograph():
    photograph = tiny.pixels_of(3, 64, 64)
    assert degraded(photograph).shape == photograph.shape
    assert np.abs(degraded(photograph).astype(int) - photograph).mean() > 20


def test_edits_are_judged_as_edited(run, tmp_path):
    methods = {name: {"set": more | {"edit": yaml.safe_load(DIRECTION)}} for name, more in (("A", {}), ("B", W_PLUS))}
    path = written(run, "edits", task="edits", methods=methods)
    make_study(load_study(path), tmp_path)
    key = key_of(tmp_path)
    assert {shown.subject.edit for shown in key.shown} == {"tilt.3"}
    (shown, *_) = (one for one in key.shown if one.kind == "comparison" and one.left == "B")
    found = MethodResults.from_study(load_study(path), "B")
    sample = shown.subject.image.rpartition("/")[2]
    record = run.records(found.step, found.units[shown.subject.image])[sample]
    codes = unpack_codes(record.row["w_plus"], record.arrays)
    moved = found.generator.synthesize(codes.w_plus + 3 * torch.from_numpy(np.load(run.folder / "tilt.npy")))
    difference = pixels(tmp_path, tokens_of(key, shown)[1]).astype(int) - to_uint8(moved)[0]
    assert np.abs(difference).max() <= 1
    assert "edited: " in (tmp_path / "study-1.html").read_text()


def test_methods_of_an_evaluation_are_judged_on_its_images(first_run, tmp_path):
    run = Committed(tmp_path / "run")
    shutil.copytree(first_run, run.folder, copy_function=shutil.copy2)
    evaluate = {"methods": [{"name": "ours"}, {"name": "theirs", "invert": {"method": W_PLUS["invert.method"]}}]}
    for method in committed(run.plan(f"evaluate={json.dumps(evaluate)}")):
        samples, invert = method.samples, method.steps[Invert]
        work(method.plan, method.steps[RefineMaps], samples.needed, {})
        cuts = dict.fromkeys(invert.upstream, samples.cut)
        work(method.plan, replace(invert, selection=samples.selection), samples.units, cuts)
    methods = {name: {"set": {"evaluate": evaluate}, "evaluated": name} for name in ("ours", "theirs")}
    make_study(load_study(written(run, "study", methods=methods)), tmp_path / "out")
    key = key_of(tmp_path / "out")
    assert len({shown.subject.image for shown in key.shown}) == 3
    assert all(shown.subject.image.startswith("held-b") for shown in key.shown)
    wrong = written(run, "wrong", methods=methods | {"x": methods["ours"] | {"evaluated": "other"}})
    with pytest.raises(RunError, match=r"methods\.x: evaluate has no method 'other'; its methods are ours, theirs"):
        make_study(load_study(wrong), tmp_path / "wrong")


BAD = {
    "one method": ({"methods": {"A": {}}}, ConfigError, "methods: Dictionary should have at least 2 items"),
    "an unknown key": ({"method": {}}, ConfigError, "unknown key 'method': the keys of a study are config, task"),
    "an unknown method": ({"against": "C"}, ConfigError, "against is 'C', and the methods are SAM-here, W-plus-here"),
    "a wrong setting": ({"methods": {"A": {}, "B": {"set": {"invert.stepz": 3}}}}, ConfigError, r"methods\.B: .*stepz"),
    "nothing inverted": (
        {"methods": {"A": {}, "B": {"set": {"invert.schedule.steps": 9}}}}, RunError, r"methods\.B: nothing is inverted"
    ),
    "no edits": ({"task": "edits"}, RunError, "SAM-here: task is edits, and its configuration has no section edit"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_study_is_refused(run, tmp_path, case):
    changes, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make_study(load_study(written(run, "wrong", **changes)), tmp_path / "out")


def test_a_folder_with_something_in_it_is_left_alone(run, made, invertmill):
    code, _, errors = invertmill("study", "make", run.folder / "study.yaml", "--out", made)
    assert code == 2
    assert "is not empty: choose another folder with --out" in " ".join(errors.split())


# ---- answered in a browser


def answer(browser, key: Key, code: str, prefer) -> None:
    """Answer one form by clicks and keys, looking only at what is shown."""
    of_task = {shown.task: shown for shown in key.shown}
    browser.evaluate(f"element('code').value = '{code}'; element('annotator').value = 'Ann, \"{code}\" ü'")
    browser.evaluate("document.querySelector('#start button').click()")
    for number in range(browser.evaluate("tasks.length")):
        shown = of_task[browser.evaluate("tasks[at].task")]
        sources = "['left', 'right'].map(side => element(side).firstElementChild)"
        assert browser.evaluate(f"Promise.all({sources}.map(i => i.decode())).then(() => {sources}[0].naturalWidth)")
        side = "left" if prefer(shown) == shown.left else "right"
        if number % 2:
            browser.press({"left": "ArrowLeft", "right": "ArrowRight"}[side])
        else:
            browser.evaluate(f"element('{side}').click()")


def saved(browser, folder: Path, code: str) -> Path:
    """Save the answers, and return the file."""
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.evaluate("element('save').click()")
    path = folder / f"answers-{code}.csv"
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return path


def test_a_study_is_answered_in_a_browser_and_read_back(browser, made, invertmill, tmp_path):
    key = key_of(made)
    page = made / "study-1.html"
    files = []
    for code, careless in (("1-a", False), ("1-b", True)):
        browser.open(page)
        answer(browser, key, code, lambda shown, careless=careless: preferred(shown, careless=careless))
        assert browser.evaluate("!element('end').hidden && element('tasks').hidden && element('unfinished').hidden")
        files.append(saved(browser, tmp_path, code))
        assert browser.requests() == [page.as_uri()]
        assert browser.complaints() == []
    code, output, errors = invertmill("study", "read", made, *files, "--json")
    assert (code, errors) == (0, "")
    result = json.loads(output)
    (found,) = result["preferences"]
    assert (found["pair"], found["share"], found["answers"]) == (["SAM-here", "W-plus-here"], 1.0, 4)
    assert [(one["annotator"], one["code"]) for one in result["excluded"]] == [('Ann, "1-b" ü', "1-b")]
    code, output, _ = invertmill("study", "read", made, *files)
    assert code == 0
    assert re.search(r"SAM-here .*100\.0 %", output)  # names are wrapped if the terminal is narrow
    assert "excluded: Ann" in output


def preferred(shown, *, careless: bool) -> str:
    """Return the picture that an annotator prefers: the photograph and SAM, or their opposites."""
    ranked = ["original", "SAM-here", "W-plus-here", "degraded"]
    best, worst = sorted((shown.left, shown.right), key=ranked.index)
    return worst if careless else best


def test_a_page_knows_its_codes_and_lets_annotators_go_back(browser, made):
    browser.open(made / "study-1.html")
    browser.evaluate("element('code').value = '7-a'; element('annotator').value = 'x'")
    browser.evaluate("document.querySelector('#start button').click()")
    assert browser.evaluate("element('problem').textContent") == "This page has no code 7-a. Its codes are 1-a, 1-b."
    browser.evaluate("element('code').value = '1-A'; document.querySelector('#start button').click()")
    browser.press("ArrowLeft")
    assert browser.evaluate("element('progress').textContent") == "2 of 6"
    assert not browser.evaluate("element('unfinished').hidden")
    browser.evaluate("element('back').click()")
    browser.press("ArrowRight")
    assert browser.evaluate("[...answers.values()].map(one => one.answer)") == ["right"]
