"""The page that goes with exported photos: whence they come, their licences, how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from manifests.tables import count_by
from manifests.vocabulary import licenses, sharing_licenses
from pipeline.export.layout import Layout

__all__ = ["readme"]

_PAGE = """{front_matter}# {name}, in the layout `{layout}`

{photos} photos ({groups}) of the release {name}, version {version}, with their own bytes.
{notice}
## Licences

The photos keep their own licences. `ATTRIBUTION.csv` names for each file the creator, the licence
and the source; pass it on with the photos.

{licenses}

## Reading it
{reading}"""

_NOTICE = """
**Not for redistribution**: some photos have a licence that does not allow passing them on, or none
that is known.
"""


def readme(layout: Layout, release: Mapping[str, Any], rows: pa.Table) -> str:
    """The text of `README.md`.

    Parameters
    ----------
    layout
        How the photos are laid out.
    release
        Content of the release's `release.json`.
    rows
        Rows of `split` that were exported.
    """
    known = licenses()
    counted = count_by(rows, "license")
    lines = [
        f"- {name}{f' <{known[name].url}>' if known[name].url else ''}: {count} photos"
        for name, count in counted.items()
    ]
    return _PAGE.format(
        front_matter=layout.front_matter,
        name=release["name"],
        layout=layout.name,
        photos=rows.num_rows,
        groups=", ".join(f"{count} {name}" for name, count in count_by(rows, "group").items()),
        version=release["version"],
        notice="" if set(counted) <= set(sharing_licenses()) else _NOTICE,
        licenses="\n".join(lines),
        reading=layout.reading,
    )
