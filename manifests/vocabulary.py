"""The words that tables may use: label spaces, backgrounds, licences, and the taxa of classes.

Everything here is read from `manifests/reference/*.csv`, once per process. A label space is an
ordered list of class names; `class_index` in every table is a position in it.
"""

from __future__ import annotations

import csv
import difflib
import functools
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePath

from manifests.errors import CapError, UnknownNameError

__all__ = [
    "Animal",
    "Background",
    "LabelSpace",
    "License",
    "Taxon",
    "allowed_licenses",
    "animals",
    "attribution_text",
    "backgrounds",
    "default_licenses",
    "label_space",
    "licenses",
    "read_label_space",
    "read_reference",
    "resolve_background",
    "resolve_license",
    "sharing_licenses",
]


def read_reference(name: str) -> list[dict[str, str]]:
    """Rows of `manifests/reference/<name>.csv` as dictionaries of text."""
    text = (resources.files("manifests") / "reference" / f"{name}.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def _split(text: str) -> tuple[str, ...]:
    """Values of a cell that holds several, separated by `|`."""
    return tuple(part.strip() for part in text.split("|") if part.strip())


def _fold(text: str) -> str:
    """A name as it is compared: in lower case, with one space for spaces, hyphens, underscores.

    Accents are one with their letters, as macOS does not write them in names of files.
    """
    composed = unicodedata.normalize("NFC", text)
    return re.sub(r"[\s_\-]+", " ", composed).strip().casefold()


def _nearest(text: str, names: dict[str, str]) -> str:
    """Up to three known names that look like `text`, as the end of an error message."""
    close = difflib.get_close_matches(_fold(text), names, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(dict.fromkeys(names[name] for name in close))}" if close else ""


@dataclass(frozen=True)
class Taxon:
    """A group of organisms as iNaturalist knows it: scientific name, and rank where it is known."""

    name: str
    rank: str | None = None


@dataclass(frozen=True)
class LabelSpace:
    """An ordered list of classes that a model chooses from.

    Attributes
    ----------
    name
        `imagenet1k`, `backgrounds`, or the stem of the file it was read from.
    names
        What goes into a prompt, by class index.
    ids
        WordNet ids (`n02134084`), or empty strings.
    synonyms
        Further names by which a person may mean the class.
    taxa
        The taxa that the class stands for, by class index; none for what is no taxon.
    prompts
        Whole sentences to ask a contrastive model with, by class index; empty where the space has
        none, and its names go into a template.
    definitions
        What a class is, for annotators, by class index; an empty string where that is unknown.
    """

    name: str
    names: tuple[str, ...]
    ids: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    taxa: Mapping[int, tuple[Taxon, ...]] = field(default_factory=dict)
    prompts: tuple[tuple[str, ...], ...] = ()
    definitions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the ordered class names, as hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.names).encode()).hexdigest()

    @functools.cached_property
    def _lookup(self) -> dict[str, tuple[int, ...]]:
        # Names win over ids and synonyms, so that "crane bird" or "tiger" is never ambiguous.
        lookup: dict[str, tuple[int, ...]] = {}
        for index, names in enumerate(zip(self.ids, self.synonyms, strict=True)):
            for text in (names[0], *names[1]):
                key = _fold(text)
                if key and index not in lookup.get(key, ()):
                    lookup[key] = (*lookup.get(key, ()), index)
        named: dict[str, tuple[int, ...]] = {}
        for index, name in enumerate(self.names):
            named[_fold(name)] = (*named.get(_fold(name), ()), index)
        return lookup | named

    def index_of(self, text: str) -> int:
        """Class index for a name, its snake_case form, a synonym or a WordNet id.

        Raises
        ------
        UnknownNameError
            If nothing matches (the nearest names are in the message) or several classes do.
        """
        found = self._lookup.get(_fold(text), ())
        if len(found) == 1:
            return found[0]
        if found:
            # ImageNet has two classes called missile, and two called sunglasses.
            choices = ", ".join(f"{self.names[i]!r} ({self.ids[i] or i})" for i in found)
            msg = f"class {text!r} may mean {choices} in {self.name}; write one of these"
            raise UnknownNameError(msg)
        spelled = {key: self.names[indices[0]] for key, indices in self._lookup.items()}
        msg = f"no class {text!r} in {self.name}{_nearest(text, spelled)}"
        raise UnknownNameError(msg)

    def calls(self, index: int, name: str) -> bool:
        """Whether a class of this number has that name here, or one of its other names."""
        if not 0 <= index < len(self.names):
            return False
        own = (self.names[index], self.ids[index], *self.synonyms[index])
        return name == own[0] or _fold(name) in map(_fold, own)

    def contradicts(self, index: int, name: str) -> bool:
        """Whether a class of this number cannot have that name: there is none, or it is another's.

        A name that is not known here may be the class's.
        """
        if self.calls(index, name):
            return False
        return not 0 <= index < len(self.names) or _fold(name) in self._lookup


