"""From a photo to what a network is given of it, in two parts.

A family's evaluation transform resizes and crops a photo, and then turns its bytes into numbers
around zero. Processes that decode stop before that: a quarter of the data passes between processes
and to a GPU, and the numbers are made for a batch at a time, where the network computes. They are
those of the transform as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torchvision import transforms
from torchvision.transforms import functional, v2

from manifests.errors import PhotoError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Preprocessing", "torch_resizes"]

_WHITE = 255
_THINNEST = 200
"""Longer by shorter side; of such a photo, resized by its shorter side, 30 MB are made."""


def torch_resizes(transform: transforms.Compose) -> bool:
    """Whether torch can resize for a transform: where torchvision's own step does."""
    return type(transform.transforms[0]) is transforms.Resize


class Preprocessing:
    """An evaluation transform in two parts; can be pickled.

    Parameters
    ----------
    transform
        torchvision's composition, of which the last two steps make a tensor and normalise it, as
        in open_clip and timm.
    fast
        Whether torch resizes instead of Pillow, in a quarter of the time; of photos, three values
        in a thousand then differ, by one of 256 levels. Only where `torch_resizes`.
    """

    def __init__(self, transform: transforms.Compose, *, fast: bool = False) -> None:
        *steps, _, self._normalize = transform.transforms
        resize = steps[0]
        self._moments: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        self._fast = fast and torch_resizes(transform)
        if self._fast:
            steps[0] = v2.Resize(resize.size, resize.interpolation, resize.max_size, antialias=True)
        self._steps: list[Any] = steps

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """An upright RGB image resized and cropped, of shape (3, H, W) in uint8.

        Raises
        ------
        PhotoError
            If it is so narrow that nothing would be left of it, or too much made of it.
        """
        if max(image.size) > _THINNEST * min(image.size):
            msg = f"{image.width} by {image.height} pixels are too thin a photo to be resized"
            raise PhotoError(msg)
        found: Any = functional.pil_to_tensor(image) if self._fast else image
        try:
            for step in self._steps:
                found = step(found)
        except ValueError as error:
            msg = f"{image.width} by {image.height} pixels cannot be resized for the model: {error}"
            raise PhotoError(msg) from error
        tensor: torch.Tensor = found if self._fast else functional.pil_to_tensor(found)
        return tensor

    def numbers(self, batch: torch.Tensor) -> torch.Tensor:
        """What the network is given of pixels (photos, 3, H, W): float32, on their device.

        A batch that is of floats is given as it is.
        """
        if batch.dtype != torch.uint8:
            return batch
        mean, std = self._moments_on(batch.device)
        return batch.to(torch.float32).div_(_WHITE).sub_(mean).div_(std)

    def _moments_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each colour, moved to a device once."""
        if device not in self._moments:
            mean, std = (
                torch.as_tensor(numbers, dtype=torch.float32).view(-1, 1, 1).to(device)
                for numbers in (self._normalize.mean, self._normalize.std)
            )
            self._moments[device] = mean, std
        return self._moments[device]

    def __getstate__(self) -> dict[str, Any]:
        # What lies on a device stays there.
        return {**self.__dict__, "_moments": {}}

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The whole of it, of shape (3, H, W) in float32."""
        return self.numbers(self.pixels(image)[None])[0].contiguous()
