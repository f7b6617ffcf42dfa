"""The `open_clip` family: contrastive image-text models, scored zero-shot by cosine.

Any architecture that open_clip knows, or a JSON file that describes one, with a published tag or a
local checkpoint. The head is made as in open_clip's own zero-shot evaluation: a class's features
are the mean over its prompts, each of unit length. They are the label space's own prompts, or class
names in a template.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from manifests.errors import CapError
from manifests.tables import replacing
from pipeline.models.boxes import Box, centred
from pipeline.models.network import (
    PREPROCESSING,
    casting,
    choose_device,
    choose_precision,
    downloading,
    layout,
    photos_at_once,
    read_checkpoint,
    read_metadata,
)
from pipeline.models.pooling import pooled_features
from pipeline.models.preprocessing import Preprocessing, torch_resizes
from pipeline.models.registry import (
    OWN_CONFIGURATION,
    ModelOptions,
    ModelSpec,
    decoding,
    file_sha256,
    register,
    score_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from manifests.vocabulary import LabelSpace

__all__ = ["OpenClipModel", "check_activation", "templates"]

_QUICK = "-quickgelu"
_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".safetensors"}
_PUBLISHED = ("mean", "std", "interpolation", "resize_mode")
_PREPROCESSING = (*_PUBLISHED, "fill_color")
"""What decides the pixels of a photo, beside their number, which the architecture says."""
_COLOURS = 3


class OpenClipModel:
    """An open_clip model with its zero-shot head; see `registry.Model`."""

    score_kind = "cosine"

    def __init__(
        self,
        spec: ModelSpec,
        network: Any,
        head: NDArray[np.float32],
        description: dict[str, Any],
        *,
        compiled: bool = False,
    ) -> None:
        self.name = str(spec)
        self.description = description
        self.digest = score_digest(description)
        self.embedding_dim: int | None = int(head.shape[1])
        self._network = network
        self._compiled = compiled
        self._device = torch.device(description["device"])
        self._precision = str(description["precision"])
        self._text = head
        self._head = torch.from_numpy(head).to(self._device)
        config = PreprocessCfg(**network.visual.preprocess_cfg)
        self._size, self._resize_mode = config.size, config.resize_mode
        self._preprocessing = Preprocessing(
            image_transform_v2(config, is_train=False), fast=self.smallest is not None
        )

    @property
    def head(self) -> NDArray[np.float32]:
        """Text features of unit length (labels, d)."""
        return self._text

    @property
    def network(self) -> Any:
        """The open_clip network itself, for those who train it."""
        return self._network

    @property
    def metadata(self) -> dict[str, str]:
        """What a checkpoint of the network has to say beside its tensors, to be loaded alike."""
        config = asdict(PreprocessCfg(**self._network.visual.preprocess_cfg))
        return {PREPROCESSING: json.dumps({name: config[name] for name in _PREPROCESSING})}

    @property
    def smallest(self) -> int | None:
        """See `registry.Model`."""
        found: int | None = self.description["preprocessing"].get("decoded_at_least")
        return found

    @property
    def preprocess(self) -> Preprocessing:
        """open_clip's own evaluation transform for this model."""
        return self._preprocessing

    @cached_property
    def at_once(self) -> int:
        """See `registry.Model`."""
        photo = self._preprocessing(Image.new("RGB", (64, 64)))[None]
        with torch.inference_mode(), casting(self._device, self._precision):
            return photos_at_once(self._network, lambda: self._network.encode_image(photo))

    @cached_property
    def _encode(self) -> Callable[[torch.Tensor], torch.Tensor]:
        encode: Callable[[torch.Tensor], torch.Tensor] = self._network.encode_image
        return torch.compile(encode) if self._compiled else encode

    def __getstate__(self) -> dict[str, Any]:
        # What was compiled stays where it was.
        return {name: value for name, value in self.__dict__.items() if name != "_encode"}

    def move(self, device: str) -> None:
        """See `registry.Model.move`."""
        self._device = torch.device(device)
        self._network.to(self._device, memory_format=layout(self._device))
        self._head = self._head.to(self._device)
        self.description["device"] = device

    def score(self, batch: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines (photos, labels) and image embeddings of unit length (photos, d)."""
        with torch.inference_mode(), casting(self._device, self._precision):
            features = self._encode(self._there(batch))
        return self._scored(features)

    def _there(self, batch: torch.Tensor) -> torch.Tensor:
        there = batch.to(self._device, non_blocking=True, memory_format=layout(self._device))
        return self._preprocessing.numbers(there)

    def frame(self, width: int, height: int) -> Box:
        """The middle of a photo, all of it, or more than it, as the resize mode says."""
        rows, columns = (self._size, self._size) if isinstance(self._size, int) else self._size
        if self._resize_mode == "squash":
            return Box(0, 0, width, height)
        choose = max if self._resize_mode == "longest" else min
        pixels = choose(width / columns, height / rows)
        return centred((width, height), (columns * pixels, rows * pixels))

    def score_regions(
        self, batch: torch.Tensor, boxes: Sequence[Sequence[Box]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `score`, of parts of photos, in shares of their frames."""
        with torch.inference_mode(), casting(self._device, self._precision):
            features = pooled_features(self._network.visual, self._there(batch), boxes)
        return self._scored(features)

    def _scored(self, features: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            features = torch.nn.functional.normalize(features.float(), dim=-1)
            scores = features @ self._head.T
        return scores.cpu().numpy(), features.cpu().numpy()


def templates(prompts: str) -> tuple[str, ...]:
    """Prompt templates, each with `{}` for the class name.

    Raises
    ------
    CapError
        If the text is neither `openai80` nor has exactly one `{}` and no other brace.
    """
    if prompts == "openai80":
        return tuple(make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES)
    if prompts.count("{}") != 1 or set(prompts.replace("{}", "")) & set("{}"):
        msg = (
            f"the prompt {prompts!r} needs one {{}} for the class name and no other brace (or is "
            "openai80)"
        )
        raise CapError(msg)
    return (prompts,)


def _architecture(name: str) -> tuple[str, dict[str, Any]]:
    """Name of the architecture in open_clip's registry, and its configuration."""
    path = Path(name)
    if path.suffix == ".json":
        try:
            described = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            msg = f"the model configuration {name} cannot be read: {error}"
            raise CapError(msg) from error
        known = open_clip.get_model_config(path.stem)
        if known is None:
            open_clip.add_model_config(path)
        elif known != described:
            msg = f"open_clip has another architecture called {path.stem!r}; rename {path.name}"
            raise CapError(msg)
        return path.stem, described
    if name not in open_clip.list_models():
        close = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        msg = f"open_clip has no architecture {name!r}; nearest: {', '.join(close) or 'none'}"
        raise CapError(msg)
    config: dict[str, Any] = open_clip.get_model_config(name)
    return name, config


def _sibling(architecture: str) -> str:
    """The same architecture with the other activation."""
    if architecture.endswith(_QUICK):
        return architecture.removesuffix(_QUICK)
    return architecture + _QUICK


def check_activation(architecture: str, tag: str) -> None:
    """Refuse a published tag whose activation is not the architecture's.

    open_clip loads such a pair with a warning and several points of accuracy less: OpenAI's and
    LAION-400M's models were trained with QuickGELU, which the plain architectures lack.

    Raises
    ------
    CapError
        If they differ, or the tag is unknown; the message has the name that fits.
    """
    sibling = _sibling(architecture)
    quick = bool(open_clip.get_model_config(architecture).get("quick_gelu", False))
    published = open_clip.get_pretrained_cfg(architecture, tag)
    # Some tags are listed under one activation only, others under both whatever they were.
    trained = published or open_clip.get_pretrained_cfg(sibling, tag)
    if not trained:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        close = difflib.get_close_matches(tag, tags, n=3) or tags[:5]
        msg = (
            f"open_clip has no weights {tag!r} for {architecture}, and there is no such file; "
            f"its tags: {', '.join(close) or 'none, give a file'}"
        )
        raise CapError(msg)
    if bool(trained.get("quick_gelu", False)) != quick and open_clip.get_model_config(sibling):
        used = "GELU" if quick else "QuickGELU"
        other = "QuickGELU" if quick else "GELU"
        msg = (
            f"{tag} was trained with {used}, but {architecture} computes {other}; "
            f"use open_clip:{sibling}:{tag}"
        )
        raise CapError(msg)


def _weights(spec: ModelSpec, architecture: str) -> tuple[Path, dict[str, Any]]:
    """The checkpoint's file, and the preprocessing that its publisher or it gives, if any."""
    if spec.weights is None:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        named = f"one of its tags ({', '.join(tags[:5])}) or a file" if tags else "a file"
        msg = f"{spec} needs weights: {named}, as {spec}:WEIGHTS"
        raise CapError(msg)
    path = Path(spec.weights)
    if path.is_file():
        return path, _own_preprocessing(path)
    if path.suffix in _SUFFIXES:
        msg = f"there is no file {spec.weights}"
        raise CapError(msg)
    check_activation(architecture, spec.weights)
    published = open_clip.get_pretrained_cfg(architecture, spec.weights)
    with downloading(spec):
        file = open_clip.download_pretrained(published)
    return Path(file), {k: published[k] for k in _PUBLISHED if published.get(k)}


def _own_preprocessing(path: Path) -> dict[str, Any]:
    """The preprocessing that a checkpoint gives; without it, the architecture's is taken.

    Raises
    ------
    CapError
        If it is none that open_clip knows.
    """
    text = read_metadata(path).get(PREPROCESSING)
    if text is None:
        return {}
    try:
        found = json.loads(text)
        moments = [tuple(float(number) for number in found[name]) for name in ("mean", "std")]
        config = {**found, "mean": moments[0], "std": moments[1]}
        known = set(config) == set(_PREPROCESSING) and all(len(m) == _COLOURS for m in moments)
        if known:
            image_transform_v2(PreprocessCfg(**config), is_train=False)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError):
        known = False
    if not known:
        msg = f"{path.name} asks for a preprocessing that is not known: {text[:200]}"
        raise CapError(msg)
    return config


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep open_clip from warning, on the root logger, of weights that are loaded right after."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _network(architecture: str, weights: Path, preprocessing: dict[str, Any]) -> Any:
    with _without_warnings():
        network = open_clip.create_model(
            architecture, pretrained=None, load_weights=False, force_preprocess_cfg=preprocessing
        )
    state = read_checkpoint(weights)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        # Older checkpoints need open_clip's own conversions.
        try:
            open_clip.load_checkpoint(network, str(weights), weights_only=True)
        except (RuntimeError, KeyError, AttributeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            msg = f"{weights.name} does not fit {architecture}: {reason}"
            raise CapError(msg) from error
    return network.eval()


def _text_features(
    network: Any, architecture: str, labels: LabelSpace, template: str | None, device: Any
) -> NDArray[np.float32]:
    """Unit-length text features of each class, shape (labels, d)."""
    tokenizer = open_clip.get_tokenizer(architecture)

    def features(names: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        head: torch.Tensor = open_clip.build_zero_shot_classifier(
            network, tokenizer, names, prompts, device=device
        )
        return head.T

    with torch.inference_mode():
        if template is None:
            # A prompt of a label space is a template without a place for the name.
            classes = zip(labels.names, labels.prompts, strict=True)
            head = torch.cat([features([name], own) for name, own in classes])
        else:
            head = features(labels.names, templates(template))
    return np.ascontiguousarray(head.float().cpu().numpy())


def _cached_head(
    cache: Path | None, key: dict[str, Any], compute: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Text features from the cache, or computed and put there."""
    if cache is None:
        return compute()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = cache / f"{name}.npy"
    if file.is_file():
        found: NDArray[np.float32] = np.load(file, allow_pickle=False)
        return found
    head = compute()
    with replacing(file) as temporary, temporary.open("wb") as handle:
        np.save(handle, head)
    return head


def _side(config: PreprocessCfg) -> int:
    """Pixels that photos are resized to: of their shorter side, or at most."""
    return config.size if isinstance(config.size, int) else max(config.size)


@register("open_clip")
def load(spec: ModelSpec, labels: LabelSpace, options: ModelOptions) -> OpenClipModel:
    """Load an open_clip model and make its zero-shot head."""
    template = options.template(labels)
    own = [list(texts) for texts in labels.prompts]
    prompts = own if template is None else list(templates(template))
    architecture, config = _architecture(spec.architecture)
    weights, preprocessing = _weights(spec, architecture)
    device = choose_device(options)
    network = _network(architecture, weights, preprocessing)
    network.to(device, memory_format=layout(device))
    preprocess = PreprocessCfg(**network.visual.preprocess_cfg)
    by_torch = torch_resizes(image_transform_v2(preprocess, is_train=False))
    description = {
        "family": "open_clip",
        "architecture": architecture,
        "configuration": config,
        "weights": weights.name if spec.weights and Path(spec.weights).is_file() else spec.weights,
        "weights_sha256": file_sha256(weights),
        "activation": "quickgelu" if config.get("quick_gelu") else "gelu",
        "preprocessing": {
            **asdict(preprocess),
            **decoding(options, _side(preprocess), by_torch=by_torch),
        },
        "label_space": labels.name,
        "label_space_digest": labels.digest,
        "prompts": prompts,
        "precision": choose_precision(options, device),
        "device": str(device),
    }
    if spec.architecture.endswith(".json"):
        # A published architecture's name says it all; a file may change.
        text = json.dumps(config, sort_keys=True)
        description[OWN_CONFIGURATION] = hashlib.sha256(text.encode()).hexdigest()
    key = {
        name: description[name]
        for name in (
            "architecture",
            OWN_CONFIGURATION,
            "weights_sha256",
            "activation",
            "label_space_digest",
            "prompts",
        )
        if name in description
    }
    head = _cached_head(
        options.cache_dir,
        key,
        lambda: _text_features(network, architecture, labels, template, device),
    )
    return OpenClipModel(spec, network, head, description, compiled=options.compile)
