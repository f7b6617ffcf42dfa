"""A small CLIP: made, taught captions, and asked what it sees.

A vision transformer of one layer with a patch for each quadrant, and one narrow layer of text. What
it is taught before it is fine-tuned decides whether it learns a shortcut: it tells the planted
features apart and hardly the classes, so that leaning on a feature is the quickest way to be right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, ClipLoss, SimpleTokenizer
from torch.nn.functional import normalize

from pipeline.demo.train import tell_captions_apart
from pipeline.models.pooling import pooled_features

from .planted import QUADRANTS, SIDE, TILE, Pixels, World

__all__ = ["embedded", "pretrained", "tensors", "text_head"]

CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": SIDE,
        "patch_size": TILE,
        "width": 128,
        "layers": 1,
        "head_width": 32,
        "mlp_ratio": 2.0,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}
"""As open_clip describes models."""

_EPOCHS = 12
_BATCH = 50
_LEARNING_RATE = 2e-3
_AT_ONCE = 500

_tokenize = SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])


def tensors(pixels: Pixels) -> torch.Tensor:
    """Images as the model wants them, of shape (images, 3, SIDE, SIDE)."""
    mean, std = (
        torch.tensor(m).view(1, 3, 1, 1) for m in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    )
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def pretrained(world: World, seed: int) -> Any:
    """A model that has seen a world's captioned images."""
    rng = np.random.default_rng([seed, 1])
    pixels, texts = world.captioned(rng)
    images = tensors(pixels)
    captions = sorted(set(texts))
    caption = torch.tensor([captions.index(text) for text in texts])
    tokens = _tokenize(captions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**CONFIG)
        # A feature is the same wherever it lies, as it nearly is to a large model; else it would
        # fall into a cluster for each quadrant.
        model.visual.positional_embedding.requires_grad_(False).zero_()
        # The rows of words that no caption has would only be decayed.
        model.token_embedding.weight.requires_grad_(False)
        tell_captions_apart(model, tokens)
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(learned, lr=_LEARNING_RATE, weight_decay=0.05)
        order = [
            batch for _ in range(_EPOCHS) for batch in torch.randperm(len(images)).split(_BATCH)
        ]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, len(order))
        contrast = ClipLoss()
        for batch in order:
            image = model.encode_image(images[batch], normalize=True)
            text = model.encode_text(tokens, normalize=True)[caption[batch]]
            loss = contrast(image, text, model.logit_scale.exp())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def text_head(model: Any, world: World) -> torch.Tensor:
    """Text features of the classes, of unit length, of shape (labels, d)."""
    prompts = [world.prompts(name) for name in world.classes]
    head: torch.Tensor = torch.stack(
        [
            normalize(model.encode_text(_tokenize(own), normalize=True).mean(dim=0), dim=0)
            for own in prompts
        ]
    )
    return head


@torch.inference_mode()
def embedded(
    model: Any, pixels: Pixels, *, regions: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of unit length: of images, (images, d), and of their quadrants, (images, 4, d).

    Quadrants are pooled from one pass, as in `cap discover --embed pool`; without them, the second
    is empty.
    """
    whole, parts = [], []
    for batch in tensors(pixels).split(_AT_ONCE):
        whole.append(normalize(model.encode_image(batch), dim=-1))
        if regions:
            found = pooled_features(model.visual, batch, [QUADRANTS] * len(batch))
            parts.append(normalize(found, dim=-1).view(len(batch), len(QUADRANTS), -1))
    empty = torch.empty(0, len(QUADRANTS), whole[0].shape[1])
    return torch.cat(whole).numpy(), torch.cat(parts or [empty]).numpy()
