"""What the configurations in `examples/` need, small and random: networks in published formats, and shards."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from generators.families.stylegan2 import StyleGAN2
from infra.shards.shards import write_shard
from pipeline.config import RunConfig
from stages.inversion.starts import EncoderStart
from stages.segmentation import HuggingFace
from tests import tiny
from tests.generators.biggan_folder import tiny_biggan, write_folder
from tests.generators.converted import tensorflow_arguments, tensorflow_pickle, tensorflow_variables
from tests.generators.encoders.small import W_DIM, published
from tests.generators.published import tiny as tiny_stylegan2
from tests.pipeline.class_names import ADE20K, CELEBAMASK_HQ, COCO_PANOPTIC
from tests.stages import huggingface_models as models

CLASSES: Mapping[str, Sequence[str]] = {
    "facebook/mask2former-swin-large-ade-semantic": ADE20K,
    "facebook/mask2former-swin-large-coco-panoptic": COCO_PANOPTIC,
    "weights/face-parsing": CELEBAMASK_HQ,
}
"""Names of the classes of a segmentation model, by its name on the hub or its folder."""

RESOLUTIONS = {"car": 512, "horse": 256, "cat": 256, "ffhq": 1024}
"""Side of the images of the published StyleGAN2 config-f, by the part of its name."""

BIGGAN_256 = [
    *([False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8], [False, 8, 8], [True, 8, 8]),
    *([False, 8, 8], [True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 2], [True, 2, 1]),
]
"""`layers` in the config.json of biggan-deep-256."""

COUNT = 3  # pictures per shard


def write_shared(folder: Path) -> None:
    """Write the networks that all examples use: VGG-16 and ResNet-101 of their real size, with weights of zero."""
    from torchvision.models import resnet101, vgg16

    for name, make in {"vgg16-397923af.pth": vgg16, "resnet101-63fe2227.pth": resnet101}.items():
        with torch.device("meta"):
            tensors = make(weights=None).state_dict()
        used = {key: tensor for key, tensor in tensors.items() if not key.startswith("classifier.")}
        torch.save({key: torch.zeros(tensor.shape, dtype=tensor.dtype) for key, tensor in used.items()}, folder / name)


def provide(config: RunConfig, root: Path, shared: Path, cache: Path) -> None:
    """Write every file that an example names below `root`, and its hub's model to a cache of the hub."""
    (root / "weights").mkdir()
    for path in shared.iterdir():
        (root / "weights" / path.name).symlink_to(path)
    resolution = _generator(Path(config.generator.checkpoint))
    if isinstance(start := config.invert.start, EncoderStart):
        rows = 2 * (resolution.bit_length() - 2)
        encoder = published("Encoder4Editing", resolution, rows)
        start.encoder.checkpoint.write_bytes(encoder.data)
    _segmentation(config.refine_maps.segmentation, root, cache)
    for pattern in config.inputs:
        _shards(Path(pattern), (config.region.height, config.region.width) if config.region else (96, 96))


def classes_of(source: object, root: Path) -> Sequence[str]:
    """Return the names of the classes of an example's segmentation."""
    assert isinstance(source, HuggingFace)
    return CLASSES[source.hub or str(source.folder and source.folder.relative_to(root))]


def _generator(path: Path) -> int:
    """Write a generator in its published format, and return its resolution."""
    if path.suffix != ".pkl":
        write_folder(path, tiny_biggan(output_dim=256, layers=BIGGAN_256, num_classes=1000, n_stats=51))
        return 256
    resolution = RESOLUTIONS[path.name.split("-")[1]]
    generator: StyleGAN2 = tiny_stylegan2(resolution, w_dim=W_DIM)
    path.write_bytes(tensorflow_pickle(tensorflow_variables(generator), tensorflow_arguments(generator.config)))
    return resolution


def _segmentation(source: object, root: Path, cache: Path) -> None:
    """Write a model that sees the first class that is merged, or a fixed one, as `save_pretrained` does."""
    assert isinstance(source, HuggingFace)
    folder = source.folder or cache / f"models--{str(source.hub).replace('/', '--')}" / "snapshots" / str(
        source.revision
    )
    make = models.segformer if "face" in folder.name else models.mask2former
    shutil.rmtree(folder, ignore_errors=True)
    make(folder, classes_of(source, root), seen(source))


def seen(source: HuggingFace) -> int:
    """Return the class that the stand-in of a model sees."""
    return next(iter(source.merge), models.SEEN)


def _shards(pattern: Path, size: tuple[int, int]) -> None:
    pattern.parent.mkdir(parents=True, exist_ok=True)
    name = pattern.name.replace("*", "000000")
    first = 100 * name.startswith("evaluation")
    write_shard(
        pattern.with_name(name),
        [{"__key__": f"{first + i:06d}", "png": tiny.picture(first + i, *size), "cls": str(i)} for i in range(COUNT)],
    )
