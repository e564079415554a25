"""Segments from a Hugging Face semantic or panoptic model, in a local folder or on the hub."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from stages.base.errors import WeightsError
from stages.segmentation.exported import best_classes
from stages.segmentation.hub_cache import drop_damaged
from stages.segmentation.source import Label, Labeller, NetworkSource, SegmentInput

VOID = -1
"""The class of pixels that a panoptic model assigns to no segment."""

INSTANCES = 1000
"""A panoptic label is its class + 1000 × the number of its instance, counted from 0."""

LOADED = ("*.json", "*.safetensors")
"""Files fetched from the hub: configuration and weights, nothing that could run code."""

WANTED = (
    "expected config.json, preprocessor_config.json and model.safetensors of a segmentation model, as save_pretrained "
    "writes them"
)

Commit = Annotated[str, StringConstraints(pattern="^[0-9a-f]{40}$")]


class HuggingFace(NetworkSource):
    """A semantic or panoptic segmentation model with its image processor, as written by `save_pretrained`.

    Needs `transformers`. Weights are read from safetensors only, and no code that comes with a model is run.
    Semantic labels are the model's classes. Panoptic labels are class + 1000 × instance, after merging, and -1
    where the model sees nothing (a class that a strict merge must list): the instances of a class are separate
    segments unless `fuse` lists its label.
    """

    kind: Literal["huggingface"] = "huggingface"
    task: Literal["semantic", "panoptic"] = "semantic"  # the task the model was trained for
    folder: Path | None = None  # config.json, preprocessor_config.json, model*.safetensors
    hub: str | None = Field(None, pattern="^[^/ ]+/[^/ ]+$")  # OWNER/NAME on huggingface.co, instead of a folder
    revision: Commit | None = None  # commit of the hub's model; a branch can change, and the results with it
    download: bool = False  # fetch from the hub what this machine's Hugging Face cache lacks; otherwise fetch nothing
    fuse: tuple[Label, ...] = ()  # labels, after merging, whose panoptic instances form one segment

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.folder is None) == (self.hub is None):
            raise ValueError("a Hugging Face model is a local folder or a hub's OWNER/NAME: give folder or hub")
        if (self.hub is None) != (self.revision is None):
            raise ValueError(
                "hub and revision go together: give the commit, 40 hex digits, that the model's page shows"
            )
        if self.download and self.hub is None:
            raise ValueError("download fetches from the hub, and a folder is local already: remove it")
        return self

    @model_validator(mode="after")
    def _panoptic_labels_leave_room_for_instances(self) -> Self:
        if self.task == "semantic":
            if self.fuse:
                raise ValueError("fuse joins the instances of a panoptic model, and task is semantic: remove it")
            return self
        wrong = sorted(label for label in self.merge.values() if not VOID <= label < INSTANCES)
        if wrong:
            raise ValueError(f"merged labels of a panoptic model are {VOID} to {INSTANCES - 1}, got {wrong}")
        return self

    @property
    def identity(self) -> dict[str, object]:
        """Everything that decides its labels; whether it may be downloaded does not."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "download"}

    @property
    def shown(self) -> str:
        """The name of the model in messages."""
        return str(self.folder) if self.folder is not None else f"{self.hub}@{str(self.revision)[:8]}"

    def weight_files(self) -> tuple[Path, ...]:
        """Return the model's folder; a model of the hub is identified by its commit."""
        return () if self.folder is None else (self.folder,)

    def check(self) -> None:
        """Raise WeightsError if transformers or the model is missing, or if it lacks a class that `merge` lists.

        A model of the hub that may be fetched is checked only if this machine has it.
        """
        if not _installed("transformers"):
            raise WeightsError(
                "segmentation.kind huggingface needs the package transformers, which is not installed: "
                "pip install 'transformers>=5.0' (the extra huggingface), on every machine of the run"
            )
        super().check()
        for pattern in ("config.json", "preprocessor_config.json", "*.safetensors"):
            if self.folder is not None and not any(self.folder.glob(pattern)):
                raise WeightsError(f"{self.shown}: {WANTED}, but {pattern} is missing")
        folder = self.folder or (self._cached() if self.download else self._snapshot())
        if folder is not None:
            self._check_merge(folder)

    def _check_merge(self, folder: Path) -> None:
        """Raise WeightsError if `merge` lists classes that the model's config.json does not name."""
        try:
            named = json.loads((folder / "config.json").read_bytes()).get("id2label")
        except (OSError, ValueError, AttributeError):
            return  # loading says what is wrong with it
        classes = {int(label) for label in named} if isinstance(named, dict) else set[int]()
        if classes and (unknown := sorted(self.merge.keys() - classes - {VOID})):
            raise WeightsError(
                f"{self.shown} has the classes 0 to {max(classes)}, and segmentation.merge lists {unknown}: "
                "correct the numbers; config.json of the model names its classes (id2label)"
            )

    def _cached(self) -> Path | None:
        """Return the folder of the hub's model if this machine has it already."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self.hub, revision=self.revision, local_files_only=True))
        except LocalEntryNotFoundError:
            return None

    def _snapshot(self) -> Path:
        """Return the complete local folder of the model; fetch it, also if it is damaged, where that is allowed."""
        if self.folder is not None:
            return self.folder
        snapshot = self._downloaded()
        if damaged := drop_damaged(snapshot):
            if not self.download:
                raise WeightsError(
                    f"{self.shown} is damaged on this machine: {', '.join(damaged)} did not match the digest of "
                    f"the hub and was deleted; {self._remedy}"
                )
            snapshot = self._downloaded()
        return snapshot

    def _downloaded(self) -> Path:
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(
                    self.hub, revision=self.revision, local_files_only=not self.download, allow_patterns=list(LOADED)
                )
            )
        except Exception as error:  # the hub's own, its HTTP client's, OSError
            raise WeightsError(
                f"{self.shown} is not on this machine and could not be fetched: {error}; {self._remedy}"
            ) from error

    @property
    def _remedy(self) -> str:
        if self.download:
            return "check the name, the commit and the network"
        return f"set segmentation.download: true, or run `hf download {self.hub} --revision {self.revision}` before"

    def _labeller(self, device: str | torch.device) -> Labeller:
        folder = self._snapshot()
        self._check_merge(folder)
        processor, network = _load(folder, self.shown, device)
        classify = self._semantic(processor) if self.task == "semantic" else self._panoptic(processor, network)
        options = {"do_center_crop": False} if getattr(processor, "do_center_crop", False) else {}  # no crop

        @torch.inference_mode()
        def label(sample: SegmentInput) -> NDArray[np.int32]:
            self.refuse_small(sample, self.shown)
            inputs = processor(
                images=sample.image_HW3, return_tensors="pt", input_data_format="channels_last", **options
            ).to(device)
            return classify(network(**inputs), sample.size)

        return label

    def _semantic(self, processor: Any) -> Callable[[Any, tuple[int, int]], NDArray[np.int32]]:  # noqa: ANN401
        def classify(output: Any, size: tuple[int, int]) -> NDArray[np.int32]:  # noqa: ANN401
            logits = getattr(output, "logits", None)
            if isinstance(logits, torch.Tensor) and logits.ndim == 4:
                return self.merged(best_classes(logits, size))
            [classes_HW] = processor.post_process_semantic_segmentation(output, target_sizes=[size])
            return self.merged(classes_HW.to(torch.int32).cpu().numpy())

        return classify

    def _panoptic(self, processor: Any, network: Any) -> Callable[[Any, tuple[int, int]], NDArray[np.int32]]:  # noqa: ANN401
        parts_of = getattr(processor, "post_process_panoptic_segmentation", None)
        if parts_of is None:
            raise WeightsError(
                f"{self.shown}: {type(network).__name__} is not a panoptic model; set segmentation.task: semantic"
            )
        if network.config.num_labels > INSTANCES:
            raise WeightsError(
                f"{self.shown} has {network.config.num_labels} classes, and panoptic labels hold {INSTANCES}: "
                "choose a model with fewer"
            )
        unfused: dict[str, Any] = (
            {"label_ids_to_fuse": set()} if "label_ids_to_fuse" in inspect.signature(parts_of).parameters else {}
        )

        def classify(output: Any, size: tuple[int, int]) -> NDArray[np.int32]:  # noqa: ANN401
            [found] = parts_of(output, target_sizes=[size], **unfused)
            parts_HW = found["segmentation"].to(torch.int32).cpu().numpy()
            classes = {int(part["id"]): int(part["label_id"]) for part in found["segments_info"]}
            return self._instances(parts_HW, classes)

        return classify

    def _instances(self, parts_HW: NDArray[np.int32], class_of: Mapping[int, int]) -> NDArray[np.int32]:
        """Return panoptic labels of numbered parts, `[H, W]`; parts without a class are void."""
        parts_K, index_HW = np.unique(parts_HW, return_inverse=True)
        classes_K = np.array([class_of.get(part, VOID) for part in parts_K.tolist()], dtype=np.int32)
        labels_K = self.merged(classes_K[None])[0]
        labels_K = np.array(_numbered(labels_K.tolist(), {*self.fuse, VOID}), dtype=np.int32)
        return labels_K[index_HW.reshape(parts_HW.shape)]


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # something replaced it in sys.modules
        return False


def _numbered(labels: Sequence[int], fused: Collection[int]) -> list[int]:
    """Return each label with the number of its instance, in their order; fused labels stay unchanged."""
    seen: dict[int, int] = {}
    numbered = []
    for label in labels:
        instance = 0 if label in fused else seen.get(label, 0)
        seen[label] = instance + 1
        numbered.append(label + INSTANCES * instance)
    return numbered


def _architecture(config: Any) -> str:  # noqa: ANN401
    """Return the class that a model's weights are for; raise ValueError unless transformers has it and it segments."""
    import transformers

    name = str((config.architectures or [None])[0])
    if "Segmentation" not in name or not hasattr(transformers, name):
        raise ValueError(f"its architecture is {name}, which transformers does not know as a segmentation model")
    return name


def _load(folder: Path, shown: str, device: str | torch.device) -> tuple[Any, Any]:
    """Return the image processor and the network of a folder, from local files, without running code from it."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        architecture = _architecture(config)
        network_class = getattr(transformers, architecture)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **local)
        network, loading = network_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers' own are OSError, ValueError and RuntimeError; safetensors' and json's
        raise WeightsError(f"{shown}: {WANTED}: {error}") from error
    if missing := sorted(loading["missing_keys"]):
        raise WeightsError(
            f"{shown} lacks {len(missing)} weights of {architecture}, {missing[0]} first, which would be random: "
            "choose a model that was trained for segmentation"
        )
    return processor, network.to(device).eval()
