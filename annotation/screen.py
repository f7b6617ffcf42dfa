"""The screens: Label Studio's configurations, made from the vocabulary.

A photo with zoom stands on the left. On the right of the labelling screen stand what its class
looks like, the decision, and the backgrounds or the reasons; on the right of the discovery screen
regions of other photos, and the question whether the photo shows what they have in common. A screen
has a version: answers are only comparable when they were given on the same one, so each version has
its own project. No screen shows anything that a scored model predicts of the class.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from manifests.vocabulary import backgrounds

__all__ = [
    "BACKGROUND_KEYS",
    "DECISION_KEYS",
    "KEYMAP",
    "NONE_FITS",
    "PHOTO",
    "REASONS",
    "SHOWS",
    "SHOWS_KEYS",
    "Screen",
    "discovery_screen",
    "labelling_screen",
]

PHOTO = "photo"
"""Name of the photo in the configuration; every answer points to it."""

NONE_FITS = "none_fits"
"""What the screen stores as background where no label fits; tables hold null."""

SHOWS = "shows"
"""Name of the question whether a photo shows what regions have in common."""

DECISION_KEYS = {"keep": "k", "reject": "x"}

SHOWS_KEYS = {"yes": "y", "no": "n"}

BACKGROUND_KEYS = {
    "ground": "g",
    "water": "w",
    "earth": "e",
    "sand": "s",
    "snow": "n",
    "grass": "a",
    "human": "m",
    "sky": "y",
    "road": "r",
    "rock": "c",
    "shrub": "b",
    "indoor": "i",
    "tree": "t",
    "outdoor": "o",
    NONE_FITS: "f",
}
"""One key per background, with Shift for the second one.

Label Studio's own tools keep h, u and v: from the second photo on they take the key from a choice.
"""

_DEFINITIONS_KEY = "d"
_SHOW_DEFINITIONS = "Show the definitions"
_SHIFT = "shift+"

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

# Label Studio escapes <, > and & in a style, and takes name="..." anywhere for a control's name.
_STYLE = """
/* The panels of regions, which a photo does not have here, leave their place to the photo. */
.lsf-sidepanels { padding: 0 !important; }
.lsf-sidepanels__wrapper { display: none; }
.lsf-main-view { min-height: 0; }
.lsf-main-view__annotation {
  flex: 1; min-height: 0; box-sizing: border-box; display: flex; padding: 12px 16px 4px;
}
.cap-screen { flex: 1; min-width: 0; min-height: 0; display: flex; gap: 20px; }

.cap-photo { flex: 1; min-width: 0; min-height: 0; display: flex; position: relative; }
/* The buttons appear after the photo is fitted; their place is kept so that the fit stays. */
.cap-photo .lsf-object { min-width: 0; padding-right: 50px; }
.cap-photo .lsf-toolbar { position: absolute; top: 0; right: 0; margin: 0; }

.cap-side {
  flex: 0 0 clamp(430px, 33%, 560px); box-sizing: border-box; padding: 0 4px 8px 0;
  overflow-y: auto; scrollbar-gutter: stable; font-size: 14px; line-height: 1.4;
  color: var(--color-neutral-content);
}
.cap-text * { margin: 0 !important; font: inherit; letter-spacing: inherit; color: inherit; }
.cap-name { font-size: 26px; font-weight: 700; line-height: 1.2; overflow-wrap: anywhere; }
.cap-looks { color: var(--color-neutral-content-subtle); overflow-wrap: anywhere; }
.cap-hint {
  margin-top: 10px; padding: 5px 10px; border-left: 3px solid var(--color-neutral-border);
  font-size: 13px; color: var(--color-neutral-content-subtle);
}
.cap-question { margin: 16px 0 6px; font-weight: 600; }

