"""The labelling screen: Label Studio's configuration, made from the vocabulary.

A photo with zoom stands on the left; on the right what its class looks like, the decision, and the
backgrounds or the reasons. `labelling_screen` gives the configuration, which has a version: answers
are only comparable when they were given on the same screen, so each version has its own project.
The screen shows nothing that a scored model predicts of the class.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from manifests.vocabulary import backgrounds

__all__ = [
    "BACKGROUND_KEYS",
    "DECISION_KEYS",
    "KEYMAP",
    "NONE_FITS",
    "PHOTO",
    "REASONS",
    "Screen",
    "labelling_screen",
]

PHOTO = "photo"
"""Name of the photo in the configuration; every answer points to it."""

NONE_FITS = "none_fits"
"""What the screen stores as background where no label fits; tables hold null."""

DECISION_KEYS = {"keep": "k", "reject": "x"}

BACKGROUND_KEYS = {
    "ground": "g",
    "water": "w",
    "earth": "e",
    "sand": "s",
    "snow": "n",
    "grass": "a",
    "human": "h",
    "sky": "y",
    "road": "r",
    "rock": "c",
    "shrub": "b",
    "indoor": "i",
    "tree": "t",
    "outdoor": "o",
    NONE_FITS: "f",
}
"""One key per background. With Shift it is the second background."""

_DEFINITIONS_KEY = "d"

KEYMAP = {"annotation:submit": {"key": "enter"}, "annotation:skip": {"key": "q"}}
"""Keys of Label Studio itself that the server is started with: Enter submits, q skips."""


@dataclass(frozen=True)
class Reason:
    """One of the paper's four reasons to reject a photo."""

    name: str
    title: str
    definition: str
    key: str


REASONS = (
    Reason("label_noise", "Label noise", "The animal is not of this class.", "1"),
    Reason(
        "feature_noise",
        "Feature noise",
        "Something else spoils the photo: a frame, text, a collage, a drawing, several animals.",
        "2",
    ),
    Reason(
        "ambiguity",
        "Ambiguity or obscurity",
        "The animal or its background cannot be told: hidden, cut off, or more than one fits.",
        "3",
    ),
    Reason("clarity", "Clarity", "Too blurred, too dark, or the animal is too small to see.", "4"),
)

_STYLE = """
.lsf-sidepanels__wrapper_align_right { display: none; }
.lsf-sidepanels__content { padding-right: 0 !important; }
.cap-side { min-width: 400px; max-width: 560px; padding-right: 16px; }
.cap-side h3, .cap-side h4, .cap-side h5 { margin: 12px 0 2px !important; }
.cap-side h5 { font-size: 14px; font-weight: 600; line-height: 1.3; }
.cap-looks .lsf-richtext__container { padding: 0; font-size: 14px; line-height: 1.35; }
.cap-hint h5 { margin-top: 6px !important; font-weight: 400; color: #4b6; font-style: italic; }
.cap-grid .lsf-choices { display: grid; grid-template-columns: repeat(4, 1fr); gap: 0 8px; }
.cap-grid .lsf-choice { margin: 0; }
.cap-grid .lsf-choices label { margin: 3px 0; padding: 0; }
.cap-second .lsf-choices { grid-template-columns: repeat(5, 1fr); gap: 0 4px; }
.cap-second .lsf-choices label { font-size: 12px; margin: 0; }
.cap-second .lsf-hint { display: none; }
.cap-definitions h5 { margin: 3px 0 !important; font-size: 13px; font-weight: 400; }
"""


@dataclass(frozen=True)
class Screen:
    """A labelling screen.

    Attributes
    ----------
    config
        Label Studio's configuration, as XML.
    instruction
        What an annotator reads first, as HTML.
    """

    config: str
    instruction: str

    @functools.cached_property
    def version(self) -> str:
        """Eight hexadecimal digits that differ when the configuration or the instruction does."""
        text = json.dumps([self.config, self.instruction])
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _view(parent: Element, **attributes: str) -> Element:
    return SubElement(parent, "View", attributes)


def _header(parent: Element, value: str, size: int) -> None:
    SubElement(parent, "Header", {"value": value, "size": str(size)})


def _choices(parent: Element, name: str, attributes: Mapping[str, str]) -> Element:
    return SubElement(
        parent, "Choices", {"name": name, "toName": PHOTO, "showInline": "true", **attributes}
    )


def _choice(parent: Element, value: str, alias: str, key: str, hint: str = "") -> None:
    attributes = {"value": value, "alias": alias, "hotkey": key}
    SubElement(parent, "Choice", attributes | ({"hint": hint} if hint else {}))


def _when_decided(parent: Element, decision: str) -> Element:
    return _view(
        parent,
        visibleWhen="choice-selected",
        whenTagName="decision",
        whenChoiceValue=decision.capitalize(),
    )


