"""Small open_clip checkpoints for tests."""

from __future__ import annotations

import json
from pathlib import Path


def tiny_clip(
    config: Path, weights: Path, *, image_size: int = 32, seed: int = 0, **changes
) -> str:
    """Write a tiny CLIP's configuration and random weights; gives its SPEC."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    described = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": image_size,
            "layers": 1,
            "width": 32,
            "patch_size": 8,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
        **changes,
    }
    config.write_text(json.dumps(described))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**described)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    if weights.suffix == ".safetensors":
        save_file(tensors, weights)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, weights)
    return f"open_clip:{config}:{weights}"
