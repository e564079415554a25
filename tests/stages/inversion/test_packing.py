"""The stored form of codes: readable in later versions, exact, and refused with a reason where it is not whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

from generators.latents import Codes
from stages.inversion.packing import CodesError, format_of, pack_codes, spaces_of, stack_codes, unpack_codes

GOLDEN = Path(__file__).parent / "golden"
STEPS = {"F2": 0.25, "F4": 0.001}


def codes() -> Codes:
    random = torch.Generator().manual_seed(1)
    mask_1144 = torch.zeros(1, 1, 4, 4)
    mask_1144[0, 0, 1] = torch.tensor([0.001, 0.25, 0.5, 1.0])  # the first is less than half of 1/255
    deltas = {"F2": torch.randn(1, 3, 4, 4, generator=random), "F4": torch.randn(1, 2, 8, 8, generator=random)}
    return Codes(
        torch.randn(1, 6, 5, generator=random),
        deltas | {"F6": torch.ones(1, 2, 8, 8)},
        {"F2": mask_1144, "F4": torch.ones(1, 1, 8, 8), "F6": torch.zeros(1, 1, 8, 8)},
    )


@pytest.mark.parametrize("version", ["version_1", "version_2", "version_2_float16", "version_3"])
def test_every_version_that_was_ever_written_is_read(version: str):
    with np.load(GOLDEN / f"{version}.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    with np.load(GOLDEN / f"{version}.decoded.npz", allow_pickle=False) as decoded:
        found = unpack_codes(decoded["w_plus"][0].astype(np.float16), arrays)
        values = {"w_plus": found.w_plus} | {f"{space}.delta": delta for space, delta in found.deltas.items()}
        values |= {f"{space}.mask": mask for space, mask in found.masks.items()}
        assert values.keys() == set(decoded)
        for name, value in values.items():
            np.testing.assert_array_equal(value.numpy(), decoded[name], err_msg=name)
    assert arrays["assignment_HW"].shape == (16, 16)


def test_deltas_are_whole_multiples_of_their_step_in_the_smallest_type():
    arrays = pack_codes(codes(), 0, STEPS)
    assert [name for name in arrays if name.endswith(("codes", "high"))] == ["F2.codes", "F4.codes", "F4.high"]
    assert {arrays[name].dtype for name in ("F2.codes", "F4.codes", "F4.high")} == {np.dtype(np.int8)}
    assert arrays["version"] == 3
    assert format_of(arrays) == "int16"
    found = unpack_codes(None, arrays)
    for space, step in STEPS.items():
        wanted = (codes().deltas[space] / step).round() * np.float32(step)
        acts = found.masks[space] > 0
        assert torch.equal(found.deltas[space], wanted * acts)
        assert float((found.deltas[space] - codes().deltas[space] * acts).abs().max()) <= 0.5001 * step


def test_codes_of_two_bytes_are_exact_up_to_the_largest():
    values = torch.tensor([-32639.0, -32512, -129, -128, -127, 0, 127, 128, 129, 255, 256, 32511, 32639])
    whole = Codes(torch.zeros(1, 1, 1), {"F4": values.view(1, 1, 1, -1)}, {"F4": torch.ones(1, 1, 1, len(values))})
    found = unpack_codes(None, pack_codes(whole, 0, {"F4": 1.0}))
    assert torch.equal(found.deltas["F4"].flatten(), values)
    assert (
        pack_codes(Codes(whole.w_plus, {"F4": whole.deltas["F4"] / 258}, whole.masks), 0, {"F4": 1.0})["version"] == 2
    )


def test_masks_are_multiples_of_1_255_and_nothing_is_kept_where_they_round_to_zero():
    found = unpack_codes(None, pack_codes(codes(), 0, STEPS))
    assert (found.masks["F2"][0, 0, 1] * 255).round().tolist() == [0, 64, 128, 255]
    assert found.deltas["F2"].count_nonzero() <= 9
    assert pack_codes(codes(), 0, STEPS)["F2.codes"].shape == (3, 3)


def test_without_steps_both_are_kept_in_float16():
    arrays = pack_codes(codes(), 0)
    assert format_of(arrays) == "float16"
    found = unpack_codes(None, arrays)
    assert torch.equal(found.masks["F2"], codes().masks["F2"].half().float())
    acts = codes().masks["F2"] > 0
    assert torch.equal(found.deltas["F2"], codes().deltas["F2"].half().float() * acts)
    assert torch.equal(found.w_plus, codes().w_plus.half().float())


def test_a_space_that_does_not_act_takes_no_room():
    assert spaces_of(pack_codes(codes(), 0, STEPS | {"F6": 1.0})) == ["F2", "F4"]
    whole = Codes(codes().w_plus)
    assert pack_codes(whole, 0, {}).keys() == {"version", "w_plus"}
    assert format_of(pack_codes(whole, 0, {})) == "int8"


def test_codes_that_fit_no_type_are_refused():
    with pytest.raises(CodesError, match="do not fit two bytes: choose larger steps"):
        pack_codes(codes(), 0, {"F2": 1e-5, "F4": 1.0, "F6": 1.0})


def test_an_unknown_version_is_named_with_what_to_do():
    arrays = pack_codes(codes(), 0) | {"version": np.asarray(4, np.uint8)}
    with pytest.raises(CodesError, match=r"version 4, expected 1 to 3: install a newer invertmill"):
        unpack_codes(None, arrays)


@pytest.mark.parametrize("part", ["support", "mask", "codes", "step", "shape"])
def test_a_missing_part_is_named(part: str):
    arrays = pack_codes(codes(), 0, STEPS)
    del arrays[f"F4.{part}"]
    with pytest.raises(CodesError, match=rf"lack 'F4\.{part}'"):
        unpack_codes(None, arrays)


@pytest.mark.parametrize(("part", "changed"), [("mask", np.s_[:-1]), ("codes", np.s_[:, 1:]), ("support", np.s_[:3])])
def test_parts_that_do_not_fit_together_are_refused(part: str, changed):
    arrays = pack_codes(codes(), 0, STEPS)
    arrays[f"F4.{part}"] = arrays[f"F4.{part}"][changed]
    with pytest.raises(CodesError, match="arrays of F4 do not fit"):
        unpack_codes(None, arrays)


def test_high_bytes_that_do_not_fit_their_codes_are_refused():
    arrays = pack_codes(codes(), 0, STEPS)
    arrays["F4.high"] = arrays["F4.high"][:, 1:]
    with pytest.raises(CodesError, match=r"F4 do not fit: codes \[2, 64\], high \[2, 63\]"):
        unpack_codes(None, arrays)


def test_version_1_needs_the_w_plus_of_its_row():
    with np.load(GOLDEN / "version_1.npz") as stored, pytest.raises(CodesError, match="lack 'w_plus'"):
        unpack_codes(None, dict(stored))


def test_images_that_use_different_spaces_stack_to_a_batch():
    one, other = unpack_codes(None, pack_codes(codes(), 0)), Codes(codes().w_plus)
    both = stack_codes([one, other], {"F2": (3, 4, 4), "F4": (2, 8, 8)})
    assert torch.equal(both.deltas["F2"][0], one.deltas["F2"][0])
    assert both.masks["F2"][1].count_nonzero() == 0