def _definitions() -> Iterable[tuple[str, str, str]]:
    """Key, name and meaning of everything that can be chosen."""
    for background in backgrounds():
        yield BACKGROUND_KEYS[background.name], background.name, background.definition
    yield BACKGROUND_KEYS[NONE_FITS], "none fits", "No label says what the background is."
    for reason in REASONS:
        yield reason.key, reason.title, reason.definition


def _decision(side: Element) -> None:
    _header(side, "Is the photo a good example of its class?", 5)
    decision = _choices(
        side,
        "decision",
        {
            "choice": "single-radio",
            "required": "true",
            "requiredMessage": "Keep (k) or reject (x)?",
        },
    )
    for name, key in DECISION_KEYS.items():
        _choice(decision, name.capitalize(), name, key)


def _background(side: Element) -> None:
    kept = _when_decided(side, "keep")
    _header(kept, "What fills most of the frame outside the animal?", 5)
    first = _choices(
        _view(kept, className="cap-grid"),
        "background",
        {
            "choice": "single-radio",
            "required": "true",
            "requiredMessage": "Choose the background, or f where none fits",
        },
    )
    for background in backgrounds():
        _choice(
            first,
            background.name,
            background.name,
            BACKGROUND_KEYS[background.name],
            background.definition,
        )
    _choice(first, "none fits", NONE_FITS, BACKGROUND_KEYS[NONE_FITS])
    _header(kept, "A second one, only if two share the frame: Shift and its key", 5)
    second = _choices(
        _view(kept, className="cap-grid cap-second"), "background_second", {"choice": "single"}
    )
    for background in backgrounds():
        _choice(
            second,
            background.name,
            background.name,
            f"shift+{BACKGROUND_KEYS[background.name]}",
        )


def _reasons(side: Element) -> None:
    rejected = _when_decided(side, "reject")
    _header(rejected, "Why? One or more", 5)
    reasons = _choices(
        rejected,
        "reject_reasons",
        {
            "choice": "multiple",
            "required": "true",
            "requiredMessage": "A rejected photo needs a reason, 1 to 4",
        },
    )
    for reason in REASONS:
        _choice(reasons, reason.title, reason.name, reason.key, reason.definition)


def _help(side: Element) -> None:
    shown = _choices(side, "definitions", {"choice": "multiple"})
    _choice(shown, "Show the definitions", "shown", _DEFINITIONS_KEY)
    panel = _view(
        side,
        visibleWhen="choice-selected",
        whenTagName="definitions",
        whenChoiceValue="Show the definitions",
        className="cap-definitions",
    )
    for key, name, meaning in _definitions():
        _header(panel, f"{key}  {name}: {meaning}", 5)


def _config(*, adjudication: bool) -> str:
    root = Element("View")
    SubElement(root, "Style").text = _STYLE
    both = _view(root, style="display:flex; gap:20px; align-items:flex-start;")
    left = _view(both, style="flex:5 1 0; min-width:0;")
    SubElement(
        left,
        "Image",
        {
            "name": PHOTO,
            "value": "$image",
            "zoom": "true",
            "zoomControl": "true",
            "rotateControl": "false",
            "negativeZoom": "false",
            "defaultZoom": "fit",
        },
    )
    side = _view(both, style="flex:3 1 0;", className="cap-side")
    _header(side, "$class_name", 4)
    looks = _view(side, className="cap-looks")
    SubElement(looks, "Text", {"name": "looks", "value": "$class_definition"})
    _header(_view(side, className="cap-hint"), "$hint", 5)
    if adjudication:
        _header(side, "What was said so far", 5)
        SubElement(side, "Table", {"name": "answers", "value": "$answers"})
    _decision(side)
    _background(side)
    _reasons(side)
    SubElement(
        side,
        "TextArea",
        {
            "name": "note",
            "toName": PHOTO,
            "rows": "1",
            "maxSubmissions": "1",
            "editable": "true",
            "placeholder": "Note (optional)",
            "showSubmitButton": "true",
        },
    )
    _help(side)
    indent(root)
    return tostring(root, encoding="unicode")


_INSTRUCTION = (
    "<p><b>k</b> keep, then the key of the background; <b>x</b> reject, then the reasons "
    "<b>1</b> to <b>4</b>. <b>Enter</b> submits, <b>q</b> skips.</p>"
    "<p>The background is what fills most of the frame outside the animal. If two share it, add "
    "the second with Shift and its key. <b>f</b>: none of the labels fits.</p>"
    "<p><b>d</b> shows what each label means. Ctrl and the wheel zoom. Where a background is "
    "chosen already, it is a computer's guess: look first, then press Enter or change it.</p>"
)


@functools.cache
def labelling_screen(*, adjudication: bool = False) -> Screen:
    """The screen for first answers, or the one that shows the answers so far.

    Parameters
    ----------
    adjudication
        Whether it is for photos that people disagreed on.
    """
    return Screen(_config(adjudication=adjudication), _INSTRUCTION)
