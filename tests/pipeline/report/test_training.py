"""What the report shows of a training: its curve, its pictures, and what was left out."""

import base64
import dataclasses
import json

import pytest

from pipeline.report.training import TrainingReport
from tests import tiny
from tests.pipeline.report_page import HOSTILE, page_of


def point(epoch: int, val_loss: float | None, *, kept: bool = True) -> dict[str, object]:
    correlation = dict.fromkeys(tiny.SPACES, None if val_loss is None else 0.5 + epoch / 10)
    return {
        "epoch": epoch,
        "train_loss": 0.02 / (1 + epoch),
        "val_loss": val_loss,
        "val_deviation": None if val_loss is None else 0.001,
        "mean_loss": 0.03,
        "correlation": correlation,
        "kept": kept,
    }


VALIDATED = [point(0, 0.02), point(1, 0.011), point(2, 0.013, kept=False)]
UNVALIDATED = [point(0, None), point(1, None)]


@pytest.fixture
def training(committed) -> TrainingReport:
    plan = committed.plan()
    return TrainingReport.from_receipt(plan.ledger, plan.ledger.receipt(plan.train_segmenter()), plan.generator.spaces)


def test_the_report_of_a_committed_training_holds_its_curve_and_its_picture(training, committed, tmp_path):
    curve = json.loads(committed.file("bundles/train_segmenter/*/*/*/curve.json").read_bytes())
    assert training.curve == curve
    assert training.learnt == 5
    page = page_of(tmp_path, training=training)
    (image,) = [image for image in page.all("img") if image["class"] == "maps"]
    png = committed.file("bundles/train_segmenter/*/*/*/pictures.png").read_bytes()
    assert image["src"] == "data:image/png;base64," + base64.b64encode(png).decode()
    assert all(space in image["alt"] for space in tiny.SPACES)
    assert page.all("dialog"), "it can be enlarged"


def test_the_epoch_that_was_kept_and_the_best_figures_are_named(training, tmp_path):
    page = page_of(tmp_path, training=dataclasses.replace(training, curve=VALIDATED))
    assert (
        "the weights of epoch 2 of 3 were kept, the last within a standard error of the best on the examples held out"
        in page.text
    )
    labels = [panel["aria-label"] for panel in page.all("div") if "aria-label" in panel]
    assert "Losses by epoch; kept: epoch 2, training 0.0100, validation 0.0110" in labels
    assert any(label.startswith("Correlation by epoch; kept: epoch 2, W+ 0.600") for label in labels)


def test_without_validation_the_last_epoch_is_said_to_be_kept_and_no_correlation_is_drawn(training, tmp_path):
    page = page_of(tmp_path, training=dataclasses.replace(training, curve=UNVALIDATED))
    assert "the weights of epoch 2 of 2 were kept." in page.text
    assert "Correlation by epoch" not in str(page.elements)


def test_what_was_not_learnt_from_is_named_with_its_reason(training, tmp_path):
    rejected = {"image7": "its error maps are zero everywhere", HOSTILE: "no"}
    page = page_of(tmp_path, training=dataclasses.replace(training, rejected=rejected))
    assert "2 examples were excluded from training" in page.text
    assert "image7 : its error maps are zero everywhere" in page.text
    assert HOSTILE in page.text.replace("  ", " ")
    assert "excluded from training" not in page_of(tmp_path, training=training).text


def test_a_report_without_a_training_has_no_section_for_it(tmp_path):
    assert not [link for link in page_of(tmp_path).all("a") if link["href"] == "#training"]
