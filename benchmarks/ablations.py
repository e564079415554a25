"""What two parts of the method do for edits: the weight on deltas (thesis Fig. 4.5), and refinement (Fig. 4.6).

    python -m benchmarks.ablations [--quick] --json FILE [--picture docs/ablations.png]

The demo's occluded held-out scenes are inverted three times: as configured, without the term that keeps deltas small
(L_F, Eq. 3.8), and without refinement, so that each pixel gets its own space instead of each segment. Everything else
is equal, and the assignments follow from the scenes' own error maps. Then all are edited, and compared with the true
edits that the renderer draws. The picture shows some of them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.edited_scenes import CPU, Scenes, codes_of
from benchmarks.harness.pictures import pixels_of_drawing
from benchmarks.harness.sheet import write_sheet
from generators.latents import Codes
from pipeline.report.charts import draw_assignment
from pipeline.report.edit_truth import summarised
from stages.base.stage import Record
from stages.maps.region import to_uint8

SCENES, QUICK_SCENES = 8, 4
SETTINGS: tuple[str, ...] = ()
"""Settings of the demo that are changed for its scenes."""
FULL, NO_DELTA_TERM, UNREFINED = "full", "without L_F", "without refinement"
DIRECTION, MAGNITUDE = "car-position", 1.0
"""The edit in the picture."""
PICTURED = 3


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write figures and picture."""
    parser = parser_of("ablations", __doc__, f"{QUICK_SCENES} scenes instead of {SCENES}")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="PNG to write as well")
    options = parser.parse_args(arguments)
    scenes = Scenes.from_demo(QUICK_SCENES if options.quick else SCENES, SETTINGS)
    refined, by_pixel = scenes.assignments(), scenes.assignments(refined=False)
    without = scenes.config.invert.objective.model_copy(update={"lambda_delta": 0.0})
    variants = {
        FULL: (refined, scenes.inverted(refined)),
        NO_DELTA_TERM: (refined, scenes.inverted(refined, without)),
        UNREFINED: (by_pixel, scenes.inverted(by_pixel)),
    }
    figures = _figures(scenes, {name: records for name, (_, records) in variants.items()})
    for name, of_variant in figures.items():
        print(f"{name}: {of_variant}")
    units = {
        "psnr_db": "dB of the inversion, mean over scenes",
        "psnr_to_truth_db": "dB of edits against the renderer's, mean over scenes and edits",
        "psnr_inside_db": "the same over the pixels that the true edit changes",
        "inside_outside_ratio": "mean change where the true edit changes the image over that of the occluder",
        "delta_rms": "root mean square of the deltas where they act",
    }
    report = {"benchmark": "ablations", "units": units, "scenes": len(scenes.samples), "results": figures}
    write_report(options.json, report | {"quick": options.quick, **circumstances(CPU)})
    if options.picture:
        _draw(options.picture, scenes, variants)
        print(f"wrote {options.picture}, {options.picture.stat().st_size} bytes")
    return 0


def _figures(scenes: Scenes, variants: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, Any]]:
    methods = [
        {name: codes_of(records[number]) for name, records in variants.items()} for number in range(len(scenes.samples))
    ]
    summary = summarised(scenes.measures(methods), len(scenes.samples))
    assert summary is not None
    ratios = summary.all.inside_outside_ratio
    return {
        name: {
            "psnr_db": round(float(np.mean([float(str(record.row["psnr_db"])) for record in records])), 2),
            "psnr_to_truth_db": round(summary.all.psnr_to_truth_db[name], 2),
            "psnr_inside_db": round(summary.all.psnr_inside_db[name], 2),
            "inside_outside_ratio": None if (ratio := ratios[name]) is None else round(ratio, 2),
            "delta_rms": round(float(np.mean([_rms(codes_of(record)) for record in records])), 3),
        }
        for name, records in variants.items()
    }


def _rms(codes: Codes) -> float:
    """Return the root mean square of the deltas of one image over the positions where they act; 0 without any."""
    kept = [delta[0][:, codes.masks[space][0, 0] > 0].flatten().numpy() for space, delta in codes.deltas.items()]
    return float(np.sqrt(np.mean(np.concatenate(kept) ** 2))) if kept else 0.0


def _draw(
    path: Path, scenes: Scenes, variants: Mapping[str, tuple[Sequence[NDArray[np.uint8]], Sequence[Record]]]
) -> None:
    edit = next(e for e in scenes.edits if (e.name, e.magnitude) == (DIRECTION, MAGNITUDE))
    rows = []
    for number, sample in list(enumerate(scenes.samples))[:PICTURED]:
        truth = scenes.truth(sample)
        for name, (assignments, records) in variants.items():
            pictures = scenes.editor.pictures(codes_of(records[number]), [edit])
            before, after = (to_uint8(picture.image_N3HW)[0] for picture in pictures)
            overlay = draw_assignment(assignments[number], truth.pixels_HW3, scenes.generator.spaces)
            assigned = pixels_of_drawing(overlay, truth.pixels_HW3.shape)
            rows.append(
                (name.replace(" ", "\n", 1), [truth.pixels_HW3, assigned, before, after, truth.images[edit.label]])
            )
    headings = ["input", "assignment", "inversion", f"{DIRECTION}\n{MAGNITUDE:+g}", "the renderer's\nown edit"]
    write_sheet(path, headings, rows, names_px=70)


if __name__ == "__main__":
    sys.exit(main())