.cap-screen kbd, .cap-key {
  flex: none; box-sizing: border-box; min-width: 20px; height: 20px; padding: 0 4px;
  border: 1px solid var(--color-neutral-border-bold); border-bottom-width: 2px;
  border-radius: 4px; background: var(--color-neutral-surface);
  color: var(--color-neutral-content); font: 600 12px/17px ui-monospace, monospace;
  text-align: center; box-shadow: none;
}
.cap-side .lsf-choices { display: grid; gap: 6px; margin: 0; }
.cap-side .lsf-choice, .cap-side .lsf-choice__item { display: block; line-height: 1.3; }
.cap-side .lsf-hint { display: none; }
.cap-side .lsf-choice label {
  display: flex; align-items: center; box-sizing: border-box; width: 100%; height: 100%;
  margin: 0; padding: 0 8px; min-height: 30px; position: relative; cursor: pointer;
  border: 1px solid var(--color-neutral-border); border-radius: 6px;
  background: var(--color-neutral-background); color: var(--color-neutral-content);
  font-weight: 400;
}
.cap-side .lsf-choice label:hover { border-color: var(--color-primary-border-subtle); }
.cap-side .lsf-choice label:focus-within {
  outline: 2px solid var(--color-primary-border-subtle); outline-offset: 1px;
}
.cap-side .lsf-choice label::after { content: none; }
.cap-side .lsf-choice label span:has(input) { position: absolute; opacity: 0; }
.cap-side .lsf-choice label span { padding: 0; font: inherit; color: inherit; }
.cap-side .lsf-choice label span:has(.cap-choice) { flex: 1; display: block; }
.cap-choice { display: flex; align-items: center; gap: 8px; white-space: nowrap; }
.cap-side .lsf-choice label:has(input:checked) {
  border-color: var(--color-primary-border); background: var(--color-primary-emphasis-subtle);
  box-shadow: inset 0 0 0 1px var(--color-primary-border); font-weight: 600;
}
.cap-side .lsf-choice label:has(input:checked)::after {
  content: "✓"; position: absolute; right: 9px; visibility: visible; width: auto;
}
.cap-side .lsf-choice label:has(input:checked) kbd {
  background: var(--color-primary-surface); border-color: var(--color-primary-surface);
  color: var(--color-primary-surface-content);
}
/* Chosen before the annotator touched anything: a suggestion. */
.lsf-wrapper:has([data-testid$="submit-button"]):has([data-testid$="undo-button"]:disabled)
.cap-side:has(.cap-decision input:checked) .cap-hint {
  border: 1px dashed var(--color-primary-border); font-weight: 500;
  border-left: 3px solid var(--color-primary-border);
  background: var(--color-primary-emphasis-subtle); color: var(--color-neutral-content);
}
.lsf-wrapper:has([data-testid$="submit-button"]):has([data-testid$="undo-button"]:disabled)
.cap-side .lsf-choice label:has(input:checked) { border-style: dashed; box-shadow: none; }
.cap-decision .lsf-choices { grid-template-columns: 1fr 1fr; }
.cap-decision .lsf-choice label { min-height: 38px; }
.cap-first .lsf-choices { grid-template-columns: repeat(3, 1fr); }
.cap-second .cap-question {
  margin: 12px 0 4px; font-size: 12px; font-weight: 400;
  color: var(--color-neutral-content-subtle);
}
.cap-second .lsf-choices { grid-template-columns: repeat(5, 1fr); gap: 2px 4px; }
.cap-second .lsf-choice label {
  min-height: 22px; padding: 0 3px; border-color: transparent; font-size: 12px;
}
.cap-second .cap-choice { gap: 5px; }
.cap-second kbd { min-width: 16px; height: 16px; padding: 0 2px; font: 600 10px/13px monospace; }
.cap-second .lsf-choice label:has(input:checked)::after { content: none; }

.cap-reasons .lsf-choice label { padding: 6px 32px 6px 8px; }
.cap-reasons .cap-choice { white-space: normal; align-items: flex-start; }
.cap-reasons .cap-choice b { font-weight: 600; }
.cap-reasons .cap-choice i { display: block; font-style: normal; font-weight: 400; }

