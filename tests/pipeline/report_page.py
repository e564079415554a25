"""A plausible run to report on, and its page as a parser sees it."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from pipeline.report.edit_truth import EditFigures, EditTruth
from pipeline.report.edited import EditedImage, EditedPicture
from pipeline.report.map_quality import MapQuality
from pipeline.report.page import render_report, write_page
from pipeline.report.summary import Picture, Quarantined, Samples, StageTiming, Summary
from pipeline.tune.curve import Point, TradeOffCurve

SPACES = ("W+", "F4", "F6", "F8", "F10")
HOSTILE = "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'>\"&"
PER_SAMPLE = {"input": 1, "predicted": len(SPACES), "segments": 1, "assignment": 1, "sam": 1, "error": 1}


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a car on a road under a sky `[H, W, 3]` uint8, and labels: 0 scene, 1 car, 2 tree, 3 occluder."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    sky, field = rng.uniform(0.35, 0.9, 3) * [0.7, 0.85, 1.0], rng.uniform(0.25, 0.6, 3) * [0.8, 1.0, 0.5]
    image = np.where((y < 0.55)[..., None], sky * (0.6 + 0.8 * y[..., None]), field)
    image = np.where((y > 0.72)[..., None], rng.uniform(0.25, 0.45), image)
    labels = np.zeros((height, width), np.uint8)
    left, tree = rng.uniform(0.15, 0.45), rng.uniform(0.1, 0.9)
    crown = (x - tree) ** 2 + (y - 0.45) ** 2 < 0.012
    body = (abs(x - left - 0.18) < 0.19) & (abs(y - 0.68) < 0.055)
    cabin = (abs(x - left - 0.18) < 0.11 - 0.3 * (0.62 - y)) & (abs(y - 0.595) < 0.045)
    wheels = np.minimum((x - left - 0.06) ** 2, (x - left - 0.3) ** 2) + (y - 0.735) ** 2 < 0.0018
    image[crown], labels[crown] = [0.25, 0.4, 0.15], 2
    image[body | cabin], labels[body | cabin | wheels] = rng.uniform(0.2, 0.9, 3), 1
    image[wheels] = 0.08
    box = (abs(x - rng.uniform(0.2, 0.8)) < 0.14) & (abs(y - rng.uniform(0.2, 0.5)) < 0.11)
    image[box], labels[box] = rng.uniform(0, 1, (int(box.sum()), 3)), 3
    return (255 * image.clip(0, 1)).astype(np.uint8), labels


def picture(seed: int, height: int = 64, width: int = 64, **changes: object) -> Picture:
    rng = np.random.default_rng(seed)
    image_HW3, labels_HW = scene(rng, height, width)
    hardness_HW = np.array([0.08, 0.2, 0.45, 1.3])[labels_HW] + 0.05 * rng.standard_normal((height, width))
    soft = sum(np.roll(hardness_HW, (dy, dx), (0, 1)) for dy in range(-2, 3) for dx in range(-2, 3)) / 25
    predicted_LHW = np.stack([soft.clip(0) * scale for scale in (1, 0.7, 0.45, 0.2, 0.08)]).astype(np.float32)
    alone = Image.fromarray(image_HW3).filter(ImageFilter.GaussianBlur(2.2))
    sam = Image.fromarray(image_HW3).filter(ImageFilter.GaussianBlur(0.6))
    values = {
        "key": f"scene_{seed:05d}",
        "shard": "cars-held-out-000003.tar",
        "role": "held_out",
        "image_HW3": image_HW3,
        "predicted_LHW": predicted_LHW,
        "assignment_HW": np.array([0, 0, 1, 2 + seed % 3], np.uint8)[labels_HW],
        "sam_HW3": np.asarray(sam),
        "error_HW": (0.2 * soft.clip(0)).astype(np.float32),
        "labels_HW": labels_HW,
        "trace": (np.arange(0, 100, 10), 0.5 * 0.97 ** np.arange(0, 100, 10) + 0.01 * seed),
        "psnr_db": 28.0 + 0.31 * seed,
        "lpips": float(0.2 * soft.clip(0).mean()),
        "w_plus_HW3": np.asarray(alone),
        "w_plus_psnr_db": 21.5 + 0.27 * seed,
    }
    return Picture(**(values | changes))


PICTURES = [picture(seed) for seed in range(7)] + [
    picture(7, key=HOSTILE, role="supervision", w_plus_HW3=None, w_plus_psnr_db=None),
    picture(8, 192, 256, role=None, worst=True, psnr_db=19.02),
]


def edited_picture(seed: int, **changes: object) -> EditedPicture:
    """Return a picture with edits that shift it and that darken it, by SAM and in W+ alone."""
    seen = picture(seed, **changes)
    alone = seen.image_HW3 if seen.w_plus_HW3 is None else seen.w_plus_HW3

    def edits_of(image_HW3: np.ndarray, direction: str, magnitude: float) -> np.ndarray:
        if direction == "shift":
            return np.roll(image_HW3, round(8 * magnitude), axis=1)
        return (image_HW3 * (1 - 0.2 * magnitude)).clip(0, 255).astype(np.uint8)

    before = {"sam": seen.sam_HW3, "w_plus": alone}
    edits = tuple(
        EditedImage(name, magnitude, {m: edits_of(image, name, magnitude) for m, image in before.items()})
        for name, magnitudes in (("shift", (-2.0, -1.0, 1.0, 2.0)), ("darken", (0.5, 1.0)))
        for magnitude in magnitudes
    )
    return EditedPicture(seen.key, seen.shard, seen.image_HW3, seen.predicted_LHW[0], seen.assignment_HW, before, edits)


EDITED = [edited_picture(seed) for seed in range(5)] + [edited_picture(5, key=HOSTILE)]
_METHODS = {"sam": 27.41, "w_plus": 23.87, "f4": 22.1, "f6": 21.5, "f8": 21.2, "f10": 21.0}
_FIGURES = EditFigures(
    psnr_to_truth_db=_METHODS | {"unedited": 18.61},
    psnr_inside_db={name: value - 5 for name, value in _METHODS.items()} | {"unedited": 9.3},
    inside_outside_ratio={"sam": 12.64, "w_plus": 6.2, "f4": 3.1, "f6": 2.0, "f8": 1.1, "f10": None},
    change_inside=dict.fromkeys(_METHODS, 0.2),
    change_occluder=dict.fromkeys(_METHODS, 0.02),
)
MAPS = MapQuality(
    average_precision_error_map=0.7126,
    average_precision_predicted_map=0.8449,
    average_precision_chance=0.0561,
    correlation_per_pixel={"W+": 0.551, "F4": 0.656, "F6": 0.395, "F8": 0.335, "F10": None},
    correlation_per_segment={"W+": 0.7091, "F4": 0.8073, "F6": 0.5325, "F8": 0.4069, "F10": None},
    segments={"W+": 155, "F4": 155, "F6": 155, "F8": 155, "F10": 2},
    bias_per_segment={"W+": -0.0971, "F4": -0.0144, "F6": 0.0055, "F8": -0.0046, "F10": 0.0},
    calibration={
        space: [(scale * x, scale * x * 1.3, 31) for x in (0.05, 0.1, 0.2, 0.4, 0.9)]
        for space, scale in zip(SPACES, (1, 0.7, 0.45, 0.2, 0.08), strict=True)
    },
)
TRADE_OFF = TradeOffCurve(
    equal_starts=True,
    samples=16,
    held_out=14,
    quarantined=0,
    perceptual="lpips-demo",
    points=tuple(
        Point(threshold, dict(zip(SPACES, (area, (1 - area) / 2, (1 - area) / 2, 0, 0), strict=True)), psnr_db, lpips)
        for threshold, area, psnr_db, lpips in (
            (0.0312, 0.0, 30.41, 0.071),
            (0.0874, 0.334, 30.02, 0.075),
            (0.152, 0.668, 29.1, 0.098),
            (0.884, 1.0, 22.11, 0.431),
        )
    ),
    knee=0.152,
    configured=Point(0.225, {"W+": 0.702, "F4": 0.151, "F6": 0.084, "F8": 0.042, "F10": 0.021}, 28.41, 0.153),
)
SUMMARY = Summary(
    samples=Samples(inventory=5520, recorded=5495, quarantined=25),
    seconds={"invert": 1234.5},
    spaces=SPACES,
    perceptual="lpips-demo",
    resolution_px=(192, 256),
    psnr_db={"W+": 22.114, "F4": 25.361, "F6": 28.802, "F8": 33.47, "F10": 38.955},
    lpips={"W+": 0.4312, "F4": 0.3021, "F6": 0.1874, "F8": 0.0842, "F10": 0.0311},
    psnr_db_sam=28.413,
    lpips_sam=0.1526,
    psnr_db_occluded={"w_plus": 19.87, "sam": 27.02},
    share_w_plus=0.6134,
    shares={"W+": 0.702, "F4": 0.151, "F6": 0.084, "F8": 0.042, "F10": 0.021},
    auroc_error_map=0.9754,
    auroc_predicted_map=0.9311,
    zero_edit_difference=0.0,
    maps=MAPS,
    edits=EditTruth(samples=12, magnitudes=(-1.0, 1.0), all=_FIGURES, by_direction={"shift": _FIGURES}),
    trade_off=TRADE_OFF,
    maps_px=(96, 128),
    steps_single=501,
    steps_sam=1001.0,
    shard_faults={"cars-000007.tar": ["duplicate key scene_00012", "member beyond the end of the file"]},
    failed_units={"invert/cars-000002.tar/128-192": f"worker died three times {HOSTILE}"},
)
TIMINGS = [
    StageTiming("inventory", 12, 5520, 3.4, ("CPU",) * 4),
    StageTiming("error_maps", 16, 1000, 811.2, ("NVIDIA H200",) * 8),
    StageTiming("train_segmenter", 1, 900, 240.0, ("NVIDIA H200",)),
    StageTiming("predict_maps", 87, 5510, 21.9, ("NVIDIA H200",) * 8),
    StageTiming("refine_maps", 87, 5510, 44.0, ("CPU",) * 16),
    StageTiming("invert", 87, 5495, 1234.5, ("NVIDIA H200",) * 8),
    StageTiming("publish", 0, 0, 0.0),
]
QUARANTINE = [
    *(Quarantined("cars-000004.tar", f"scene_{i:05d}", "image is truncated: 1031 of 4096 bytes") for i in range(21)),
    *(Quarantined("cars-000009.tar", f"scene_{i:05d}", "no image member (jpg, png, webp)") for i in range(3)),
    Quarantined("cars-000009.tar", HOSTILE, f"not an image: {HOSTILE}"),
]
REPORT = {
    "title": "Cars, held-out occluders",
    "summary": SUMMARY,
    "timings": TIMINGS,
    "pictures": PICTURES,
    "quarantine": QUARANTINE,
    "settings": "seed: 0\nrefine_maps:\n  threshold: 0.225  # <tau>\n",
    "about": {
        "invertmill": "0.1.0",
        "generator": "sha256:9f2c…",
        "devices": "8 × NVIDIA H200",
        "note": "demo assets: not a published GAN, not LPIPS-VGG",
    },
    "edited": EDITED,
    "psnr_db": (19.02, 28.0, 28.4, 29.1, 30.2),
    "latents": {
        "store": "s3://latents/cars",
        "index, one row per sample": "bundles/publish/ab/index/cd/part-0.parquet",
    },
}
EMPTY = REPORT | {
    "edited": [],
    "psnr_db": (),
    "summary": replace(
        SUMMARY,
        samples=Samples(0, 0, 0),
        psnr_db=dict.fromkeys(SPACES),
        lpips=dict.fromkeys(SPACES),
        psnr_db_sam=None,
        lpips_sam=None,
        psnr_db_occluded={"w_plus": None, "sam": None},
        share_w_plus=None,
        shares=dict.fromkeys(SPACES),
        auroc_error_map=None,
        auroc_predicted_map=None,
        zero_edit_difference=None,
        maps=MapQuality(),
        edits=None,
        trade_off=None,
        shard_faults={},
        failed_units={},
    ),
    "timings": [],
    "pictures": [],
    "quarantine": [],
    "settings": "",
    "about": {},
}


class Page(HTMLParser):
    """What a page holds: elements, addresses, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._hidden = "", 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += " ".join(data.split()) + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path, **changes: object) -> Page:
    path = folder / "new" / "report.html"
    write_page(path, render_report(**(REPORT | {"pictures": [], "edited": []} | changes)))
    return Page(path.read_text(encoding="utf-8"))
