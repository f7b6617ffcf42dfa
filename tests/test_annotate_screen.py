"""The labelling screen is valid, complete, unambiguous by key, and shows nothing of a model."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import pytest
from label_studio_sdk.label_interface import LabelInterface

from annotation import screen
from annotation.screen import (
    BACKGROUND_KEYS,
    DECISION_KEYS,
    KEYMAP,
    NONE_FITS,
    PHOTO,
    REASONS,
    labelling_screen,
)
from manifests.vocabulary import backgrounds

BOTH = pytest.mark.parametrize("adjudication", [False, True], ids=["first answers", "adjudication"])

CONTROLS = {
    "decision",
    "background",
    "background_second",
    "reject_reasons",
    "note",
    "definitions",
}


def tree(*, adjudication=False):
    return ElementTree.fromstring(labelling_screen(adjudication=adjudication).config)


def aliases(name, **options):
    """Alias and key of every choice of a control, in order."""
    (control,) = tree(**options).iterfind(f".//Choices[@name='{name}']")
    return {choice.get("alias"): choice.get("hotkey") for choice in control}


def shown_text(root):
    """Everything that a person can read on the screen, as one text."""
    texts = [header.get("value") for header in root.iter("Header")]
    texts += [unescape(re.sub("<[^>]*>", "", node.get("html"))) for node in root.iter("Choice")]
    return "\n".join(texts).replace("\N{WORD JOINER}", "")


def define(monkeypatch, name, definition):
    """Give a background another definition."""
    rows = tuple(
        replace(row, definition=definition) if row.name == name else row for row in backgrounds()
    )
    monkeypatch.setattr(screen, "backgrounds", lambda: rows)


@BOTH
def test_label_studio_takes_the_configuration(adjudication):
    interface = LabelInterface(labelling_screen(adjudication=adjudication).config)
    interface.validate()
    assert {control.name for control in interface.controls} == CONTROLS
    assert {control.to_name[0] for control in interface.controls} == {PHOTO}


@BOTH
def test_no_text_in_the_style_looks_like_a_name_or_needs_escaping(adjudication):
    # The server collects name="..." from the whole text; the browser gets &gt; for > in a style.
    root = tree(adjudication=adjudication)
    for style in root.iter("Style"):
        assert not re.search(r"name=|[<>&]", style.text)


@pytest.mark.parametrize("background", [*BACKGROUND_KEYS])
def test_a_suggestion_in_the_stored_words_is_valid(background):
    values = {"decision": "keep", "background": background}
    result = [
        {"from_name": name, "to_name": PHOTO, "type": "choices", "value": {"choices": [value]}}
        for name, value in values.items()
    ]
    interface = LabelInterface(labelling_screen().config)
    assert interface.validate_prediction({"result": result})
    result[0]["value"]["choices"] = ["Keep"]
    assert not interface.validate_prediction({"result": result})


@BOTH
def test_every_decision_background_and_reason_has_its_key(adjudication):
    names = [row.name for row in backgrounds()]
    assert list(BACKGROUND_KEYS) == [*names, NONE_FITS]
    assert aliases("decision", adjudication=adjudication) == DECISION_KEYS
    assert aliases("background", adjudication=adjudication) == BACKGROUND_KEYS
    assert aliases("background_second", adjudication=adjudication) == {
        name: f"shift+{BACKGROUND_KEYS[name]}" for name in names
    }
    assert aliases("reject_reasons", adjudication=adjudication) == {
        reason.name: reason.key for reason in REASONS
    }


@BOTH
def test_no_key_is_used_twice_or_taken_by_label_studio(adjudication):
    keys = [node.get("hotkey") for node in tree(adjudication=adjudication).iter("Choice")]
    assert len(set(keys)) == len(keys)
    zoom = {"shift+1", "shift+2"}
    tools = {"h", "u", "v", "escape", "backspace"}  # pan, unselect, move, exit, delete
    remapped = {binding["key"] for binding in KEYMAP.values()}
    assert remapped == {"enter", "q"}
    assert not set(keys) & (remapped | zoom | tools)


def test_every_choice_shows_the_key_that_chooses_it():
    for choice in tree().iter("Choice"):
        key = choice.get("hotkey")
        shown = key.removeprefix("shift+").upper() if key.startswith("shift+") else key
        assert f"<kbd>{shown}</kbd>" in choice.get("html")
        assert choice.get("value") in choice.get("html")


@BOTH
def test_the_definitions_of_all_backgrounds_and_reasons_appear(adjudication):
    root = tree(adjudication=adjudication)
    (panel,) = root.iterfind(".//View[@whenTagName='definitions']")
    readable = [header.get("value") for header in panel.iter("Header")]
    for definition in [row.definition for row in (*backgrounds(), *REASONS)]:
        assert definition in readable
    (rejected,) = root.iterfind(".//Choices[@name='reject_reasons']")
    for reason, choice in zip(REASONS, rejected, strict=True):
        assert reason.definition in choice.get("html")


def test_each_block_appears_with_the_choice_that_needs_it():
    root = tree()
    for name, decision in {
        "background": "Keep",
        "background_second": "Keep",
        "reject_reasons": "Reject",
    }.items():
        block = f".//View[@whenTagName='decision'][@whenChoiceValue='{decision}']"
        shown = f"{block}[@visibleWhen='choice-selected']//Choices[@name='{name}']"
        assert root.find(shown) is not None
    values = {node.get("value") for node in root.iter("Choice")}
    conditions = {node.get("whenChoiceValue") for node in root.iter("View")} - {None}
    assert conditions <= values


@pytest.mark.parametrize(
    "definition",
    [
        '<script>alert("x")</script> & <b>bold</b>',
        "costs $5 or $class_prediction, 'quoted' \"twice\"",
        "]]> &lt; {{ braces }} $$image",
    ],
)
def test_a_definition_is_shown_as_text_whatever_it_holds(monkeypatch, definition):
    define(monkeypatch, "grass", definition)
    assert definition in shown_text(tree())
    LabelInterface(labelling_screen().config).validate()
    assert variables() == {"$image", "$class_name", "$class_definition", "$hint"}


def variables(**options):
    """What Label Studio replaces by data of the photo, found by its own rule."""
    config = labelling_screen(**options).config
    return set(re.findall(r"\$[\w[\].{}]+", re.sub(r' (html|hint)="[^"]*"', "", config)))


def test_only_the_declared_variables_are_shown_so_no_prediction_of_the_class_is():
    declared = {"$image", "$class_name", "$class_definition", "$hint"}
    assert variables() == declared
    assert variables(adjudication=True) == declared | {"$answers"}


@BOTH
def test_the_screen_asks_for_nothing_from_another_host(adjudication):
    config = labelling_screen(adjudication=adjudication).config
    assert not re.search(r"https?:|//|url\(|@import|@font-face|src=", config)


def test_colours_are_those_of_label_studio_so_that_its_dark_theme_holds():
    (style,) = tree().iter("Style")
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", style.text)


def version(**options):
    return labelling_screen(**options).version


def test_the_version_stays_while_nothing_changes():
    assert re.fullmatch("[0-9a-f]{8}", version())
    assert version() == version()
    assert version(adjudication=True) == version(adjudication=True) != version()


def test_the_version_changes_with_a_definition(monkeypatch):
    before = version(), version(adjudication=True)
    (grass,) = (row.definition for row in backgrounds() if row.name == "grass")
    define(monkeypatch, "grass", f"{grass} Also moss.")
    changed = version(), version(adjudication=True)
    assert not set(before) & set(changed)
    define(monkeypatch, "grass", grass)
    assert (version(), version(adjudication=True)) == before


def test_the_version_changes_with_a_key(monkeypatch):
    before = version()
    monkeypatch.setitem(BACKGROUND_KEYS, "grass", "p")
    assert version() != before


def test_the_version_changes_with_a_reason_and_with_the_instruction(monkeypatch):
    versions = [version()]
    first, *others = REASONS
    monkeypatch.setattr(screen, "REASONS", (replace(first, definition="Another."), *others))
    versions.append(version())
    monkeypatch.setattr(screen, "_INSTRUCTION", "Look twice.")
    versions.append(version())
    assert len(set(versions)) == 3


def test_the_instruction_names_every_key_that_is_not_on_the_screen():
    instruction = labelling_screen().instruction
    for key in [*DECISION_KEYS.values(), "1", "4", "Enter", "q", "f", "d"]:
        assert f"<b>{key}</b>" in instruction