.cap-foot { display: flex; align-items: flex-start; gap: 12px; margin-top: 14px; }
.cap-foot .lsf-text-area { flex: 1; min-width: 0; padding: 0; margin: 0 !important; }
.cap-foot .lsf-text-area form * { min-height: 0; margin: 0; padding: 0; }
.cap-foot .lsf-text-area input {
  height: 30px; padding: 0 8px; border-radius: 6px; font-size: 14px;
}
.cap-foot [data-testid="textarea-regions"] { margin: 0 !important; }
.cap-foot .lsf-row, .cap-foot .lsf-textarea__region { margin: 0; padding: 0; }
.cap-foot [data-testid="htx-textbox-content"] {
  min-height: 30px; padding: 4px 8px; border-radius: 6px; overflow-wrap: anywhere;
}
.cap-foot [data-testid="htx-textbox-content"] * { font: inherit; letter-spacing: inherit; }
.cap-foot .lsf-choice label { white-space: nowrap; padding-right: 28px; }

.cap-answers table { font-size: 13px; }
.cap-answers thead { display: none; }
.cap-answers .ant-table, .cap-answers .ant-table .ant-table-container table,
.cap-answers .ant-table .ant-table-container, .cap-answers .ant-table .ant-table-tbody td {
  background: transparent; color: inherit; border-color: var(--color-neutral-border) !important;
}
.cap-answers .ant-table .ant-table-tbody td { padding: 4px 8px; line-height: 1.35; }
.cap-answers td:first-child { white-space: nowrap; width: 1%; }

.cap-definitions {
  position: absolute; left: 0; right: 0; bottom: 0; z-index: 110; max-height: 100%;
  box-sizing: border-box; overflow-y: auto; padding: 10px 14px; columns: 330px; column-gap: 24px;
  border: 1px solid var(--color-neutral-border); border-radius: 6px;
  background: var(--color-neutral-background); color: var(--color-neutral-content);
  font-size: 12.5px; line-height: 1.3;
}
.cap-definition { break-inside: avoid; padding: 3px 0 3px 30px; position: relative; }
.cap-key { position: absolute; left: 0; top: 2px; }
.cap-term, .cap-meaning, .cap-term *, .cap-meaning * { display: inline; }
.cap-term { font-weight: 600; margin-right: 6px; }

@media (max-height: 760px) {
  .cap-question { margin-top: 10px; }
  .cap-hint { margin-top: 6px; padding: 3px 10px; }
  .cap-name { font-size: 22px; }
  .cap-first .lsf-choices { gap: 4px 6px; }
  .cap-decision .lsf-choice label { min-height: 34px; }
  .cap-first .lsf-choice label { min-height: 28px; }
}
"""

_SHEET_STYLE = """
.cap-confirm .cap-side { flex-basis: clamp(430px, 42%, 700px); }
.cap-confirm .cap-question { font-size: 16px; }
/* The sheet is there to be looked at: no tools, and nothing happens at a click. */
.cap-sheet { pointer-events: none; }
.cap-sheet .lsf-toolbar { display: none; }
"""


@dataclass(frozen=True)
class Screen:
    """What annotators see beside a photo, and what they can answer.

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


def _literal(text: str) -> str:
    """`text` so that Label Studio shows it as it is: a dollar sign would start a variable."""
    return text.replace("$", "$\N{WORD JOINER}")


def _text(parent: Element, kind: str, value: str) -> None:
    """Plain text; `kind` is its class in the style."""
    SubElement(_view(parent, className=f"cap-text {kind}"), "Header", {"value": value})


def _choices(parent: Element, name: str, attributes: Mapping[str, str]) -> Element:
    return SubElement(
        parent, "Choices", {"name": name, "toName": PHOTO, "showInline": "true", **attributes}
    )


def _choice(parent: Element, value: str, alias: str, key: str, label: str) -> Element:
    """A choice that shows its key; `label` is HTML."""
    shown = key.removeprefix(_SHIFT).upper() if key.startswith(_SHIFT) else key
    html = f'<span class="cap-choice"><kbd>{shown}</kbd><span>{label}</span></span>'
    attributes = {"value": value, "alias": alias, "hotkey": key, "html": html}
    return SubElement(parent, "Choice", attributes)


