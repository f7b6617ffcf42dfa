"""What a model is, how it is named, and which families there are.

Nothing here imports torch: a family's module is imported when one of its models is loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from manifests.errors import CapError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from manifests.vocabulary import LabelSpace
    from pipeline.engine import Engine
    from pipeline.models.boxes import Box
    from pipeline.models.preprocessing import Preprocessing

__all__ = [
    "DECODE_MARGIN",
    "FAMILIES",
    "OWN_CONFIGURATION",
    "REDUCED_DECODING",
    "Model",
    "ModelOptions",
    "ModelSpec",
    "decoding",
    "file_sha256",
    "load_for",
    "load_model",
    "network_digest",
    "published_name",
    "register",
    "score_digest",
]

FAMILIES = {"open_clip": "pipeline.models.open_clip_family", "timm": "pipeline.models.timm_family"}
"""Family names, and the module that registers each."""

DECODE_MARGIN = 3
"""How much finer a photo is decoded than it is resized to, where that is reduced at all."""

REDUCED_DECODING = ("decoded_at_least", "resized_by")
"""What a description has beside the preprocessing where photos are decoded at a reduced scale."""

_EXAMPLE = "open_clip:ViT-B-32-quickgelu:laion400m_e31"
_PAPERS_TEMPLATE = "A photo of {}."


@dataclass(frozen=True)
class ModelSpec:
    """A model's name in three parts; `weights` is a published tag or a local file."""

    family: str
    architecture: str
    weights: str | None

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read FAMILY:ARCHITECTURE[:WEIGHTS].

        Raises
        ------
        CapError
            If a part is missing or the family is unknown.
        """
        family, _, rest = text.partition(":")
        architecture, _, weights = rest.partition(":")
        if family not in FAMILIES or not architecture:
            msg = (
                f"{text!r} is no model; write FAMILY:ARCHITECTURE[:WEIGHTS] with a family of "
                f"{', '.join(FAMILIES)}, such as {_EXAMPLE}"
            )
            raise CapError(msg)
        return cls(family, architecture, weights or None)

    def __str__(self) -> str:
        return ":".join(part for part in (self.family, self.architecture, self.weights) if part)

    @property
    def slug(self) -> str:
        """The name as part of a file name: lower case, no folders, no suffixes of files."""
        parts = [self.family, _file_stem(self.architecture), _file_stem(self.weights or "")]
        return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def _file_stem(text: str) -> str:
    """The stem of a path to a file; other names as they are."""
    suffixes = {".json", ".pt", ".pth", ".bin", ".ckpt", ".safetensors"}
    path = Path(text)
    return path.stem if path.suffix in suffixes else path.name


@dataclass(frozen=True)
class ModelOptions:
    """How to run a model.

    Attributes
    ----------
    device
        `auto` (CUDA, then MPS, then CPU) or a torch device.
    precision
        `float32`, `bf16`, or `auto`: bf16 on CUDA, else float32.
    prompts
        A template with `{}` for the class name, or `openai80` for OpenAI's 80 ImageNet templates;
        None takes the label space's own prompts, and where it has none the paper's template.
    cache_dir
        Folder that keeps text features; None keeps none.
    reduced
        Whether large JPEGs are decoded at a reduced scale, at which their shorter side still has
        `DECODE_MARGIN` times the pixels that the model is given of it, and resized by torch.
    compile
        Whether torch compiles the network, which takes a minute at the first batch.
    """

    device: str = "auto"
    precision: str = "auto"
    prompts: str | None = None
    cache_dir: Path | None = None
    reduced: bool = False
    compile: bool = False

    def template(self, labels: LabelSpace) -> str | None:
        """The template for the names of a label space, or None where its own prompts are used."""
        if self.prompts is None and not labels.prompts:
            return _PAPERS_TEMPLATE
        return self.prompts


class Model(Protocol):
    """A network ready to score images over a label space.

    Attributes
    ----------
    name
        The SPEC it was loaded from.
    description
        What a receipt records: family, architecture, weights and their sha256, activation,
        preprocessing, label space, prompts, precision, device.
    digest
        sha256 over what decides the scores: all of the above but precision and device.
    score_kind
        `cosine` or `logit`.
    embedding_dim
        Length of an embedding, or None where the family has none.
    smallest
        Pixels that the shorter side of a JPEG may be decoded at, where photos are decoded at a
        reduced scale; None decodes them in full.
    at_once
        Photos that should pass through the network at once on a CPU, where more are slower.
    head
        Text features (labels, d) of unit length whose products with embeddings are the scores;
        None for a classifier.
    """

    name: str
    description: dict[str, Any]
    digest: str
    score_kind: str
    embedding_dim: int | None

    @property
    def at_once(self) -> int:
        """Photos of a pass on a CPU."""
        ...

    @property
    def smallest(self) -> int | None:
        """Pixels of the shorter side, or None."""
        ...

    @property
    def head(self) -> NDArray[np.float32] | None:
        """Text features, or None."""
        ...

    @property
    def preprocess(self) -> Preprocessing:
        """From an upright RGB image to what the network is given of it, in two parts."""
        ...

    def move(self, device: str) -> None:
        """Compute on another torch device from now on; `description` says so."""
        ...

    def score(self, batch: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores (photos, labels) and embeddings of unit length (photos, d), both float32.

        Parameters
        ----------
        batch
            Photos as `preprocess` gives them, or their pixels: (photos, 3, H, W).
        """
        ...

    def frame(self, width: int, height: int) -> Box:
        """What `preprocess` lets the model see of a photo of this size, in its pixels."""
        ...

    def score_regions(
        self, batch: torch.Tensor, boxes: Sequence[Sequence[Box]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `score`, of parts of photos, pooled over the feature map of one pass.

        Parameters
        ----------
        batch
            As for `score`.
        boxes
            The parts of each photo, in shares of its frame.

        Raises
        ------
        CapError
            If it is not known how the network pools.
        """
        ...


Loader = Callable[["ModelSpec", "LabelSpace", ModelOptions], Model]

_LOADERS: dict[str, Loader] = {}


def register(family: str) -> Callable[[Loader], Loader]:
    """A decorator for the function that loads a family's models."""

    def decorate(load: Loader) -> Loader:
        _LOADERS[family] = load
        return load

    return decorate


def load_model(spec: ModelSpec, labels: LabelSpace, options: ModelOptions) -> Model:
    """Load a model and its head over a label space.

    Raises
    ------
    CapError
        If architecture, weights or device are not to be had, or do not fit each other.
    """
    importlib.import_module(FAMILIES[spec.family])
    import torch

    try:
        return _LOADERS[spec.family](spec, labels, options)
    except torch.cuda.OutOfMemoryError as error:
        msg = f"the GPU has no memory for {spec}; see what else uses it, or try --device cpu"
        raise CapError(msg) from error


def load_for(engine: Engine, spec: ModelSpec, labels: LabelSpace, options: ModelOptions) -> Model:
    """Load a model for an engine, which may have it compute in other processes than this one.

    Raises
    ------
    CapError
        As `load_model`.
    """
    device = engine.computing_on(options.device)
    here = engine.loading_on(options.device)
    if device == here:
        return load_model(spec, labels, options)
    import torch

    from pipeline.models.network import choose_precision

    precision = choose_precision(options, torch.device(device))
    model = load_model(spec, labels, replace(options, device=here, precision=precision))
    model.description["device"] = device
    return model


def decoding(options: ModelOptions, side: int, *, by_torch: bool) -> dict[str, int | str]:
    """What a description says of reduced decoding, beside the preprocessing: nothing without it.

    Parameters
    ----------
    options
        Of the model.
    side
        Pixels that preprocessing resizes the shorter side of a photo to.
    by_torch
        Whether torch can resize instead of Pillow.
    """
    if not options.reduced:
        return {}
    found = (DECODE_MARGIN * side, "torch" if by_torch else "pillow")
    return dict(zip(REDUCED_DECODING, found, strict=True))


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises
    ------
    CapError
        If it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        msg = f"the weights {path} cannot be read: {error.strerror or error}"
        raise CapError(msg) from error


OWN_CONFIGURATION = "configuration_sha256"
"""Part of the description of a model whose architecture a file of one's own describes."""

_NETWORK = ("family", "architecture", "weights_sha256", "activation", "preprocessing")


def score_digest(description: Mapping[str, Any]) -> str:
    """sha256 over those parts of a description that decide the scores."""
    return _digest(description, (*_NETWORK, "label_space_digest", "prompts"))


def network_digest(description: Mapping[str, Any]) -> str:
    """sha256 over those parts that decide what the network makes of a photo, whatever the labels.

    Precision and device are left out, as in `score_digest`.
    """
    return _digest(description, _NETWORK)


def published_name(description: Mapping[str, Any]) -> str:
    """A model's SPEC without the folders of local files, which are nobody's business."""
    parts = (description["family"], description["architecture"], description["weights"])
    return ":".join(part for part in parts if part)


def _digest(description: Mapping[str, Any], parts: tuple[str, ...]) -> str:
    told = {name: description[name] for name in parts}
    if OWN_CONFIGURATION in description:
        told[OWN_CONFIGURATION] = description[OWN_CONFIGURATION]
    text = json.dumps(told, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
