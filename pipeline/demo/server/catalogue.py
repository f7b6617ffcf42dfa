"""What the local iNaturalist serves: taxa, observers, observations and their photos.

A `Catalogue` is given once and never changes. Everything in it is plain data, so that it can be
handed to a server in a process of its own; a photo that is made by a function then needs one that
pickles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from pathlib import Path

__all__ = ["RANK_LEVELS", "SIZES", "Catalogue", "Observation", "Observer", "Photo", "Taxon"]

SIZES = ("original", "large", "medium", "small", "square")
"""Names of the sizes that a photo can be asked for in, from the largest."""

RANK_LEVELS: Mapping[str, int] = {
    "stateofmatter": 100,
    "kingdom": 70,
    "phylum": 60,
    "subphylum": 57,
    "class": 50,
    "subclass": 47,
    "order": 40,
    "suborder": 37,
    "infraorder": 35,
    "superfamily": 33,
    "epifamily": 32,
    "family": 30,
    "subfamily": 27,
    "tribe": 25,
    "genus": 20,
    "species": 10,
    "subspecies": 5,
}
"""iNaturalist's number for each rank: the higher, the wider the taxon."""

Content = Path | Callable[[], bytes]
"""Where the bytes of a photo come from: a file, or a function."""


@dataclass(frozen=True)
class Taxon:
    """A taxon; `ancestor_ids` go from the root down and end with the taxon's own id."""

    id: int
    name: str
    rank: str
    ancestor_ids: tuple[int, ...]
    is_active: bool = True
    common_name: str | None = None


@dataclass(frozen=True)
class Observer:
    """A person who observes; many give no name."""

    id: int
    login: str
    name: str | None = None


@dataclass(frozen=True)
class Photo:
    """A photo.

    Attributes
    ----------
    id
        Number of the photo.
    content
        Its bytes, for every size that `sizes` does not name: nothing is scaled.
    license_code
        A Creative Commons code; None where all rights are reserved.
    extension
        End of its address: jpg, jpeg, png, webp.
    dimensions
        Width and height in pixels; None where they are not known.
    sizes
        Bytes of its own for some of `SIZES`.
    """

    id: int
    content: Content
    license_code: str | None = "cc-by"
    extension: str = "jpg"
    dimensions: tuple[int, int] | None = (2048, 1536)
    sizes: Mapping[str, Content] = field(default_factory=dict)

    def read(self, size: str) -> bytes:
        """The bytes to answer with for one of `SIZES`."""
        content = self.sizes.get(size, self.content)
        return content.read_bytes() if isinstance(content, Path) else content()


@dataclass(frozen=True)
class Observation:
    """An observation of one taxon by one observer, with its photos in the observer's order."""

    id: int
    taxon: Taxon
    observer: Observer
    photos: tuple[Photo, ...]
    created_at: datetime
    observed_on: date | None = None
    time_observed_at: datetime | None = None
    quality_grade: str = "research"
    captive: bool = False
    place_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """Everything that a server serves; taxa without observations are listed too."""

    taxa: tuple[Taxon, ...]
    observations: tuple[Observation, ...]

    @cached_property
    def taxon(self) -> dict[int, Taxon]:
        """Each taxon by its id."""
        return {taxon.id: taxon for taxon in self.taxa}

    @cached_property
    def photo(self) -> dict[int, Photo]:
        """Each photo by its id."""
        return {photo.id: photo for row in self.observations for photo in row.photos}

    @cached_property
    def observed(self) -> Counter[int]:
        """Observations of each taxon, those of its descendants among them, by its id."""
        return Counter(taxon for row in self.observations for taxon in row.taxon.ancestor_ids)
