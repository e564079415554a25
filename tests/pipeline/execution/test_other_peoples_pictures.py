"""A whole run over other people's pictures: equal ones give equal results, bad ones are quarantined alone."""

import numpy as np
import pytest
import torch

from infra.shards.shards import write_shard
from pipeline.data.records import read_records
from stages.invert import Invert
from tests import tiny
from tests.pipeline.conftest import commit_all
from tests.stages.pictures import ORIENTED, encoded, pixels, raw_png, sideways

SETTINGS = ("truth=null", "refine_maps.segmentation={kind: whole}")
LINES = b"".join(b"\0" + bytes(range(8)) for _ in range(8))


def cut_out(hidden: int) -> bytes:
    alpha = np.zeros((40, 48), np.uint8)
    alpha[8:32, 8:40] = 255
    return encoded(
        np.dstack([np.where(alpha[..., None] > 0, pixels(2, 40, 48), hidden), alpha]).astype(np.uint8), "PNG"
    )


def pictures() -> dict[str, tuple[str, bytes]]:
    """Return member and content by key; pictures whose keys begin alike look alike."""
    upright, grey = pixels(0, 40, 48), pixels(1, 40, 48)[..., 0]
    made = {f"turned-{number}": ("png", tagged(upright, number, "PNG")) for number in ORIENTED}
    made["turned-webp"] = ("webp", tagged(upright, 6, "WEBP", lossless=True))
    made["turned-tiff"] = ("photo.tif", tagged(upright, 8, "TIFF"))
    made |= {"grey-8": ("png", encoded(grey, "PNG")), "grey-16": ("png", encoded(grey.astype(np.uint16) * 257, "PNG"))}
    made |= {"cut-1": ("png", cut_out(7)), "cut-2": ("png", cut_out(240))}
    avif = encoded(upright, "AVIF")
    start = avif.index(b"mdat") + 4
    made["bad-avif"] = ("jpg", avif[:start] + bytes(len(avif) - start))
    made["bad-palette"] = ("png", raw_png(3, 8, 8, 8, LINES, [(b"tRNS", b"\0")]))
    made["bad-eps"] = ("jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    return made


def tagged(upright: np.ndarray, orientation: int, form: str, **options) -> bytes:
    stored, tag = sideways(upright, orientation)
    return encoded(stored, form, exif=tag, **options)


@pytest.fixture(scope="module")
def rows(first_run, tmp_path_factory):
    """The rows and the reasons of the last stage, by key."""
    from tests.pipeline.conftest import Committed

    folder = tmp_path_factory.mktemp("pictures")
    (folder / "networks").symlink_to(first_run / "networks")
    (folder / "run.yaml").write_text((first_run / "run.yaml").read_text())
    tiny.write_shards(folder / "shards", {"train-a": 3})
    samples = [{"__key__": key, member: data} for key, (member, data) in pictures().items()]
    samples.append({"__key__": "bad-22", "05.png": tiny.picture(0), "06.png": tiny.picture(1)})
    write_shard(folder / "shards/train-photos.tar", samples)
    plan, threads = Committed(folder).plan(*SETTINGS), torch.get_num_threads()
    try:
        commit_all(plan)
    finally:
        torch.set_num_threads(threads)
    invert = plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))[Invert]
    receipts = list(plan.ledger.receipts("invert", invert.fingerprint))
    recorded = {
        key: one.row for receipt in receipts for key, one in read_records(plan.ledger.read_file, receipt).items()
    }
    return recorded | {key: reason for receipt in receipts for key, reason in receipt.quarantined.items()}


@pytest.mark.parametrize("kind", ["turned", "grey", "cut"])
def test_the_same_picture_in_another_form_is_inverted_the_same(rows, kind):
    alike = [row for key, row in rows.items() if key.startswith(f"{kind}-")]
    assert len(alike) >= 2
    assert len({row["psnr_db"] for row in alike}) == 1
    assert len({np.asarray(row["w_plus"]).tobytes() for row in alike}) == 1


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("bad-avif", "error_maps: bad-avif.jpg does not decode ("),
        ("bad-palette", "error_maps: bad-palette.png does not decode ("),
        ("bad-eps", "it begins with b'%!PS-Adobe-3'"),
        ("bad-22", "so 2 pictures share the key 'bad-22'"),
    ],
)
def test_a_bad_picture_is_quarantined_alone_with_its_reason(rows, key, reason):
    assert reason.removeprefix("error_maps: ") in rows[key]
    assert {one for one in rows if isinstance(rows[one], str)} == {"bad-avif", "bad-palette", "bad-eps", "bad-22"}
