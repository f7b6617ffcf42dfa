"""A catalogue made of a folder of class folders, as `cap collect --source folder` takes it.

Given ROOT/CLASS_NAME/* and the label space, gives a catalogue in which every file is the photo of
one observation, of a taxon of its class, by one of many observers; ROOT/metadata.csv tells licence,
observer and times where it has them. So the same photos can be collected from the folder and from
a local iNaturalist. Added are decoys, which a collector must tell from them; each is a photo whose
id is at least `FIRST_DECOY`:

- further photos of an observation, some without a licence, one of them before the photo wanted;
- per class, an observation that needs an identification, one of a captive animal, one whose photo
  has no licence, one whose photo allows no derivatives, and one of a plant with the animal's name.

To every taxon of the label space come a taxon below it (which a third of the observations are of),
a plant of the same name, and an inactive taxon of the same name, which nothing is observed of.
Everything follows from the seed and the files; observations are numbered by time.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from manifests.errors import CapError
from manifests.vocabulary import LabelSpace
from manifests.vocabulary import Taxon as LabelTaxon
from pipeline.collect.folder import list_folder, read_metadata
from pipeline.demo.server.catalogue import Catalogue, Observation, Observer, Photo, Taxon
from pipeline.parameters import CollectParameters

__all__ = ["FIRST_DECOY", "folder_catalogue"]

FIRST_DECOY = 900_000_000
"""Photos with this id or a higher one are decoys."""

_FIRST_PHOTO, _FIRST_OBSERVATION, _FIRST_OBSERVER = 1_000_001, 20_000_001, 5001
_LIFE, _ANIMALS, _PLANTS = 48460, 1, 47126  # as on iNaturalist
_FIRST_TAXON, _TAXA_PER_NAME = 100_001, 4
_SHARE_BELOW = 1 / 3
_OPEN = ("cc0", "cc-by", "cc-by-nc")
_PLACES = ((97391,), (97394,))
_FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
_MINUTES = 4 * 365 * 24 * 60

_PROLIFIC = Observer(4001, "prolific", "P. Rolific")
_OBSERVERS = tuple(
    # Half of them give no name, as on iNaturalist.
    Observer(3001 + number, f"observer{number:02d}", f"Observer {number}" if number % 2 else None)
    for number in range(40)
)


@dataclass(frozen=True)
class _Namesakes:
    """A taxon of the label space and the taxa that a search for its name finds besides."""

    accepted: Taxon
    below: Taxon
    plant: Taxon
    inactive: Taxon

    def __iter__(self) -> Iterator[Taxon]:
        return iter((self.accepted, self.below, self.plant, self.inactive))


def _namesakes(taxon: LabelTaxon, first_id: int) -> _Namesakes:
    rank = taxon.rank or "species"
    below = "subspecies" if rank in {"species", "subspecies"} else "species"
    line = (_LIFE, _ANIMALS, first_id)
    return _Namesakes(
        Taxon(first_id, taxon.name, rank, line),
        Taxon(first_id + 1, f"{taxon.name} minor", below, (*line, first_id + 1)),
        Taxon(first_id + 2, taxon.name, rank, (_LIFE, _PLANTS, first_id + 2)),
        Taxon(first_id + 3, taxon.name, rank, (_LIFE, _ANIMALS, first_id + 3), is_active=False),
    )


def _all_namesakes(labels: LabelSpace) -> dict[str, _Namesakes]:
    """The taxa of a label space by name; one that two classes share is one taxon."""
    found: dict[str, _Namesakes] = {}
    for index in sorted(labels.taxa):
        for taxon in labels.taxa[index]:
            if taxon.name not in found:
                first_id = _FIRST_TAXON + _TAXA_PER_NAME * len(found)
                found[taxon.name] = _namesakes(taxon, first_id)
    return found


def _dimensions(path: Path) -> tuple[int, int] | None:
    """Width and height by the file's header; None for what is no image."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        return None


