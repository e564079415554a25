"""Which kernels a process may use: exact and reproducible in fp32, the fastest in other precisions."""

import pytest
import torch

from stages.base.device import choose_kernels, process_device


@pytest.fixture(autouse=True)
def _restored():
    yield
    choose_kernels("fp32")


def flags():
    return torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", (False, False, False)),
        ("bf16", (True, False, False)),
        ("fp16", (True, False, False)),
        ("tf32", (True, True, True)),
    ],
)
def test_convolutions_are_timed_except_in_fp32_and_products_are_rounded_in_tf32_only(precision, expected):
    choose_kernels("fp32" if precision == "tf32" else "tf32")
    choose_kernels(precision)
    assert flags() == expected
    assert torch.backends.cudnn.deterministic is not torch.backends.cudnn.benchmark


def test_a_process_begins_with_the_kernels_of_fp32():
    choose_kernels("tf32")
    assert process_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert flags() == (False, False, False)


def test_torchs_compiler_can_read_the_flags_by_both_of_their_names():
    for precision, products in (("tf32", "tf32"), ("fp32", "ieee")):
        choose_kernels(precision)
        assert torch.backends.cuda.matmul.fp32_precision == products
        assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")
