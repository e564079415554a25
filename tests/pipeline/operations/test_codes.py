"""Codes that were committed whole and still cannot be used, or form another picture, are found from storage."""

import hashlib
import json

import numpy as np
import torch

from generators.latents import Codes
from infra.bundles import read_files, read_npz, write_files, write_npz
from pipeline.operations.verify import verify_run
from stages.inversion.packing import pack_codes
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


def test_codes_that_do_not_unpack_are_named_with_unit_key_and_remedy(committed):
    unit = rewrite(committed, lambda arrays: arrays | {"F4.mask": np.ones(3, np.uint8)})
    found = problems(committed)
    assert len(found) == 1
    assert f"invert: unit {unit}: train-a-000: the codes lack 'F4.codes'" in found[0]
    assert found[0].endswith("`invertmill verify --repair`, then run again")


def test_an_unknown_version_is_named(committed):
    rewrite(committed, lambda arrays: arrays | {"version": np.asarray(9, np.uint8)})
    assert "version 9, expected 1 to 3" in problems(committed)[0]


def test_codes_of_another_picture_are_found_by_rendering(committed):
    shape = committed.plan().generator.feature_shape("F4")
    everywhere = Codes(torch.zeros(1, 1, 1), {"F4": torch.full((1, *shape), 9.0)}, {"F4": torch.ones(1, 1, *shape[1:])})
    changed = {name: array for name, array in pack_codes(everywhere, 0).items() if name.startswith("F4.")}
    unit = rewrite(committed, lambda arrays: arrays | changed)
    (found,) = problems(committed)
    assert f"train-a-000 of unit {unit} renders with" in found
