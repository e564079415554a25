"""A training as the pipeline runs it: read from the store, stopped and taken up again, committed."""

import dataclasses
import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from infra.bundles import read_arrays, write_arrays
from infra.receipts import Address
from pipeline.data.records import ARRAYS
from pipeline.data.trained_networks import CURVE_FILE, PICTURES_FILE, SEGMENTER_FILE
from pipeline.training.committed_examples import Supervision
from pipeline.training.states import StoredStates, drop_states
from pipeline.training.train_job import TrainJob
from stages.train_segmenter import Trained
from tests import tiny
from tests.pipeline.conftest import Committed

CPU = torch.device("cpu")
ALWAYS = ("train_segmenter.epochs=4", "train_segmenter.cache_mb=0", "train_segmenter.checkpoint_every_s=1e-6")


def job(run: Committed, *overrides: str) -> TrainJob:
    plan = run.plan(*overrides)
    return TrainJob.from_plan(plan, plan.inventories())


def files(run: Committed, *overrides: str) -> dict[str, bytes]:
    """Return the files of a committed training."""
    plan = run.plan(*overrides)
    receipt = plan.ledger.receipt(plan.train_segmenter())
    return {name: plan.ledger.read_file(receipt, name) for name in (SEGMENTER_FILE, CURVE_FILE, PICTURES_FILE)}


class DiedError(Exception):
    """What ends a process here."""


class Fatal(Supervision):
    """Ends the process that reads it as soon as a state is in the store."""

    def read(self, reader, unit, wanted):
        if any(self.ledger.store.list("training/")):
            raise DiedError
        return super().read(reader, unit, wanted)


class Namesakes(Supervision):
    """Holds two samples of one key, in two shards."""

    def samples(self):
        return iter([("unit-a", "one"), ("unit-b", "one"), ("unit-b", "two")])


def reading(training: TrainJob, kind: type[Supervision]) -> TrainJob:
    """Return the training with another kind of supervision."""
    fields = {field.name: getattr(training.supervision, field.name) for field in dataclasses.fields(Supervision)}
    return dataclasses.replace(training, supervision=kind(**fields))


def test_a_training_that_died_resumes_from_the_store_and_leaves_nothing_there(committed, tmp_path):
    shutil.copytree(committed.folder, tmp_path / "undisturbed")
    undisturbed = Committed(tmp_path / "undisturbed")
    job(undisturbed, *ALWAYS).run(CPU)
    stopped = job(committed, *ALWAYS)
    with pytest.raises(DiedError):
        reading(stopped, Fatal).run(CPU)
    state = torch.load(io.BytesIO(stopped.states().load()), weights_only=True)
    assert state["step"] or state["curve"]
    stopped.run(CPU)
    assert files(committed, *ALWAYS) == files(undisturbed, *ALWAYS)
    assert list(stopped.supervision.ledger.store.list("training/")) == []


def test_a_state_belongs_to_the_data_it_was_trained_on(committed):
    store = committed.plan().ledger.store
    states = StoredStates(store, "0123", ["unit-a"], every_s=3600)
    assert not states.due()
    states.keep(b"state")
    states.close()
    assert StoredStates(store, "0123", ["unit-a"], 1).load() == b"state"
    assert StoredStates(store, "0123", ["unit-a", "unit-b"], 1).load() is None
    later = StoredStates(store, "0123", ["unit-a", "unit-b"], 1)
    later.keep(b"of more data")
    later.close()
    assert StoredStates(store, "0123", ["unit-a"], 1).load() is None, "nobody resumes what was superseded"
    other = StoredStates(store, "4567", ["unit-a"], 1)
    other.keep(b"of another training")
    other.close()
    assert StoredStates(store, "0123", ["unit-a", "unit-b"], 1).load() == b"of more data"
    drop_states(store, "0123")
    assert [entry.name.split("/")[1] for entry in store.list("training/")] == ["4567"]


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:-2] + b"\0" + data[-1:], lambda _: b""])
def test_a_damaged_state_is_not_resumed_from(committed, harm):
    store = committed.plan().ledger.store
    states = StoredStates(store, "0123", ["unit-a"], every_s=3600)
    states.keep(b"state of a training")
    states.close()
    (entry,) = store.list("training/")
    store.write(entry.name, harm(store.read(entry.name)))
    assert states.load() is None


def test_unsound_error_maps_are_quarantined_in_the_receipt_of_the_training(committed):
    training = job(committed)
    ledger, (_, unit, _) = training.supervision.ledger, training.supervision.committed
    receipt = ledger.required(Address("error_maps", training.supervision.error_maps, unit.name))
    arrays = dict(read_arrays(ledger.read_file(receipt, ARRAYS)))
    unsound, without, *_ = arrays
    arrays[unsound]["error_LHW"][1, 3, 4] = np.nan
    del arrays[without]["error_LHW"]
    ledger.store.delete([receipt.address.receipt_name, training.address.receipt_name])
    attempt = ledger.begin(receipt.address)
    attempt.put(ARRAYS, write_arrays(arrays.items(), "error_maps"))
    attempt.commit(receipt.outcomes, receipt.info)
    done = training.run(CPU)
    trained = ledger.receipt(training.address)
    assert trained.quarantined == {
        unsound: "its error maps hold negative or unbounded numbers",
        without: "error_maps recorded it without error_LHW",
    }
    assert (done.recorded, done.quarantined) == (len(trained.recorded), 2)
    assert {key for _, key in training.supervision.samples()} == set(trained.outcomes)


def test_samples_of_one_key_in_two_shards_are_told_apart_in_the_receipt(fresh):
    training = reading(job(fresh), Namesakes)
    receipt = training.commit(Trained(b"checkpoint", [], {"unit-b": {"one": "unfit"}}, []), 0.0, "cpu")
    assert receipt.outcomes == {"one of unit-a": None, "one of unit-b": "unfit", "two": None}


def test_the_picture_shows_every_space_of_the_examples(committed):
    image = Image.open(io.BytesIO(files(committed)[PICTURES_FILE]))
    assert image.format == "PNG"
    assert image.width > 96 * (1 + len(tiny.SPACES))
    assert len(set(np.asarray(image).reshape(-1, 3).max(axis=1).tolist())) > 50
