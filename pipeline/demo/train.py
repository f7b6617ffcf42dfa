"""Trains the demo's model: a tiny open_clip CLIP, from scratch, on the toy world's photos.

The image tower is a narrow ModifiedResNet, the text tower one narrow transformer layer; they learn
from photos and captions alone. Each photo has two: one names the animal and is learned with CLIP's
own loss (`open_clip.ClipLoss`), the other says what is behind it, in the words with which scoring
over the label space `backgrounds` asks. What comes out is an ordinary model configuration and an
ordinary checkpoint, which the `open_clip` model family reads like any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.vocabulary import label_space
from pipeline.demo.render import TrainingPhotos, World, render_training

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGE_SIZE", "MODEL_CONFIG", "tell_captions_apart", "train"]

IMAGE_SIZE = 64
"""Width and height of the model's input, in pixels."""

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "layers": [1, 1, 1, 1],
        "width": 8,
        "head_width": 64,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}
"""The model, as open_clip describes models."""

_EPOCHS = 5
_BATCH = 32
_CAPTION_STEPS = 100
_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 0.05

_BACKGROUND_WEIGHT = 0.1
"""Of the backgrounds' loss beside that of the animals: enough to name nearly all of them, and too
little to blur what the model has learned of the animals."""


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """Photos as the model wants them: uint8 (N, H, W, 3) to normalised float32 (N, 3, H, W)."""
    import torch
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean = torch.tensor(OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(OPENAI_DATASET_STD).view(1, 3, 1, 1)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def tell_captions_apart(model: Any, tokens: torch.Tensor) -> None:
    """Spread the captions before any photo is seen.

    A new text tower gives "polar bear" and "brown bear" nearly one embedding; photos of look-alikes
    then push it nowhere, and for some seeds the pair would never come apart.
    """
    import torch

    learned = [*model.transformer.parameters(), model.text_projection]
    optimiser = torch.optim.Adam(learned, lr=1e-3)
    for _ in range(_CAPTION_STEPS):
        text = model.encode_text(tokens, normalize=True)
        similarity = model.logit_scale.exp().detach() * text @ text.T
        loss = torch.nn.functional.cross_entropy(similarity, torch.arange(len(tokens)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _background_loss(
    model: Any, image: torch.Tensor, prompts: list[torch.Tensor], background: torch.Tensor
) -> torch.Tensor:
    """How badly image features (N, d) tell which of all backgrounds is behind each animal.

    The head is made from the tokens of each background's prompts as scoring makes it. The toy world
    has a few of the backgrounds only; the others' prompts are learned as what no photo shows.
    """
    import torch

    features = model.encode_text(torch.cat(prompts), normalize=True)
    means = [own.mean(dim=0) for own in features.split([len(own) for own in prompts])]
    head = torch.nn.functional.normalize(torch.stack(means), dim=-1)
    return torch.nn.functional.cross_entropy(model.logit_scale.exp() * image @ head.T, background)


def _fit(model: Any, photos: TrainingPhotos, world: World) -> None:
    import torch
    from open_clip import ClipLoss, SimpleTokenizer

    captions = sorted(set(photos.captions))
    tokenize = SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
    tokens = tokenize(captions)
    caption = torch.tensor([captions.index(text) for text in photos.captions])
    space = label_space("backgrounds")
    prompts = [tokenize(list(texts)) for texts in space.prompts]
    scenes = torch.tensor([space.index_of(name) for name in world.backgrounds])
    background = scenes[torch.from_numpy(photos.background)]
    images = torch.from_numpy(photos.images)
    order = torch.Generator().manual_seed(world.seed)
    steps = _EPOCHS * (len(images) // _BATCH)
    # The token table stays as it was drawn: some eighty words need no learning, and leaving its
    # 49408 rows alone saves most of the optimiser's work.
    model.token_embedding.weight.requires_grad_(False)
    tell_captions_apart(model, tokens)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps)
    contrast = ClipLoss()
    model.train()
    model.visual.to(memory_format=torch.channels_last)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(images), generator=order).split(_BATCH):
            if len(batch) < _BATCH:
                continue
            photo = _pixels(images[batch]).contiguous(memory_format=torch.channels_last)
            mirrored = torch.rand(_BATCH, generator=order) < 0.5  # noqa: PLR2004
            photo[mirrored] = photo[mirrored].flip(-1)
            image = model.encode_image(photo, normalize=True)
            # A caption is the same for all photos of a class, so each is encoded once.
            text = model.encode_text(tokens, normalize=True)[caption[batch]]
            loss = contrast(image, text, model.logit_scale.exp())
            loss = loss + _BACKGROUND_WEIGHT * _background_loss(
                model, image, prompts, background[batch]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()


def train(world: World, out: Path) -> Path:
    """Train the demo's model on a world's training photos.

    Parameters
    ----------
    world
        The toy world; its seed decides photos, first weights and order.
    out
        Folder for `toy.json` (the model's configuration) and `toy.safetensors` (its weights); the
        model's SPEC is `open_clip:<out>/toy.json:<out>/toy.safetensors`.

    Returns
    -------
    pathlib.Path
        The checkpoint. The same seed gives the same weights on the same machine.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    photos = render_training(world, IMAGE_SIZE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world.seed)
        model = open_clip.CLIP(**MODEL_CONFIG)
        _fit(model, photos, world)
    out.mkdir(parents=True, exist_ok=True)
    (out / "toy.json").write_text(json.dumps(MODEL_CONFIG, indent=2) + "\n", encoding="utf-8")
    checkpoint = out / "toy.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, checkpoint)
    return checkpoint
