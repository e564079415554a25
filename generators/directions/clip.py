"""A CLIP model from a local folder or the hub, as a differentiable judge of images by text (extra `huggingface`)."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from torch import Tensor

from generators.errors import DirectionError

LOADED = ("*.json", "*.txt", "*.safetensors")
"""Files fetched from the hub: configuration, vocabulary and weights, nothing that could run code."""


class ClipModel(BaseModel):
    """The location of a CLIP model: a folder written by `save_pretrained`, or a commit of a model on huggingface.co."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path | None = None  # config.json, preprocessor_config.json, tokenizer files, model*.safetensors
    hub: str | None = Field(None, pattern="^[^/ ]+/[^/ ]+$")  # OWNER/NAME, instead of a folder
    revision: Annotated[str, StringConstraints(pattern="^[0-9a-f]{40}$")] | None = None  # of hub: a commit
    download: bool = False  # fetch from the hub what this machine's Hugging Face cache lacks

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.folder is None) == (self.hub is None) or (self.hub is None) != (self.revision is None):
            raise ValueError(
                "a CLIP model is a local folder, or OWNER/NAME of the hub with the commit: give one of them"
            )
        return self

    @property
    def shown(self) -> str:
        """The name of the model in messages and provenance."""
        return self.folder.name if self.folder is not None else f"{self.hub}@{self.revision}"

    def check(self) -> None:
        """Raise DirectionError if transformers or the folder's files are missing."""
        if importlib.util.find_spec("transformers") is None:
            raise DirectionError(
                "directions by text need the package transformers, which is not installed: pip install "
                "'transformers>=5.0' (the extra huggingface)"
            )
        for pattern in ("config.json", "preprocessor_config.json", "tokenizer*", "*.safetensors"):
            if self.folder is not None and not any(self.folder.glob(pattern)):
                raise DirectionError(f"CLIP model {self.folder} has no {pattern}: give a folder of save_pretrained")

    def load(self, device: torch.device | str) -> Clip:
        """Return the model, frozen.

        Raises:
            DirectionError: it is missing, damaged, or another kind of model.
        """
        self.check()
        try:
            return _load(self._snapshot(), device)
        except Exception as error:  # transformers', the hub's, OSError, and errors of damaged files
            reason = f"{type(error).__name__}: {str(error)[:300]}"
            remedy = "check the model, or allow it to be fetched with download" if self.hub else "check the folder"
            raise DirectionError(f"CLIP model {self.shown} cannot be loaded ({reason}); {remedy}") from error

    def _snapshot(self) -> Path:
        if self.folder is not None:
            return self.folder
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                self.hub, revision=self.revision, local_files_only=not self.download, allow_patterns=list(LOADED)
            )
        )


@dataclass(frozen=True, eq=False)
class Clip:
    """A loaded CLIP model: texts and images become points on the unit sphere."""

    model: Any
    tokenizer: Any
    size_px: int
    mean_1311: Tensor
    std_1311: Tensor
    digest: str  # SHA-256 of its weights

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """Return the mean direction `[D]`, of length 1, of some wordings of one text."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(
            self.mean_1311.device
        )
        embedded: Tensor = self.model.text_projection(self.model.text_model(**tokens).pooler_output)
        return F.normalize(F.normalize(embedded, dim=1).mean(dim=0), dim=0)

    def images(self, x_N3HW: Tensor) -> Tensor:
        """Return `[N, D]` of length 1 for images in about [-1, 1]; gradients flow."""
        x = F.interpolate(
            x_N3HW.clamp(-1, 1), (self.size_px, self.size_px), mode="bicubic", antialias=True, align_corners=False
        )
        x = ((x + 1) / 2 - self.mean_1311) / self.std_1311
        return F.normalize(self.model.visual_projection(self.model.vision_model(pixel_values=x).pooler_output), dim=1)


def _load(folder: Path, device: torch.device | str) -> Clip:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model, report = CLIPModel.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise DirectionError(f"the weights lack {missing[0]} and {len(missing) - 1} others")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    mean, std = (
        torch.tensor(numbers, device=device).reshape(1, 3, 1, 1)
        for numbers in (processor.image_mean, processor.image_std)
    )
    size_px = model.config.vision_config.image_size
    network = model.float().to(device).eval().requires_grad_(False)
    return Clip(network, tokenizer, size_px, mean, std, _digest(folder))


def _digest(folder: Path) -> str:
    """Return the SHA-256 of the weights; of several files, that of their digests in the order of their names."""
    digests = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
