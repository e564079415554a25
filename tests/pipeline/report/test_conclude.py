"""The end of a run: what its report costs."""

import os

import pytest

from generators import source
from pipeline.execution.run import RunResult
from pipeline.publish.index import published
from pipeline.report.conclude import NO_PICTURES, conclude
from tests.pipeline.conftest import compute

STARTS = "invert.start_samples=16"


@pytest.fixture
def finished(committed) -> RunResult:
    """A run whose inversions start at a learnt w, published, as another process finds it."""
    plan = committed.plan(STARTS)
    *_, invert = plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))
    compute(plan, invert)
    committed.index(STARTS).publish()
    fresh = committed.plan(STARTS)
    index, receipt = committed.index(STARTS), published(fresh.ledger)
    return RunResult(fresh, fresh.inventories(), index, receipt, {}, 0)


def test_a_report_synthesises_its_pictures_and_nothing_else(finished, monkeypatch):
    """No start is learnt, whose draws would be synthesised, and no prior is estimated, whose draws would be mapped."""
    synthesised, mapped, loaded = [], [], []
    kind = type(finished.plan.generator)
    del finished.plan.__dict__["generator"]

    def counted(calls, whole):
        def call(self, first, *others, **named):
            calls.append(len(first))
            return whole(self, first, *others, **named)

        return call

    def loading(*arguments, **named):
        loaded.append(arguments)
        return whole_load(*arguments, **named)

    whole_load = source.load_generator
    monkeypatch.setattr(source, "load_generator", loading)
    monkeypatch.setattr(kind, "synthesize", counted(synthesised, kind.synthesize))
    monkeypatch.setattr(kind, "edit", counted(synthesised, kind.edit))
    monkeypatch.setattr(kind, "map", counted(mapped, kind.map))
    pictures = conclude(finished).pictures
    assert len(pictures) == 8
    assert sum(synthesised) == 2 * len(pictures)  # each as stored, and under a zero edit
    assert mapped == []
    assert len(loaded) == 1


def test_where_shards_changed_since_they_were_read_the_report_says_why_it_has_no_pictures(committed):
    plan, index = committed.plan(), committed.index()
    finished = RunResult(plan, plan.inventories(), index, index.publish().receipt, {}, 0)
    assert NO_PICTURES not in conclude(finished).about.values()
    for shard in (committed.folder / "shards").iterdir():
        os.utime(shard, (1, 1))
    conclusion = conclude(finished)
    assert conclusion.pictures == []
    assert conclusion.about["note on pictures"] == NO_PICTURES
