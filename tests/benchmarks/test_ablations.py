"""The ablations: all three variants are measured and drawn."""

import json

from PIL import Image

from benchmarks import ablations
from benchmarks.harness.edited_scenes import HASTY


def test_all_variants_are_measured_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "QUICK_SCENES", 2)
    monkeypatch.setattr(ablations, "SETTINGS", HASTY)
    figures, picture = tmp_path / "figures.json", tmp_path / "ablations.png"
    assert ablations.main(["--quick", "--json", str(figures), "--picture", str(picture)]) == 0
    report = json.loads(figures.read_text())
    assert list(report["results"]) == [ablations.FULL, ablations.NO_DELTA_TERM, ablations.UNREFINED]
    for variant in report["results"].values():
        assert variant.keys() == report["units"].keys()
        assert variant["psnr_db"] > 0
    with Image.open(picture) as image:
        assert image.width > 5 * 2 * 64
        assert image.height > 2 * 3 * 2 * 64