class _Builder:
    """Turns files into observations that are not numbered yet."""

    def __init__(self, root: Path, metadata: Mapping[str, Mapping[str, Any]], seed: int) -> None:
        self.root = root
        self.metadata = metadata
        self.seed = seed
        self._photo_ids = itertools.count(_FIRST_PHOTO)
        self._decoy_ids = itertools.count(FIRST_DECOY)
        people = {str(row["creator_id"]) for row in metadata.values() if row.get("creator_id")}
        self._observer_ids = {
            key: int(key) if key.isdecimal() else _FIRST_OBSERVER + number
            for number, key in enumerate(sorted(people))
        }

    def chance(self, *subject: object) -> random.Random:
        """The generator of one subject."""
        return random.Random(":".join(map(str, (self.seed, *subject))))  # noqa: S311

    def _observer(self, described: Mapping[str, Any], rng: random.Random) -> Observer:
        key, name = described.get("creator_id"), described.get("creator")
        invented = rng.choice(_OBSERVERS)
        if not key:
            return invented
        login = re.sub(r"\W+", "-", name or key).strip("-").lower() if key.isdecimal() else key
        return Observer(self._observer_ids[key], login, name)

    def observe(self, relative: str, taxa: list[_Namesakes], decoys: bool) -> Observation:
        """The observation that a file's photo is of."""
        rng = self.chance(relative)
        described = self.metadata.get(relative, {})
        observer = self._observer(described, rng)
        seen = _FIRST_DAY + timedelta(minutes=rng.randrange(_MINUTES))
        seen = described.get("observed_at") or seen
        later = seen + timedelta(minutes=rng.randrange(10, 4000))
        code = rng.choice(_OPEN)
        if described.get("license", "unknown") != "unknown":
            code = described["license"]
        path = self.root / relative
        photo = Photo(
            id=next(self._photo_ids),
            content=path,
            license_code=None if code == "all-rights-reserved" else code,
            extension=path.suffix.removeprefix(".") or "jpg",
            dimensions=_dimensions(path),
        )
        found = rng.choice(taxa)
        taxon = found.below if rng.random() < _SHARE_BELOW else found.accepted
        place_ids = rng.choice(_PLACES)
        photos = self._with_decoys(photo, rng) if decoys else (photo,)
        return Observation(
            id=0,
            taxon=taxon,
            observer=observer,
            photos=photos,
            created_at=described.get("uploaded_at") or later,
            observed_on=seen.date(),
            time_observed_at=seen,
            place_ids=place_ids,
        )

    def _decoy(self, photo: Photo, license_code: str | None) -> Photo:
        return replace(photo, id=next(self._decoy_ids), license_code=license_code)

    def _with_decoys(self, photo: Photo, rng: random.Random) -> tuple[Photo, ...]:
        """In three observations of ten, the photo among others of the same bytes."""
        case = rng.randrange(10)
        if case == 0:
            return self._decoy(photo, None), photo
        if case == 1:
            return photo, self._decoy(photo, photo.license_code)
        if case == 2:  # noqa: PLR2004 - the third case
            return photo, self._decoy(photo, photo.license_code), self._decoy(photo, None)
        return (photo,)

    def _decoy_like(
        self, row: Observation, subject: str, license_code: str | None, **changes: Any
    ) -> Observation:
        """An observation at another time, by somebody else, of a photo with the same bytes."""
        photo = self._decoy(row.photos[0], license_code)
        rng = self.chance(subject, photo.id)
        seen = _FIRST_DAY + timedelta(minutes=rng.randrange(_MINUTES))
        base = replace(
            row,
            observer=rng.choice(_OBSERVERS),
            photos=(photo,),
            created_at=seen + timedelta(hours=1),
            observed_on=seen.date(),
            time_observed_at=seen,
        )
        return replace(base, **changes)

    def class_decoys(self, row: Observation, plant: Taxon) -> Iterator[Observation]:
        """Observations that a collector must leave out."""
        yield self._decoy_like(row, "needs_id", "cc-by", quality_grade="needs_id")
        yield self._decoy_like(row, "captive", "cc-by", quality_grade="casual", captive=True)
        yield self._decoy_like(row, "unlicensed", None)
        yield self._decoy_like(row, "no derivatives", "cc-by-nd")
        yield self._decoy_like(row, "plant", "cc-by", taxon=plant)

    def prolific(self, rows: list[Observation], count: int) -> Iterator[Observation]:
        """Observations of one person."""
        for row in itertools.islice(itertools.cycle(rows), count):
            yield self._decoy_like(row, "prolific", "cc-by", observer=_PROLIFIC)


def folder_catalogue(
    root: Path, labels: LabelSpace, *, decoys: bool = True, prolific: int = 0, seed: int = 0
) -> Catalogue:
    """The catalogue of a folder of class folders.

    Parameters
    ----------
    root
        Folder with CLASS_NAME/* and, if wanted, metadata.csv.
    labels
        The label space; each class with a folder needs a taxon in it.
    decoys
        Whether to add photos and observations that a collector must tell from the others.
    prolific
        Observations per class to add that one person made (login `prolific`); nothing else is
        wrong with them, and their photos are decoys by their ids.
    seed
        What observers, times and places are drawn from where metadata.csv does not tell.

    Raises
    ------
    CapError
        If the folder cannot be listed, or a class has no taxon.
    """
    listing = list_folder(root, labels, CollectParameters())
    builder = _Builder(listing.root, read_metadata(listing.root), seed)
    namesakes = _all_namesakes(labels)
    classes: dict[int, list[Observation]] = {}
    for file in listing.photos:
        taxa = [namesakes[taxon.name] for taxon in labels.taxa.get(file.class_index, ())]
        if not taxa:
            msg = (
                f"the class {file.class_name!r} of {labels.name} has no taxon; "
                "name one in the column 'taxon' of the label space"
            )
            raise CapError(msg)
        if file.error is None:
            row = builder.observe(file.relative, taxa, decoys)
            classes.setdefault(file.class_index, []).append(row)
    rows = [row for found in classes.values() for row in found]
    for index, found in classes.items():
        if decoys:
            plant = namesakes[labels.taxa[index][0].name].plant
            rows.extend(builder.class_decoys(found[0], plant))
        rows.extend(builder.prolific(found, prolific))
    rows.sort(key=lambda row: (row.created_at, row.photos[0].id))
    roots = (
        Taxon(_LIFE, "Life", "stateofmatter", (_LIFE,)),
        Taxon(_ANIMALS, "Animalia", "kingdom", (_LIFE, _ANIMALS), common_name="Animals"),
        Taxon(_PLANTS, "Plantae", "kingdom", (_LIFE, _PLANTS), common_name="Plants"),
    )
    return Catalogue(
        taxa=(*roots, *itertools.chain.from_iterable(namesakes.values())),
        observations=tuple(
            replace(row, id=_FIRST_OBSERVATION + number) for number, row in enumerate(rows)
        ),
    )