def _reference_taxa() -> dict[int, tuple[Taxon, ...]]:
    """Taxa of ImageNet's animal classes, where they have any."""
    taxa: dict[int, tuple[Taxon, ...]] = {}
    for row in read_reference("taxa"):
        if row["status"] != "none":
            index = int(row["class_index"])
            taxa[index] = (*taxa.get(index, ()), Taxon(row["taxon"], row["rank"]))
    return taxa


@functools.cache
def _imagenet1k() -> LabelSpace:
    rows = read_reference("imagenet1k")
    return LabelSpace(
        name="imagenet1k",
        names=tuple(row["name"] for row in rows),
        ids=tuple(row["wordnet_id"] for row in rows),
        synonyms=tuple(_split(row["synonyms"]) for row in rows),
        taxa=_reference_taxa(),
        definitions=tuple(row["definition"] for row in rows),
    )


def _backgrounds_space() -> LabelSpace:
    rows = backgrounds()
    return LabelSpace(
        name="backgrounds",
        names=tuple(row.name for row in rows),
        ids=("",) * len(rows),
        synonyms=tuple(row.aliases for row in rows),
        prompts=tuple(row.prompts for row in rows),
        definitions=tuple(row.definition for row in rows),
    )


def _file_prompts(path: PurePath, cells: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Prompts of a label space's file: of each class, or of none."""
    prompts = tuple(_split(cell) for cell in cells)
    if not any(prompts):
        return ()
    if not all(prompts):
        msg = f"the label space {path} has prompts for some classes only; give each class its own"
        raise CapError(msg)
    if any(set(text) & set("{}") for texts in prompts for text in texts):
        msg = (
            f"the label space {path} has a prompt with a brace; write whole sentences there, and "
            "give a template with --prompts instead"
        )
        raise CapError(msg)
    return prompts


_BUILT_IN: Mapping[str, Callable[[], LabelSpace]] = {
    "imagenet1k": _imagenet1k,
    "backgrounds": _backgrounds_space,
}
"""Label spaces that are no files."""


def _label_space_file(path: Path) -> LabelSpace:
    try:
        found = read_label_space(path.read_bytes(), path)
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read the label space {path}: {error}"
        raise CapError(msg) from error
    built_in = _BUILT_IN.get(found.name)
    if built_in is not None and built_in().digest != found.digest:
        msg = (
            f"the label space {path} would be called {found.name}, which is the name of another; "
            "rename the file"
        )
        raise CapError(msg)
    return found


def read_label_space(content: bytes, path: PurePath) -> LabelSpace:
    """The label space that a CSV file holds; see `label_space`.

    Parameters
    ----------
    content
        The file's content.
    path
        Where it lies; its stem becomes the name.

    Raises
    ------
    CapError
        If it has an empty or doubled name, or prompts for some classes only.
    UnicodeDecodeError
        If it is not UTF-8, with or without a byte order mark.
    """
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    if not rows or "name" not in rows[0]:
        msg = f"the label space {path} needs a header with a column 'name' and at least one row"
        raise CapError(msg)
    names = tuple((row["name"] or "").strip() for row in rows)
    if "" in names or len(set(names)) < len(names):
        msg = f"the label space {path} has an empty or a doubled name; give each class one"
        raise CapError(msg)
    return LabelSpace(
        name=path.stem,
        names=names,
        ids=tuple((row.get("wordnet_id") or "").strip() for row in rows),
        synonyms=tuple(_split(row.get("synonyms") or "") for row in rows),
        taxa={
            index: tuple(map(Taxon, _split(row["taxon"])))
            for index, row in enumerate(rows)
            if row.get("taxon")
        },
        prompts=_file_prompts(path, [row.get("prompts") or "" for row in rows]),
        definitions=tuple((row.get("definition") or "").strip() for row in rows),
    )


def label_space(name: str, base: Path | None = None) -> LabelSpace:
    """The label space called `imagenet1k`, `backgrounds`, or held by a CSV file.

    A file has one class per row, in order, with a column `name` and, if wanted, `wordnet_id`,
    `definition` (what the class is, for annotators), `synonyms`, `taxon`, the scientific names that
    photos are collected by, and `prompts`, whole sentences to ask a model with (several of these
    three in a cell are separated by `|`). A relative path starts at `base`.

    Raises
    ------
    CapError
        If the file cannot be read, has an empty or doubled name, or prompts for some classes only,
        or is called as another label space is.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    return _label_space_file((base or Path()) / name)


@dataclass(frozen=True)
class Animal:
    """One of ImageNet's animal classes.

    Attributes
    ----------
    superclass
        Its family, or the wider group where the class is no part of one family.
    also_correct
        Indices of other classes that name the same animal rightly.
    """

    superclass: str
    also_correct: tuple[int, ...]


@functools.cache
def animals() -> dict[int, Animal]:
    """ImageNet's animal classes by class index."""
    return {
        int(row["class_index"]): Animal(
            row["superclass"], tuple(map(int, _split(row["also_correct"])))
        )
        for row in read_reference("animals")
    }


@dataclass(frozen=True)
class Background:
    """One of the 14 background labels.

    Attributes
    ----------
    name
        The label.
    definition
        What it means, for annotators.
    aliases
        How else people write it.
    prompts
        Sentences by which a contrastive model recognises it behind any animal.
    """

    name: str
    definition: str
    aliases: tuple[str, ...]
    prompts: tuple[str, ...]


@functools.cache
def backgrounds() -> tuple[Background, ...]:
    """The 14 background labels, in the paper's order."""
    return tuple(
        Background(row["name"], row["definition"], _split(row["aliases"]), _split(row["prompts"]))
        for row in read_reference("backgrounds")
    )


def resolve_background(text: str) -> str:
    """The background label that `text` means.

    Raises
    ------
    UnknownNameError
        If it is neither a label nor one of the aliases.
    """
    lookup = {_fold(name): row.name for row in backgrounds() for name in (*row.aliases, row.name)}
    found = lookup.get(_fold(text))
    if found is None:
        known = ", ".join(row.name for row in backgrounds())
        msg = f"no background {text!r}{_nearest(text, lookup)}; the labels are {known}"
        raise UnknownNameError(msg)
    return found


@dataclass(frozen=True)
class License:
    """A photo licence.

    `openness` ranks licences for the choice among duplicates: 0 is the most open. `default` marks
    the allow-list that `collect` and `release` start from.
    """

    code: str
    name: str
    url: str
    openness: int
    default: bool


@functools.cache
def licenses() -> dict[str, License]:
    """Every licence that a table may name, by code."""
    return {
        row["code"]: License(
            code=row["code"],
            name=row["name"],
            url=row["url"],
            openness=int(row["openness"]),
            default=row["default"] == "yes",
        )
        for row in read_reference("licenses")
    }


def default_licenses() -> tuple[str, ...]:
    """Codes of the default allow-list: licences that let others pass the photo on."""
    return tuple(code for code, row in licenses().items() if row.default)


def sharing_licenses() -> tuple[str, ...]:
    """Codes of the licences under which anybody may pass a photo on."""
    return (*default_licenses(), "pd")


def resolve_license(text: str) -> str:
    """The licence code for `text`; an empty cell means `unknown`.

    Raises
    ------
    UnknownNameError
        If the licence is not in the vocabulary.
    """
    code = re.sub(r"[\s_]+", "-", text.strip().casefold()) or "unknown"
    if code not in licenses():
        known = ", ".join(licenses())
        msg = f"no licence {text!r}; the codes are {known}"
        raise UnknownNameError(msg)
    return code


def allowed_licenses(names: Sequence[str]) -> tuple[str, ...]:
    """Codes of the licences that a person allows: the default list, those named, or `any`.

    Raises
    ------
    UnknownNameError
        If a licence is not in the vocabulary.
    """
    if not names:
        return default_licenses()
    if tuple(names) == ("any",):
        return tuple(licenses())
    return tuple(resolve_license(name) for name in names)


def attribution_text(creator: str, license_code: str) -> str:
    """The line to print with a photo, in the form that iNaturalist Open Data asks for.

    Parameters
    ----------
    creator
        Name of the photographer, or login where there is no name.
    license_code
        A code of `licenses`.

    Notes
    -----
    Source: the README of the iNaturalist Open Dataset.
    """
    if license_code == "cc0":
        return f"{creator}, no rights reserved (CC0)"
    if license_code == "pd":
        return f"{creator}, no known copyright restrictions (public domain)"
    if license_code.startswith("cc-"):
        return f"© {creator}, some rights reserved ({license_code.upper()})"
    if license_code == "all-rights-reserved":
        return f"© {creator}, all rights reserved"
    return f"© {creator}"
