"""Weights are checked by `plan`, and by `run` before the inventory: missing, damaged, or of another network."""

from pathlib import Path

import pytest
import torch

from pipeline.errors import RunError
from stages.base.errors import WeightsError
from stages.perceptual.backbones import PUBLISHED
from tests import tiny
from tests.generators.converted import rosinality_state
from tests.generators.published import tiny as tiny_stylegan2
from tests.pipeline.conftest import contents

MOBILE = "train_segmenter.network.backbone=deeplabv3_mobilenet_v3_large"


def heads(path: Path) -> None:
    """Write what the lpips package calls `vgg.pth`: heads and no backbone."""
    widths = PUBLISHED["vgg"].channels
    torch.save({f"lin{i}.model.1.weight": torch.zeros(1, width, 1, 1) for i, width in enumerate(widths)}, path)


def alex(path: Path) -> None:
    from torchvision.models import alexnet

    torch.save(alexnet().state_dict(), path)


def broken(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 truncated")


def whole_network(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def page(path: Path) -> None:
    path.write_text("<!DOCTYPE html>")


WRONG = {
    "heads only": (heads, "features.0.weight is missing"),
    "another backbone": (alex, r"features\.0\.weight is \[64, 3, 11, 11\] instead of \[64, 3, 3, 3\]"),
    "truncated": (broken, "cannot be read"),
    "a whole network": (whole_network, "cannot be read"),
    "a web page": (page, "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_perceptual_file_is_refused(fresh, name: str):
    write, message = WRONG[name]
    write(fresh.folder / "vgg.pth")
    plan = fresh.plan("perceptual.backbone=vgg", "perceptual.weights=vgg.pth")
    with pytest.raises(WeightsError, match=rf"vgg\.pth.*{message}"):
        plan.check_weights()


def test_a_perceptual_file_that_holds_nan_is_refused(fresh):
    from torchvision.models import alexnet

    state = alexnet().state_dict()
    state["features.3.bias"][2] = float("nan")
    torch.save(state, fresh.folder / "alex.pth")
    plan = fresh.plan("perceptual.backbone=alex", "perceptual.weights=alex.pth")
    with pytest.raises(WeightsError, match=r"alex\.pth holds features\.3\.bias with NaN"):
        plan.check_weights()


def test_right_weights_pass(fresh):
    fresh.plan().check_weights()


@pytest.mark.parametrize("name", ["another network", "missing", "NaN"])
def test_wrong_weights_of_the_segmenters_backbone_are_refused(fresh, name: str):
    from torchvision.models import mobilenet_v3_large

    state = mobilenet_v3_large().state_dict()
    if name == "NaN":
        state["features.0.0.weight"][0] = float("nan")
    if name == "another network":
        state = {key: tensor for key, tensor in state.items() if "features.5" not in key}
    if name != "missing":
        torch.save(state, fresh.folder / "mobile.pth")
    plan = fresh.plan(MOBILE, "train_segmenter.network.weights=mobile.pth")
    with pytest.raises((WeightsError, RunError), match=r"mobile\.pth"):
        plan.check_weights()


def test_right_weights_of_the_segmenters_backbone_pass(fresh):
    from torchvision.models import mobilenet_v3_large

    torch.save(mobilenet_v3_large().state_dict(), fresh.folder / "mobile.pth")
    fresh.plan(MOBILE, "train_segmenter.network.weights=mobile.pth").check_weights()


@pytest.mark.parametrize(
    ("write", "message"),
    [(whole_network, "got a file of torch.save"), (page, "is not a zip file"), (None, "no such segmentation network")],
)
def test_a_wrong_segmentation_network_is_refused(fresh, write, message: str):
    if write is not None:
        write(fresh.folder / "net.pt2")
    plan = fresh.plan("refine_maps.segmentation={kind: exported, weights: net.pt2}")
    with pytest.raises(WeightsError, match=rf"net\.pt2: .*{message}"):
        plan.check_weights()


@pytest.mark.parametrize("command", ["plan", "run"])
def test_plan_and_run_end_before_anything_is_read(invertmill, fresh, command: str):
    heads(fresh.folder / "vgg.pth")
    before = contents(fresh.folder)
    settings = ("--set", "perceptual.backbone=vgg", "--set", "perceptual.weights=vgg.pth")
    code, output, errors = invertmill(command, fresh.folder / "run.yaml", *settings)
    assert code == 2
    assert "vgg.pth is not a backbone for lpips-vgg" in errors
    assert "inventory" not in output + errors
    made = {name for name in contents(fresh.folder).keys() - before.keys() if "receipts" in str(name)}
    assert not made


def test_a_plan_says_what_is_not_in_a_checkpoint(invertmill, fresh):
    generator = tiny_stylegan2(tiny.SIDE_PX, z_dim=8, w_dim=8, channel_max=8)
    state = {name: tensor for name, tensor in rosinality_state(generator).items() if "noises." not in name}
    torch.save({"g_ema": state}, fresh.folder / "early.pt")
    code, _, errors = invertmill("plan", fresh.folder / "run.yaml", "--set", "generator.checkpoint=early.pt")
    assert code == 0
    assert "warning: early.pt: noises.* is not in the file" in " ".join(errors.split())


def test_a_committed_run_needs_no_check_of_what_it_was_made_with(committed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "stages.perceptual.source.PerceptualSource.check", lambda self: pytest.fail("the weights were loaded")
    )
    committed.plan().check_weights()
