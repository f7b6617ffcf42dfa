"""Features of parts of an image from one pass over the whole: pooling over a tower's feature map.

Knows open_clip's own image towers. A part that is the whole image has the image's own features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torchvision.ops import roi_align

from manifests.errors import CapError
from pipeline.models.boxes import Box

__all__ = ["pooled_features"]


def pooled_features(
    tower: Any, images: torch.Tensor, boxes: Sequence[Sequence[Box]]
) -> torch.Tensor:
    """Features of parts of images, image by image, of shape (parts, d); not of unit length.

    In a ResNet, the map before the last layer is cut out and resized by RoIAlign (He et al., Mask
    R-CNN, ICCV 2017), and goes through the last layer and attention pooling, as in ViLLA (Varma et
    al., ICCV 2023). In a vision transformer, each part has a class token of its own that attends
    to itself and to the part's patches alone, in every layer (Ding et al., Open-Vocabulary
    Universal Image Segmentation with MaskCLIP, ICML 2023, section 3.3).

    Parameters
    ----------
    tower
        The image tower.
    images
        Of shape (images, 3, H, W).
    boxes
        The parts of each image, in shares of its width and height.

    Raises
    ------
    CapError
        If it is not known how this tower pools.
    """
    if isinstance(tower, ModifiedResNet):
        return _of_resnet(tower, images, boxes)
    if (
        isinstance(tower, VisionTransformer)
        and tower.attn_pool is None
        and tower.pool_type == "tok"
    ):
        return _of_transformer(tower, images, boxes)
    msg = (
        "regions are pooled in open_clip's ModifiedResNet, and in its VisionTransformer with a "
        f"class token; this model's tower is another {type(tower).__name__}: use --embed crop"
    )
    raise CapError(msg)


def _of_resnet(
    tower: ModifiedResNet, images: torch.Tensor, boxes: Sequence[Sequence[Box]]
) -> torch.Tensor:
    maps = tower.layer3(tower.layer2(tower.layer1(tower.stem(images))))
    height, width = maps.shape[-2:]
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    places = [(torch.tensor(own).view(-1, 4) * scale).to(maps.device) for own in boxes]
    cut = roi_align(maps.float(), places, (height, width), aligned=True)
    features: torch.Tensor = tower.attnpool(tower.layer4(cut))
    return features


def _of_transformer(
    tower: VisionTransformer, images: torch.Tensor, boxes: Sequence[Sequence[Box]]
) -> torch.Tensor:
    tokens = tower._embeds(images)
    most = max(map(len, boxes))
    # A part's token begins as the image's, which has met no patch yet.
    tokens = torch.cat([tokens, tokens[:, :1].expand(-1, most, -1)], dim=1)
    # Photos of one shape have the same grid of regions.
    known = {own: _seen(own, most, tower.grid_size) for own in set(map(tuple, boxes))}
    seen = torch.stack([known[tuple(own)] for own in boxes]).to(tokens.device)
    mask = torch.zeros(seen.shape, device=tokens.device).masked_fill(~seen, -torch.inf)
    heads = tower.transformer.resblocks[0].attn.num_heads
    tokens = tower.transformer(tokens, attn_mask=mask.repeat_interleave(heads, dim=0))
    own = torch.cat([row[-most:][: len(parts)] for row, parts in zip(tokens, boxes, strict=True)])
    pooled: torch.Tensor = tower.ln_post(own)
    return pooled if tower.proj is None else pooled @ tower.proj


def _seen(boxes: Sequence[Box], most: int, grid: tuple[int, int]) -> torch.Tensor:
    """Which tokens attend to which: the class token, patches, and `most` tokens of parts."""
    rows, columns = grid
    first = 1 + rows * columns
    seen = torch.zeros(first + most, first + most, dtype=torch.bool)
    seen[:first, :first] = True
    seen.fill_diagonal_(True)
    down, across = (torch.arange(n).add(0.5).div(n) for n in (rows, columns))
    for number, box in enumerate(boxes):
        rows_in, columns_in = _in(down, box.top, box.bottom), _in(across, box.left, box.right)
        seen[first + number, 1:first] = (rows_in[:, None] & columns_in).flatten()
    return seen


def _in(centres: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Patches whose centre is in a range; the nearest to its middle where there is none."""
    inside = (centres >= low) & (centres < high)
    if not inside.any():
        inside[(centres - (low + high) / 2).abs().argmin()] = True
    return inside
