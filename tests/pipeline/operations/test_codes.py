"""Codes that were committed whole and still cannot be used, or form another picture, are found from storage."""

import hashlib
import json

import numpy as np

from infra.bundles import read_files, read_npz, write_files, write_npz
from pipeline.operations.verify import verify_run
from tests.pipeline.conftest import Committed


def rewrite(run: Committed, change) -> str:
    """Change the codes of the first image of a unit, with checksums that fit; return the unit."""
    path = run.file("bundles/invert/*/train-a*/*/arrays.tar")
    tar = dict(read_files(path.read_bytes()))
    key = next(iter(tar))
    tar[key]["codes.npz"] = write_npz(change(read_npz(tar[key]["codes.npz"])))
    data = write_files(tar.items())
    path.write_bytes(data)
    receipt = run.file(f"receipts/invert/*/{path.parts[-3]}.json")
    content = json.loads(receipt.read_text())
    entry = next(file for file in content["files"] if file["name"].endswith("arrays.tar"))
    entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    receipt.write_text(json.dumps(content))
    return path.parts[-3]


def problems(run: Committed) -> list[str]:
    return [str(problem) for problem in verify_run(run.plan())[0]]


def cut_mask(arrays: dict) -> dict:
    space = next(name.partition(".")[0] for name in arrays if name.endswith(".mask"))
    return arrays | {f"{space}.mask": arrays[f"{space}.mask"][:-1]}


def test_codes_that_do_not_unpack_are_named_with_unit_key_and_remedy(committed):
    unit = rewrite(committed, cut_mask)
    found = problems(committed)
    assert len(found) == 1
    assert f"invert: unit {unit}: train-a-000: the arrays of " in found[0]
    assert "do not fit" in found[0]
    assert found[0].endswith("`invertmill verify --repair`, then run again")


def test_an_unknown_version_is_named(committed):
    rewrite(committed, lambda arrays: arrays | {"version": np.asarray(9, np.uint8)})
    assert "version 9, expected 1 or 2" in problems(committed)[0]


def test_codes_of_another_picture_are_found_by_rendering(committed):
    unit = rewrite(committed, lambda arrays: arrays | {"w_plus": -arrays["w_plus"]})
    assert problems(committed) == []  # the copy in the row is the one that counts here
    rewrite(
        committed,
        lambda arrays: arrays | {name: 50 * a + 1 for name, a in arrays.items() if name.endswith(".step")},
    )
    (found,) = problems(committed)
    assert f"train-a-000 of unit {unit} renders with" in found
