"""What `datasets` is told of a release's columns, so that it decodes images by itself.

It reads this from the metadata of each Parquet file, and from the YAML head of the dataset card.
"""

from __future__ import annotations

import json
from typing import Any

from manifests.schema import RELEASE, SPLIT

__all__ = ["card_features", "parquet_metadata"]

_IMAGE = "image"


def _dtypes() -> dict[str, str]:
    """Types of the columns other than the image, in the words of `datasets`."""
    return {field.name: str(field.type) for field in SPLIT.schema}


def card_features() -> list[dict[str, str]]:
    """The columns as `dataset_info` of a card lists them."""
    listed = [{"name": name, "dtype": dtype} for name, dtype in _dtypes().items()]
    return [*listed, {"name": _IMAGE, "dtype": "image"}]


def parquet_metadata() -> dict[bytes, bytes]:
    """Key-value metadata of a release's Parquet files: cap's own, and those for `datasets`."""
    features: dict[str, Any] = {
        name: {"dtype": dtype, "_type": "Value"} for name, dtype in _dtypes().items()
    }
    info = {"info": {"features": {**features, _IMAGE: {"_type": "Image"}}}}
    return {**RELEASE.metadata(), b"huggingface": json.dumps(info).encode()}
