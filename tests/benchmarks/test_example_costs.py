"""The estimate of what the examples cost: counted FLOPs."""

import torch
from torch import nn

from benchmarks.example_costs import Cost, _flops, _table


def test_a_pass_counts_forward_and_backward_to_the_input_only():
    with torch.device("meta"):
        found = _flops(nn.Conv2d(3, 4, 1, bias=False), torch.empty(2, 3, 5, 7))
    forward = 2 * 2 * 3 * 4 * 5 * 7  # multiply and add, batch, channels, pixels
    assert found == 2 * forward


def test_the_table_has_a_row_per_example_with_hours():
    cost = Cost("cars", 9144, 5, 299.9, 336.6, 10.8, 134.5, 9.7)
    assert list(_table([cost]))[2:] == ["| `cars.yaml` | 9,144 | 5 | 337 h | 11 h | 134 h | 9.7 h |"]
