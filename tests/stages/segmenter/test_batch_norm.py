"""Batch norm of several workers on CPUs: what one worker makes of the whole batch, gradients and statistics too."""

from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from stages.segmenter.batch_norm import synchronise_batch_norm

WORLD = 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.BatchNorm2d(4)).double()


def batch() -> torch.Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def outcome(made: nn.Module, part: torch.Tensor) -> dict[str, torch.Tensor]:
    output = made(part)
    output.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in made.named_parameters()}
    return {"output": output.detach(), **gradients, **dict(made.named_buffers())}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    made = network()
    synchronise_batch_norm(made, torch.device("cpu"))
    found = outcome(made, batch()[:4] if rank == 0 else batch()[4:])
    for parameter in made.parameters():
        distributed.all_reduce(parameter.grad)
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_two_workers_with_unequal_parts_make_what_one_makes_of_the_whole(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=WORLD)
    whole = outcome(network(), batch())
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    torch.testing.assert_close(torch.cat([first.pop("output"), second.pop("output")]), whole.pop("output"))
    for name, wanted in whole.items():
        torch.testing.assert_close(first[name], wanted, msg=name)
        torch.testing.assert_close(second[name], wanted, msg=name)


def test_names_and_weights_stay_and_evaluation_needs_no_other_worker():
    made = network()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    expected = made.eval()(batch())
    synchronise_batch_norm(made, torch.device("cpu"))
    assert made.state_dict().keys() == before.keys()
    torch.testing.assert_close(made(batch()), expected, rtol=0, atol=0)
