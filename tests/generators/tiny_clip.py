"""A random CLIP model with a vocabulary of letters, written as `save_pretrained` writes one."""

from pathlib import Path

import torch

SIDE_PX = 32


def write_clip(folder: Path, seed: int = 0) -> Path:
    """Write a tiny CLIP model with its tokenizer and image processor; return the folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    letters = [*"abcdefghijklmnopqrstuvwxyz.,"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, **ends, "vocab_size": len(words), "max_position_embeddings": 48}
    vision = {**small, "image_size": SIDE_PX, "patch_size": 8}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size=SIDE_PX).save_pretrained(folder)
    return folder
