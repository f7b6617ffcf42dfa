"""Small tables as iNaturalist Open Data publishes them."""

from __future__ import annotations

import gzip
from pathlib import Path
from uuid import UUID

TAXA = [
    # taxon_id, ancestry, rank_level, rank, name, active
    (48460, "", 100, "stateofmatter", "Life", "true"),
    (1, "48460", 70, "kingdom", "Animalia", "true"),
    (47126, "48460", 70, "kingdom", "Plantae", "true"),
    (10, "48460/1", 20, "genus", "Lynx", "true"),
    (11, "48460/1/10", 10, "species", "Lynx lynx", "true"),
    (12, "48460/1/10/11", 5, "subspecies", "Lynx lynx dinniki", "true"),
    (13, "48460/1/10", 10, "species", "Lynx rufus", "true"),
    (14, "48460/1/10", 10, "species", "Lynx borealis", "false"),
    (110, "48460/1", 10, "species", "Felis catus", "true"),
    (20, "48460/47126", 20, "genus", "Oenanthe", "true"),
    (21, "48460/1", 20, "genus", "Oenanthe", "true"),
    (30, "48460/1", 20, "genus", "Bufo", "true"),
    (31, "48460/1/30", 15, "subgenus", "Bufo", "true"),
]
HEADERS = {
    "taxa": "taxon_id ancestry rank_level rank name active",
    "observers": "observer_id login name",
    "observations": "observation_uuid observer_id latitude longitude positional_accuracy taxon_id "
    "quality_grade observed_on anomaly_score",
    "photos": "photo_uuid photo_id observation_uuid observer_id extension license width height "
    "position",
}


def uuid(number: int) -> str:
    return str(UUID(int=number))


def observation(number: int, taxon: int, grade: str = "research", day: str = "2024-05-06"):
    return (uuid(number), 1, "1.5", "2.5", "", taxon, grade, day, "0.9")


def photo(photo_id, observation, observer="1", code="CC-BY", position=0, extension="jpg"):
    fields = (observer, extension, code, 10, 10, position)
    return (uuid(10**6 + int(photo_id)), photo_id, uuid(observation), *fields)


def write_tables(folder: Path, suffix=".csv.gz", shuffled=None, **tables) -> Path:
    """Write the four tables; `shuffled` puts the columns into another order."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "taxa": TAXA,
        "observers": [(1, "ann", "Ann"), (2, "bo", "None"), (3, "chi", "")],
        "observations": [],
        "photos": [],
    } | tables
    for table, lines in rows.items():
        header = HEADERS[table].split()
        order = list(range(len(header)))
        if shuffled is not None:
            shuffled.shuffle(order)
        text = "".join(
            "\t".join(str(line[column]) for column in order) + "\n" for line in [header, *lines]
        )
        data = text.encode()
        (folder / (table + suffix)).write_bytes(
            gzip.compress(data) if suffix.endswith("gz") else data
        )
    return folder
