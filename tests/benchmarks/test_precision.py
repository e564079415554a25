"""The benchmark of half precision: its arithmetic is that of tensor cores, and its figures say what was measured."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import precision
from benchmarks.references import tensor_cores
from benchmarks.references.tensor_cores import TensorCores

HALF = [torch.bfloat16, torch.float16]


@pytest.fixture
def widened(monkeypatch) -> list[torch.dtype]:
    """The types of the tensors that were computed with in float32."""
    seen, widen = [], tensor_cores._full

    def spy(x: object) -> object:
        if isinstance(x, torch.Tensor):
            seen.append(x.dtype)
        return widen(x)

    monkeypatch.setattr(tensor_cores, "_full", spy)
    return seen


@pytest.mark.parametrize("dtype", HALF)
def test_products_are_those_of_the_rounded_numbers_rounded_once(dtype, widened):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 9, 9).to(dtype), torch.randn(4, 8, 3, 3).to(dtype)
    a, b, c = torch.randn(6, 300).to(dtype), torch.randn(300, 5).to(dtype), torch.randn(5).to(dtype)
    with TensorCores():
        found = torch.conv2d(x, weight, padding=1), a @ b, torch.addmm(c, a, b), x * x
    wanted = (
        torch.conv2d(x.float(), weight.float(), padding=1),
        a.float() @ b.float(),
        c.float() + a.float() @ b.float(),
    )
    for ours, theirs in zip(found, wanted, strict=False):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs.to(dtype), rtol=torch.finfo(dtype).eps, atol=0.01)
    assert torch.equal(found[-1], x * x), "other operations run unchanged"
    assert widened.count(dtype) == 2 + 2 + 3, "the numbers of a convolution and two products"


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_are_rounded_once_too(dtype, widened):
    torch.manual_seed(0)
    weight, seen = torch.randn(4, 8, 3, 3).to(dtype), torch.randn(2, 4, 7, 7).to(dtype)
    x = torch.randn(2, 8, 9, 9).to(dtype).requires_grad_()
    with TensorCores():
        (found,) = torch.autograd.grad(torch.conv2d(x, weight), x, seen)
    wanted = torch.conv_transpose2d(seen.float(), weight.float())
    torch.testing.assert_close(found, wanted.to(dtype), rtol=torch.finfo(dtype).eps, atol=0.02)
    assert widened.count(dtype) == 2 + 3


def test_full_precision_is_left_alone():
    x = torch.randn(3, 3)
    with TensorCores():
        assert torch.equal(x @ x, torch.mm(x, x))
        assert (x @ x).dtype == torch.float32


def test_rows_compare_each_precision_with_full_precision(tmp_path, monkeypatch):
    (trial,) = precision._trials(quick=True)
    small = replace(trial, case=replace(trial.case, images=4, steps=4, width=4))
    monkeypatch.setattr(precision, "_trials", lambda *, quick: [small])
    precision.main(["--quick", "--json", str(tmp_path / "precision.json")])
    report = json.loads((tmp_path / "precision.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["fp32", "fp32 rounded otherwise", "bf16", "fp16"]
    assert rows["fp32"]["excess"] == rows["fp32"]["excess_error"] == 0
    assert rows["fp32"]["loss"] < 0.9 * rows["fp32"]["loss_at_start"]
    for name in ("bf16", "fp16"):
        row = rows[name]
        assert row["loss"] != rows["fp32"]["loss"]
        assert row["excess"] == pytest.approx(row["loss"] / rows["fp32"]["loss"] - 1)
        assert abs(row["excess"]) < 0.05
    assert abs(rows["fp32 rounded otherwise"]["excess"]) < abs(rows["bf16"]["excess"])