def _when(
    parent: Element, control: str, value: str, kind: str = "", *, unless: bool = False
) -> Element:
    return _view(
        parent,
        visibleWhen="choice-unselected" if unless else "choice-selected",
        whenTagName=control,
        whenChoiceValue=value,
        className=kind,
    )


def _decision(side: Element) -> None:
    _text(side, "cap-question", "Is the photo a good example of its class?")
    decision = _choices(
        _view(side, className="cap-decision"),
        "decision",
        {
            "choice": "single-radio",
            "required": "true",
            "requiredMessage": "Keep (k) or reject (x)? Escape closes this.",
        },
    )
    for name, key in DECISION_KEYS.items():
        _choice(decision, name.capitalize(), name, key, name.capitalize())


def _background(side: Element) -> None:
    kept = _when(side, "decision", "Keep")
    _text(kept, "cap-question", "What fills most of the frame outside the animal?")
    first = _choices(
        _view(kept, className="cap-first"),
        "background",
        {
            "choice": "single-radio",
            "required": "true",
            "requiredMessage": "Choose the background, or f where none fits. Escape closes this.",
        },
    )
    for background in backgrounds():
        name, key = background.name, BACKGROUND_KEYS[background.name]
        _choice(first, name, name, key, escape(name)).set("hint", background.definition)
    _choice(first, "none fits", NONE_FITS, BACKGROUND_KEYS[NONE_FITS], "none fits")

    block = _view(kept, className="cap-second")
    _text(block, "cap-question", "A second one, only if two share the frame: Shift and its key")
    second = _choices(block, "background_second", {"choice": "single"})
    for background in backgrounds():
        name, key = background.name, _SHIFT + BACKGROUND_KEYS[background.name]
        _choice(second, name, name, key, escape(name))


def _reasons(side: Element) -> None:
    rejected = _when(side, "decision", "Reject", "cap-reasons")
    _text(rejected, "cap-question", "Why? One or more")
    reasons = _choices(
        rejected,
        "reject_reasons",
        {
            "choice": "multiple",
            "required": "true",
            "requiredMessage": "A rejected photo needs a reason, 1 to 4. Escape closes this.",
        },
    )
    for reason in REASONS:
        label = f"<b>{escape(reason.title)}</b><i>{escape(reason.definition)}</i>"
        _choice(reasons, reason.title, reason.name, reason.key, label)


def _note(side: Element) -> Element:
    """A line for a note; gives the row that it stands in."""
    foot = _view(side, className="cap-foot")
    SubElement(
        foot,
        "TextArea",
        {
            "name": "note",
            "toName": PHOTO,
            "rows": "1",
            "maxSubmissions": "1",
            "editable": "true",
            "placeholder": "Note (optional)",
            "showSubmitButton": "false",
        },
    )
    return foot


def _show_definitions(foot: Element) -> None:
    shown = _choices(foot, "definitions", {"choice": "multiple"})
    _choice(shown, _SHOW_DEFINITIONS, "shown", _DEFINITIONS_KEY, _SHOW_DEFINITIONS)


def _definition(panel: Element, key: str, name: str, meaning: str) -> None:
    line = _view(panel, className="cap-definition")
    _text(line, "cap-key", key)
    _text(line, "cap-term", _literal(name))
    _text(line, "cap-meaning", _literal(meaning))


def _definitions(photo: Element) -> None:
    """What everything that can be chosen means, over the lower part of the photo."""
    panel = _when(photo, "definitions", _SHOW_DEFINITIONS, "cap-definitions")
    for row in backgrounds():
        _definition(panel, BACKGROUND_KEYS[row.name], row.name, row.definition)
    meaning = "No label says what the background is."
    _definition(panel, BACKGROUND_KEYS[NONE_FITS], "none fits", meaning)
    unless_kept = _when(panel, "decision", "Keep", unless=True)
    for reason in REASONS:
        _definition(unless_kept, reason.key, reason.title, reason.definition)


