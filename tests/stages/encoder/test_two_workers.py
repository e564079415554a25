"""A data-parallel training of two workers: what one worker makes of the same batches."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import distributed, nn

from stages.train_encoder import TrainedEncoder, train_encoder
from stages.training.workers import Workers
from tests import tiny
from tests.stages.encoder.pictures import InMemory, examples, stage

WORLD = 2
CPU = torch.device("cpu")


def trained(folder: str, workers: Workers = Workers(), wrap=lambda module: module) -> TrainedEncoder:  # noqa: B008
    """Train with units of one example and no mixing, so that a batch holds the same examples for any number."""
    recipe = stage(Path(folder), training_steps=3, flip=False, shuffle_window=1, validation_share=0)
    return train_encoder(recipe, InMemory(examples(6), in_a_unit=1), CPU, workers=workers, wrap=wrap)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    found = trained(folder, Workers(rank, WORLD), nn.parallel.DistributedDataParallel)
    (Path(folder) / f"{rank}.safetensors").write_bytes(found.checkpoint)
    torch.save(found.curve, Path(folder) / f"{rank}.curve")
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_two_workers_train_the_encoder_that_one_trains_on_the_same_batches(tmp_path):
    tiny.write_networks(tmp_path)
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=WORLD)
    alone = trained(str(tmp_path))
    whole = safetensors.torch.load(alone.checkpoint)
    first, second = ((tmp_path / f"{rank}.safetensors").read_bytes() for rank in range(WORLD))
    assert first == second
    for name, tensor in safetensors.torch.load(first).items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=2e-4, msg=name)
    for point, wanted in zip(torch.load(tmp_path / "0.curve"), alone.curve, strict=True):
        assert point["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
