"""Catalogues for the local iNaturalist: small photos of toy species, made as they are asked for."""

from __future__ import annotations

import functools
import io
from datetime import UTC, datetime, timedelta

import numpy as np
from PIL import Image

from manifests.vocabulary import label_space
from pipeline.demo.server import Catalogue, Observation, Observer, Photo, Taxon

ANIMALIA = (48460, 1)
TOADS = Taxon(20, "Bufo", "genus", (*ANIMALIA, 20))
TOAD = Taxon(21, "Bufo bufo", "species", (*ANIMALIA, 20, 21))
NEWT = Taxon(31, "Triturus cristatus", "species", (*ANIMALIA, 31))
START = datetime(2024, 1, 1, tzinfo=UTC)
SPACE = "name,taxon\ntoad,Bufo bufo\nnewt,Triturus cristatus\nhouse,\n"


@functools.cache
def body(number: int, size: tuple[int, int] = (96, 72)) -> bytes:
    """The JPEG of photo `number`."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


class Body:
    """The content of photo `number`, drawn when it is asked for."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self) -> bytes:
        return body(self.number)


def observation(number: int, taxon: Taxon = TOAD, **changes) -> Observation:
    """Observation `number` with the photo of that number, by an observer of its own."""
    seen = START + timedelta(hours=number)
    fields = {
        "observer": Observer(number, f"login{number}", f"Person {number}"),
        "photos": (Photo(number, Body(number), "cc-by", dimensions=(96, 72)),),
        "created_at": seen + timedelta(hours=1),
        "observed_on": seen.date(),
        "time_observed_at": seen,
    }
    return Observation(id=number, taxon=taxon, **(fields | changes))


def photo_catalogue(count: int, *more: Observation) -> Catalogue:
    """Toads 1 to `count`, and whatever else."""
    rows = [observation(number) for number in range(1, count + 1)]
    return Catalogue((TOADS, TOAD, NEWT), tuple(sorted([*rows, *more], key=lambda row: row.id)))


def make_space(root) -> None:
    """A workspace's label space of toads and newts, and a house that is no animal."""
    (root / "space.csv").write_text(SPACE)
    (root / "cap.toml").write_text('label_space = "space.csv"\n')
    assert label_space("space.csv", root).taxa
