"""What the families share: device, precision, checkpoints without pickled code, and a first name.

Every checkpoint is read with `weights_only`, so that a file can hold tensors and nothing that runs.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from manifests.errors import CapError
from manifests.tables import replacing

if TYPE_CHECKING:
    from pipeline.models.registry import ModelOptions, ModelSpec

__all__ = [
    "PREPROCESSING",
    "casting",
    "choose_device",
    "choose_precision",
    "downloading",
    "layout",
    "photos_at_once",
    "read_checkpoint",
    "read_metadata",
    "write_checkpoint",
]

PREPROCESSING = "cap.preprocessing"
"""Part of a checkpoint's metadata: how photos are made ready for its network, as JSON."""

_REUSED = 32 * 2**20
"""Bytes of a block that glibc keeps when it is freed; larger ones cost a fault for each page."""
_MOST_AT_ONCE = 32

Tensors = Mapping[str, torch.Tensor]

_WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")


def choose_device(options: ModelOptions) -> torch.device:
    """The device to run on.

    Raises
    ------
    CapError
        If the device asked for is not there.
    """
    if options.device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        msg = f"the device {options.device!r} is not to be had ({reason}); try --device auto"
        raise CapError(msg) from error
    # Of CPUs there is one, whatever its number.
    return torch.device("cpu") if device.type == "cpu" else device


def layout(device: torch.device) -> torch.memory_format:
    """How images lie in memory: on CUDA channels last, which its convolutions want."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def choose_precision(options: ModelOptions, device: torch.device) -> str:
    """`bf16`, where a GPU computes in it, or `float32`."""
    if options.precision != "auto":
        return options.precision
    # A machine without a GPU is asked for one of a cluster, and takes it for a recent one.
    older = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    return "bf16" if device.type == "cuda" and not older else "float32"


def photos_at_once(network: torch.nn.Module, encode: Callable[[], object]) -> int:
    """How many photos should pass through a network at once on a CPU.

    As many as keep what any of its modules makes of them within a block of memory that is used
    again, and 32 at most.

    Parameters
    ----------
    network
        The network.
    encode
        Passes a single photo through it.
    """
    widest = 1

    def look(module: torch.nn.Module, given: object, made: object) -> None:
        nonlocal widest
        del module, given
        if isinstance(made, torch.Tensor):
            widest = max(widest, made.nbytes)

    hooks = [module.register_forward_hook(look) for module in network.modules()]
    try:
        encode()
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, min(_MOST_AT_ONCE, _REUSED // widest))


def casting(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a forward pass runs: bf16 where asked for, else exactly float32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    if device.type == "cuda":
        # Its convolutions would round to TF32's ten bits.
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def downloading(spec: ModelSpec) -> Iterator[None]:
    """Around whatever may fetch weights from a hub: say what to do when it cannot be reached.

    Raises
    ------
    CapError
        Instead of the network's errors.
    """
    import huggingface_hub.errors
    import requests

    try:
        yield
    # Hubs are reached through several libraries, each with errors of its own.
    except (
        OSError,
        RuntimeError,
        ValueError,
        requests.RequestException,
        huggingface_hub.errors.HfHubHTTPError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        msg = (
            f"the weights of {spec} could not be fetched ({reason}); get them elsewhere and give "
            f"the file: {_from_file(spec)}"
        )
        raise CapError(msg) from error


def _from_file(spec: ModelSpec) -> str:
    """The SPEC of published weights in a file, and which preprocessing it has then."""
    whole = f"{spec.family}:{spec.architecture}"
    if spec.weights is None:
        return f"{whole}:FILE"
    if spec.family == "timm":
        return f"{whole}.{spec.weights}:FILE, which has the preprocessing of {spec.weights}"
    return (
        f"{whole}:FILE, which has the architecture's default preprocessing (mean, std, resizing); "
        f"that of {spec.weights} may be another"
    )


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by name, in its order, without wrappers around them.

    Raises
    ------
    CapError
        If the file is no checkpoint, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        SafetensorError,
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
    ) as error:
        msg = f"{path.name} is no checkpoint of tensors alone; nothing else in it is ever run"
        raise CapError(msg) from error
    for name in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not found:
        msg = f"{path.name} holds no tensors by name"
        raise CapError(msg)
    return {
        str(name).removeprefix("module."): value
        for name, value in found.items()
        if isinstance(value, torch.Tensor)
    }


def read_metadata(path: Path) -> dict[str, str]:
    """What a checkpoint says beside its tensors; nothing where it is no safetensors file."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        msg = f"{path.name} is no checkpoint of tensors alone; nothing else in it is ever run"
        raise CapError(msg) from error


def write_checkpoint(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.torch import save_file

    lying = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(lying, temporary, dict(metadata))