def _photo(root: Element) -> Element:
    """The photo, as large as there is room; gives the block that it stands in."""
    photo = _view(root, className="cap-photo")
    SubElement(
        photo,
        "Image",
        {
            "name": PHOTO,
            "value": "$image",
            "height": "100%",
            "maxHeight": "100%",
            "zoom": "true",
            "zoomControl": "true",
            "rotateControl": "false",
            "selectionControl": "false",
            "negativeZoom": "false",
            "defaultZoom": "fit",
            "horizontalAlignment": "center",
        },
    )
    return photo


def _config(*, adjudication: bool) -> str:
    root = Element("View", {"className": "cap-screen"})
    SubElement(root, "Style").text = _STYLE
    _definitions(_photo(root))
    side = _view(root, className="cap-side")
    _text(side, "cap-name", "$class_name")
    _text(side, "cap-looks", "$class_definition")
    _text(side, "cap-hint", "$hint")
    if adjudication:
        said = _view(side, className="cap-answers")
        _text(said, "cap-question", "What was said so far")
        SubElement(said, "Table", {"name": "answers", "value": "$answers"})
    _decision(side)
    _background(side)
    _reasons(side)
    _show_definitions(_note(side))
    indent(root)
    return tostring(root, encoding="unicode")


_INSTRUCTION = (
    "<p><b>k</b> keep, then the key of the background; <b>x</b> reject, then the reasons "
    "<b>1</b> to <b>4</b>. <b>Enter</b> submits, <b>q</b> skips.</p><br>"
    "<p>The background is what fills most of the frame outside the animal. If two share it, add "
    "the second with Shift and its key. <b>f</b>: none of the labels fits.</p><br>"
    "<p><b>d</b> shows what each label means. Ctrl and the wheel zoom, Shift and 1 show the whole "
    "photo again.</p><br>"
    "<p>Where a background is chosen already, in dashed lines, it is a computer's guess: look "
    "first, then press Enter or change it.</p>"
)


def labelling_screen(*, adjudication: bool = False) -> Screen:
    """The screen for first answers, or the one that shows the answers so far.

    Parameters
    ----------
    adjudication
        Whether it is for photos that people disagreed on.
    """
    return Screen(_config(adjudication=adjudication), _INSTRUCTION)


def _discovery_config() -> str:
    root = Element("View", {"className": "cap-screen cap-confirm"})
    SubElement(root, "Style").text = _STYLE + _SHEET_STYLE
    _photo(root)
    side = _view(root, className="cap-side")
    _text(side, "cap-question", "These regions look alike to the model")
    SubElement(
        _view(side, className="cap-sheet"),
        "Image",
        {
            "name": "sheet",
            "value": "$sheet",
            "width": "100%",
            "maxWidth": "100%",
            "zoom": "false",
            "zoomControl": "false",
            "rotateControl": "false",
            "selectionControl": "false",
        },
    )
    _text(side, "cap-question", "Does the photo show what these have in common?")
    shows = _choices(
        _view(side, className="cap-decision"),
        SHOWS,
        {
            "choice": "single-radio",
            "required": "true",
            "requiredMessage": "Yes (y) or no (n)? Escape closes this.",
        },
    )
    for name, key in SHOWS_KEYS.items():
        _choice(shows, name.capitalize(), name, key, name.capitalize())
    _note(side)
    indent(root)
    return tostring(root, encoding="unicode")


_DISCOVERY_INSTRUCTION = (
    "<p>The small pictures on the right are regions of other photos that look alike to a model. "
    "Find out what they have in common: a thing, a ground, a texture, a light. Then look at the "
    "large photo: does it show the same, anywhere?</p><br>"
    "<p><b>y</b> yes, <b>n</b> no. <b>Enter</b> submits, <b>q</b> skips: where you cannot tell, or "
    "see nothing that they share.</p><br>"
    "<p>Ctrl and the wheel zoom, Shift and 1 show the whole photo again.</p>"
)


def discovery_screen() -> Screen:
    """The screen that asks whether a photo shows what the regions of a cluster have in common."""
    return Screen(_discovery_config(), _DISCOVERY_INSTRUCTION)
