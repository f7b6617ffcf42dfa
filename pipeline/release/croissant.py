"""`croissant.json`: the release described for machines, in MLCommons' Croissant format.

Each Parquet file has its digest; the records are described once, over all files. The fields of the
responsible-AI extension tell how photos and tags were gathered, and what to beware of.

Source: Croissant 1.0 and Croissant RAI 1.0 (mlcommons.org/croissant).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from manifests.schema import RELEASE
from manifests.vocabulary import licenses
from pipeline.release.words import Words

if TYPE_CHECKING:
    import mlcroissant

__all__ = ["CROISSANT_FILE", "croissant"]

CROISSANT_FILE = "croissant.json"
_SPECIFICATIONS = (
    "http://mlcommons.org/croissant/1.0",
    "http://mlcommons.org/croissant/RAI/1.0",
)

_PARQUET = "application/x-parquet"
_FILES, _RECORDS = "parquet-files", "photos"


def croissant(manifest: Mapping[str, Any], words: Words) -> str:
    """The file's text.

    Parameters
    ----------
    manifest
        Content of the release's `release.json`.
    words
        What the card says of the release.
    """
    import mlcroissant as mlc

    known = licenses()
    with warnings.catch_warnings():
        # It warns of what a release need not have, such as an address.
        warnings.simplefilter("ignore")
        metadata = mlc.Metadata(
            conforms_to=list(_SPECIFICATIONS),
            name=manifest["name"],
            description=words.summary,
            version=manifest["version"],
            license=[known[code].url or known[code].name for code in manifest["licenses"]],
            url=manifest["homepage"],
            creators=[mlc.Organization(name=manifest["creator"])] if manifest["creator"] else [],
            date_published=manifest["published"],
            keywords=["spurious correlation", "background", "robustness", "image classification"],
            cite_as=words.citation,
            distribution=_distribution(mlc, manifest),
            record_sets=[_records(mlc)],
            data_collection=words.collection,
            data_collection_type=["Secondary data analysis", "Manual human curation"],
            data_preprocessing_protocol=[words.preprocessing],
            data_annotation_protocol=[words.annotation],
            data_biases=words.caveats,
            data_limitations=words.limitations,
            data_use_cases=words.uses,
            personal_sensitive_information=[words.personal],
            data_release_maintenance_plan=words.maintenance,
        )
        described = metadata.to_json()
    return f"{json.dumps(described, indent=2, ensure_ascii=False)}\n"


def _distribution(mlc: mlcroissant, manifest: Mapping[str, Any]) -> list[Any]:
    files = [
        mlc.FileObject(
            id=shard["file"],
            name=shard["file"],
            content_url=shard["file"],
            content_size=f"{shard['bytes']} B",
            encoding_formats=[_PARQUET],
            sha256=shard["sha256"],
        )
        for shard in manifest["shards"]
    ]
    every = mlc.FileSet(
        id=_FILES, name=_FILES, includes=["data/*.parquet"], encoding_formats=[_PARQUET]
    )
    return [*files, every]


def _records(mlc: mlcroissant) -> Any:
    types = {pa.string(): mlc.DataType.TEXT, pa.int32(): mlc.DataType.INTEGER}

    def field(column: pa.Field) -> Any:
        image = column.name == "image"
        return mlc.Field(
            id=f"{_RECORDS}/{column.name}",
            name=column.name,
            description=RELEASE.meaning(column.name),
            data_types=[mlc.DataType.IMAGE_OBJECT if image else types[column.type]],
            source=mlc.Source(
                file_set=_FILES,
                extract=mlc.Extract(column=column.name),
                transforms=[mlc.Transform(json_path="bytes")] if image else [],
            ),
        )

    return mlc.RecordSet(
        id=_RECORDS,
        name=_RECORDS,
        description="The released photos, one record each.",
        fields=[field(column) for column in RELEASE.schema],
    )
