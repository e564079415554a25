"""Commit a published segmenter instead of a training's, so that later stages find it in the same place."""

from __future__ import annotations

import time

from infra.receipts import Receipt
from pipeline.data.receipt_info import AdoptionInfo
from pipeline.data.trained_networks import SEGMENTER_FILE
from pipeline.plan.plan import Plan
from stages.segmenter.choice import Published
from stages.segmenter.network import save_segmenter


def adopt(plan: Plan, published: Published) -> Receipt:
    """Return the receipt of a published segmenter, committed under its digest.

    Raises:
        WeightsError: the file is not a segmenter's, or predicts other spaces than the run's.
    """
    address, started = plan.train_segmenter(), time.time()
    segmenter = published.load(plan.spaces)
    attempt = plan.ledger.begin(address)
    attempt.put(SEGMENTER_FILE, save_segmenter(segmenter, f"published: {published.weights.name}, {segmenter.digest}"))
    info = AdoptionInfo(target=segmenter.target, started=started, finished=time.time())
    return attempt.commit({}, info.plain())
