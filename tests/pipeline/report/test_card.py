"""The data-set card: what it says, and that it is written only when that has changed."""

import io
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from infra.stores.folder import FolderStore
from pipeline.report.card import NAME, PICTURES, Card, histogram
from pipeline.report.summary import Picture, Samples
from tests.pipeline.report_page import SUMMARY


def picture(side_px: int) -> Picture:
    image = np.full((side_px, side_px // 2, 3), 200, np.uint8)
    flat = np.zeros((side_px, side_px // 2))
    return Picture("a", "a.tar", None, image, flat[None], flat.astype(np.uint8), image // 2, flat, 30.0, 0.1)


@pytest.fixture
def card() -> Card:
    return Card(
        title="cars",
        summary=replace(SUMMARY, samples=Samples(1500, 1499, 1), gaps={"samples": 3}),
        pictures=[picture(256), picture(64)],
        provenance={"generator digest": "abc", "note on the generator": "a | b"},
        distributions={"PSNR, dB": np.array([20.0, 21.0, 30.0, np.inf])},
        data_files=["bundles/publish/0/part/1/part-0.parquet"],
    )


def test_a_card_begins_with_metadata_that_a_hub_reads(card):
    _, metadata, text = card.text.split("---\n", 2)
    plain = yaml.safe_load(metadata)
    assert plain["pretty_name"] == "cars"
    assert plain["size_categories"] == ["1K<n<10K"]
    assert plain["configs"][0]["data_files"][0]["path"] == list(card.data_files)
    assert "\n# cars\n" in text


def test_a_card_has_provenance_figures_gaps_and_a_histogram(card):
    assert "| generator digest | abc |" in card.text
    assert r"| note on the generator | a \| b |" in card.text
    assert "1,499 images, inverted" in card.text
    assert "1 more could not be" in card.text
    assert "samples: 3" in card.text
    assert "### PSNR, dB" in card.text
    assert "median 21" in card.text
    for name, _ in SUMMARY.headlines():
        assert (f"| {name} |" in card.text) == (name not in ("seconds", "samples")), name


def test_bars_have_the_length_of_their_counts():
    lines = histogram(np.array([0.0] * 4 + [1.0] * 2 + [10.0] * 10)).splitlines()
    assert [line.split()[3] for line in lines[:-1]] == ["6", "0", "0", "10"]
    assert [line.count("█") for line in lines[:-1]] == [24, 0, 0, 40]
    assert histogram(np.array([1.0, 1.0])).startswith("    0.500 to     1.500  2")


def test_pictures_are_above_their_reconstructions(card):
    sheet = np.asarray(Image.open(io.BytesIO(card.sheet)))
    assert sheet.shape == (128 + 4 + 128, 64 + 4 + 64, 3)
    assert (sheet[0, 0] == 200).all()
    assert (sheet[132, 0] == 100).all()
    assert replace(card, pictures=[]).sheet is None
    assert PICTURES not in replace(card, pictures=[]).text


def test_a_card_is_written_when_what_it_says_has_changed_and_not_otherwise(card, tmp_path):
    store = FolderStore(tmp_path)
    assert card.write(store)
    assert store.read(NAME).decode() == card.text
    assert store.read(PICTURES) == card.sheet
    assert not replace(card).write(store)
    assert replace(card, title="horses").write(store)


def test_a_readme_of_others_stays(card, tmp_path):
    store = FolderStore(tmp_path)
    store.write(NAME, b"# Mine\n")
    assert not card.write(store)
    assert {entry.name for entry in store.list()} == {NAME}
    assert store.read(NAME) == b"# Mine\n"
