"""The `timm` family: ImageNet-1K classifiers, scored by their logits."""

from __future__ import annotations

import difflib
import math
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from manifests.errors import CapError
from manifests.vocabulary import label_space
from pipeline.models.boxes import Box, centred
from pipeline.models.network import (
    casting,
    choose_device,
    choose_precision,
    downloading,
    layout,
    photos_at_once,
    read_checkpoint,
)
from pipeline.models.preprocessing import Preprocessing, torch_resizes
from pipeline.models.registry import (
    ModelOptions,
    ModelSpec,
    decoding,
    file_sha256,
    register,
    score_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manifests.vocabulary import LabelSpace

__all__ = ["TimmModel", "match_tensors"]

_CLASSES = 1000
_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".safetensors"}


class TimmModel:
    """A timm classifier; see `registry.Model`."""

    score_kind = "logit"
    head = None

    def __init__(
        self,
        spec: ModelSpec,
        network: Any,
        description: dict[str, Any],
        *,
        compiled: bool = False,
    ) -> None:
        self.name = str(spec)
        self.description = description
        self.digest = score_digest(description)
        self.embedding_dim: int | None = int(network.head_hidden_size)
        self._network = network
        self._compiled = compiled
        self._device = torch.device(description["device"])
        self._precision = str(description["precision"])
        self._data = resolve_model_data_config(network)
        self._preprocessing = Preprocessing(
            create_transform(**self._data, is_training=False), fast=self.smallest is not None
        )

    @property
    def smallest(self) -> int | None:
        """See `registry.Model`."""
        found: int | None = self.description["preprocessing"].get("decoded_at_least")
        return found

    @property
    def preprocess(self) -> Preprocessing:
        """Timm's own evaluation transform for this model."""
        return self._preprocessing

    @cached_property
    def at_once(self) -> int:
        """See `registry.Model`."""
        photo = self._preprocessing(Image.new("RGB", (64, 64)))[None]
        with torch.inference_mode(), casting(self._device, self._precision):
            return photos_at_once(self._network, lambda: self._network(photo))

    @cached_property
    def _features(self) -> Callable[[torch.Tensor], torch.Tensor]:
        features: Callable[[torch.Tensor], torch.Tensor] = self._network.forward_features
        return torch.compile(features) if self._compiled else features

    def __getstate__(self) -> dict[str, Any]:
        # What was compiled stays where it was.
        return {name: value for name, value in self.__dict__.items() if name != "_features"}

    def move(self, device: str) -> None:
        """See `registry.Model.move`."""
        self._device = torch.device(device)
        self._network.to(self._device, memory_format=layout(self._device))
        self.description["device"] = device

    def score(self, batch: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (photos, 1000) and pooled features of unit length (photos, d)."""
        there = batch.to(self._device, non_blocking=True, memory_format=layout(self._device))
        with torch.inference_mode(), casting(self._device, self._precision):
            maps = self._features(self._preprocessing.numbers(there))
            pooled = self._network.forward_head(maps, pre_logits=True)
            classifier = self._network.get_classifier()
            if isinstance(classifier, torch.nn.Linear):
                logits = classifier(pooled)
            else:
                # A convolution, or one for each of several tokens: the network knows.
                logits = self._network.forward_head(maps)
        with torch.inference_mode():
            features = torch.nn.functional.normalize(pooled.float(), dim=-1)
        return logits.float().cpu().numpy(), features.cpu().numpy()

    def frame(self, width: int, height: int) -> Box:
        """A share of the middle of a photo, as timm's crop mode says."""
        rows, columns = self._data["input_size"][-2:]
        share, mode = self._data["crop_pct"], self._data.get("crop_mode") or "center"
        if mode == "squash":
            return centred((width, height), (share * width, share * height))
        choose = max if mode == "border" else min
        pixels = share * choose(width / columns, height / rows)
        return centred((width, height), (columns * pixels, rows * pixels))

    def score_regions(
        self, batch: torch.Tensor, boxes: Sequence[Sequence[Box]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Not known for timm's many architectures."""
        del batch, boxes
        msg = f"regions are pooled in open_clip's models, not in {self.name}; use --embed crop"
        raise CapError(msg)


def match_tensors(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], file: str
) -> tuple[dict[str, torch.Tensor], str]:
    """Bring a checkpoint's tensors under the model's names.

    Where the names differ, tensors are matched one to one in order, if each pair has the same
    shape and the same last name (`weight`, `running_mean`, …).

    Parameters
    ----------
    found, wanted
        Tensors by name, of the checkpoint and of the model.
    file
        The checkpoint's name, for the message.

    Returns
    -------
    tensors, mapping
        Tensors by the model's names, and `by name` or `by order`.

    Raises
    ------
    CapError
        If a tensor fits neither way.
    """
    if found.keys() == wanted.keys():
        return found, "by name"
    for own, other in zip_longest(wanted, found):
        if (
            own is None
            or other is None
            or wanted[own].shape != found[other].shape
            or own.rpartition(".")[2] != other.rpartition(".")[2]
        ):
            shape = tuple(found[other].shape) if other else "none"
            expected = tuple(wanted[own].shape) if own else "none"
            msg = (
                f"{file} does not fit the architecture: its tensor {other} {shape} stands where "
                f"{own} {expected} is expected"
            )
            raise CapError(msg)
    return dict(zip(wanted, found.values(), strict=True)), "by order"


def _architecture(name: str) -> None:
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        close = difflib.get_close_matches(name, known, n=3)
        msg = f"timm has no architecture {name!r}; nearest: {', '.join(close) or 'none'}"
        raise CapError(msg)


def _published(spec: ModelSpec) -> tuple[Any, str, str]:
    """A network with published weights, the tag, and a digest of its tensors."""
    name = f"{spec.architecture}.{spec.weights}" if spec.weights else spec.architecture
    tags = timm.list_pretrained(f"{spec.architecture}.*")
    if spec.weights and name not in tags:
        listed = ", ".join(tag.partition(".")[2] for tag in tags) or "none"
        msg = f"timm has no weights {spec.weights!r} for {spec.architecture}; its tags: {listed}"
        raise CapError(msg)
    with downloading(spec):
        network: Any = timm.create_model(name, pretrained=True)
    tag = str(network.pretrained_cfg.get("tag") or spec.weights)
    return network, tag, _tensors_sha256(network.state_dict())


def _tensors_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over tensors by name: timm does not say which file it has loaded."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _local(spec: ModelSpec, weights: Path) -> tuple[Any, str]:
    """A network with weights from a file, and how their names were matched."""
    network = timm.create_model(spec.architecture, pretrained=False)
    tensors, mapping = match_tensors(read_checkpoint(weights), network.state_dict(), weights.name)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{weights.name} does not fit {spec.architecture}: {reason}"
        raise CapError(msg) from error
    return network, mapping


@register("timm")
def load(spec: ModelSpec, labels: LabelSpace, options: ModelOptions) -> TimmModel:
    """Load an ImageNet-1K classifier."""
    imagenet = label_space("imagenet1k")
    if labels.digest != imagenet.digest:
        msg = f"a timm classifier knows imagenet1k only, not {labels.name}; use an open_clip model"
        raise CapError(msg)
    _architecture(spec.architecture)
    file = Path(spec.weights) if spec.weights else None
    mapping = "by name"
    if file is not None and file.is_file():
        network, mapping = _local(spec, file)
        weights, sha256 = file.name, file_sha256(file)
    elif file is not None and file.suffix in _SUFFIXES:
        msg = f"there is no file {spec.weights}"
        raise CapError(msg)
    else:
        network, weights, sha256 = _published(spec)
    if network.num_classes != _CLASSES:
        msg = f"{spec} has {network.num_classes} classes, not ImageNet-1K's {_CLASSES}"
        raise CapError(msg)
    device = choose_device(options)
    data = resolve_model_data_config(network)
    side = math.ceil(max(data["input_size"][-2:]) / data["crop_pct"])
    by_torch = torch_resizes(create_transform(**data, is_training=False))
    description = {
        "family": "timm",
        "architecture": spec.architecture,
        "weights": weights,
        "weights_sha256": sha256,
        "weights_mapping": mapping,
        "activation": "as the architecture says",
        "preprocessing": {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in data.items()},
            **decoding(options, side, by_torch=by_torch),
        },
        "label_space": labels.name,
        "label_space_digest": labels.digest,
        "prompts": None,
        "precision": choose_precision(options, device),
        "device": str(device),
    }
    network.eval().to(device, memory_format=layout(device))
    return TimmModel(spec, network, description, compiled=options.compile)
