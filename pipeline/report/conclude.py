"""The end of a run: figures and pictures from what is committed, into `summary.json` and `report.html`."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from infra.errors import StoreError
from infra.files import staged
from infra.receipts import Receipt, ReceiptHead
from infra.stores.os_errors import explained
from pipeline.data import inventory
from pipeline.data.tally import Tally
from pipeline.data.trained_networks import SEGMENTER_FILE
from pipeline.data.units import Shard
from pipeline.errors import RunError
from pipeline.execution.run import RunResult
from pipeline.plan.graph import GRAPH, maps_samples
from pipeline.plan.plan import Plan
from pipeline.publish.contents import STAGE as PUBLISH
from pipeline.publish.index import POINTER, Index
from pipeline.publish.parts import parts_of
from pipeline.publish.rows import IndexRows, concatenated, figure, numbers_of
from pipeline.publish.tallies import Tallies
from pipeline.report.card import Card
from pipeline.report.described import REPORTS
from pipeline.report.distributions import Numbers
from pipeline.report.edited import PICTURES as EDITED
from pipeline.report.edited import EditedPicture, EditedSamples
from pipeline.report.edits_page import EDITS_PAGE, write_edits_page
from pipeline.report.encoder_training import EncoderTrainingReport
from pipeline.report.gallery import Gallery, choose
from pipeline.report.held_out import HeldOutSamples
from pipeline.report.map_quality import judge
from pipeline.report.page import render_report, write_page
from pipeline.report.shown import shown_rows
from pipeline.report.summary import (
    PSNR_DB,
    Means,
    Picture,
    Quarantined,
    Samples,
    StageTiming,
    Summary,
    columns_of,
    evaluate,
)
from pipeline.report.training import TrainingReport
from pipeline.tune.trade_off import committed_curve
from stages.inversion.viewer import Viewer
from stages.invert import Invert
from stages.maps.spaces import column
from stages.segmenter.choice import Published
from stages.train_encoder import TrainEncoder

NO_PICTURES = (
    "There are no pictures, and no figures against known occluders: the shards are not in the input as they were read. "
    "`invertmill run` reads changed ones again."
)
LIBRARIES = ("invertmill", "ray", "torch", "lpips", "kornia", "webdataset", "pyarrow", "numpy")


@dataclass(frozen=True)
class Conclusion:
    """Everything in the report."""

    summary: Summary
    timings: list[StageTiming]
    pictures: list[Picture]
    quarantine: list[Quarantined]
    about: dict[str, str]
    training: TrainingReport | None = None
    psnr_db: Numbers = ()  # of every recorded sample
    latents: Mapping[str, str] = field(default_factory=dict)  # the locations of the bundles
    card: Card | None = None  # of the data set, without a report of its own
    edited: Sequence[EditedPicture] = ()
    encoder_training: EncoderTrainingReport | None = None

    def write(self, plan: Plan, *, published: bool = True) -> Path:
        """Write `report.html` and `summary.json` into the run's folder and return the report.

        A report of what is published is written next to the bundles as well, and so is the data set's card.
        """
        folder = plan.config.folder
        summary, report = folder / "summary.json", folder / "report.html"
        try:
            with explained(folder, "write to"):
                self._write_locally(plan, report, summary)
        except StoreError as error:
            raise RunError(
                f"{error}. The results are committed: `invertmill report` writes the report again"
            ) from error
        written = [report, *([folder / EDITS_PAGE] if self.edited else []), summary]
        for path in written if published else ():
            plan.ledger.store.write(f"{REPORTS}/{path.name}", path)
        if published and self.card is not None:
            self.card.write(plan.ledger.store)
        return report

    def _write_locally(self, plan: Plan, report: Path, summary: Path) -> None:
        """Write both files, each whole or not at all, the summary last: it identifies the result."""
        folder = plan.config.folder
        folder.mkdir(parents=True, exist_ok=True)
        if self.edited:
            write_edits_page(folder / EDITS_PAGE, title=folder.name, spaces=self.summary.spaces, pictures=self.edited)
        page = render_report(
            title=folder.name,
            summary=self.summary,
            timings=self.timings,
            pictures=self.pictures,
            quarantine=self.quarantine,
            settings=yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False),
            about=self.about,
            training=self.training,
            psnr_db=self.psnr_db,
            latents=self.latents,
            edited=self.edited,
            encoder_training=self.encoder_training,
        )
        write_page(report, page)
        with staged(summary) as partial:
            partial.write_text(json.dumps(self.summary.as_json(), indent=2) + "\n")


def conclude(finished: RunResult) -> Conclusion:
    """Return the figures and pictures of a run, from storage alone."""
    plan, shards, index, published = finished.plan, finished.shards, finished.index, finished.published
    rows = IndexRows(plan.ledger, published)
    means = Means(rows.tables(columns_of(plan.spaces)))
    timings = list(_timings(plan, shards, index, published))
    viewer = viewer_of(plan)
    gallery = Gallery(plan.ledger, plan.sources, index, shards, viewer, plan.image, plan.config.maps.side_px)
    of_gallery = shown_rows(rows)
    shown = list(gallery.pictures(of_gallery))
    edited = EditedSamples(index, plan.sources, shards, viewer, plan.image, plan.config.truth, plan.config.true_edits)
    unread = finished.unread
    summary = Summary(
        samples=Samples(
            inventory=sum(shard.samples for shard in shards),
            recorded=means.counts["recorded"],
            quarantined=means.counts["quarantined"],
        ),
        seconds={timing.name: round(timing.seconds, 2) for timing in timings},
        spaces=plan.spaces,
        perceptual=viewer.perceptual.name,
        resolution_px=plan.region.size,
        maps_px=plan.map_size,
        method=plan.config.invert.method.title,
        seconds_per_image=next((t.seconds_per_image for t in timings if t.name == Invert.name), None),
        steps_single=plan.config.error_maps.schedule.steps,
        maps=judge(HeldOutSamples(index, plan.sources, shards).read(rows.rows(role="held_out")), plan.spaces),
        edits=edited.against_truth(rows.rows(role="held_out")),
        trade_off=committed_curve(plan),
        zero_edit_difference=max((change for _, change in shown), default=None),
        shard_faults=unread.messages(),
        shard_notes={name: list(notes) for name, notes in unread.notes.items()},
        passed_over=dict(unread.passed_over),
        failed_units=dict(finished.failed),
        index=published.address.receipt_name,
        gaps=dict(finished.gaps),
        **evaluate(means, plan.spaces),
    )
    quarantine = [Quarantined(r["shard"], r["key"], r["reason"]) for r in rows.rows(outcome="quarantined")]
    pictures, about = [picture for picture, _ in shown], _about(plan, viewer)
    if means.counts["recorded"] and not pictures:
        about["note on pictures"] = NO_PICTURES
    psnr_db = concatenated(numbers_of(table, PSNR_DB) for table in rows.tables([PSNR_DB]))
    distributions = {"PSNR, dB": psnr_db, **_distributions(rows, plan)}
    provenance = _provenance(plan, index, about)
    card = Card(plan.config.folder.name, summary, pictures, provenance, distributions, parts_of(published))
    latents, shown_edits = _latents(plan, published), edited.pictures(choose(of_gallery, EDITED))
    return Conclusion(
        summary,
        timings,
        pictures,
        quarantine,
        about,
        _training(plan),
        psnr_db,
        latents,
        card,
        shown_edits,
        _encoder_training(plan),
    )


def viewer_of(plan: Plan) -> Viewer:
    """Return the viewer of a run's codes, on the CPU: the plan's generator, without prior and learnt start.

    It computes with as many threads as a worker: more of them wait for one another on small pictures.
    """
    torch.set_num_threads(plan.config.compute.cpus_per_worker)
    return Viewer(plan.generator, plan.perceptual.load(torch.device("cpu")), plan.region, plan.spaces)


def _timings(
    plan: Plan, shards: Mapping[Shard, ReceiptHead], index: Index, published: Receipt
) -> Iterable[StageTiming]:
    """Yield the work of each stage, from the receipts of its bundles, or the sums that the index has of them."""
    tallies = Tallies(plan.ledger)
    yield _timing(inventory.STAGE, Tally.from_heads(shards.values()))
    trainings = plan.trainings(plan.ledger.receipt(plan.train_segmenter()))
    for stage in plan.stages:
        if maps_samples(stage):
            step = index.every_step[stage]
            yield _timing(stage.name, tallies.of(step, index.units_of(step)))
        else:
            address = trainings[stage.name]
            trained = None if address is None else plan.ledger.receipt(address)
            yield _timing(stage.name, Tally.from_heads([trained.head] if trained else []))
    yield _timing(PUBLISH, Tally.from_heads([published.head]))


def _distributions(rows: IndexRows, plan: Plan) -> dict[str, NDArray[np.float64]]:
    """Return figures of every recorded sample, by name with unit."""
    first = plan.spaces[0]
    names = {
        "perceptual distance": figure(Invert, "lpips"),
        f"share of pixels left in {first}": figure(Invert, f"share_{column(first)}"),
    }
    tables = list(rows.tables(names.values()))
    return {title: concatenated(numbers_of(table, name) for table in tables) for title, name in names.items()}


def _provenance(plan: Plan, index: Index, about: Mapping[str, str]) -> dict[str, str]:
    """Return what the codes were made with; neither paths nor versions that decide no result."""
    segmenter = plan.ledger.receipt(plan.train_segmenter())
    named = ("generator", "generator digest", "note on the generator", "perceptual distance", "perceptual digest")
    digest = None if segmenter is None else segmenter.file(SEGMENTER_FILE).sha256
    return {
        **{name: about[name] for name in named if name in about},
        "segmenter": f"{plan.config.segmenter.kind}, SHA-256 {digest}",
        "spaces": ", ".join(plan.spaces),
        "thresholds": str(plan.config.refine_maps.threshold),
        "segmentation": plan.config.refine_maps.segmentation.kind,
        "size, height and width in px": "{} x {}".format(*plan.region.size),
        "maps, height and width in px": "{} x {}".format(*plan.map_size),
        **{f"fingerprint of {stage}": digest for stage, digest in index.fingerprints.items()},
    }


def _training(plan: Plan) -> TrainingReport | None:
    receipt = plan.ledger.receipt(plan.train_segmenter())
    if isinstance(plan.config.segmenter, Published):
        return None
    return None if receipt is None else TrainingReport.from_receipt(plan.ledger, receipt, plan.spaces)


def _encoder_training(plan: Plan) -> EncoderTrainingReport | None:
    address = plan.trainings(plan.ledger.receipt(plan.train_segmenter())).get(TrainEncoder.name)
    receipt = None if address is None else plan.ledger.receipt(address)
    return None if receipt is None else EncoderTrainingReport.from_receipt(plan.ledger, receipt)


def _timing(name: str, tally: Tally) -> StageTiming:
    return StageTiming(name, tally.units, tally.samples, tally.seconds, tally.devices, tally.busy_s)


def _about(plan: Plan, viewer: Viewer) -> dict[str, str]:
    about: dict[str, Any] = {name: version(name) for name in LIBRARIES}
    about |= {"python": platform.python_version(), "generator": plan.config.generator.name}
    about |= {"generator digest": viewer.generator.digest, "perceptual distance": viewer.perceptual.name}
    about |= {"perceptual digest": viewer.perceptual.digest, "store": plan.ledger.store.url}
    if viewer.generator.about:
        about["note on the generator"] = viewer.generator.about
    return about


def _latents(plan: Plan, published: Receipt) -> dict[str, str]:
    """Return the locations of the results, by kind; names are relative to the store."""
    return {
        "store": plan.ledger.store.url,
        "pointer, moved when a run is complete": POINTER,
        "index, one row per sample": ", ".join(parts_of(published)),
        "of each row, `arrays`": f"tar with KEY.{GRAPH.last.member}.npz: deltas and masks on their support",
        "of each row, `records`": "parquet with w_plus and the figures",
    }
