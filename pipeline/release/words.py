"""What a release says of itself: how it was made, what it is for, and what to beware of.

The card says it to people, the Croissant file to machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Words", "describe"]

_SOURCES = {
    "inaturalist": "iNaturalist's API",
    "open-data": "iNaturalist's monthly Open Data tables",
    "folder": "a folder of photos",
}
_SETTLED = {
    "single": "by one annotator",
    "majority": "by a majority of annotators",
    "adjudication": "by an adjudicator, where annotators disagreed",
    "import": "by tags that were brought in from a file",
}


@dataclass(frozen=True)
class Words:
    """Sentences for the card and the Croissant file."""

    summary: str
    collection: str
    preprocessing: str
    annotation: str
    uses: list[str]
    caveats: list[str]
    limitations: list[str]
    personal: str
    maintenance: str
    citation: str


def _count(number: int, what: str, several: str | None = None) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {several or f'{what}s'}"


def describe(manifest: Mapping[str, Any]) -> Words:
    """The sentences that follow from a release's `release.json`."""
    made = manifest["construction"]
    controlled = bool(made["partitions"])
    return Words(
        summary=(
            f"{_count(manifest['photos'], 'photo')} of "
            f"{_count(manifest['classes'], 'animal class', 'animal classes')}, "
            "each class on a background where a model does well (`common`) and one where it does "
            "badly (`counter`). The drop in accuracy between the two shows how much a model leans "
            "on the background."
        ),
        collection=_collection(manifest),
        preprocessing=_preprocessing(made),
        annotation=_annotation(made),
        uses=[
            "To measure how much an image classifier or a vision-language model leans on the "
            "background, by its accuracy on `common` and on `counter`.",
            "Not to train the model that is then measured on the same photos, and not to identify "
            "species or people.",
        ],
        caveats=_caveats(manifest, controlled=controlled),
        limitations=[
            "A drop need not be caused by the background alone: pose, size and the look-alikes of "
            "a class differ between the groups too.",
            f"The classes are {manifest['classes']} animals that were selected because their "
            "accuracy depends on the background; they stand for no wider set of classes.",
            f"Backgrounds are one of {_count(len(made['backgrounds']), 'label')} for each photo, "
            "although a photo may show several.",
        ],
        personal=_personal(manifest),
        maintenance=(
            "Versions are semantic, and CHANGES.md tells what changed: results of another major "
            "version are not comparable. Photos that their creators take back or relicense are "
            "left out of the next version."
        ),
        citation=_citation(manifest),
    )


def _collection(manifest: Mapping[str, Any]) -> str:
    made = manifest["construction"]
    sources = ", ".join(
        f"{_count(count, 'photo')} from {_SOURCES.get(name, name)}"
        for name, count in made["sources"].items()
    )
    unknown = made["photos_without_observer"]
    if made["observers"]:
        text = f"{sources}; taken by {_count(made['observers'], 'observer')}"
        text += f", {unknown} by unknown ones" if unknown else ""
    else:
        text = f"{sources}; nothing is known of who took them"
    if made["observed"]:
        first, last = made["observed"]
        text += f" between {first} and {last}" if first != last else f" on {first}"
    return f"{text}."


def _preprocessing(made: Mapping[str, Any]) -> str:
    removed = (
        "Photos that repeat another, exactly or nearly (perceptual hash), were removed."
        if made["deduplicated"]
        else "Photos that repeat another were not looked for."
    )
    return (
        f"{removed} The bytes of a photo are those that its source served; nothing was resized or "
        "compressed again."
    )


def _annotation(made: Mapping[str, Any]) -> str:
    labels = made["labels"]
    if labels is None:
        return "How the backgrounds were tagged is not recorded."
    settled = ", ".join(
        f"{count} {_SETTLED.get(name, name)}" for name, count in labels["settled_by"].items()
    )
    return (
        f"The background of each photo was tagged: {settled}; "
        f"annotators per photo: {labels['annotators_per_photo']:g} on average."
    )


def _caveats(manifest: Mapping[str, Any], *, controlled: bool) -> list[str]:
    model = manifest["chosen_by"]["run"]
    if controlled:
        chosen = (
            f"The pairs of backgrounds were chosen by the accuracy of one model, {model}, on the "
            "photos of `validation`: its accuracies there overstate the drop. Report on `test`."
        )
    else:
        chosen = (
            f"The pairs of backgrounds were chosen by the accuracy of one model, {model}, on these "
            "very photos: its drop is larger than another model's or other photos' would be."
        )
    found = [
        chosen,
        "Observers photograph what they find beautiful or rare, near roads and cities, and mostly "
        "in rich countries; so do these photos.",
    ]
    if manifest["left_out"]:
        found.append(_left_out(manifest))
    if manifest["classes_of_one_group"]:
        found.append(
            f"{_count(len(manifest['classes_of_one_group']), 'class', 'classes')} of "
            f"{manifest['classes']} with photos of one group only: "
            f"{', '.join(manifest['classes_of_one_group'])}. The drop is not between the same "
            "classes, unless these are left aside."
        )
    if not controlled:
        found.append("Photos of one observer may be in both groups; intervals resample observers.")
    return found


def _left_out(manifest: Mapping[str, Any]) -> str:
    """What the numbers of the whole split, which the card shows, have to do with the release."""
    photos = _count(sum(manifest["left_out"].values()), "photo")
    lost = len(manifest["pairs"]) - manifest["classes"]
    classes = f", among them all of {_count(lost, 'class', 'classes')}" if lost > 0 else ""
    return (
        f"{photos} of the split could not be released{classes}. The numbers of photos, accuracies "
        "and drops of the groups are those of the whole split."
    )


def _personal(manifest: Mapping[str, Any]) -> str:
    located = manifest["photos_with_location"]
    where = f" Photos whose EXIF data tell where they were taken: {located}." if located else ""
    return f"Creators are named where they are known. People may be in the picture.{where}"


def _citation(manifest: Mapping[str, Any]) -> str:
    who = f"{manifest['creator']}: " if manifest["creator"] else ""
    when = f" ({manifest['published'][:4]})" if manifest["published"] else ""
    where = f" {manifest['homepage']}" if manifest["homepage"] else ""
    return (
        f"{who}{manifest['name']}, version {manifest['version']}{when}.{where} After Wang et al., "
        '"A Sober Look at the Robustness of CLIPs to Spurious Features" (NeurIPS 2024).'
    )
