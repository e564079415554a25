"""Where an inversion starts. To add a start: one file with a `Start`, and its name in the union."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from stages.inversion.starts.bundle import Bundle
from stages.inversion.starts.encoder import EncoderStart
from stages.inversion.starts.learnt import Learnt
from stages.inversion.starts.mean import Mean
from stages.inversion.starts.start import StartSource

__all__ = ["BY_KIND", "Bundle", "EncoderStart", "Learnt", "Mean", "Start", "start_of_samples"]

Start = Annotated[Mean | Learnt | EncoderStart | Bundle, Field(discriminator="kind")]


BY_KIND: Mapping[str, type[StartSource]] = {
    str(start.model_fields["kind"].default): start for start in (Mean, Learnt, EncoderStart, Bundle)
}


def start_of_samples(settings: Any) -> Any:  # noqa: ANN401  # what a model is validated from
    """Return settings with `start` instead of its short form `start_samples`: 0 is `mean`, N is `learnt` from N draws.

    Raises:
        ValueError: both are given.
    """
    if not isinstance(settings, Mapping) or "start_samples" not in settings:
        return settings
    if "start" in settings:
        raise ValueError("start and start_samples both say where inversions start: keep one of them")
    samples = settings["start_samples"]
    start = {"kind": "mean"} if samples == 0 and samples is not False else {"kind": "learnt", "samples": samples}
    return {name: value for name, value in settings.items() if name != "start_samples"} | {"start": start}
