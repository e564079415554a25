"""Tiny Hugging Face models with random weights, saved to folders as `save_pretrained` writes published ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

CLASSES = 5
SEEN = 2  # the class that the universal model sees everywhere


def classes(names: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a configuration with these classes, or with a few without names."""
    return {"id2label": dict(enumerate(names))} if names else {"num_labels": CLASSES}


def segformer(folder: Path, names: Sequence[str] = (), seen: int | None = None) -> Path:
    """Semantic: logits at a quarter of the size; its processor resizes to a square. It sees one class if told so."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, **classes(names),
    )  # fmt: skip
    torch.manual_seed(3)
    network = SegformerForSemanticSegmentation(config)
    if seen is not None:
        with torch.no_grad():
            network.decode_head.classifier.bias[seen] += 100
    network.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def mobilevit(folder: Path) -> Path:
    """Semantic, and its processor cuts the middle out of images unless it is told not to."""
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation, MobileViTImageProcessor

    config = MobileViTConfig(
        image_size=64, hidden_sizes=[8, 12, 16], neck_hidden_sizes=[4, 4, 8, 8, 12, 16, 16], aspp_out_channels=8,
        num_attention_heads=2, num_labels=CLASSES,
    )  # fmt: skip
    torch.manual_seed(3)
    MobileViTForSemanticSegmentation(config).save_pretrained(folder)
    MobileViTImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def mask2former(folder: Path, names: Sequence[str] = (), seen: int = SEEN) -> Path:
    """Universal: semantic or panoptic. Made sure of one class and of its masks, it sees four instances in `mosaic`."""
    import transformers

    backbone = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=4,
        num_labels=CLASSES,
    )  # fmt: skip
    torch.manual_seed(20)
    network = transformers.Mask2FormerForUniversalSegmentation(config)
    if names:  # afterwards, so that the masks do not depend on the number of classes
        network.config.id2label = dict(enumerate(names))
        network.class_predictor = torch.nn.utils.skip_init(torch.nn.Linear, config.hidden_dim, len(names) + 1)
        network.criterion.empty_weight = torch.ones(len(names) + 1)
    with torch.no_grad():
        network.class_predictor.weight.zero_()
        network.class_predictor.bias.copy_(9.0 * (torch.arange(network.config.num_labels + 1) == seen))
        decoder = network.model.transformer_module
        decoder.queries_features.weight.mul_(100)
        decoder.queries_embedder.weight.mul_(0.1)
        layers = [m for m in decoder.decoder.mask_predictor.mask_embedder.modules() if isinstance(m, torch.nn.Linear)]
        for layer in layers:
            torch.nn.init.normal_(layer.weight, std=0.5)
        layers[-1].weight.mul_(5)
    network.save_pretrained(folder)
    processor = transformers.Mask2FormerImageProcessor(
        size={"height": 64, "width": 64}, num_labels=network.config.num_labels
    )
    processor.save_pretrained(folder)
    return folder


def mosaic() -> np.ndarray:
    """Return `[40, 64, 3]` uint8 of plain squares."""
    coarse = np.random.default_rng(1).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))
